"""The weights of a trained network as the beginning of another: what is taken, what is new, what is left.

A layer is taken where the trained network has one of the same name and shapes, and every layer before it was taken too:
behind a new layer the old weights would read what they never learnt to read. So configuration 146 of 2012 began with
conv1 to conv5 of 145; conv6 and what stands behind it were new. The last layer is taken where the classes have the same
names, in their new order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..model.bundle import ModelBundle
from ..model.network import AlexNet, plain_dropout, tensor_shapes
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.shapes import place


@dataclass(frozen=True)
class Pretrained:
    """A trained network to go on from, and the file that it was read from."""

    bundle: ModelBundle
    file: Path
    sha256: str
    is_under_way: bool = False
    """Whether the network is that of a run that began with the file, and is being gone on with."""

    @classmethod
    def of(cls, bundle: ModelBundle, file: Path) -> Pretrained:
        with file.open("rb") as content:
            return cls(bundle, file.resolve(), hashlib.file_digest(content, "sha256").hexdigest())

    @property
    def architecture(self) -> Architecture:
        """Its network, with the sizes of image that it was trained on."""
        network, inputs = self.bundle.network, self.bundle.preprocessing
        return replace(network.architecture, input_size=network.input_size, stored_size=inputs.stored_size)


@dataclass(frozen=True)
class Transfer:
    """What a network takes from a trained one, by layer."""

    source: Pretrained
    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    """In the trained network, and not taken."""
    classes: tuple[int, ...] | None
    """Where the last layer is taken: which class of the trained network each one is."""

    @classmethod
    def to(cls, architecture: Architecture, classes: Sequence[str], source: Pretrained) -> Transfer:
        """What an architecture for these classes can take.

        Raises:
            ValueError: no layer can be taken.
        """
        bundle = source.bundle
        theirs = {name: tuple(tensor.shape) for name, tensor in bundle.network.state_dict().items()}
        ours = tensor_shapes(place(architecture, len(classes)))
        same_classes = sorted(classes) == sorted(bundle.classes)
        rows, last = {row.name for row in architecture.layers}, architecture.layers[-1].name
        taken: list[str] = []
        new: list[str] = []
        for layer, shapes in _by_layer(ours).items():
            fits = shapes.items() <= theirs.items() and (layer != last or same_classes)
            (taken if fits and rows.isdisjoint(new) else new).append(layer)
        if not taken:
            first, other = f"{new[0]}.weight", bundle.network.architecture.name
            sizes = [" × ".join(map(str, each.get(first, ()))) or "not there" for each in (theirs, ours)]
            raise ValueError(
                f"{source.file}: no layer of its network, {other}, fits {architecture.name}; {first} is {sizes[0]} in "
                f"it, and {sizes[1]} in {architecture.name}"
            )
        left = tuple(layer for layer in _by_layer(theirs) if layer not in taken)
        order = tuple(bundle.classes.index(name) for name in classes) if last in taken else None
        return cls(source, tuple(taken), tuple(new), left, order)

    @torch.no_grad()
    def begin(self, network: AlexNet) -> None:
        """Put what is taken into a network, whose other weights stay as they are.

        Dropout that scales while training and dropout that scales afterwards want weights of other sizes behind them.
        """
        bundle = self.source.bundle.network
        theirs, ours = plain_dropout(bundle.placed), plain_dropout(network.placed)
        weights = {}
        for name, tensor in bundle.state_dict().items():
            layer = name.rpartition(".")[0]
            if layer in self.taken:
                if layer == network.architecture.layers[-1].name:
                    tensor = tensor[list(self.classes)]
                if name.endswith(".weight") and layer in ours:
                    tensor = tensor * (theirs[layer] / ours[layer])
                weights[name] = tensor
        network.load_state_dict(weights, strict=False)

    def inputs(self, architecture: Architecture, flip: bool) -> Preprocessing:
        """The preprocessing that the weights were trained with, for images of the network's sizes."""
        known = self.source.bundle.preprocessing
        return known.resized(architecture.stored_size, architecture.input_size, flip)

    def facts(self) -> dict[str, str]:
        """In words, for the first lines of a run."""
        if self.source.is_under_way:
            return {"began with": f"{self.source.file}"}
        is_moved = self.classes is not None and self.classes != tuple(sorted(self.classes))
        facts = {
            "goes on from": f"{self.source.file}, {self.source.bundle.network.architecture.name}",
            "taken": ", ".join(self.taken) + (", its classes in their new order" if is_moved else ""),
            "new": ", ".join(self.new),
            "left": ", ".join(self.left),
            "inputs": "with the mean and deviation that those weights came with, not those of the new images",
        }
        return {name: value for name, value in facts.items() if value}


def _by_layer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layers.setdefault(name.rpartition(".")[0], {})[name] = shape
    return layers
