"""What to train on what, and how: settings and a data set become a plan in which nothing is left open."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property

from ..data.check import check_source
from ..data.pack.packing import PackOptions, make_pack
from ..data.pack.reading import Pack, describe_splits
from ..data.pack.statistics import Statistics, pack_statistics
from ..data.source import Source
from ..device import fits_memory
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.names import did_you_mean
from ..specs.recipe import PRETRAINED, Recipe
from ..specs.recipe_description import lr_scale_in_words, recipe_in_words
from ..specs.recipes import recipe as find_recipe
from ..specs.settings import TrainSettings
from ..specs.shapes import infer_shapes, tensor_shapes
from ..specs.variants import variant as find_variant
from .transfer import Pretrained, Transfer

SIZES = ((48, "cifar-keras"), (160, "small"), (None, "original"))
"""The default variant for images whose typical shorter side is at most this, pixels."""


@dataclass(frozen=True)
class Plan:
    """Packed images, a network's declaration and a recipe that fit together."""

    packed: Pack
    architecture: Architecture
    recipe: Recipe
    transfer: Transfer | None = None
    """What is copied from a pretrained network; None to train from scratch."""

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
        if self.transfer:
            return self.transfer.preprocessing(self.architecture, self.recipe.flip)
        sizes = self.architecture.stored_size, self.architecture.input_size
        return Preprocessing.from_statistics(self.recipe.input, self.statistics, *sizes, flip=self.recipe.flip)

    @property
    def has_test(self) -> bool:
        """Whether there are images besides those that choose the weights."""
        return len(self.packed.indices("test")) > 0

    @property
    def training_images(self) -> int:
        return len(self.packed.indices("train"))

    def facts(self, data: str) -> dict[str, str]:
        """In words, for the first lines of a run on `data`."""
        steps = self.recipe.epochs * math.ceil(self.training_images / self.recipe.batch_size)
        crop, stored = self.architecture.input_size, self.architecture.stored_size
        facts = {
            "data": f"{data}: {describe_splits(self.packed)}; {len(self.packed.classes)} classes",
            "network": f"{self.architecture.name}, crops of {crop} from {stored} pixels",
            "recipe": f"{self.recipe.name}: {self.recipe.epochs} epochs, {steps:,} steps of {self.recipe.batch_size}",
            "training": recipe_in_words(self.recipe),
        }
        if self.transfer:
            facts |= self.transfer.facts()
        if self.recipe.lr_scale:
            facts["layers"] = lr_scale_in_words(self.recipe)
        if self.recipe.shuffle == "blocks":
            gigabytes = self.packed.images.nbytes / 1e9
            facts["order"] = f"shuffled in blocks, as {gigabytes:,.0f} GB of images may not fit in memory"
        if not self.has_test:
            facts["errors on"] = f"{self.packed.reported_split}, with the last weights, as there is no test split"
        if unreadable := self.packed.unreadable:
            first = self.packed.names[next(iter(unreadable))]
            facts["skipped"] = f"{len(unreadable)} images that cannot be read, the first is {first}"
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
    settings = settings or TrainSettings()
    if settings.variant is None and pretrained:
        architecture = pretrained.architecture
    else:
        architecture = find_variant(settings.variant or default_variant(source.typical_side()))
    shapes = tensor_shapes(infer_shapes(architecture, len(source.classes)))  # refuses what does not fit before packing
    transfer = Transfer.to(architecture, shapes, source.classes, pretrained) if pretrained else None
    recipe = _recipe(settings, architecture, transfer)
    _check_layers(recipe, dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    options = PackOptions(settings.jpeg, settings.workers, settings.strict)
    for finding in check_source(source, architecture.stored_size, options, brief=True).findings:
        if finding.level == "error":
            raise ValueError(f"{source.name}: {finding}")
        if finding.level == "warning":
            notify(f"{source.name}: {finding}; see alexnet check")
    packed = make_pack(source, architecture.stored_size, None, options, track, notify)
    epochs = recipe.epochs if settings.epochs else recipe.epochs_for(len(packed.indices("train")))
    shuffle = recipe.shuffle if fits_memory(packed.images.nbytes) else "blocks"
    recipe = replace(recipe, epochs=epochs, shuffle=shuffle, min_steps=0)  # settled, also for a run that resumes
    return Plan(packed, architecture, recipe, transfer)


def _recipe(settings: TrainSettings, architecture: Architecture, transfer: Transfer | None) -> Recipe:
    """The recipe that was asked for, with the settings that override it."""
    own = "fine-tune" if transfer else architecture.recipe
    recipe = settings.recipe if isinstance(settings.recipe, Recipe) else find_recipe(settings.recipe or own)
    shared = {field.name for field in fields(TrainSettings)} & {field.name for field in fields(Recipe)} - {"lr_scale"}
    asked = {name: getattr(settings, name) for name in shared}
    changes = {name: value for name, value in asked.items() if value is not None}
    if settings.lr_factors:
        changes["lr_scale"] = settings.lr_factors
    peak_lr = recipe.peak_lr()
    if settings.lr is not None and not math.isclose(settings.lr, peak_lr, rel_tol=1e-9):  # rounding is no new recipe
        changes["lr_factor"] = recipe.lr_factor * settings.lr / peak_lr
    if transfer:
        changes["input"] = PRETRAINED
        changes["new_layers"] = transfer.new if recipe.new_layers is None else recipe.new_layers
    elif recipe.input == PRETRAINED:
        raise ValueError(f"the recipe {recipe.name} needs pretrained weights: pretrained must name a network, got None")
    return replace(recipe, **changes)


def _check_layers(recipe: Recipe, layers: Iterable[str]) -> None:
    """Refuse learning-rate factors of layers that do not exist, or that freeze all."""
    if unknown := [name for name in recipe.lr_scale if name not in layers]:
        near = did_you_mean(unknown[0], layers)
        raise ValueError(f"freeze and lr_scale must name layers ({', '.join(layers)}), got {unknown[0]!r}{near}")
    if all(recipe.lr_scale.get(name, 1) == 0 for name in layers):
        raise ValueError("at least one layer must be trained, but all are frozen")


def default_variant(side: float) -> str:
    """The variant that suits images whose shorter side is typically this many pixels."""
    return next(name for most, name in SIZES if most is None or side <= most)
