"""Class probabilities by the center crop and by the mean over all views, in one pass (sections 4.1 and 6)."""

import html
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..compat import renamed_fields
from ..data.batches import read_batches
from ..data.pack.packing import Pack
from ..data.source import SPLITS
from ..device import Precision, torch_dtype
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..notebook import html_table
from ..preprocessing.preprocessing import CENTER
from .metrics import Metrics, confidence_interval

BATCH_SIZE = 50
"""Images per batch, with up to ten views each; four times as many if only the center is evaluated."""


@renamed_fields(mean="all_views", views="view_count")
@dataclass(frozen=True)
class Evaluation:
    """A network's metrics on a set of images."""

    center: Metrics
    """By the center crop."""
    all_views: Metrics | None
    """By the mean of the softmax over all views (ten-crop); None if only the center was evaluated."""
    view_count: int
    """Views per image: ten, or the five that are not flipped if the network was trained without flips."""
    packed: Pack
    indices: np.ndarray
    """Indices of the images in the pack, (N,), in the order of the metrics."""

    @property
    def split(self) -> str:
        """The split that the images belong to, "all images" if they belong to several."""
        splits = set(self.packed.splits[self.indices].tolist())
        return SPLITS[splits.pop()] if len(splits) == 1 else "all images"

    @cached_property
    def names(self) -> np.ndarray:
        """Names of the images, (N,)."""
        return np.array([self.packed.names[index] for index in self.indices.tolist()])

    def rows(self) -> list[dict[str, str]]:
        """A row of a table for the center crop and one for all views."""
        by_views = {"center crop": self.center, f"{self.view_count} views": self.all_views}
        return [{"": name, **metrics.in_percent()} for name, metrics in by_views.items() if metrics is not None]

    def in_words(self) -> str:
        """The top-1 error and how sure it is."""
        metrics, views = self.center, "the center crop"
        if self.all_views:
            metrics, views = self.all_views, f"{self.view_count} views"
        low, high = confidence_interval(1 - metrics.top1, len(metrics.labels))
        return (
            f"On {len(metrics.labels):,} images, the top-1 error with {views} is {1 - metrics.top1:.1%} "
            f"(95% confidence interval: {low:.1%} to {high:.1%})."
        )

    def __repr__(self) -> str:
        top1 = ", ".join(f"{row['top-1 accuracy']} with {row['']}" for row in self.rows())
        return f"Evaluation({self.packed.name}, {self.split}, {len(self.indices):,} images: top-1 accuracy {top1})"

    def _repr_html_(self) -> str:
        title = html.escape(f"{self.packed.name}, {self.split}: {len(self.indices):,} images")
        return f"<p>{title}</p>{html_table(self.rows())}"

    def summary(self) -> dict[str, dict[str, float]]:
        """The metrics by name, for JSON."""
        return {"center": self.center.summary(), "all_views": self.all_views.summary()}


@torch.inference_mode()
def probabilities(
    bundle: ModelBundle, images: Tensor, all_views: bool = True, precision: Precision = "fp32"
) -> tuple[Tensor, Tensor | None]:
    """Probabilities by the center crop and by the mean of the softmax over all views, each (N, classes), float32.

    The second is None unless `all_views`; the center is one of the views, so it costs no extra pass.

    Args:
        images: stored images, (N, stored_size, stored_size, 3), uint8, on the network's device.
    """
    preprocessing = bundle.preprocessing
    crop = preprocessing.all_views if all_views else preprocessing.center_crop
    views = crop(images, torch_dtype(precision))
    with bundle.for_inference(precision) as network:
        by_view = network(views).float().softmax(1)
        if not by_view.isfinite().all():
            raise ValueError(_first_not_finite(network, views))
    if not all_views:
        return by_view, None
    by_view = by_view.unflatten(0, (len(images), -1))
    return by_view[:, CENTER], by_view.mean(1)


def _first_not_finite(network: AlexNet, views: Tensor) -> str:
    """What is wrong with a network whose scores are not finite."""
    for name, values in network.features(views).items():
        if not values.isfinite().all():
            return f"{name} gives values that are not finite; the weights up to there are damaged or far too large"
    return "the scores of the network are not finite"


def evaluate(
    bundle: ModelBundle,
    packed: Pack,
    indices: np.ndarray,
    all_views: bool = True,
    precision: Precision = "fp32",
    progress=None,
) -> Evaluation:
    """Evaluate a network once on every image of `indices`.

    Args:
        progress: wraps the iterable of batches; called with it and the number of images.

    Raises:
        ValueError: there are no images, or their stored size is not the network's.
    """
    if not len(indices):
        raise ValueError(f"{packed.name} has no images to evaluate on")
    if packed.side != bundle.preprocessing.stored_size:
        raise ValueError(f"images must be stored at {bundle.preprocessing.stored_size} pixels, got {packed.side}")
    device = next(bundle.network.parameters()).device
    shape = len(indices), bundle.network.num_classes
    centers, labels = torch.empty(shape), torch.empty(len(indices), dtype=torch.int64)
    means, start = torch.empty(shape) if all_views else None, 0
    image_batches = read_batches(packed, indices, BATCH_SIZE if all_views else 4 * BATCH_SIZE, device)
    for batch in progress(image_batches, len(indices)) if progress else image_batches:
        center, mean = probabilities(bundle, batch.images, all_views, precision)
        rows = slice(start, start := start + len(center))
        centers[rows], labels[rows] = center, batch.labels
        if all_views:
            means[rows] = mean
    metrics = Metrics(means, labels) if all_views else None
    return Evaluation(Metrics(centers, labels), metrics, bundle.preprocessing.view_count, packed, indices)
