"""From what a user asks to a finished run: the only place that knows settings, plan, loop, run and report."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .analysis.report import write_report
from .data.pack.packing import PackOptions, make_pack
from .data.pack.reading import Images, Pack, describe_splits
from .data.progress import Track
from .data.source import SPLITS, Data
from .data.sources.detection import open_source
from .data.sources.memory import hold, location_of
from .data.storage.download import is_downloaded
from .device import is_out_of_memory, return_freed_memory, set_threads
from .diagnosis.causes import Facts
from .diagnosis.layers import Watch, check_row
from .evaluation.evaluation import Evaluation, evaluate
from .interchange.importing import import_weights
from .interchange.public_weights import PUBLIC, local_weights
from .model.bundle import ModelBundle
from .model.network import AlexNet
from .parallel.description import traffic
from .parallel.group import Group, LostProcess, joined
from .parallel.launch import launch
from .runs.checkpoints import Checkpoints
from .runs.history import History
from .runs.loggers import Loggers, logging_modules
from .runs.record import check_same, processes_of, record_of, resolve, resumed
from .runs.run import Run, is_run, weights_file
from .specs.architecture import Architecture
from .specs.names import first_positions, listed, not_one_of
from .specs.reading import settings_of_run
from .specs.settings import LabelMaps, ResolvedSettings, TrainSettings, option
from .specs.variants import variant as find_variant
from .training.loop import Epoch, Step, Training, train
from .training.plan import Plan, make_plan
from .training.range_test import RangeTest, range_test
from .training.step import OutOfMemory
from .training.transfer import Pretrained, Transfer

WAYS = {
    "data": "each with its part of every batch (data parallel)",
    "towers": "each with one of the two towers",
    "hybrid": "data parallel in the convolutions, each with its units of the fully connected layers",
}
STOPPING = b"\nstopping when this step is done; Ctrl-C again stops at once\n"


class Interrupted(KeyboardInterrupt):
    """Training stopped where it was asked to, and what it had learned is saved."""


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


class NotEvaluated(ValueError):
    """A finished training has no results, because its evaluation or report failed; its weights are saved."""


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
    with joined() as group, contextlib.ExitStack() as stack:
        if not group.is_first:
            notify, track = _say_nothing, None
        run = None
        if settings.resume or (_is_restart() and settings.output is not None):
            data = hold(data, track and track("reading"))
            run = _interrupted(settings, location_of(data), group)
        if run:
            _lock(run, group, stack)
            settings = _settings_of(run, settings)
        elif group.is_first and (output := _folder(settings)):
            Run(output).check_free()  # before the images are packed
        source = open_source(
            data, settings.split_seed or 0, track and track("reading"), is_run, settings, settings.val_fraction
        )
        pretrained = _pretrained(settings.pretrained, run, track and track("downloading"))
        warnings: list[str] = []

        def warn(text: str) -> None:
            warnings.append(text)
            notify(text)

        plan = make_plan(source, settings, pretrained, track and track("packing"), warn)
        group.barrier()  # others may still be packing
        resolved = resolve(settings, plan, source.location, processes_of(settings, group))
        record = record_of(resolved)
        check_same(group.gather_objects(record))
        if run:
            plan, record = resumed(run, resolved, plan, settings.allow_changes, notify)
        record["warnings"] = warnings
        if not run and settings.output is not None:
            run = Run(group.broadcast(Run.create(_folder(settings), plan.name).folder if group.is_first else None))
            _lock(run, group, stack)
        if resolved.processes > group.size:
            stack.close()  # the first of them takes the lock
            yield from _launched(plan, resolved, run, record, settings, notify)
            return
        training = Training(plan, **_arguments(resolved, settings))
        yield Start(plan, resolved, training.bundle, run)
        yield from _trained(training, run if group.is_first else None, record, settings, notify)


@dataclass(frozen=True)
class _Sent:
    """What the first of several processes sends to the one that launched them."""

    notices: list[str]
    event: Step | Epoch | Finish | None
    weights: Mapping[str, Tensor] | None = None
    """At the end."""


def _launched(
    plan: Plan,
    resolved: ResolvedSettings,
    run: Run | None,
    record: dict,
    settings: TrainSettings,
    notify: Callable[[str], object],
) -> Iterator[Event]:
    """Train on processes of this machine that are started now; the events are those of the first of them."""
    bundle = plan.bundle(resolved.seed).to(resolved.device)
    yield Start(plan, resolved, bundle, run)
    settings = TrainSettings(**vars(settings))  # those of the command are of a type that is made up
    work = _train_here, (plan, resolved, run and run.folder, record, settings), resolved.processes
    with _CtrlC() as ctrl_c, closing(launch(*work, settings.max_restarts, lambda: ctrl_c.pressed)) as results:
        for sent in results:
            for text in sent.notices:
                notify(text)
            if sent.weights:
                bundle.network.load_state_dict(sent.weights)
            match sent.event:
                case Finish():
                    yield replace(sent.event, bundle=bundle)
                case Step() | Epoch():
                    yield sent.event


def _train_here(
    stop: Callable[[], bool],
    plan: Plan,
    resolved: ResolvedSettings,
    folder: Path | None,
    record: dict,
    settings: TrainSettings,
) -> Iterator[_Sent]:
    """What each of the launched processes does."""
    set_threads()
    group, notices, run = Group.current(), [], None
    if folder and _is_restart():
        settings = replace(settings, resume=True)
    with contextlib.ExitStack() as stack:
        if folder and group.is_first:
            run = Run(folder)
            stack.enter_context(run.lock())
        training = Training(plan, **_arguments(resolved, settings))
        record |= {"threads": torch.get_num_threads()}
        try:
            for event in _trained(training, run, record, settings, notices.append, stop):
                match event:
                    case Step():
                        yield _Sent(notices, replace(event, views=event.views[:0].cpu()))
                    case Finish(bundle):
                        weights = {name: tensor.cpu() for name, tensor in bundle.network.state_dict().items()}
                        yield _Sent(notices, replace(event, bundle=None), weights)
                    case _:
                        yield _Sent(notices, event)
                notices.clear()
        except Interrupted:
            training.strategy.publish()
            yield _Sent(notices, None, {name: each.cpu() for name, each in training.network.state_dict().items()})
            raise


def facts_of_processes(resolved: ResolvedSettings, plan: Plan) -> dict[str, str]:
    """How many processes train, and how; or which GPUs are idle."""
    if resolved.processes > 1:
        compressed = ", gradients as bf16" if resolved.compress_gradients else ""
        facts = {"processes": f"{resolved.processes}, {WAYS[resolved.parallel]}{compressed}"}
        if resolved.parallel != "data":
            own, data = (plan.placement(way, resolved.processes) for way in (resolved.parallel, "data"))
            facts["exchange"] = traffic(own, data, plan.recipe.batch_size)
        return facts
    gpus = torch.cuda.device_count() if torch.device(resolved.device).type == "cuda" else 1
    return {"GPUs": f"1 of {gpus}; {option('gpus', 'all')} trains on all of them"} if gpus > 1 else {}


def _arguments(resolved: ResolvedSettings, settings: TrainSettings) -> dict[str, Any]:
    """How a plan is trained, for `Training`."""
    same = {name: getattr(resolved, name) for name in ("seed", "device", "precision", "micro_batch")}
    return same | {"augment": settings.augment, "way": resolved.parallel, "compress": resolved.compress_gradients}


def _say_nothing(text: str) -> None:
    """What processes other than the first one tell the user."""


def _is_restart() -> bool:
    """Whether torch's launcher has started this process anew, because one of its processes died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def _interrupted(settings: TrainSettings, location: str, group: Group) -> Run | None:
    """The run to resume. Processes that were started anew resume the one that they had begun, if there is one."""
    folder = None
    if group.is_first:
        variant = getattr(settings.variant, "name", settings.variant)
        with contextlib.nullcontext() if settings.resume else contextlib.suppress(ValueError):
            folder = Run.interrupted(_folder(settings), location, variant).folder
    folder = group.broadcast(folder)
    return Run(folder) if folder else None


