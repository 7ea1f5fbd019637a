"""`Classifier`: from images with labels to one that answers, in a few lines.

classifier = Classifier()
history = classifier.fit("photos", epochs=5)
history.plot("curves.png")
classifier.predict_n("cat.jpg", 3)  # [("cat", 0.91), ("dog", 0.05), ("fox", 0.02)]
classifier.save("pets")
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .console import TrainingBar, counting, print_facts
from .data.augmentation import Preprocessing
from .data.images import ImageLike, stored_image
from .data.packing import Pack, describe_splits, pack
from .data.sources import SPLITS, open_source
from .data.statistics import statistics
from .evaluation.views import Evaluation, evaluate, probabilities
from .model.device import describe_device, pick_device, pick_precision
from .model.network import AlexNet
from .model.trained import FILE as MODEL_FILE
from .model.trained import Trained
from .specs.architecture import Architecture
from .specs.geometry import place
from .specs.recipes import Recipe
from .specs.recipes import recipe as find_recipe
from .specs.variants import variant as find_variant
from .training import run as runs
from .training.events import Events
from .training.journal import History, read_journal
from .training.loop import BEST, LAST, train

SIZES = ((48, "cifar-keras"), (160, "small"), (None, "original"))
"""Largest typical side of the images, pixels, for which a variant is the default."""


class Classifier:
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
        self.precision = pick_precision(precision, self.device)
        self.trained: Trained | None = None
        self.run: Path | None = None
        """Folder of the run that it was trained in or loaded from."""

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
        seed: int = 0,
        output: str | Path | Literal["auto"] | None = None,
        resume: bool = False,
        workers: int | None = None,
        verbose: bool = True,
    ) -> History:
        """Train on labelled images from new initial weights, validating after every epoch.

        Ends with the weights of the epoch of lowest validation error; where the data has no test split of its own, with
        those of the last epoch, so that the error on val/ is of weights that were not chosen by it.

        Args:
            data: "emoji", a folder with train/, val/ and perhaps test/, or a folder with a folder per class.
            epochs, batch_size: the recipe's where None.
            lr: highest rate of the weights; all others change in proportion.
            recipe: a name of `alexnet.recipes()`; the variant's own where None.
            output: folder for checkpoints and journal; "auto" takes the next free runs/DATA-VARIANT-1, -2 …; nothing is
                written where None.
            resume: go on with the interrupted run in `output`, or with "auto" the newest such.
            workers: threads that decode images; one per core where None.

        Raises:
            ValueError: a setting or the data set does not fit; the message says which and what may be.
        """
        if resume and output is None:
            raise ValueError("resume needs the output folder of the run to go on with")
        plan = self._plan(data, epochs, batch_size, lr, recipe, workers, verbose)
        folder = None
        if output is not None:
            find = runs.interrupted_folder if resume else runs.new_folder
            name = f"{plan.packed.name}-{plan.architecture.name}"
            folder = find(None if output == "auto" else Path(output), name)
        return self._fit(plan, seed, folder, resume, verbose)

    def evaluate(
        self, data: str | Path | None = None, split: str | None = None, ten: bool = True, verbose: bool = True
    ) -> Evaluation:
        """Count errors on labelled images.

        Args:
            data: as for `fit`; what it was trained on where None.
            split: "train", "val" or "test"; where None, test if there is one, else val, else all images.
            ten: whether to average over ten views as well.

        Raises:
            ValueError: the data or the split is not there, or has classes that the network does not know.
        """
        trained = self._ready()
        packed, numbers = self._evaluation_images(data, split, verbose)
        progress = counting("evaluating") if verbose else None
        return evaluate(trained, packed, numbers, ten, self.precision, progress)

    def predict(self, image: ImageLike | Sequence[ImageLike], ten: bool = True) -> np.ndarray:
        """Probabilities of all classes, in the order of `classes`.

        Args:
            image: a path, URL, Pillow image or array (height, width[, 3]); or a list of such.
            ten: average over ten views, as in section 4.1, or look at the center only.

        Returns:
            (classes,), or (images, classes) for a list.

        Raises:
            ValueError: an image cannot be read.
        """
        if not isinstance(image, (list, tuple)):
            return self.predict([image], ten)[0]
        trained = self._ready()
        parts = []
        for start in range(0, len(image), 50):
            stored = np.stack([stored_image(each, trained.inputs.stored_size) for each in image[start : start + 50]])
            center, mean = probabilities(trained, torch.from_numpy(stored).to(self.device), ten, self.precision)
            parts.append((mean if ten else center).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)

    def predict_n(self, image: ImageLike, n: int = 5, ten: bool = True) -> list[tuple[str, float]]:
        """The n likeliest classes with their probabilities, likeliest first.

        Raises:
            ValueError: n is below 1, or the image cannot be read.
        """
        if n < 1:
            raise ValueError(f"n is {n}; it may be 1 or more")
        return likeliest(self.predict(image, ten), self.classes, n)

    def save(self, folder: str | Path) -> Path:
        """Write network, preprocessing and class names into a folder; `alexnet.load` reads it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._ready().save(folder / MODEL_FILE)
        return folder

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: str = "auto") -> Classifier:
        """A classifier from a saved folder, the folder of a run, or a file of weights.

        Raises:
            ValueError: nothing that can be loaded is there.
        """
        path = Path(path).expanduser()
        classifier = cls(device=device, precision=precision)
        classifier.trained = Trained.load(_weights_file(path), classifier.device)
        classifier._architecture = classifier.trained.network.architecture
        classifier.run = path if path.is_dir() else path.parent
        return classifier

    def _ready(self) -> Trained:
        if self.trained is None:
            raise ValueError("this classifier knows nothing yet; fit it, or load one with alexnet.load(folder)")
        return self.trained

    def _plan(self, data, epochs, batch_size, lr, wanted, workers, verbose) -> Plan:
        source = open_source(data)
        architecture = self._architecture or find_variant(default_variant(source))
        chosen = wanted if isinstance(wanted, Recipe) else find_recipe(wanted or architecture.recipe)
        if epochs is not None:
            chosen = replace(chosen, epochs=epochs)
        if batch_size is not None:
            chosen = replace(chosen, batch_size=batch_size)
        if lr is not None:
            if lr <= 0:
                raise ValueError(f"lr is {lr}; it may be above 0")
            chosen = replace(chosen, rate_scale=lr / chosen.first_rate())
        place(architecture, len(source.classes))
        progress = counting("packing") if verbose else None
        return Plan(
            str(data), pack(source, architecture.stored_size, workers=workers, progress=progress), architecture, chosen
        )

    def _fit(self, plan: Plan, seed: int, folder: Path | None, resume: bool, verbose: bool) -> History:
        packed, chosen = plan.packed, plan.recipe
        about = runs.settings(
            plan.data, packed.path.name, plan.architecture, chosen, seed, self.precision, str(self.device)
        )
        if folder and resume:
            runs.check_same(folder, about)
        elif folder:
            runs.write_run(folder, about)
            write_splits(packed, folder / "split.csv")
        if verbose:
            print_facts(self._facts(plan, seed, folder))
        found = statistics(packed.images, packed.numbers("train"))
        inputs = Preprocessing.of(chosen.input, found, plan.architecture.stored_size, plan.architecture.input_size)
        network = AlexNet(plan.architecture, len(packed.classes), seed=seed)
        trained = Trained(network, inputs, packed.classes).to(self.device)
        best = _BestWeights(network)
        bar = TrainingBar(chosen.epochs, len(packed.numbers("train")), verbose)
        steps_done = sum(read_journal(folder)["steps"][-1:]) if folder and resume else 0
        with bar, Events(folder, steps_done + 1) as events:

            def on_epoch(row: dict) -> None:
                bar.epoch(row)
                events.epoch(row)
                if plan.has_test and folder is None:
                    best.consider(row)

            history = train(
                trained,
                packed,
                chosen,
                found,
                seed=seed,
                precision=self.precision,
                run=folder,
                resume=resume,
                on_step=bar.step,
                on_epoch=on_epoch,
            )
        if folder:
            weights = BEST if plan.has_test and (folder / BEST).exists() else LAST
            runs.write_run(folder, about | {"weights": weights, "finished": True})
            trained = Trained.load(folder / weights, self.device)
        else:
            best.restore()
        self.trained, self.run, self._architecture = trained, folder, plan.architecture
        return history

    def _facts(self, plan: Plan, seed: int, folder: Path | None) -> dict[str, str]:
        packed, chosen = plan.packed, plan.recipe
        steps = chosen.epochs * -(-len(packed.numbers("train")) // chosen.batch_size)
        facts = {
            "data": f"{plan.data}: {describe_splits(packed)}; {len(packed.classes)} classes",
            "network": f"{plan.architecture.name}, crops of {plan.architecture.input_size} from "
            f"{plan.architecture.stored_size} pixels",
            "recipe": f"{chosen.name}: {chosen.epochs} epochs, {steps:,} steps of {chosen.batch_size}, seed {seed}",
            "device": describe_device(self.device, self.precision),
        }
        if packed.broken:
            facts["left out"] = f"{len(packed.broken)} images that cannot be read, {packed.broken[0]} the first"
        if folder:
            facts["output"] = f"{folder} (Ctrl-C saves; --resume goes on)"
        return facts

    def _evaluation_images(self, data: str | Path | None, split: str | None, verbose: bool) -> tuple[Pack, np.ndarray]:
        own = runs.read_run(self.run).get("data") if self.run else None
        if data is None and own is None:
            raise ValueError("no data is named, and this classifier does not know what it was trained on")
        source = open_source(own if data is None else data)
        unknown = sorted(set(source.classes) - set(self.classes))
        if unknown:
            raise ValueError(
                f"{source.name} has classes that the network does not know: {', '.join(unknown[:5])}"
                f"{' …' if len(unknown) > 5 else ''}; it knows {', '.join(self.classes[:20])}"
            )
        progress = counting("packing") if verbose else None
        packed = pack(source, self._ready().inputs.stored_size, progress=progress)
        order = np.array([self.classes.index(name) for name in packed.classes])
        packed = replace(packed, classes=self.classes, labels=order[packed.labels])
        if split is None and data is not None and str(data) != own and not getattr(source, "has_splits", True):
            return packed, np.flatnonzero(packed.splits < len(SPLITS))
        if split is not None and split not in SPLITS:
            raise ValueError(f"split is {split!r}; it may be one of {', '.join(SPLITS)}")
        numbers = packed.numbers(split) if split else packed.numbers(reported_split(packed))
        if not len(numbers):
            raise ValueError(f"{source.name} has no {split} split; it has {describe_splits(packed)}")
        return packed, numbers


@dataclass(frozen=True)
class Plan:
    """What to train on what, and how."""

    data: str
    packed: Pack
    architecture: Architecture
    recipe: Recipe

    @property
    def has_test(self) -> bool:
        return len(self.packed.numbers("test")) > 0


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> Classifier:
    """The classifier of a saved folder, of a run or of a file of weights; see `Classifier.load`."""
    return Classifier.load(path, device, precision)


def likeliest(probabilities: np.ndarray, classes: Sequence[str], n: int) -> list[tuple[str, float]]:
    """The n likeliest classes with their probabilities, likeliest first; in the order of classes where they tie."""
    best = np.argsort(-probabilities, kind="stable")[:n]
    return [(classes[label], float(probabilities[label])) for label in best]


def default_variant(source) -> str:
    """The variant that suits the size of the images of a source, judged by up to 50 of them."""
    every = max(1, len(source.entries) // 50)
    sides = []
    for number in range(0, len(source.entries), every):
        try:
            with source.open(number) as image:
                sides.append(min(image.size))
        except OSError:
            continue  # packing counts and names it
    typical = np.median(sides) if sides else 256
    return next(name for side, name in SIZES if side is None or typical <= side)


def reported_split(packed: Pack) -> str:
    """Where the final errors are counted: test, or val where there is no test."""
    return "test" if len(packed.numbers("test")) else "val"


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


def _weights_file(path: Path) -> Path:
    """The file of weights that a path stands for.

    Raises:
        ValueError: there is none.
    """
    if not path.is_dir():
        return path
    chosen = runs.read_run(path).get("weights")
    for name in (MODEL_FILE, chosen, LAST):
        if name and (path / name).exists():
            return path / name
    raise ValueError(f"{path} holds no trained network ({MODEL_FILE}, {BEST} or {LAST})")


def write_splits(packed: Pack, path: Path) -> None:
    """Which image is in which split, as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", "split"))
        for name, label, split in zip(packed.names, packed.labels, packed.splits, strict=True):
            writer.writerow((name, packed.classes[label], SPLITS[split] if split < len(SPLITS) else "unreadable"))
