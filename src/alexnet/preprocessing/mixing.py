"""Two images in one, on whole batches, on the batch's device: mixup (Zhang et al. 2018), cutmix (Yun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import counter_rng as draws
from ..data.batches import Batch
from ..specs.recipe import Recipe


@dataclass(frozen=True)
class Mix:
    """What the views of a batch are mixed with."""

    partners: Tensor
    """Place in the batch of the image that each is mixed with, (N,), int64."""
    share: float
    """Of each image itself, 0 … 1; the rest is its partner's."""
    window: tuple[int, int, int, int] | None = None
    """For cutmix, what shows the partner: first row, row after the last, and so the columns. Where None, pixels are
    averaged."""

    def of(self, views: Tensor) -> Tensor:
        """The views mixed, (N, 3, side, side)."""
        if self.window is None:
            return views.lerp(views[self.partners], 1 - self.share)
        top, bottom, left, right = self.window
        mixed = views.clone()
        mixed[:, :, top:bottom, left:right] = views[self.partners, :, top:bottom, left:right]
        return mixed


def drawn_mix(batch: Batch, side: int, recipe: Recipe, seed: int, epoch: int) -> Mix | None:
    """How a recipe wants this batch mixed, None where it does not; by mixup or cutmix in turn where it names both.

    Shares are drawn by (seed, epoch, place of the batch in the epoch), partners by (seed, epoch, image).

    Args:
        side: of the views, pixels.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    which, down, across = draws.uniform(seed, epoch, np.array([batch.first]), "mix", 3)[0]
    cuts = recipe.cutmix > 0 and (which < 0.5 or not recipe.mixup)
    share = draws.beta(seed, epoch, batch.first, "share", recipe.cutmix if cuts else recipe.mixup)
    order = draws.uniform(seed, epoch, batch.indices, "partner")[:, 0].argsort(kind="stable")
    partners = torch.from_numpy(order).to(batch.labels.device)
    if not cuts:
        return Mix(partners, share)
    half = np.sqrt(1 - share) * side / 2
    edges = [round(min(max(middle * side + way * half, 0), side)) for middle in (down, across) for way in (-1, 1)]
    top, bottom, left, right = edges
    return Mix(partners, 1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))
