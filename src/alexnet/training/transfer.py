"""Transfer learning: the weights of a trained network as the start of another.

A layer is copied if the trained network has one of the same name and shapes, and every layer before it was copied too:
after a new layer, the old weights would read features that they have never seen. Configuration 146 of 2012 began like
this with conv1 to conv5 of 145; conv6 and the layers after it were new. The last layer is copied if the classes have
the same names, in their new order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs.architecture import Architecture
from ..specs.names import first_positions
from ..specs.shapes import inference_scales


@dataclass(frozen=True)
class Pretrained:
    """A trained network to fine-tune, and the file that it was read from."""

    bundle: ModelBundle
    file: Path
    sha256: str
    is_checkpoint: bool = False
    """Whether the network is a checkpoint of the resumed run, which began with the file."""

    @classmethod
    def of(cls, bundle: ModelBundle, file: Path) -> Pretrained:
        with file.open("rb") as content:
            return cls(bundle, file.resolve(), hashlib.file_digest(content, "sha256").hexdigest())

    @property
    def architecture(self) -> Architecture:
        """Its architecture, with the image sizes that it was trained on."""
        network, stored_size = self.bundle.network, self.bundle.preprocessing.stored_size
        return replace(network.architecture, input_size=network.input_size, stored_size=stored_size)


@dataclass(frozen=True)
class Transfer:
    """Which layers of a network are copied from a trained one."""

    source: Pretrained
    copied: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    """Layers of the trained network that are not copied."""
    classes: tuple[int, ...] | None
    """If the last layer is copied: the index of each class in the trained network."""

    @classmethod
    def to(
        cls, architecture: Architecture, ours: Mapping[str, tuple[int, ...]], classes: Sequence[str], source: Pretrained
    ) -> Transfer:
        """What an architecture for these classes can copy.

        Args:
            ours: shapes of its tensors, by name.

        Raises:
            ValueError: no layer can be copied.
        """
        bundle = source.bundle
        theirs = {name: tuple(tensor.shape) for name, tensor in bundle.network.state_dict().items()}
        same_classes = sorted(classes) == sorted(bundle.classes)
        rows, last = {row.name for row in architecture.layers}, architecture.layers[-1].name
        copied: list[str] = []
        new: list[str] = []
        for layer, shapes in _by_layer(ours).items():
            fits = shapes.items() <= theirs.items() and (layer != last or same_classes)
            (copied if fits and rows.isdisjoint(new) else new).append(layer)
        if not copied:
            first, other = f"{new[0]}.weight", bundle.network.architecture.name
            sizes = [" × ".join(map(str, each.get(first, ()))) or "missing" for each in (theirs, ours)]
            raise ValueError(
                f"{source.file}: no layer of its network, {other}, fits {architecture.name}: {first} must be "
                f"{sizes[1]}, got {sizes[0]}"
            )
        unused = tuple(layer for layer in _by_layer(theirs) if layer not in copied)
        label_of = first_positions(bundle.classes)
        order = tuple(label_of[name] for name in classes) if last in copied else None
        return cls(source, tuple(copied), tuple(new), unused, order)

    @torch.no_grad()
    def copy_weights(self, network: AlexNet) -> None:
        """Copy the weights into a network, whose other weights stay as they are.

        They are rescaled where one network has inverted dropout before a layer, and the other the dropout of 2012.
        """
        source = self.source.bundle.network
        theirs, ours = inference_scales(source.placed), inference_scales(network.placed)
        weights = {}
        for name, tensor in source.state_dict().items():
            layer = name.rpartition(".")[0]
            if layer in self.copied:
                if layer == network.architecture.layers[-1].name:
                    tensor = tensor[list(self.classes)]
                if name.endswith(".weight") and layer in ours:
                    tensor = tensor * (theirs[layer] / ours[layer])
                weights[name] = tensor
        network.load_state_dict(weights, strict=False)

    def facts(self) -> dict[str, str]:
        """In words, for the first lines of a run."""
        if self.source.is_checkpoint:
            return {"fine-tunes": f"{self.source.file}"}
        is_reordered = self.classes is not None and self.classes != tuple(sorted(self.classes))
        facts = {
            "fine-tunes": f"{self.source.file}, {self.source.bundle.network.architecture.name}",
            "copied": ", ".join(self.copied) + (" (with its classes reordered)" if is_reordered else ""),
            "new layers": ", ".join(self.new),
            "not used": ", ".join(self.unused),
            "inputs": "normalized with the mean and standard deviation of the pretrained weights",
        }
        return {name: value for name, value in facts.items() if value}


def _by_layer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layers.setdefault(name.rpartition(".")[0], {})[name] = shape
    return layers
