"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), on whole batches on their device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import counter_rng as draws
from ..data.batches import Batch
from ..specs.recipe import Recipe


@dataclass(frozen=True)
class Mix:
    """How each image of a batch is mixed with a partner."""

    partners: Tensor
    """Index within the batch of each image's partner, (N,), int64."""
    weight: float
    """Weight of each image and its label, 0 … 1: the papers' λ. The partner's is 1 − weight."""
    window: tuple[int, int, int, int] | None = None
    """For cutmix, the window that shows the partner: top, bottom, left, right (bottom and right exclusive); for mixup,
    which averages pixels, None."""

    def apply(self, views: Tensor) -> Tensor:
        """The mixed views, (N, channels, side, side)."""
        if self.window is None:
            return views.lerp(views[self.partners], 1 - self.weight)
        top, bottom, left, right = self.window
        mixed = views.clone()
        mixed[:, :, top:bottom, left:right] = views[self.partners, :, top:bottom, left:right]
        return mixed


def draw_mix(batch: Batch, side: int, recipe: Recipe, seed: int, epoch: int) -> Mix | None:
    """The mix of a batch, None if the recipe has neither mixup nor cutmix; if it has both, either with probability ½.

    The weight is a function of (seed, epoch, position of the batch in the epoch), the partners of (seed, epoch, image
    indices).

    Args:
        side: of the views, pixels.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    choice, y, x = draws.uniform(seed, epoch, np.array([batch.first]), "mix", 3)[0]
    is_cutmix = recipe.cutmix > 0 and (choice < 0.5 or not recipe.mixup)
    weight = draws.beta(seed, epoch, batch.first, "share", recipe.cutmix if is_cutmix else recipe.mixup)
    order = draws.uniform(seed, epoch, batch.indices, "partner")[:, 0].argsort(kind="stable")
    partners = torch.from_numpy(order).to(batch.labels.device)
    if not is_cutmix:
        return Mix(partners, weight)
    half = np.sqrt(1 - weight) * side / 2
    edges = [round(min(max(center * side + sign * half, 0), side)) for center in (y, x) for sign in (-1, 1)]
    top, bottom, left, right = edges
    return Mix(partners, 1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))
