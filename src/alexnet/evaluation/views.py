"""Class probabilities by the center view and by the mean over all views, from one pass (sections 4.1 and 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.batches import read_batches
from ..data.pack.reading import Pack
from ..device import Precision, torch_dtype
from ..model.bundle import ModelBundle
from ..preprocessing.preprocessing import CENTER
from .metrics import Metrics

BATCH = 50
"""Images at a time; up to ten times as many views."""


@dataclass(frozen=True)
class Evaluation:
    """A network on a set of images."""

    center: Metrics
    mean: Metrics | None
    """By the mean of the probabilities of all views; None where only the center was asked for."""
    views: int
    """How many: ten, or the five that are not flipped for a network that was trained without flipping."""
    packed: Pack
    indices: np.ndarray
    """Which images of the pack, (N,), in the order of the metrics."""


@torch.inference_mode()
def probabilities(
    bundle: ModelBundle, images: Tensor, all_views: bool = True, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor | None]:
    """By the center view and by the mean of the softmax over all views, each (N, classes), float32.

    The second is None unless `all_views`; then the center is one of them, and costs nothing more.

    Args:
        images: stored images, (N, stored_size, stored_size, 3), uint8, on the network's device.
    """
    cut = bundle.preprocessing.all_views if all_views else bundle.preprocessing.center_crop
    scores = bundle.for_inference(precision)(cut(images, torch_dtype(precision)))
    views = scores.float().softmax(1)
    if not all_views:
        return views, None
    views = views.unflatten(0, (len(images), bundle.preprocessing.view_count))
    return views[:, CENTER], views.mean(1)


def evaluate(
    bundle: ModelBundle,
    packed: Pack,
    indices: np.ndarray,
    all_views: bool = True,
    precision: Precision = "fp32",
    progress=None,
) -> Evaluation:
    """Every image of `indices` once.

    Args:
        progress: a function that wraps an iterable of batches, given (batches, number of images).

    Raises:
        ValueError: there are no images, or they are stored at another size than the network's.
    """
    if not len(indices):
        raise ValueError(f"{packed.name} has no images to evaluate on")
    if packed.side != bundle.preprocessing.stored_size:
        raise ValueError(
            f"images of {packed.side} pixels are given; the network needs {bundle.preprocessing.stored_size}"
        )
    device = next(bundle.network.parameters()).device
    parts: list[tuple[Tensor, Tensor | None, Tensor]] = []
    read = read_batches(packed, indices, BATCH if all_views else 4 * BATCH, device)
    for batch in progress(read, len(indices)) if progress else read:
        center, mean = probabilities(bundle, batch.images, all_views, precision)
        parts.append((center.cpu(), mean.cpu() if mean is not None else None, batch.labels.cpu()))
    labels = torch.cat([part[2] for part in parts])
    center = Metrics(torch.cat([part[0] for part in parts]), labels)
    mean = Metrics(torch.cat([part[1] for part in parts]), labels) if all_views else None
    return Evaluation(center, mean, bundle.preprocessing.view_count, packed, indices)
