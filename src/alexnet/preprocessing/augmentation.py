"""Data augmentation on whole batches on their device.

Random crops, horizontal flips and color shift (section 4.1), mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import counter_rng as draws
from ..data.batches import Batch
from ..data.pack.statistics import Statistics
from ..specs.recipe import ColorShift, Recipe
from .crops import Crops
from .preprocessing import Preprocessing


def training_views(
    batch: Batch,
    recipe: Recipe,
    preprocessing: Preprocessing,
    statistics: Statistics,
    seed: int,
    epoch: int,
    color: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One random crop of each image that is read, augmented as the recipe says, (N, 3, crop_size, crop_size).

    All draws are functions of (seed, epoch, image index); if `crop_group` images share a crop, of (seed, epoch,
    position in the epoch).

    Args:
        color: whether the recipe's color shift, if it has one, is on.
    """
    device = batch.images.device
    drawn_by = indices = batch.indices[batch.read]
    if recipe.crop_group > 1:
        drawn_by = (batch.first + np.arange(len(batch.indices)))[batch.read] // recipe.crop_group
    drawn = draws.uniform(seed, epoch, drawn_by, "crop", 5)
    flipped = torch.from_numpy((drawn[:, 2] < 0.5) & recipe.flip).to(device)
    shifts, divisor = None, 1.0
    if recipe.color_shift and color:
        shifts = color_shifts(recipe.color_shift, statistics, seed, epoch, indices)
        shifts = torch.from_numpy(shifts).float().to(device)
        divisor = 1 + recipe.color_shift.std if recipe.color_shift.divide else 1.0
    if recipe.crop_scale:
        windows = torch.from_numpy(random_windows(drawn, recipe.crop_scale, recipe.crop_ratio)).float().to(device)
        return preprocessing.resized_crops(batch.images, windows, flipped, shifts).div_(divisor).to(dtype)
    offsets = torch.from_numpy((drawn[:, :2] * (preprocessing.margin + 1)).astype(np.int64)).to(device)
    crops = Crops(offsets[:, 0], offsets[:, 1], flipped)
    return preprocessing.normalized_crops(batch.images, crops, shifts, divisor, dtype)


def augmented(images: Tensor, augment: Callable[[Tensor], Tensor]) -> Tensor:
    """Stored images, (N, side, side, 3), uint8, after a user's own augmentation.

    Args:
        augment: takes and returns (N, 3, side, side), uint8.

    Raises:
        ValueError: it returns something else.
    """
    before = images.permute(0, 3, 1, 2)
    after = augment(before)
    kinds = [(tuple(each.shape), each.dtype) if isinstance(each, Tensor) else type(each) for each in (before, after)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"augment must return a tensor of {kinds[0][0]}, torch.uint8, got {kinds[1]}")
    return after.permute(0, 2, 3, 1).contiguous()


def random_windows(drawn: np.ndarray, crop_scale: tuple[float, float], crop_ratio: float) -> np.ndarray:
    """Windows of a random resized crop: center x, center y, width and height as fractions of the image, (N, 4).

    Args:
        drawn: draws in [0, 1), (N, 5): vertical position, horizontal position, flip (not used here), size, shape.
        crop_scale: smallest and largest area, as fractions of the image.
        crop_ratio: largest ratio of the sides.
    """
    side = np.sqrt(crop_scale[0] + (crop_scale[1] - crop_scale[0]) * drawn[:, 3])
    shape = crop_ratio ** (drawn[:, 4] - 0.5)
    width, height = np.minimum(side * shape, 1), np.minimum(side / shape, 1)
    x = width / 2 + (1 - width) * drawn[:, 1]
    y = height / 2 + (1 - height) * drawn[:, 0]
    return np.stack([x, y, width, height], axis=1)


def color_shifts(shift: ColorShift, statistics: Statistics, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """PCA color augmentation: the color added to each image, (N, 3), pixel units (section 4.1).

    eigenvectors · (scale ∘ r), r ~ N(0, shift.std). An eigenvalue is a variance, so its size depends on the unit,
    which the paper does not name. As in other implementations, it is that of colors of 0 … 1; the result is scaled
    back to 0 … 255.
    """
    r = draws.normal(seed, epoch, indices, "color", 3) * shift.std
    scale = statistics.eigenvalues / 255 if shift.scaled_by == "eigenvalues" else np.sqrt(statistics.eigenvalues)
    return (r * scale) @ statistics.eigenvectors.T


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

    def apply(self, views: Tensor, rows: slice = slice(None), read: np.ndarray | slice = slice(None)) -> Tensor:
        """The mixed views of some images, (N, channels, side, side).

        Args:
            views: of the images `read` of the batch: those that are mixed, then others that are their partners.
            rows: which images of the batch are mixed.
        """
        row_of = torch.empty_like(self.partners)
        row_of[read] = torch.arange(len(views), device=row_of.device)
        partners = row_of[self.partners[rows]]
        own = views[: len(partners)]
        if self.window is None:
            return own.lerp(views[partners], 1 - self.weight)
        top, bottom, left, right = self.window
        mixed = own.clone()
        mixed[:, :, top:bottom, left:right] = views[partners, :, top:bottom, left:right]
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
    partners = torch.from_numpy(_partners(batch.indices, seed, epoch)).to(batch.labels.device)
    if not is_cutmix:
        return Mix(partners, weight)
    half = np.sqrt(1 - weight) * side / 2
    edges = [round(min(max(center * side + sign * half, 0), side)) for center in (y, x) for sign in (-1, 1)]
    top, bottom, left, right = edges
    return Mix(partners, 1 - (bottom - top) * (right - left) / side**2, (top, bottom, left, right))


def images_to_read(indices: np.ndarray, rows: slice, recipe: Recipe, seed: int, epoch: int) -> np.ndarray:
    """Which images of a batch are needed to train on its images `rows`: these, then those that they are mixed with.

    Args:
        indices: of the batch, into the pack, (N,).
    """
    own = np.arange(len(indices))[rows]
    if not (recipe.mixup or recipe.cutmix):
        return own
    return np.concatenate([own, np.setdiff1d(_partners(indices, seed, epoch)[rows], own)])


def _partners(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The image of the batch that each one is mixed with, (N,)."""
    return draws.uniform(seed, epoch, indices, "partner")[:, 0].argsort(kind="stable")
