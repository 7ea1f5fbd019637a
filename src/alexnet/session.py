"""From what a user asks to a finished run: the only place that knows settings, plan, loop, run and report."""

import contextlib
import math
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from .analysis.report import write_report
from .data.pack.packing import PackOptions, make_pack
from .data.pack.reading import Pack, describe_splits
from .data.progress import Track
from .data.source import SPLITS, Data
from .data.sources.detection import hold, location_of, open_source
from .data.sources.memory import InMemory
from .device import Precision, pick_device, pick_precision
from .diagnosis.causes import Diagnosis, Facts, diagnosed
from .diagnosis.layers import Watch, check_row
from .evaluation.evaluation import Evaluation
from .evaluation.evaluation import evaluate as evaluate_images
from .interchange.importing import import_weights
from .interchange.public_weights import PUBLIC, local_weights
from .model.bundle import ModelBundle
from .model.network import AlexNet
from .runs.checkpoints import Checkpoints
from .runs.history import History
from .runs.loggers import Loggers, logging_modules
from .runs.resume import resumed
from .runs.run import Run, is_run, record_of, weights_file
from .specs.architecture import Architecture
from .specs.names import listed, not_one_of
from .specs.settings import LabelMaps, ResolvedSettings, TrainSettings
from .specs.variants import variant as find_variant
from .training.interrupt import CtrlC, Interrupted
from .training.loop import Epoch, Step, Training, train
from .training.plan import Plan, make_plan
from .training.range_test import RangeTest, range_test
from .training.transfer import Pretrained, Transfer


class Diverged(ValueError):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Start:
    """Everything is settled and training begins."""

    plan: Plan = field(repr=False)
    resolved: ResolvedSettings
    bundle: ModelBundle = field(repr=False)
    """The network that is trained, in place."""
    run: Run | None


@dataclass(frozen=True)
class Finish:
    """Training is over."""

    bundle: ModelBundle
    """The network with the chosen weights: those of the best epoch or of the last (`Plan.keeps_best`)."""
    history: History
    evaluation: Evaluation | None = None
    """On the reported split, if there is a run."""
    report: Path | None = None


Event = Start | Step | Epoch | Finish


def fit(
    data: Data,
    settings: TrainSettings,
    notify: Callable[[str], object] = lambda text: None,
    track: Callable[[str], Track] | None = None,
) -> Iterator[Event]:
    """Train as the settings ask, one event at a time; arguments and errors as for `Classifier.fit`.

    Whoever draws the events may stop between any two of them; a run can be resumed there.

    Args:
        notify: receives what the user should know.
        track: given a title, a function that wraps an iterable of batches or counts.
    """
    logging_modules(settings.log)  # refuses what is not installed
    if settings.resume and settings.output is None:
        raise ValueError("output must be the folder of the run to resume, or 'auto', got None")
    with contextlib.ExitStack() as stack:
        data = hold(data, track and track("reading"))
        run = None
        if settings.resume:
            variant = getattr(settings.variant, "name", settings.variant)
            run = Run.interrupted(_folder(settings), location_of(data), variant)
            settings = _settings_of(run, settings)
            stack.enter_context(run.lock())
        plan, resolved = _prepared(data, settings, run, notify, track)
        record = record_of(resolved)
        if run:
            plan, record = resumed(run, resolved, plan, settings.allow_changes, notify)
        elif settings.output is not None:
            run = Run.create(_folder(settings), plan.name)
            stack.enter_context(run.lock())
        chosen = resolved.seed, resolved.device, resolved.precision, resolved.micro_batch
        session = _Session(Training(plan, *chosen, settings.augment), run, record, settings, notify)
        yield Start(plan, resolved, session.training.bundle, run)
        yield from session.train()
        yield session.finish()


def find_lr(data: Data, settings: TrainSettings, steps: int, notify: Callable[[str], object], track=None) -> RangeTest:
    """A learning-rate range test, as `classifier.find_lr` describes it."""
    if steps < 10:
        raise ValueError(f"steps must be >= 10, got {steps}")
    plan, chosen = _prepared(hold(data, track and track("reading")), settings, None, notify, track)
    training = Training(plan, chosen.seed, chosen.device, chosen.precision, chosen.micro_batch, settings.augment)
    return range_test(training, steps, track and track("range test"))