def _lock(run: Run, group: Group, stack: contextlib.ExitStack) -> None:
    """Keep others away from a run; the first process does."""
    if group.is_first:
        stack.enter_context(run.lock())


def find_lr(data: Data, settings: TrainSettings, steps: int, notify: Callable[[str], object], track=None) -> RangeTest:
    """A learning-rate range test, as `classifier.find_lr` describes it."""
    if steps < 10:
        raise ValueError(f"steps must be >= 10, got {steps}")
    source = open_source(
        data, settings.split_seed or 0, track and track("reading"), is_run, settings, settings.val_fraction
    )
    pretrained = _pretrained(settings.pretrained, None, track and track("downloading"))
    plan = make_plan(source, settings, pretrained, track and track("packing"), notify)
    resolved = resolve(settings, plan, source.location)
    return range_test(Training(plan, **_arguments(resolved, settings)), steps, track and track("range test"))


def _trained(
    training: Training,
    run: Run | None,
    record: dict,
    settings: TrainSettings,
    notify: Callable[[str], object],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step | Epoch | Finish]:
    """Draw checkpoints, diagnosis and logs from the steps and epochs of the loop, and pass these on; then finish.

    Args:
        run: where to write; None on all processes but the first.
        stop: whether to stop, as Ctrl-C does.
    """
    group = training.strategy.group
    watch, checkpoints = Watch(training, run), Checkpoints(run, training, settings.checkpoint_minutes)
    if settings.resume:
        if group.is_first:
            checkpoints.restore(notify)
            for row in training.progress.layers:
                check_row(row, "the layer statistics of the checkpoint")
        training.synchronize(*checkpoints.restored)
    if run:  # whatever can be refused has been by now
        run.update(record)
        run.write_splits(training.plan.packed)
    loggers = Loggers(settings.log if group.is_first else (), run, record, training.progress.epochs)
    memory_errors = _memory_errors(training, run)
    with _CtrlC(group.is_first) as ctrl_c, closing(loggers), memory_errors, closing(train(training)) as events:
        for event in events:
            diagnosis = None
            match event:
                case Step(notice=notice):
                    watch.step(event)
                    if notice:
                        notify(notice)
                case Epoch(row):
                    diagnosis = watch.epoch(row)
                    checkpoints.epoch()
                    loggers.epoch(row)
            try:
                yield event
            except GeneratorExit:  # whoever stops here can resume here
                checkpoints.save()
                raise
            if diagnosis:  # after the line of the epoch
                notify(str(diagnosis))
            stops, is_due = training.strategy.agree(ctrl_c.pressed or stop(), checkpoints.is_due())
            if stops or is_due:
                checkpoints.save()
            if stops:
                raise Interrupted
    checkpoints.save()
    progress, patience = training.progress, training.plan.recipe.patience
    if progress.is_stalled(patience) and progress.epoch < training.plan.recipe.epochs:
        since = f"no lower validation error for {patience} epochs, since epoch {progress.best_epoch}"
        notify(f"stopped early, after epoch {progress.epoch}: {since}, whose weights are kept")
    yield _finish(training, run, checkpoints.best, settings.keep_checkpoints)


