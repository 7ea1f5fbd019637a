"""The patches of images that make each unit of a layer most active, and what in them does (Zeiler and Fergus 2013)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.batches import read_batches
from ..data.pack.reading import Images
from ..evaluation.inference import BATCH_SIZE
from ..files import NAMES, CsvWriter, atomic_write
from ..model.bundle import ModelBundle
from ..model.network import TORCHVISION_NAMES, AlexNet
from ..specs.names import counted
from ..specs.operations import Layer
from ..specs.shapes import receptive_span
from .deconvolution import deconvolve
from .features import FeatureSettings, activations


@dataclass(frozen=True)
class Patch:
    """The part of an image that a unit sees where it is most active."""

    image: int
    """Index in the pack."""
    activation: float
    window: tuple[int, int, int, int]
    """Top, left, bottom and right of the center crop, pixels, clipped at its borders; bottom and right excluded."""
    pixels: np.ndarray
    """(height, width, 3), uint8."""
    deconvolution: np.ndarray
    """The same part of the activation projected back, in pixel units, (height, width, 3), float32."""


@dataclass(frozen=True)
class Patches:
    """The strongest patches of some units of a layer."""

    layer: str
    field: int
    """Side of the receptive field, pixels, before clipping."""
    units: tuple[int, ...]
    by_unit: tuple[tuple[Patch, ...], ...]
    """The patches of each unit, the strongest first; none of units that are never active."""
    dead: tuple[int, ...]
    """Units of the whole layer that no image makes active."""
    images: Images

    def __str__(self) -> str:
        dead = f"{counted(len(self.dead), 'unit')} of the layer never active on {len(self.images):,} images"
        return f"{self.layer}: a unit sees {self.field} × {self.field} pixels; {dead}"

    def write_table(self, path: Path) -> None:
        """Write a row for each patch: unit, rank, activation, path, label, and its window in the center crop."""
        with atomic_write(path) as temporary, temporary.open("w", newline="", **NAMES) as file:
            writer = CsvWriter(file)
            writer.writerow(("unit", "rank", "activation", "path", "label", "top", "left", "bottom", "right"))
            for unit, patches in zip(self.units, self.by_unit, strict=True):
                for rank, patch in enumerate(patches, 1):
                    about = self.images.path(patch.image), self.images.label(patch.image), *patch.window
                    writer.writerow((unit, rank, f"{patch.activation:.6g}", *about))


def last_convolution(network: AlexNet) -> str:
    """The last layer with weights that gives feature maps, such as conv5."""
    return [step.name for step in network.placed if isinstance(step.operation, Layer) and len(step.output_shape) == 3][
        -1
    ]


def find_patches(
    bundle: ModelBundle,
    images: Images,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    count: int = 9,
    progress: Callable | None = None,
) -> Patches:
    """The strongest patches of each unit, at most one of an image, with their deconvolutions.

    Args:
        layer: the last convolution if None.
        units: indices of feature maps (or of units of a vector); all if None.
        progress: wraps the iterable of batches; called with it and the number of images.

    Raises:
        ValueError: there is no such layer or unit, or count is below 1.
    """
    layer = TORCHVISION_NAMES.get(layer, layer) or last_convolution(bundle.network)
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    strongest = Strongest(bundle, layer, count)
    channels = strongest.channels
    if units is not None and (unknown := [unit for unit in units if not 0 <= unit < channels]):
        raise ValueError(f"units of {layer} must be 0 … {channels - 1}, got {unknown[0]}")
    device = next(bundle.network.parameters()).device
    batches = read_batches(images.packed, images.indices, 4 * BATCH_SIZE, device)
    for batch in progress(batches, len(images)) if progress else batches:
        strongest.add(batch.images, torch.from_numpy(batch.indices))
    dead = (strongest.values[0] <= 0).nonzero()[:, 0].tolist()
    units = tuple(range(channels) if units is None else units)
    by_unit = tuple(tuple(_patches(bundle, images, strongest, unit)) for unit in units)
    field = strongest.placed[-1].receptive_field or bundle.network.input_size
    return Patches(layer, field, units, by_unit, tuple(dead), images)


class Strongest:
    """The highest activations of each unit of a layer so far: values, images and positions, each (count, units)."""

    def __init__(self, bundle: ModelBundle, layer: str, count: int):
        self.bundle, self.layer, self.count = bundle, layer, count
        side, device = bundle.preprocessing.stored_size, next(bundle.network.parameters()).device
        shape = self._activations(torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device)).shape
        self.channels, self.width = shape[1], shape[-1]
        names = [step.name for step in bundle.network.placed]
        self.placed = bundle.network.placed[: names.index(layer) + 1]
        self.values = torch.empty(0, self.channels)
        self.images = self.positions = torch.empty(0, self.channels, dtype=torch.int64)

    def _activations(self, stored: Tensor) -> Tensor:
        """(N, units, height, width), of which vectors have 1 × 1."""
        values = activations(self.bundle, stored, FeatureSettings((self.layer,)))[self.layer]
        return values if values.dim() == 4 else values[:, :, None, None]

    def add(self, stored: Tensor, indices: Tensor) -> None:
        """Look at more images."""
        values, positions = (each.cpu() for each in self._activations(stored).flatten(2).max(2))
        values, order = torch.cat([self.values, values]).sort(dim=0, descending=True, stable=True)
        order = order[: self.count]
        self.values = values[: self.count]
        self.images = torch.cat([self.images, indices[:, None].expand_as(positions)]).gather(0, order)
        self.positions = torch.cat([self.positions, positions]).gather(0, order)


def _patches(bundle: ModelBundle, images: Images, strongest: Strongest, unit: int) -> Iterator[Patch]:
    """The patches of a unit: its images once more through the network, and the activation alone back to the pixels."""
    active = int((strongest.values[:, unit] > 0).sum())
    if not active:
        return
    inputs, layer = bundle.preprocessing, strongest.layer
    indices, positions = (each[:active, unit] for each in (strongest.images, strongest.positions))
    stored = images.packed.images[indices.numpy()]
    where = torch.arange(active), unit, positions // strongest.width, positions % strongest.width
    with torch.no_grad(), bundle.for_inference("fp32"):
        network = bundle.network  # whose weights autograd can use
        x = inputs.center_crop(torch.from_numpy(stored).to(next(network.parameters()).device))
        values = network.features(x, layer)[layer]
        signal, unit_of_each = torch.zeros_like(values), where[: values.dim()]
        signal[unit_of_each] = values[unit_of_each]
        back = deconvolve(network, x, layer, signal)
    back = (back.permute(0, 2, 3, 1) * inputs.std).cpu().numpy()
    margin = inputs.margin // 2
    for row, index in enumerate(indices.tolist()):
        (top, bottom), (left, right) = (receptive_span(strongest.placed, int(each[row])) for each in where[2:])
        pixels = stored[row, margin + top : margin + bottom, margin + left : margin + right]
        activation, window = float(strongest.values[row, unit]), (top, left, bottom, right)
        yield Patch(index, activation, window, pixels, back[row, top:bottom, left:right])