class _Session:
    """A training with its run, if it has one."""

    def __init__(
        self,
        training: Training,
        run: Run | None,
        record: dict,
        settings: TrainSettings,
        notify: Callable[[str], object],
    ):
        self.training, self.run, self.record, self.notify = training, run, record, notify
        self.is_resumed, self.keep_checkpoints = settings.resume, settings.keep_checkpoints
        self.keeps_best = training.plan.keeps_best
        self.checkpoints = Checkpoints(run, training, settings.checkpoint_minutes)
        self.watch, self.log = Watch(training), settings.log

    def train(self) -> Iterator[Step | Epoch]:
        """Draw checkpoints, diagnosis and logs from the steps and epochs of the loop, and pass these on."""
        training = self.training
        if self.is_resumed:
            self.checkpoints.restore(self.notify)
            started = training.progress.epoch or training.progress.batch
            self.notify(f"resuming {training.progress}" if started else "no checkpoint yet, starting over")
        if self.run:  # whatever can be refused has been by now
            self.run.update(self.record)
            self.run.write_splits(training.plan.packed)
        loggers = Loggers(self.log, self.run, self.record, training.progress.epochs)
        with CtrlC() as ctrl_c, closing(loggers), closing(train(training)) as events:
            for event in events:
                diagnosis = None
                match event:
                    case Step():
                        self._step(event)
                    case Epoch(row):
                        diagnosis = self._epoch(row)
                        loggers.epoch(row)
                try:
                    yield event
                except GeneratorExit:  # whoever stops here can resume here
                    self.checkpoints.save()
                    raise
                if diagnosis:  # after the line of the epoch
                    self.notify(str(diagnosis))
                if ctrl_c.pressed or self.checkpoints.is_due():
                    self.checkpoints.save()
                if ctrl_c.pressed:
                    raise Interrupted
        self.checkpoints.save()

    def finish(self) -> Finish:
        """Choose the weights and, for a run, evaluate them and write the report and the results."""
        training, history = self.training, History(self.training.progress.epochs)
        progress, patience = training.progress, training.plan.recipe.patience
        if progress.is_stalled(patience) and progress.epoch < training.plan.recipe.epochs:
            since = f"no lower validation error for {patience} epochs, since epoch {progress.best_epoch}"
            self.notify(f"stopped early, after epoch {progress.epoch}: {since}, whose weights are kept")
        if self.run is None:
            if self.keeps_best and self.checkpoints.best:
                training.network.load_state_dict(self.checkpoints.best)
            training.network.requires_grad_(True)
            return Finish(training.bundle, history)
        weights, pack = self.run.choose_weights(training.plan.keeps_best), training.plan.packed
        bundle = ModelBundle.load(weights, training.device)
        evaluation = evaluate_images(bundle, pack, evaluation_images(pack), precision=training.precision)
        report = write_report(self.run.folder, self.run.record(), training, bundle, evaluation)
        self.run.update({"results": {"split": evaluation.split} | evaluation.summary()})
        if not self.keep_checkpoints:
            self.run.discard_checkpoints()
        return Finish(bundle, history, evaluation, report)

    def _step(self, step: Step) -> None:
        if self.watch.step(step) and self.run:
            with contextlib.suppress(OSError):  # the next checkpoint holds the rows, and says what is wrong
                self.run.write_layer_rows(self.training.progress.layers)
        self._check_finite(step.step_loss, f"in epoch {step.epoch}, step {step.batch}", step.lr)
        if step.notice:
            self.notify(step.notice)

    def _epoch(self, row: dict) -> Diagnosis | None:
        """Save, and return what is wrong."""
        self._check_finite(row.get("val_loss", 0.0), f"after epoch {row['epoch']}, on val", row["lr"])
        diagnosis = self.watch.epoch()
        self.checkpoints.epoch()
        return diagnosis

    def _check_finite(self, loss: float, where: str, lr: float) -> None:
        if not math.isfinite(loss):
            diagnosis = diagnosed(Facts(self.training.progress.epochs, self.training.progress.layers))
            explanation = f"\n{diagnosis}" if diagnosis else ""
            raise Diverged(f"the loss became {loss} {where}, at a learning rate of {lr:g}{explanation}")


