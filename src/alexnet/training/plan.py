"""What to train on what, and how: settings and a data set become a plan in which nothing is left open."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..data.check import checked_pack
from ..data.pack.packing import PackOptions
from ..data.pack.reading import Pack, describe_splits
from ..data.pack.resizing import Squares
from ..data.pack.statistics import Statistics, pack_statistics
from ..data.source import Source
from ..device import fits_memory, pick_device
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..parallel.placement import Placement, Way, placement_of
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.names import counted
from ..specs.reading import check_names, find_recipe, with_settings
from ..specs.recipe import PRETRAINED, Recipe
from ..specs.recipe_description import lr_scale_in_words, recipe_in_words
from ..specs.recipes import FINE_TUNE, TRANSFER
from ..specs.settings import TrainSettings, option, spoken
from ..specs.shapes import infer_shapes, smallest_input, tensor_shapes
from ..specs.variants import variant as find_variant
from .transfer import Pretrained, Transfer

FEW_IMAGES = 10_000
"""Training images below which `original`, with 61 million parameters, is not trained from scratch by default."""
ENOUGH_TO_CHOOSE = 200
"""Validation images from which on their errors choose the weights. Of fewer, the lowest error of many epochs is luck:
on 9, the weights that it chose were 5 to 10 points worse than the last ones."""
FEW_TO_FINE_TUNE = 100_000
"""Training images below which fine-tuning takes hundreds of steps by default, not the epochs of 2012."""


@dataclass(frozen=True)
class Plan:
    """Packed images, a network's declaration and a recipe that fit together."""

    packed: Pack
    architecture: Architecture
    recipe: Recipe
    transfer: Transfer | None = None
    """What is copied from a pretrained network; None to train from scratch."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why "network" and "recipe" are what they are, where the settings leave that open."""

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and colors of the training images."""
        return pack_statistics(self.packed)

    @property
    def name(self) -> str:
        return f"{self.packed.name}-{self.architecture.name}"

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """From stored images to inputs of the network."""
        sizes, flip = (self.architecture.stored_size, self.architecture.input_size), self.recipe.flip
        if self.transfer:
            inputs = self.transfer.source.bundle.preprocessing.resized(*sizes, flip)
        else:
            inputs = Preprocessing.from_statistics(self.recipe.input, self.statistics, *sizes, flip)
        return replace(inputs, squares=self.packed.squares)

    def bundle(self, seed: int) -> ModelBundle:
        """The network before training: with initial weights, drawn by the seed, and what is copied."""
        network = AlexNet(self.architecture, len(self.packed.classes), seed=seed)
        if self.transfer:
            self.transfer.copy_weights(network)
        return ModelBundle(network, self.preprocessing, self.packed.classes)

    def placement(self, way: Way, processes: int) -> Placement:
        """How the network is divided over processes; ValueError if it cannot be."""
        return placement_of(self.architecture, way, processes, len(self.packed.classes))

    @property
    def has_test(self) -> bool:
        """Whether there are images besides those that choose the weights."""
        return len(self.packed.indices("test")) > 0

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch are the result: where enough images tell which it is, and others how
        good they are; or where the training ends when they get no better."""
        enough = len(self.packed.indices("val")) >= ENOUGH_TO_CHOOSE
        return (self.has_test and enough) or self.recipe.patience is not None

    @cached_property
    def class_weights(self) -> list[float] | None:
        """Weight of each class in the loss, by its index."""
        classes, given = self.packed.classes, self.recipe.class_weights
        if given is None or isinstance(given, Mapping):
            return given and [given.get(name, 1.0) for name in classes]
        counts = np.bincount(self.packed.labels[self.packed.indices("train")], minlength=len(classes))
        return [self.training_images / (len(classes) * count) if count else 1.0 for count in counts.tolist()]

    @property
    def training_images(self) -> int:
        return len(self.packed.indices("train"))

    def facts(self, data: str) -> dict[str, str]:
        """In words, for the first lines of a run on `data`."""
        steps = self.recipe.epochs * math.ceil(self.training_images / self.recipe.batch_size)
        epochs = counted(self.recipe.epochs, "epoch")
        crop, stored = self.architecture.input_size, self.architecture.stored_size
        facts = {
            "data": f"{data}: {describe_splits(self.packed)}; {len(self.packed.classes)} classes",
            "network": f"{self.architecture.name}, crops of {crop} from {stored} pixels",
            "recipe": f"{self.recipe.name}: {epochs}, {counted(steps, 'step')} of {self.recipe.batch_size}",
            "training": recipe_in_words(self.recipe),
        }
        facts |= {name: f"{facts[name]}; {why}" if name in facts else why for name, why in self.reasons.items()}
        if self.transfer:
            facts |= self.transfer.facts()
        if self.recipe.lr_scale:
            facts["layers"] = lr_scale_in_words(self.recipe)
        if self.recipe.shuffle == "blocks":
            gigabytes = self.packed.images.nbytes / 1e9
            facts["order"] = f"shuffled in blocks, as {gigabytes:,.0f} GB of images may not fit in memory"
        if not self.has_test:
            weights = "best weights, which it chose" if self.recipe.patience else "last weights"
            facts["errors on"] = f"{self.packed.reported_split}, with the {weights}, as there is no test split"
        elif not self.keeps_best:
            few = counted(len(self.packed.indices("val")), "validation image")
            facts["weights"] = f"those of the last epoch, as {few} cannot tell which epoch is best"
        if unreadable := self.packed.unreadable:
            first = self.packed.names[next(iter(unreadable))]
            count = counted(len(unreadable), "unreadable image")
            facts["skipped"] = f"{count}, first {first} (all are in left_out.csv)"
        return facts


