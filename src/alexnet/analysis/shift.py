"""What a network makes of images that move, grow and turn (Zeiler and Fergus 2013, Figure 5), and how consistent it is.

The paper warns of objects that are off-center (section 6.1, on its Figure 4); this measures what they cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..counter_rng import uniform
from ..data.batches import read_batches
from ..data.pack.reading import Pack
from ..evaluation.inference import BATCH_SIZE
from ..evaluation.metrics import confidence_interval
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..preprocessing.crops import Crops
from ..specs.operations import Activation
from .features import last_hidden

FARTHEST, LARGEST = 60 / 224, 1.8
"""How far images are moved, as a fraction of their side, and how much they grow, as in Figure 5."""
AMOUNTS: Mapping[str, np.ndarray] = {
    "vertical shift": np.linspace(-FARTHEST, FARTHEST, 13),
    "scale": np.linspace(1, LARGEST, 9),
    "rotation": np.linspace(0, 360, 25),
}
"""By kind of change: fractions of the side, factors, degrees counterclockwise."""
SEED = 0
"""Seed of the crops that are compared."""


@dataclass(frozen=True)
class Curve:
    """What happens to images while they change in one way; all values are means over the images."""

    amounts: np.ndarray
    probability: np.ndarray
    """Probability of the true class, (amounts,)."""
    distances: Mapping[str, np.ndarray]
    """By layer: Euclidean distance from the features of the unchanged image, over their norm, (amounts,)."""


@dataclass(frozen=True)
class Shift:
    """How a network takes it when images move, grow and turn."""

    curves: Mapping[str, Curve]
    consistency: float | None
    """Fraction of pairs of random crops of an image that get the same class; None if there is only one crop."""
    pairs: int
    """How many pairs were compared, one of each image."""
    images: int
    """How many images the curves are means of."""
    side: int
    """Side of what the network sees, pixels."""

    def __str__(self) -> str:
        if self.consistency is None:
            return "There is no consistency to measure: crops are as large as the stored images."
        low, high = confidence_interval(self.consistency, self.pairs)
        interval = f"95% confidence interval: {low:.1%} to {high:.1%}"
        return f"Consistency: {self.consistency:.2%} of {self.pairs:,} pairs of crops get the same class ({interval})."

    def facts(self) -> dict:
        """As JSON."""
        curves = {
            kind: {
                "amounts": curve.amounts.tolist(),
                "probability": curve.probability.tolist(),
                "distances": {layer: each.tolist() for layer, each in curve.distances.items()},
            }
            for kind, curve in self.curves.items()
        }
        return {"consistency": self.consistency, "pairs": self.pairs, "images": self.images, "curves": curves}


def measure_shift(
    bundle: ModelBundle, packed: Pack, indices: np.ndarray, images: int = 100, progress: Callable | None = None
) -> Shift:
    """Curves of up to `images` images, evenly spread, and the consistency on all of them.

    Args:
        packed: images with the classes of the network.
        progress: wraps the iterable of batches of crops; called with it and the number of images.

    Raises:
        ValueError: images is below 1.
    """
    if images < 1:
        raise ValueError(f"images must be >= 1, got {images}")
    inputs = bundle.preprocessing
    device = next(bundle.network.parameters()).device
    few = indices[np.unique(np.linspace(0, len(indices) - 1, min(images, len(indices))).astype(int))]
    curves = {}
    for kind in AMOUNTS:
        parts = [
            _responses(bundle, inputs.center_crop(batch.images), batch.labels, kind)
            for batch in read_batches(packed, few, BATCH_SIZE, device)
        ]
        means = {name: sum(part[name] for part in parts).numpy() / len(few) for name in parts[0]}
        curves[kind] = Curve(AMOUNTS[kind], means.pop("probability"), means)
    if not inputs.margin:
        return Shift(curves, None, 0, len(few), inputs.crop_size)
    batches = read_batches(packed, indices, 2 * BATCH_SIZE, device)
    agree = sum(
        int(np.equal(*_classes_of_two_crops(bundle, batch.images, batch.indices)).sum())
        for batch in (progress(batches, len(indices)) if progress else batches)
    )
    return Shift(curves, agree / len(indices), len(indices), len(few), inputs.crop_size)


def changed(x: Tensor, kind: str, amount: float) -> Tensor:
    """Images that are moved down, enlarged or turned, (N, C, side, side); zeros, the mean color, fill what they leave.

    Args:
        kind: a key of AMOUNTS.
    """
    turn = math.radians(amount) if kind == "rotation" else 0.0
    cosine, sine = math.cos(turn), math.sin(turn)
    zoom = amount if kind == "scale" else 1.0
    down = 2 * amount if kind == "vertical shift" else 0.0
    to_source = torch.tensor([[cosine / zoom, -sine / zoom, 0], [sine / zoom, cosine / zoom, -down]]).to(x)
    grid = F.affine_grid(to_source.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


@torch.inference_mode()
def _responses(bundle: ModelBundle, x: Tensor, labels: Tensor, kind: str) -> dict[str, Tensor]:
    """Sums over images: the probability of their classes, and distances by layer, each (amounts,), float64."""
    with bundle.for_inference("fp32") as network:
        *_, scores = (name for name, _ in network.named_children())
        layers = [first_activation(network), last_hidden(network)]
        before = network.features(x, layers)
        rows = []
        for amount in AMOUNTS[kind]:
            after = network.features(changed(x, kind, float(amount)), [*layers, scores])
            probability = after[scores].softmax(1).gather(1, labels[:, None]).sum()
            distances = [_relative_distance(after[layer], before[layer]).sum() for layer in layers]
            rows.append(torch.stack([probability, *distances]).double().cpu())
    return dict(zip(["probability", *layers], torch.stack(rows, 1), strict=True))


def _relative_distance(after: Tensor, before: Tensor) -> Tensor:
    """The distance of features over the norm of those before, (N,); 0 / 0 is 0."""
    return (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp(min=1e-12)


@torch.inference_mode()
def _classes_of_two_crops(bundle: ModelBundle, images: Tensor, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest classes of two random crops of each image, each (N,)."""
    inputs, classes = bundle.preprocessing, []
    for purpose in ("crop 1", "crop 2"):
        offsets = (uniform(SEED, 0, indices, purpose, 2) * (inputs.margin + 1)).astype(np.int64)
        top, left = torch.from_numpy(offsets).to(images.device).unbind(1)
        crops = Crops(top, left, torch.zeros_like(top, dtype=torch.bool))
        with bundle.for_inference("fp32") as network:
            classes.append(network(inputs.normalized_crops(images, crops)).argmax(1).cpu().numpy())
    return tuple(classes)


def first_activation(network: AlexNet) -> str:
    """The first activation function, relu1."""
    return next(step.name for step in network.placed if isinstance(step.operation, Activation))