def evaluate(
    bundle: ModelBundle,
    data: Data | None = None,
    split: str | None = None,
    *,
    maps: LabelMaps = LabelMaps(),
    all_views: bool = True,
    precision: Precision = "fp32",
    run: Run | None = None,
    fitted: tuple[str, Pack] | None = None,
    track: Callable[[str], Callable] | None = None,
) -> Evaluation:
    """Count errors on labeled images, as `Classifier.evaluate` does.

    Args:
        maps: for what the run was trained on, its own if None.
        run: the run that the network comes from.
        fitted: what the network was trained on by this process: name and pack.
    """
    record = run.record() if run else {}
    data = data if data is None else hold(data, track and track("reading"))
    if fitted and maps == LabelMaps() and (data is None or (location_of(data) == fitted[0] and not record)):
        packed, has_splits = fitted[1], True
    elif data is None and "data" not in record:
        raise ValueError("data must be given, as this classifier does not know what it was trained on")
    else:
        packed, has_splits = _evaluation_pack(bundle, record["data"] if data is None else data, maps, run, track)
    indices = evaluation_images(packed, split, has_splits)
    return evaluate_images(bundle, packed, indices, all_views, precision, track and track("evaluating"))


def evaluation_images(packed: Pack, split: str | None = None, has_splits: bool = True) -> np.ndarray:
    """The images on which errors are counted: a split by name, or the one that is reported; all without splits.

    Raises:
        ValueError: there is no such split, or no image in it.
    """
    if split is None and not has_splits:
        return np.flatnonzero(packed.splits < len(SPLITS))
    if split is not None and split not in SPLITS:
        raise ValueError(not_one_of("split", split, SPLITS))
    split = split or packed.reported_split
    indices = packed.indices(split)
    if not len(indices):
        raise ValueError(f"{packed.name} has no {split} split; it has {describe_splits(packed)}")
    return indices


def facts_of(folder: Path) -> Facts:
    """What is known of a run, by its files; ValueError if there is nothing to judge by, or a file is damaged."""
    run = Run(folder)
    rows = run.layer_rows(check_row)
    if not rows:
        raise ValueError(f"{folder} has no layer statistics: it is not a run, or has not finished its first step")
    return Facts(run.history(), rows)