def make_plan(
    source: Source,
    settings: TrainSettings | None = None,
    pretrained: Pretrained | None = None,
    track=None,
    notify=lambda text: None,
) -> Plan:
    """Pack the images of a source, and settle what the settings leave open.

    Args:
        pretrained: the network that `settings.pretrained` names, loaded.
        track, notify: as for `make_pack`.

    Raises:
        ValueError: a setting or the data set does not fit.
    """
    settings, reasons = settings or TrainSettings(), {}
    if isinstance(settings.augment, str):
        raise ValueError(
            f"augment must be the function {settings.augment}, with which this run was trained: only its name is "
            "stored, so give it again, in Python"
        )
    architecture = _architecture(settings, source, pretrained, reasons)
    shapes = tensor_shapes(infer_shapes(architecture, len(source.classes)))  # refuses what does not fit before packing
    transfer = Transfer.to(architecture, shapes, source.classes, pretrained) if pretrained else None
    recipe = find_recipe(architecture.recipe if settings.recipe is None else settings.recipe)
    if transfer and settings.recipe is None:
        recipe = TRANSFER if source.training_images < FEW_TO_FINE_TUNE else FINE_TUNE
    is_left_open = settings.recipe in (None, recipe.name) and settings.batch_size is None
    if is_left_open and "batch_size" not in (settings.set or {}):
        fewer = recipe.for_few_images(source.training_images)
        if recipe != fewer:
            advice = "" if transfer else f"; with {option('pretrained')}, fewer images suffice"
            reasons["recipe"] = f"small batches, as there are few training images{advice}"
            recipe = fewer
    recipe = with_settings(recipe, settings)
    if transfer:
        new_layers = transfer.new if recipe.new_layers is None else recipe.new_layers
        recipe = replace(recipe, input=PRETRAINED, new_layers=new_layers)
    elif recipe.input == PRETRAINED:
        raise ValueError(f"the recipe {recipe.name} needs pretrained weights: pretrained must name a network, got None")
    check_names(recipe, dict.fromkeys(name.rpartition(".")[0] for name in shapes), source.classes)
    squares = pretrained.bundle.preprocessing.squares if pretrained else Squares()
    squares = replace(squares, aspect=settings.aspect or squares.aspect)
    options = PackOptions(settings.jpeg, settings.workers, settings.strict, squares)
    reasons |= source.reading
    packed = checked_pack(source, architecture.stored_size, options, track, notify)
    if recipe.patience and not len(packed.indices("val")):
        raise ValueError(f"patience needs a val split, but {packed.name} has {describe_splits(packed)}")
    is_given = settings.epochs or "epochs" in (settings.set or {})
    epochs = recipe.epochs if is_given else recipe.epochs_for(len(packed.indices("train")))
    shuffle = recipe.shuffle if fits_memory(packed.images.nbytes) else "blocks"
    recipe = replace(recipe, epochs=epochs, shuffle=shuffle, min_steps=0)  # settled, also for a run that resumes
    if settings.milestones:  # they are epochs of this run, however long it is
        recipe = replace(recipe, schedule=replace(recipe.schedule, epochs=epochs))
    return Plan(packed, architecture, recipe, transfer, reasons)


def _architecture(
    settings: TrainSettings, source: Source, pretrained: Pretrained | None, reasons: dict[str, str]
) -> Architecture:
    """The network that was asked for, or that suits the images; `reasons` receives why."""
    if settings.variant is None and pretrained:
        architecture = pretrained.architecture
    elif settings.variant is None:
        name, reasons["network"] = variant_for(source, settings.device)
        architecture = find_variant(name)
    else:
        architecture = find_variant(settings.variant)
    if not settings.crop_size:
        return architecture
    if settings.crop_size < (smallest := smallest_input(architecture)):
        limit = f"{spoken('crop_size')} must be >= {smallest} for {architecture.name}"
        raise ValueError(f"{limit}, got {settings.crop_size}")
    return architecture.with_input(settings.crop_size)


def variant_for(source: Source, device: str = "auto") -> tuple[str, str]:
    """The variant to train from scratch on a source where none is asked for, and why."""
    return default_variant(_typical_side(source), source.training_images, pick_device(device).type != "cpu")


def default_variant(side: float, images: int, has_gpu: bool) -> tuple[str, str]:
    """The variant to train from scratch where none is asked for, and why.

    Args:
        side: typical shorter side of the images, pixels.
        images: training images.
    """
    if side <= 48:
        return "cifar-keras", f"for images of about {side:.0f} pixels"
    if side <= 160:
        return "small", f"for images of about {side:.0f} pixels"
    if images < FEW_IMAGES:
        return "small", f"as fewer than {FEW_IMAGES:,} images are too few for original's 61 million parameters"
    if not has_gpu:
        return "small", "as original would take days without a GPU"
    return "original", f"for {FEW_IMAGES:,} images or more and a GPU"


def _typical_side(source: Source) -> float:
    """Median shorter side of up to 50 of the images, pixels; 256 if none of them can be read."""
    sides = []
    for index in range(0, len(source), max(1, len(source) // 50)):
        with contextlib.suppress(Exception), source.open(index) as image:  # packing counts and names it
            sides.append(min(image.size))
    return float(np.median(sides)) if sides else 256.0
