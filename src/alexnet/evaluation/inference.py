"""Class probabilities by the center crop and by the mean over all views, in one pass (sections 4.1 and 6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..data.batches import read_batches
from ..data.pack.reading import Pack
from ..device import Precision, torch_dtype
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..parallel.group import Group
from ..preprocessing.preprocessing import CENTER
from .metrics import Metrics

BATCH_SIZE = 50
"""Images per batch, with up to ten views each; four times as many if only the center is evaluated."""


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


@dataclass(frozen=True)
class Predicted:
    """Probabilities of a batch of images, each (N, classes), float32."""

    labels: Tensor
    center: Tensor
    all_views: Tensor | None

    def to(self, device: torch.device | str) -> Self:
        return Predicted(*(each if each is None else each.to(device) for each in vars(self).values()))

    def metrics(self, keep_probabilities: bool) -> tuple[Metrics, Metrics | None]:
        """By the center crop and by all views."""
        center, all_views = (
            None if each is None else Metrics.of(each, self.labels, keep_probabilities)
            for each in (self.center, self.all_views)
        )
        return center, all_views


def image_names(packed: Pack, indices: np.ndarray) -> np.ndarray:
    """Names of the images at `indices`, (N,)."""
    return np.array([packed.names[index] for index in indices.tolist()])


@dataclass(frozen=True)
class Inference:
    """A network and the labeled images that it is evaluated on.

    Raises:
        ValueError: there are no images, or their stored size is not the network's.
    """

    bundle: ModelBundle
    packed: Pack
    indices: np.ndarray
    """Into the pack, (N,)."""
    all_views: bool = True
    precision: Precision = "fp32"
    columns: Tensor | None = None
    """Which score of the network is that of each class of the pack; None if they have the same order."""

    def __post_init__(self) -> None:
        if not len(self.indices):
            raise ValueError(f"{self.packed.name} has no images to evaluate on")
        if self.packed.side != self.bundle.preprocessing.stored_size:
            side = self.bundle.preprocessing.stored_size
            raise ValueError(f"images must be stored at {side} pixels, got {self.packed.side}")

    @cached_property
    def names(self) -> np.ndarray:
        """Names of the images, (N,)."""
        return image_names(self.packed, self.indices)

    @property
    def batch_size(self) -> int:
        return BATCH_SIZE if self.all_views else 4 * BATCH_SIZE

    def dealt(self, size: int) -> list[np.ndarray]:
        """Positions of the images of each of so many processes: whole batches in turn, so that a batch has the same
        images, and its results the same bits, on any number of processes."""
        batches = np.arange(len(self.indices)) // self.batch_size
        return [np.flatnonzero(batches % size == rank) for rank in range(size)]

    def predicted(self, group: Group) -> Iterator[Predicted]:
        """The batches of this process, as many on each; the last one is empty where they do not divide."""
        device, own = next(self.bundle.network.parameters()).device, self.dealt(group.size)[group.rank]
        counted_on = device if device.type == "cuda" else "cpu"  # others lack operations
        for batch in read_batches(self.packed, self.indices[own], self.batch_size, device):
            views = probabilities(self.bundle, batch.images, self.all_views, self.precision)
            if self.columns is not None:
                views = [each if each is None else each[:, self.columns] for each in views]
            yield Predicted(batch.labels, *views).to(counted_on)
        left_over = -(-len(self.indices) // self.batch_size) % group.size
        if 0 < left_over <= group.rank:
            none = torch.empty(0, self.bundle.network.num_classes)
            nothing = Predicted(torch.empty(0, dtype=torch.int64), none, none if self.all_views else None)
            yield nothing.to(counted_on)