def load(weights: str | Path, track: Track | None = None) -> tuple[ModelBundle, Path]:
    """The network of a run, a saved classifier, a file, or whatever else `local_weights` finds, and its file.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    file = weights_file(local_weights(weights, track))
    bundle, report = import_weights(file)
    if report.guessed:
        guess = f"{file} does not say how to preprocess images: {report.inputs} to alexnet import"
        print(f"alexnet: {guess}", file=sys.stderr)
    return bundle, file


def create(
    name: str | Architecture,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: int | None = None,
    seed: int = 0,
    pretrained: bool | str | Path = False,
) -> AlexNet:
    """A network by name, with initial or with pretrained weights.

        network = alexnet.create("small", num_classes=10)
        optimizer = alexnet.optim.PaperSGD(network.parameters(), lr=0.01)
        for images, labels in loader:  # as alexnet.transform("small", train=True) gives them
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

    Args:
        name: one of `alexnet.variants()`, or an architecture of your own.
        input_size: side of the images, pixels; by default the variant's own.
        seed: of the initial weights; the same seed gives the same weights on every machine.
        pretrained: True for the public weights of torchvision, caffe or caffenet, which are downloaded once; or weights
            of the same network, as `alexnet.load` takes them. The last layer is new if the number of classes differs.
            Images must be preprocessed as for these weights (`alexnet.load(…).bundle.preprocessing`).

    Raises:
        ValueError: no variant has that name, the images are too small for a layer, or the weights do not fit.
    """
    architecture = find_variant(name)
    network = AlexNet(architecture, num_classes, in_channels, input_size, seed)
    if pretrained is False:
        return network
    if pretrained is True and architecture.name not in PUBLIC:
        others = ", ".join(PUBLIC)
        raise ValueError(f"pretrained=True needs a network with public weights ({others}), got {architecture.name!r}")
    bundle, file = load(architecture.name if pretrained is True else pretrained)
    classes = bundle.classes if len(bundle.classes) == num_classes else range(num_classes)
    shapes = {each: tuple(tensor.shape) for each, tensor in network.state_dict().items()}
    transfer = Transfer.to(architecture, shapes, [*map(str, classes)], Pretrained(bundle, file, ""))
    if unfit := [layer for layer in transfer.new if layer != architecture.layers[-1].name]:
        raise ValueError(f"{', '.join(unfit)} of {architecture.name} do not fit the weights in {file}")
    transfer.copy_weights(network)
    return network


def _prepared(
    data: str | Path | InMemory, settings: TrainSettings, run: Run | None, notify: Callable[[str], object], track
) -> tuple[Plan, ResolvedSettings]:
    """What to train on what, and the settings that this comes to; `run` is the one that resumes."""
    if isinstance(settings.augment, str):
        raise ValueError(
            f"augment must be the function {settings.augment}, with which this run was trained: only its name is "
            "stored, so give it again, in Python"
        )
    source = open_source(data, settings.split_seed or 0, track and track("reading"), is_run, settings)
    pretrained = _pretrained(settings.pretrained, run, track and track("downloading"))
    plan = make_plan(source, settings, pretrained, track and track("packing"), notify)
    return plan, _resolve(settings, plan, location_of(data))


def _folder(settings: TrainSettings) -> Path | None:
    """The output folder that is named; None if one is to be found."""
    return None if settings.output in (None, "auto") else Path(settings.output)


def _settings_of(run: Run, settings: TrainSettings) -> TrainSettings:
    """The settings that a run was started with, where nothing else is asked now."""
    same, default = vars(TrainSettings.of_run(run.record())), vars(TrainSettings())
    not_given = [name for name, value in vars(settings).items() if value == default[name]]
    return replace(settings, **{name: same[name] for name in not_given})


def _resolve(settings: TrainSettings, plan: Plan, location: str) -> ResolvedSettings:
    device = pick_device(settings.device)
    augment = settings.augment if hasattr(settings.augment, "__qualname__") else type(settings.augment)
    source = plan.transfer and plan.transfer.source
    return ResolvedSettings(
        data=location,
        augment=f"{augment.__module__}.{augment.__qualname__}" if settings.augment else None,
        images=plan.packed.checksum,
        jpeg=settings.jpeg,
        labels=settings.labels and location_of(settings.labels),
        label_indices=settings.label_indices and location_of(settings.label_indices),
        pretrained=str(source.file) if source else None,
        pretrained_sha256=source.sha256 if source else None,
        variant=plan.architecture.name,
        seed=int(settings.seed or 0),
        split_seed=int(settings.split_seed or 0),
        device=str(device),
        precision=pick_precision(settings.precision, device),
        micro_batch=settings.micro_batch if settings.micro_batch in (None, "auto") else int(settings.micro_batch),
        threads=torch.get_num_threads(),
        versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        recipe=plan.recipe,
        architecture=plan.architecture,
    )


def _pretrained(path: str | Path | None, run: Run | None, track: Track | None) -> Pretrained | None:
    """The network to fine-tune. A resumed run needs its file only until the first checkpoint, which holds all of it.

    Raises:
        ValueError: the resumed run started with other weights.
    """
    if path is None:
        return None
    record = run.record() if run else {}
    if run and str(path) == record.get("pretrained"):
        for checkpoint in run.checkpoints():
            with contextlib.suppress(ValueError):  # it is damaged
                return Pretrained(ModelBundle.load(checkpoint), Path(path), record["pretrained_sha256"], True)
    bundle, file = load(path, track)
    pretrained = Pretrained.of(bundle, file)
    if run and pretrained.sha256 != record.get("pretrained_sha256"):
        started_with = record.get("pretrained") or "new weights"
        raise ValueError(f"{run} was started with {started_with}; the weights in {file} are different")
    return pretrained


def _evaluation_pack(
    bundle: ModelBundle, data: str | Path | InMemory, maps: LabelMaps, run: Run | None, track
) -> tuple[Pack, bool]:
    """Images with the classes of the network, and whether their splits mean anything to it."""
    record = run.record() if run else {}
    is_own = location_of(data) == record.get("data")
    if is_own and maps == LabelMaps():
        maps = LabelMaps(record.get("labels"), record.get("label_indices"))
    source = open_source(data, record.get("split_seed", 0) if is_own else 0, None, is_run, maps)
    if unknown := sorted(set(source.classes) - set(bundle.classes)):
        raise ValueError(
            f"{source.name} has classes that the network does not know: {listed(unknown, 5)}; it knows "
            f"{listed(bundle.classes, 20)}"
        )
    options = PackOptions(record.get("jpeg") if is_own else None)
    packed = make_pack(source, bundle.preprocessing.stored_size, None, options, track and track("packing"))
    order = np.array([bundle.classes.index(name) for name in packed.classes])
    packed = replace(packed, classes=bundle.classes, labels=order[packed.labels])
    if is_own and not source.has_splits:
        packed = run.with_splits(packed)
    return packed, is_own or source.has_splits