def images_to_evaluate(
    bundle: ModelBundle,
    data: Data | None,
    split: str | None,
    maps: LabelMaps,
    run: Run | None,
    fitted: tuple[str, Pack] | None,
    track: Callable[[str], Callable] | None,
) -> tuple[Pack, np.ndarray]:
    """Labeled images with the classes of a network, and the indices of those on which errors are counted.

    Args:
        data, split: as for `Classifier.evaluate`.
        maps, run, fitted: as for `open_images`.
    """
    images = open_images(bundle, data, split, maps, run, fitted, track, needs_labels=True)
    label_of = first_positions(bundle.classes)
    order = np.array([label_of[name] for name in images.packed.classes])
    packed = replace(images.packed, classes=bundle.classes, labels=order[images.packed.labels])
    return packed, images.indices


def open_images(
    bundle: ModelBundle,
    data: Data | None,
    split: str | None,
    maps: LabelMaps,
    run: Run | None,
    fitted: tuple[str, Pack] | None,
    track: Callable[[str], Callable] | None,
    needs_labels: bool = False,
) -> Images:
    """The images of a data set; those that the network was trained on if it is None.

    Args:
        split: if None, all images or, if they need labels, those on which errors are counted.
        maps: for what the run was trained on, its own if they are the default.
        run: the run that the network comes from.
        fitted: what the network was trained on by this process: location and pack.
        needs_labels: whether every image must have a class that the network knows.
    """
    record = run.record() if run else {}
    data = data if data is None else hold(data, track and track("reading"))
    if fitted and maps == LabelMaps() and (data is None or (location_of(data) == fitted[0] and not record)):
        return Images(fitted[1], evaluation_images(fitted[1], split, needs_labels), True, fitted[0])
    if data is None and "data" not in record:
        raise ValueError("data must be given, as this classifier does not know what it was trained on")
    if data is None:
        data = record["data"]
        for location in filter(None, (data, record.get("labels"), record.get("label_indices"))):
            if "://" in location and not is_downloaded(location):
                raise ValueError(f"{run} was trained on {location}, which is fetched only if it is given as data")
    is_own = location_of(data) == record.get("data")
    if is_own and maps == LabelMaps():
        maps = LabelMaps(record.get("labels"), record.get("label_indices"))
    drawn = (record.get("split_seed", 0), record.get("val_fraction")) if is_own else (0, None)
    source = open_source(data, drawn[0], None, is_run, maps, drawn[1], needs_labels)
    if needs_labels and (unknown := sorted(set(source.classes) - set(bundle.classes))):
        raise ValueError(
            f"{source.name} has classes that the network does not know: {listed(unknown, 5)}; it knows "
            f"{listed(bundle.classes, 20)}"
        )
    options = PackOptions(record.get("jpeg") if is_own else None, squares=bundle.preprocessing.squares)
    packed = make_pack(source, bundle.preprocessing.stored_size, None, options, track and track("packing"))
    if is_own and not source.has_splits:
        packed = run.with_splits(packed)
    has_splits = is_own or source.has_splits
    indices = evaluation_images(packed, split, has_splits and needs_labels)
    return Images(packed, indices, has_splits, source.location, source.sizes)


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
    if not Group.current().is_first:  # the first one says it
        return bundle, file
    if report.guessed:
        guess = f"{file} does not say how to preprocess images: {report.inputs} to alexnet import"
        print(f"alexnet: {guess}", file=sys.stderr)
    for guess in report.guesses:
        print(f"alexnet: {file}, a guess: {guess}", file=sys.stderr)
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
    if _operations(network) != _operations(bundle.network):
        theirs = f"{bundle.network.architecture.name} ({file}), whose layers have the same shapes but differ otherwise"
        raise ValueError(f"pretrained must be weights of {architecture.name}, got those of {theirs}")
    transfer.copy_weights(network)
    return network


