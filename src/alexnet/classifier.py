"""`Classifier`: from images with labels to one that answers, in a few lines.

classifier = Classifier()
history = classifier.fit("photos", epochs=5)
history.plot("curves.png")
classifier.predict_n("cat.jpg", 3)  # [("cat", 0.91), ("dog", 0.05), ("fox", 0.02)]
classifier.save("pets")
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .console import TrainingBar, console, counting, print_facts
from .data.pack.packing import PackOptions, make_pack
from .data.pack.reading import Pack
from .data.sources.detection import open_source
from .device import describe_device, pick_device, pick_precision
from .evaluation.ensembles import Together, together
from .evaluation.views import Evaluation, evaluate, probabilities
from .interchange import huggingface
from .interchange.importing import import_weights, is_ours
from .model.bundle import FILE as MODEL_FILE
from .model.bundle import ModelBundle
from .model.network import AlexNet
from .model.quantization import FcPrecision
from .preprocessing.images import ImageLike, stored_image
from .runs import run as runs
from .runs.checkpoints import BEST, EARLIER, LAST, MINUTES, Progress
from .runs.history import History
from .runs.tensorboard import Events
from .specs.recipe import Recipe
from .specs.storage import from_json
from .specs.variants import variant as find_variant
from .training.loop import train
from .training.plan import Plan, data_name, evaluation_images, make_plan
from .training.step import MicroBatch, checked_micro_batch
from .training.transfer import Pretrained


class Classifier(huggingface.HubMixin):
    """A network that learns from labelled images and names what it sees.

    Args:
        variant: one of `alexnet.variants()`; where None, the one that suits the size of the images fitted on.
        device: "auto", or as torch names it: "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "fp32" or "bf16".

    Raises:
        ValueError: there is no such variant, device or precision.
    """

    def __init__(self, variant: str | None = None, device: str = "auto", precision: str = "auto"):
        self._architecture = find_variant(variant) if variant else None
        self.device = pick_device(device)
        self._asked_precision = precision
        self.precision = pick_precision(precision, self.device)
        self.bundle: ModelBundle | None = None
        self.run: Path | None = None
        """Folder of the run that it was trained in or loaded from."""
        self._packed: Pack | None = None  # what it was trained on, where it was trained by this object
        self._data: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self._ready().classes

    @property
    def network(self) -> AlexNet:
        return self._ready().network

    def fit(
        self,
        data: str | Path,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        recipe: str | Recipe | None = None,
        flip: bool | None = None,
        seed: int | None = None,
        split_seed: int | None = None,
        output: str | Path | Literal["auto"] | None = None,
        resume: bool = False,
        jpeg: int | None = None,
        workers: int | None = None,
        strict: bool = False,
        verbose: bool = True,
        pretrained: str | Path | None = None,
        lr_scale: Mapping[str, float] | None = None,
        checkpoint_minutes: float = MINUTES,
        micro_batch: MicroBatch = None,
        allow_changes: bool = False,
    ) -> History:
        """Train on labelled images, validating after every epoch: from new initial weights, or a trained network's.

        Ends with the weights of the epoch of lowest validation error; where the data has no test split of its own, with
        those of the last epoch, so that the error on val/ is of weights that were not chosen by it.

        Args:
            data: "emoji", or the path or URL of a folder, a list or an archive of labelled images (docs/data.md).
            epochs, batch_size: the recipe's where None.
            lr: highest rate of the weights; all others change in proportion.
            recipe: a name of `alexnet.recipes()`; the variant's own, or "fine-tune" with `pretrained`, where None.
            flip: whether flipped images are as good as the images; as the recipe says where None.
            seed: of initial weights, order, crops and dropout; 0 where None.
            split_seed: of the split of a folder that has none; 0 where None.
            output: folder for checkpoints and journal; "auto" takes the next free runs/DATA-VARIANT-1, -2 …; nothing is
                written where None.
            resume: go on with the interrupted run in `output`, or with "auto" the newest on this data, with the
                settings that it was begun with.
            jpeg: quality of JPEG by which images are packed, for sets too large for the disk; see `PackOptions`.
            workers: processes that decode images; one per core where None.
            strict: whether one image that cannot be read is an error; up to 1 % are left out otherwise.
            pretrained: folder of a run, saved classifier or file of weights (docs/weights.md) to go on from. Its
                network is the variant unless that was named; layers of the same name and shape are taken, and images
                are made into what they know (docs/training.md).
            lr_scale: by layer, what its rates are multiplied by; 0 freezes it.
            checkpoint_minutes: between checkpoints within an epoch; there is one after each epoch in any case.
            micro_batch: images of a step worked on at a time, with the same result but for rounding; "auto" takes as
                many as fit into the memory. All where None.
            allow_changes: resume also with settings or images that make it another run than the one that was begun.

        Raises:
            ValueError: a setting or the data set does not fit; the message says which and what may be.
            Interrupted: on Ctrl-C; the classifier then has the weights so far.
            OutOfMemory: a step does not fit into the memory, and micro_batch is not "auto".
            NotSaved: a checkpoint cannot be written; those before it are as they were.
        """
        if resume and output is None:
            raise ValueError("resume needs the output folder of the run to go on with")
        if seed is not None and not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**63):
            raise ValueError(f"seed is {seed!r}; it may be a whole number, 0 to 2**63 - 1")
        if not (isinstance(checkpoint_minutes, (int, float)) and checkpoint_minutes >= 0):
            raise ValueError(f"checkpoint_minutes is {checkpoint_minutes!r}; it may be 0 or more")
        folder, architecture = None if output in (None, "auto") else Path(output), self._architecture
        begun: dict = {}
        if resume:
            folder = runs.interrupted_folder(folder, data_name(data), architecture and architecture.name)
            begun = runs.read_run(folder)
            architecture = architecture or from_json(begun["architecture"])
            recipe = recipe or from_json(begun["recipe"])
            if self._asked_precision == "auto":
                self.precision = begun["precision"]
        seed = int(begun.get("seed", 0) if seed is None else seed)
        split_seed = begun.get("split_seed", 0) if split_seed is None else split_seed
        micro_batch = checked_micro_batch(begun.get("micro_batch") if micro_batch is None else micro_batch)
        jpeg = begun.get("jpeg") if jpeg is None else jpeg
        changes = {"epochs": epochs, "batch_size": batch_size, "flip": flip, "lr_scale": lr_scale}
        progress = counting("packing") if verbose else None
        say = partial(console.print, soft_wrap=True) if verbose else lambda words: None
        start = _pretrained(pretrained, folder, begun)
        packing = PackOptions(jpeg, workers, strict)
        with runs.held(folder if resume else None):
            plan = make_plan(data, architecture, recipe, changes, lr, split_seed, packing, progress, say, start)
            about = runs.settings(plan, seed, split_seed, self.precision, str(self.device), micro_batch)
            if resume:
                plan, about = runs.accepted(folder, about, plan, allow_changes, say)
            elif output is not None:
                folder = runs.new_folder(folder, plan.name)
            if verbose:
                facts = plan.facts() | {"seed": f"{seed}", "device": describe_device(self.device, self.precision)}
                print_facts(facts | ({"output": f"{folder} (Ctrl-C saves; --resume goes on)"} if folder else {}))
            how = {"minutes": checkpoint_minutes, "micro_batch": micro_batch, "say": say}
            with runs.held(None if resume else folder):
                return self._fit(plan, seed, folder, about, resume, verbose, **how)

    def evaluate(
        self, data: str | Path | None = None, split: str | None = None, all_views: bool = True, verbose: bool = True
    ) -> Evaluation:
        """Count errors on labelled images.

        Args:
            data: as for `fit`; what it was trained on where None.
            split: "train", "val" or "test"; where None, test if there is one, else val; all images of a folder without
                splits that is not the one it was trained on.
            all_views: whether to average over ten views as well.

        Raises:
            ValueError: the data or the split is not there, or has classes that the network does not know.
        """
        bundle = self._ready()
        packed, has_splits = self._evaluation_pack(data, verbose)
        numbers = evaluation_images(packed, split, has_splits)
        progress = counting("evaluating") if verbose else None
        return evaluate(bundle, packed, numbers, all_views, self.precision, progress)

    def predict(self, image: ImageLike | Sequence[ImageLike], all_views: bool = True) -> np.ndarray:
        """Probabilities of all classes, in the order of `classes`.

        Args:
            image: a path, URL, Pillow image or array (height, width[, 3]); or a list of such.
            all_views: average over ten views, as in section 4.1, or look at the center only.

        Returns:
            (classes,), or (images, classes) for a list.

        Raises:
            ValueError: an image cannot be read.
        """
        if not isinstance(image, (list, tuple)):
            return self.predict([image], all_views)[0]
        bundle = self._ready()
        parts = []
        for start in range(0, len(image), 50):
            stored = np.stack(
                [stored_image(each, bundle.preprocessing.stored_size) for each in image[start : start + 50]]
            )
            center, mean = probabilities(bundle, torch.from_numpy(stored).to(self.device), all_views, self.precision)
            parts.append((mean if all_views else center).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)

    def predict_n(self, image: ImageLike, n: int = 5, all_views: bool = True) -> list[tuple[str, float]]:
        """The n likeliest classes with their probabilities, likeliest first.

        Raises:
            ValueError: n is below 1, or the image cannot be read.
        """
        if n < 1:
            raise ValueError(f"n is {n}; it may be 1 or more")
        return likeliest(self.predict(image, all_views), self.classes, n)

    def save(self, folder: str | Path) -> Path:
        """Write network, preprocessing and class names into a folder; `alexnet.load` reads it.

        Which images it was trained on is not among them; the folder of a run knows.

        Raises:
            ValueError: the folder is that of a run, which has weights of its own.
        """
        folder, bundle = Path(folder), self._ready()
        if runs.read_run(folder):
            raise ValueError(f"{folder} is the folder of a run; save to another one")
        folder.mkdir(parents=True, exist_ok=True)
        bundle.save(folder / MODEL_FILE)
        return folder

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", precision: str = "auto", fc_precision: FcPrecision = "same"
    ) -> Classifier:
        """A classifier from a saved folder, the folder of a run, or a file of weights.

        Files of other frameworks are understood where they leave no doubt; `import_weights` says more, and asks more.

        Args:
            fc_precision: precision of the fully connected layers, which hold most of the weights: the "same" as the
                others, "bf16", or "int8" with a scale for each output. Smaller is faster for few images; `alexnet
                evaluate RUN --connected int8` says what it changes.

        Raises:
            ValueError: nothing that can be loaded is there, or `fc_precision` is another word.
        """
        path = Path(path).expanduser()
        classifier = cls(device=device, precision=precision)
        bundle = _read(_weights_file(path))
        classifier.bundle = replace(bundle.to(classifier.device), fc_precision=fc_precision)
        classifier._architecture = classifier.bundle.network.architecture
        classifier.run = path if path.is_dir() else path.parent
        return classifier

    def _save_pretrained(self, save_directory: Path) -> None:
        huggingface.write(self._ready(), save_directory)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, device: str = "auto", precision: str = "auto", fc_precision: FcPrecision = "same", **how
    ) -> Classifier:
        return cls.load(huggingface.local_folder(model_id, **how), device, precision, fc_precision)

    def _ready(self) -> ModelBundle:
        if self.bundle is None:
            raise ValueError("this classifier knows nothing yet; fit it, or load one with alexnet.load(folder)")
        return self.bundle

    def _fit(
        self, plan: Plan, seed: int, folder: Path | None, about: Mapping, resume: bool, verbose: bool, **how
    ) -> History:
        bundle = self.bundle = plan.untrained(seed, self.device)
        self._packed, self._data, self.run = plan.packed, plan.data, folder
        best = _BestWeights(bundle.network)
        bar = TrainingBar(plan.recipe.epochs, plan.training_images, verbose)
        with bar, Events(folder) as events:

            def on_start(progress: Progress) -> None:  # all that may be refused has been by now
                if folder:
                    runs.write_run(folder, about)  # from now on it is a run that can be gone on with
                    runs.write_splits(plan.packed, folder)
                events.go_on(progress.epochs)
                if resume and verbose:
                    console.print(
                        f"going on {progress}" if progress.epochs or progress.batch else "nothing was saved yet"
                    )

            def on_epoch(row: dict) -> None:
                bar.epoch(row)
                events.epoch(row)
                if plan.has_test and folder is None:
                    best.consider(row)

            history = train(
                bundle,
                plan,
                seed=seed,
                precision=self.precision,
                run=folder,
                resume=resume,
                on_start=on_start,
                on_step=bar.step,
                on_epoch=on_epoch,
                **how,
            )
        if folder:
            weights = BEST if plan.has_test and (folder / BEST).exists() else LAST
            runs.write_run(folder, runs.read_run(folder) | {"weights": weights})
            self.bundle = ModelBundle.load(folder / weights, self.device)
        else:
            best.restore()
            bundle.network.requires_grad_(True)
        return history

    def _evaluation_pack(self, data: str | Path | None, verbose: bool) -> tuple[Pack, bool]:
        """Images with the classes of this network, and whether their splits mean anything to it."""
        about = runs.read_run(self.run) if self.run else {}
        if self._packed is not None and (data is None or (data_name(data) == self._data and not about)):
            return self._packed, True
        if data is None and "data" not in about:
            raise ValueError("no data is named, and this classifier does not know what it was trained on")
        source = open_source(about["data"] if data is None else data)
        is_own = data is None or data_name(data) == about.get("data")
        if unknown := sorted(set(source.classes) - set(self.classes)):
            raise ValueError(
                f"{source.name} has classes that the network does not know: {', '.join(unknown[:5])}"
                f"{' …' if len(unknown) > 5 else ''}; it knows {', '.join(self.classes[:20])}"
            )
        progress = counting("packing") if verbose else None
        options = PackOptions(about.get("jpeg") if is_own else None)
        packed = make_pack(source, self._ready().preprocessing.stored_size, options=options, track=progress)
        order = np.array([self.classes.index(name) for name in packed.classes])
        packed = replace(packed, classes=self.classes, labels=order[packed.labels])
        if is_own and about and not source.has_splits:
            packed = runs.with_splits_of(self.run, packed)
        return packed, is_own or source.has_splits


def load(
    path: str | Path, device: str = "auto", precision: str = "auto", fc_precision: FcPrecision = "same"
) -> Classifier:
    """The classifier of a saved folder, of a run or of a file of weights; see `Classifier.load`."""
    return Classifier.load(path, device, precision, fc_precision)


def evaluate_together(
    networks: Sequence[Classifier | str | Path],
    data: str | Path | None = None,
    split: str | None = None,
    weights: Literal["equal", "search"] = "equal",
    verbose: bool = True,
) -> Together:
    """Count the errors of several networks, each alone, and of the mean of their probabilities over ten views each.

    Every network has its own preprocessing and image size; images and classes are matched by name.

    Args:
        networks: classifiers, or what `load` takes.
        data, split: as for `Classifier.evaluate`, the same for all.
        weights: "equal", or the coordinate search of 2012 on val, which never are the images whose errors are counted.

    Raises:
        ValueError: networks, data and split do not fit together; the message says which.
    """
    if not networks or weights not in ("equal", "search"):
        raise ValueError(f"{len(networks)} networks, weights {weights!r}; it may be one or more, 'equal' or 'search'")
    found, validation = [], []
    for each in networks:
        classifier = each if isinstance(each, Classifier) else load(each)
        found.append(classifier.evaluate(data, split, verbose=verbose))
        if weights == "search":
            validation.append(classifier.evaluate(data, "val", verbose=verbose))
    return together(found, validation or None)


def likeliest(probabilities: np.ndarray, classes: Sequence[str], n: int) -> list[tuple[str, float]]:
    """The n likeliest classes with their probabilities, likeliest first; in the order of classes where they tie."""
    best = np.argsort(-probabilities, kind="stable")[:n]
    return [(classes[label], float(probabilities[label])) for label in best]


class _BestWeights:
    """The weights of the epoch of lowest validation error, for a run that writes no files."""

    def __init__(self, network: AlexNet):
        self.network, self.error, self.state = network, float("inf"), None

    def consider(self, row: dict) -> None:
        if row.get("val_error", float("inf")) < self.error:
            self.error = row["val_error"]
            self.state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def restore(self) -> None:
        if self.state is not None:
            self.network.load_state_dict(self.state)


def _pretrained(path: str | Path | None, folder: Path | None, begun: Mapping) -> Pretrained | None:
    """What a run goes on from: the network asked for, or the one that an interrupted run began with.

    Its file is needed until the first checkpoint, which holds all that was taken.

    Args:
        begun: run.json of the interrupted run; empty for a new one.

    Raises:
        ValueError: the interrupted run began with other weights.
    """
    path = path or begun.get("from")
    if path is None:
        return None
    if str(path) == begun.get("from"):
        for name in (LAST, *EARLIER):
            with contextlib.suppress(ValueError):  # it is not there, or damaged
                return Pretrained(ModelBundle.load(folder / name), Path(path), begun["from_sha256"], is_under_way=True)
    file = _weights_file(Path(path).expanduser())
    start = Pretrained.of(_read(file), file)
    if begun and start.sha256 != begun.get("from_sha256"):
        raise ValueError(f"{folder} was begun with {begun.get('from') or 'new weights'}; what {file} holds is not that")
    return start


def _read(file: Path) -> ModelBundle:
    """The network of a file, with a word where it does not say how images are prepared."""
    if is_ours(file):
        return ModelBundle.load(file)
    bundle, report = import_weights(file)
    if report.guessed:
        said = f"{file} does not say how images are prepared: {report.inputs}, by alexnet import"
        print(f"alexnet: {said}", file=sys.stderr)
    return bundle


def _weights_file(path: Path) -> Path:
    """The file of weights that a path stands for.

    Raises:
        ValueError: there is none, or that of the best epoch of a run is gone.
    """
    if not path.is_dir():
        return path
    chosen = runs.read_run(path).get("weights")
    if chosen and not (path / chosen).exists():
        raise ValueError(f"{path / chosen}, the weights of this run, is not there; name another file of weights")
    for name in (chosen, LAST, MODEL_FILE):
        if name and (path / name).exists():
            return path / name
    raise ValueError(f"{path} holds no trained network ({MODEL_FILE}, {BEST} or {LAST})")
