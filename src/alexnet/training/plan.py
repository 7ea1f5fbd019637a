"""What to train on what, and how, worked out from what a user asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..data.check import check_source
from ..data.pack.packing import PackOptions, make_pack
from ..data.pack.reading import Pack, describe_splits
from ..data.pack.statistics import Statistics, pack_statistics
from ..data.source import SPLITS, Source
from ..data.sources.detection import open_source
from ..device import fits_memory
from ..model.bundle import ModelBundle
from ..model.network import AlexNet, tensor_shapes
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.recipe import PRETRAINED, Recipe, is_number
from ..specs.recipe_description import recipe_in_words, scales_in_words
from ..specs.recipes import recipe
from ..specs.shapes import place
from ..specs.variants import variant
from .transfer import Pretrained, Transfer

SIZES = ((48, "cifar-keras"), (160, "small"), (None, "original"))
"""Largest typical side of the images, pixels, for which a variant is the default."""


@dataclass(frozen=True)
class Plan:
    """Packed images, a network's declaration and a recipe that fit together."""

    data: str
    packed: Pack
    architecture: Architecture
    recipe: Recipe
    found: Statistics
    """Of the training images."""
    transfer: Transfer | None = None
    """What the network has from a trained one; None for new weights."""
    jpeg: int | None = None
    """Quality by which the images are packed; None for their pixels."""

    @property
    def name(self) -> str:
        return f"{self.packed.name}-{self.architecture.name}"

    @property
    def has_test(self) -> bool:
        """Whether there are images apart from those that choose the weights."""
        return len(self.packed.indices("test")) > 0

    @property
    def training_images(self) -> int:
        return len(self.packed.indices("train"))

    def untrained(self, seed: int, device: torch.device) -> ModelBundle:
        """The network with its initial weights, new or taken, and its preprocessing. Frozen layers need no gradient."""
        network = AlexNet(self.architecture, len(self.packed.classes), seed=seed)
        for layer, scale in self.recipe.lr_scale.items():
            network.get_submodule(layer).requires_grad_(scale > 0)
        if self.transfer:
            self.transfer.begin(network)
            inputs = self.transfer.inputs(self.architecture, self.recipe.flip)
        else:
            sizes = self.architecture.stored_size, self.architecture.input_size
            inputs = Preprocessing.from_statistics(self.recipe.input, self.found, *sizes, flip=self.recipe.flip)
        return ModelBundle(network, inputs, self.packed.classes).to(device)

    def facts(self) -> dict[str, str]:
        """In words, for the first lines of a run."""
        steps = self.recipe.epochs * -(-self.training_images // self.recipe.batch_size)
        crop, stored = self.architecture.input_size, self.architecture.stored_size
        facts = {
            "data": f"{self.data}: {describe_splits(self.packed)}; {len(self.packed.classes)} classes",
            "network": f"{self.architecture.name}, crops of {crop} from {stored} pixels",
            "recipe": f"{self.recipe.name}: {self.recipe.epochs} epochs, {steps:,} steps of {self.recipe.batch_size}",
            "rates": recipe_in_words(self.recipe),
        }
        if self.transfer:
            facts |= self.transfer.facts()
        if self.recipe.lr_scale:
            facts["layers"] = scales_in_words(self.recipe)
        if self.recipe.shuffle == "blocks":
            gigabytes = self.packed.images.nbytes / 1e9
            facts["order"] = f"shuffled by blocks, as {gigabytes:,.0f} GB of images may not fit into memory"
        if not self.has_test:
            facts["errors on"] = f"{reported_split(self.packed)}, of the last weights, as there is no test split"
        if unread := self.packed.unreadable:
            first = self.packed.names[next(iter(unread))]
            facts["left out"] = f"{len(unread)} images that cannot be read, {first} the first"
        return facts


def make_plan(
    data: str | Path,
    architecture: Architecture | None = None,
    wanted: str | Recipe | None = None,
    changes: Mapping[str, object] | None = None,
    lr: float | None = None,
    split_seed: int = 0,
    packing: PackOptions = PackOptions(),
    progress=None,
    say: Callable[[str], object] = lambda words: None,
    pretrained: Pretrained | None = None,
) -> Plan:
    """Open and pack the data, and settle what was left open.

    Args:
        data: as for `detect_source`.
        architecture: the pretrained network's, or the one that suits the size of the images, where None.
        wanted: a recipe or its name; the architecture's own, or "fine-tune" from a pretrained network, where None.
        changes: fields of the recipe to replace, unless None.
        lr: highest rate of the weights; all others change in proportion.
        split_seed: of the split of a folder that has none.
        packing: how the pack is made.
        progress, say: as for `pack`.
        pretrained: a trained network to go on from.

    Raises:
        ValueError: a setting or the data set does not fit.
    """
    source = open_source(data, split_seed, progress)
    architecture = architecture or (pretrained.architecture if pretrained else variant(default_variant(source)))
    own = "fine-tune" if pretrained else architecture.recipe
    chosen = wanted if isinstance(wanted, Recipe) else recipe(wanted or own)
    chosen = replace(chosen, **{name: value for name, value in (changes or {}).items() if value is not None})
    if lr is not None:
        if not (is_number(lr) and 0 < lr < math.inf):
            raise ValueError(f"lr is {lr!r}; it may be above 0")
        if not math.isclose(lr, chosen.peak_lr(), rel_tol=1e-9):  # as rounding would make it another recipe
            chosen = replace(chosen, lr_factor=chosen.lr_factor * lr / chosen.peak_lr())
    placed = place(architecture, len(source.classes))  # says what does not fit before the packing, which takes longer
    _check_layers(chosen, list(dict.fromkeys(name.rpartition(".")[0] for name in tensor_shapes(placed))))
    transfer = Transfer.to(architecture, source.classes, pretrained) if pretrained else None
    if transfer:
        new = transfer.new if chosen.new_layers is None else chosen.new_layers
        chosen = replace(chosen, input=PRETRAINED, new_layers=new)
    elif chosen.input == PRETRAINED:
        raise ValueError(f"the recipe {chosen.name} goes on from a trained network; name it by --from (pretrained=…)")
    for finding in check_source(source, architecture.stored_size, packing, brief=True).findings:
        if finding.level == "error":
            raise ValueError(f"{source.name}: {finding}")
        if finding.level == "warning":
            say(f"{source.name}: {finding}; see alexnet check {data}")
    packed = make_pack(source, architecture.stored_size, None, packing, progress, say)
    if (changes or {}).get("epochs") is None:
        chosen = replace(chosen, epochs=chosen.epochs_for(len(packed.indices("train"))))
    if not fits_memory(packed.images.nbytes):
        chosen = replace(chosen, shuffle="blocks")
    chosen = replace(chosen, min_steps=0)  # settled, also for a run that goes on with this recipe
    return Plan(data_name(data), packed, architecture, chosen, pack_statistics(packed), transfer, packing.jpeg)


def _check_layers(chosen: Recipe, layers: Sequence[str]) -> None:
    """Refuse what cannot be frozen or slowed down.

    Raises:
        ValueError: a layer whose rates are to be scaled is not there, or none is left to learn.
    """
    if unknown := [name for name in chosen.lr_scale if name not in layers]:
        raise ValueError(f"there is no layer {unknown[0]!r} to freeze or slow down, but {', '.join(layers)}")
    if all(chosen.lr_scale.get(name, 1) == 0 for name in layers):
        raise ValueError("all layers are frozen; one at least is to learn")


def data_name(data: str | Path) -> str:
    """What a run writes down of where its data is: a whole path, so that it holds from every folder."""
    is_word = str(data) == "emoji" or "://" in str(data)
    return str(data) if is_word else str(Path(data).expanduser().resolve())


def reported_split(packed: Pack) -> str:
    """Where the final errors are counted: test, or val where there is no test, or train where there is neither."""
    return next((split for split in ("test", "val") if len(packed.indices(split))), "train")


def evaluation_images(packed: Pack, split: str | None, has_splits: bool = True) -> np.ndarray:
    """Where errors are counted: a split by name, or the one that is reported; or all images, without splits.

    Raises:
        ValueError: there is no such split, or no image in it.
    """
    if split is None and not has_splits:
        return np.flatnonzero(packed.splits < len(SPLITS))
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; it may be one of {', '.join(SPLITS)}")
    split = split or reported_split(packed)
    numbers = packed.indices(split)
    if not len(numbers):
        raise ValueError(f"{packed.name} has no {split} split; it has {describe_splits(packed)}")
    return numbers


def default_variant(source: Source) -> str:
    """The variant that suits the size of the images of a source, judged by up to 50 of them."""
    every = max(1, len(source) // 50)
    sides = []
    for number in range(0, len(source), every):
        try:
            with source.open(number) as image:
                sides.append(min(image.size))
        except Exception:  # packing counts and names it
            continue
    typical = np.median(sides) if sides else 256
    return next(name for side, name in SIZES if side is None or typical <= side)