def _operations(network: AlexNet) -> list[str]:
    """What a network computes in evaluation, up to its last layer, whose classes may be others."""
    return [str(module) for module in network.children() if "Dropout" not in type(module).__name__][:-1]


class _CtrlC:
    """Waits for the end of a step, so that what is saved is never half a step: the
    first Ctrl-C only sets `pressed`; a second one interrupts at once, as always."""

    def __init__(self, says_so: bool = True):
        self.pressed, self.says_so = False, says_so

    def __enter__(self) -> Self:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        if self.says_so:
            os.write(2, STOPPING)  # print may be in use by what was interrupted


@contextlib.contextmanager
def _memory_errors(training: Training, run: Run | None) -> Iterator[None]:
    """Turn a lack of memory outside of a step, as in the validation, into OutOfMemory, which says what is saved."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        saved = ""
        if run and run.checkpoints():
            how = f"{option('resume', True)} {option('output', run.folder)}"
            saved = f"; to go on from the last checkpoint: {how}"
        raise OutOfMemory(f"out of memory {training.progress} ({_reason(error)}){saved}") from error


def _reason(error: Exception) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'out of memory'}"


def _finish(training: Training, run: Run | None, best: dict[str, Tensor], keep_checkpoints: bool) -> Finish:
    """Choose the weights and, for a run, evaluate them and write the report and the results."""
    plan, history, group = training.plan, History(training.progress.epochs), training.strategy.group
    has_run = group.broadcast(run is not None)
    if not has_run:
        if plan.keeps_best and best:
            training.network.load_state_dict(best)
        training.network.requires_grad_(True)
        return Finish(training.bundle, history)
    weights = run and run.choose_weights(plan.keeps_best)
    try:
        return_freed_memory()  # evaluation needs blocks of other sizes
        bundle = ModelBundle.load(weights, training.device) if run else training.bundle
        bundle.network.load_state_dict(group.broadcast_tensors(bundle.network.state_dict()))
        evaluation = evaluate(
            bundle, plan.packed, evaluation_images(plan.packed), True, training.precision, group=group
        )
        if run is None:
            return Finish(bundle, history)
        report = write_report(run.folder, run.record(), training, bundle, evaluation)
        run.update({"results": {"split": evaluation.split} | evaluation.summary()})
    except KeyboardInterrupt:  # resuming the run evaluates it
        raise Interrupted from None
    except LostProcess:
        raise
    except Exception as error:  # of memory, of the disk, of drawing: what was learned is safe
        if run is None:
            raise
        raise NotEvaluated(
            f"the training is finished, and {weights} has the trained network, but it could not be evaluated or "
            f"reported ({_reason(error)}). To try that again: {option('resume', True)} {option('output', run.folder)}"
        ) from error
    if not keep_checkpoints:
        run.discard_checkpoints()
    return Finish(bundle, history, evaluation, report)


def _folder(settings: TrainSettings) -> Path | None:
    """The output folder that is named; None if one is to be found."""
    return None if settings.output in (None, "auto") else Path(settings.output)


def _settings_of(run: Run, settings: TrainSettings) -> TrainSettings:
    """The settings of a run that is resumed: those that it was started with, where nothing else is asked now."""
    same, default = vars(settings_of_run(run.record())) | {"resume": True}, vars(TrainSettings())
    not_given = [name for name, value in vars(settings).items() if value == default[name]]
    return replace(settings, **{name: same[name] for name in not_given})


def _pretrained(path: str | Path | None, run: Run | None, track: Track | None) -> Pretrained | None:
    """The network to fine-tune. A resumed run needs its file only until the first checkpoint, which holds all of it.

    Raises:
        ValueError: the resumed run started with other weights.
    """
    if path is None:
        return None
    record = run.record() if run else {}
    started_with = record.get("pretrained") or "new weights"
    is_gone = not Path(path).exists() and Path(path).resolve() == Path(started_with).parent  # the folder of its file
    if run and (is_gone or str(path) == started_with):
        for checkpoint in run.checkpoints():
            with contextlib.suppress(ValueError):  # it is damaged
                return Pretrained(ModelBundle.load(checkpoint), Path(started_with), record["pretrained_sha256"], True)
    bundle, file = load(path, track)
    pretrained = Pretrained.of(bundle, file)
    if run and pretrained.sha256 != record.get("pretrained_sha256"):
        raise ValueError(f"{run} was started with {started_with}; the weights in {file} are different")
    return pretrained
