"""What to train on what, and how: settings and a data set become a plan in which nothing is left open."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..data.check import check_source
from ..data.pack.packing import PackOptions, make_pack
from ..data.pack.reading import Pack, describe_splits
from ..data.pack.statistics import Statistics, pack_statistics
from ..data.source import Source
from ..data.sources.detection import open_source
from ..data.storage.trees import SkipFolder
from ..device import fits_memory
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.recipe import PRETRAINED, Recipe
from ..specs.recipe_description import recipe_in_words, scales_in_words
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

    data: str
    packed: Pack
    architecture: Architecture
    recipe: Recipe
    statistics: Statistics
    """Of the training images."""
    transfer: Transfer | None = None
    """What is copied from a pretrained network; None to train from scratch."""

    @property
    def name(self) -> str:
        return f"{self.packed.name}-{self.architecture.name}"

    @property
    def has_test(self) -> bool:
        """Whether there are images besides those that choose the weights."""
        return len(self.packed.indices("test")) > 0

    @property
    def training_images(self) -> int:
        return len(self.packed.indices("train"))

    def untrained(self, seed: int, device: torch.device) -> ModelBundle:
        """The network with its initial weights, drawn or copied, and its preprocessing; frozen layers need no grad."""
        network = AlexNet(self.architecture, len(self.packed.classes), seed=seed)
        for layer, factor in self.recipe.lr_scale.items():
            network.get_submodule(layer).requires_grad_(factor > 0)
        if self.transfer:
            self.transfer.copy_weights(network)
            preprocessing = self.transfer.preprocessing(self.architecture, self.recipe.flip)
        else:
            sizes = self.architecture.stored_size, self.architecture.input_size
            spec = self.recipe.input
            preprocessing = Preprocessing.from_statistics(spec, self.statistics, *sizes, flip=self.recipe.flip)
        return ModelBundle(network, preprocessing, self.packed.classes).to(device)

    def facts(self) -> dict[str, str]:
        """In words, for the first lines of a run."""
        steps = self.recipe.epochs * math.ceil(self.training_images / self.recipe.batch_size)
        crop, stored = self.architecture.input_size, self.architecture.stored_size
        facts = {
            "data": f"{self.data}: {describe_splits(self.packed)}; {len(self.packed.classes)} classes",
            "network": f"{self.architecture.name}, crops of {crop} from {stored} pixels",
            "recipe": f"{self.recipe.name}: {self.recipe.epochs} epochs, {steps:,} steps of {self.recipe.batch_size}",
            "training": recipe_in_words(self.recipe),
        }
        if self.transfer:
            facts |= self.transfer.facts()
        if self.recipe.lr_scale:
            facts["layers"] = scales_in_words(self.recipe)
        if self.recipe.shuffle == "blocks":
            gigabytes = self.packed.images.nbytes / 1e9
            facts["order"] = f"shuffled in blocks, as {gigabytes:,.0f} GB of images may not fit in memory"
        if not self.has_test:
            facts["errors on"] = f"{reported_split(self.packed)}, of the last weights, as there is no test split"
        if unreadable := self.packed.unreadable:
            first = self.packed.names[next(iter(unreadable))]
            facts["skipped"] = f"{len(unreadable)} images that cannot be read, the first is {first}"
        return facts


def make_plan(
    data: str | Path,
    settings: TrainSettings | None = None,
    pretrained: Pretrained | None = None,
    track=None,
    notify=lambda text: None,
    skip_folder: SkipFolder = lambda folder: False,
) -> Plan:
    """Open and pack the data, and settle what the settings leave open.

    Args:
        pretrained: the network that `settings.pretrained` names, loaded.
        track, notify: as for `make_pack`.
        skip_folder: as for `open_source`.

    Raises:
        ValueError: a setting or the data set does not fit.
    """
    settings = settings or TrainSettings()
    source = open_source(data, settings.split_seed or 0, track, skip_folder)
    architecture = _architecture(settings, source, pretrained)
    placed = infer_shapes(architecture, len(source.classes))  # refuses what does not fit before packing
    transfer = Transfer.to(architecture, source.classes, pretrained) if pretrained else None
    recipe = _recipe(settings, architecture, transfer)
    _check_layers(recipe, dict.fromkeys(name.rpartition(".")[0] for name in tensor_shapes(placed)))
    options = PackOptions(settings.jpeg, settings.workers, settings.strict)
    for finding in check_source(source, architecture.stored_size, options, brief=True).findings:
        if finding.level == "error":
            raise ValueError(f"{source.name}: {finding}")
        if finding.level == "warning":
            notify(f"{source.name}: {finding}; see alexnet check {data}")
    packed = make_pack(source, architecture.stored_size, None, options, track, notify)
    epochs = recipe.epochs if settings.epochs else recipe.epochs_for(len(packed.indices("train")))
    shuffle = recipe.shuffle if fits_memory(packed.images.nbytes) else "blocks"
    recipe = replace(recipe, epochs=epochs, shuffle=shuffle, min_steps=0)  # settled, also for a run that resumes
    return Plan(data_name(data), packed, architecture, recipe, pack_statistics(packed), transfer)


def _architecture(settings: TrainSettings, source: Source, pretrained: Pretrained | None) -> Architecture:
    if isinstance(settings.variant, Architecture):
        return settings.variant
    if settings.variant is None and pretrained:
        return pretrained.architecture
    return find_variant(settings.variant or default_variant(source))


def _recipe(settings: TrainSettings, architecture: Architecture, transfer: Transfer | None) -> Recipe:
    """The recipe that was asked for, with the settings that override it.

    Raises:
        ValueError: a value is out of range, or the recipe fine-tunes and there is nothing to fine-tune.
    """
    own = "fine-tune" if transfer else architecture.recipe
    recipe = settings.recipe if isinstance(settings.recipe, Recipe) else find_recipe(settings.recipe or own)
    asked = {name: getattr(settings, name) for name in ("epochs", "batch_size", "flip")}
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
        raise ValueError(f"the recipe {recipe.name} fine-tunes: pretrained must name a network, got None")
    return replace(recipe, **changes)


def _check_layers(recipe: Recipe, layers: Iterable[str]) -> None:
    """Refuse learning-rate factors of layers that do not exist, or that freeze all.

    Raises:
        ValueError: they do.
    """
    if unknown := [name for name in recipe.lr_scale if name not in layers]:
        raise ValueError(f"freeze and lr_scale must name layers ({', '.join(layers)}), got {unknown[0]!r}")
    if all(recipe.lr_scale.get(name, 1) == 0 for name in layers):
        raise ValueError("at least one layer must be trained, got all frozen")


def data_name(data: str | Path) -> str:
    """What a run records of where its data is: an absolute path, so that it holds from every folder."""
    is_word = str(data) == "emoji" or "://" in str(data)
    return str(data) if is_word else str(Path(data).expanduser().resolve())


def reported_split(packed: Pack) -> str:
    """Where the final errors are counted: test, or val if there is no test split, or train if there is neither."""
    return next((split for split in ("test", "val") if len(packed.indices(split))), "train")


def default_variant(source: Source) -> str:
    """The variant that suits the size of the images of a source, judged by up to 50 of them."""
    every = max(1, len(source) // 50)
    sides = []
    for index in range(0, len(source), every):
        try:
            with source.open(index) as image:
                sides.append(min(image.size))
        except Exception:  # packing counts and names it
            continue
    typical = np.median(sides) if sides else 256
    return next(name for side, name in SIZES if side is None or typical <= side)
