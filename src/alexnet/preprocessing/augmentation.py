"""Crops, flip, mean and color shift (sections 2 and 4.1), as pure functions on whole batches, on the batch's device.

Images stay uint8, (N, side, side, 3), until the last step, which gives floats, (N, 3, crop, crop), channels last in
memory: of float32, or at once of the type that the first layer multiplies in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import counter_rng as draws
from ..data.batches import Batch
from ..data.pack.statistics import Statistics
from ..specs.recipe import ColorShift, Recipe
from .crops import normalized_crops

CENTER = 2
"""Which of the ten views is the center one: the order is top left, top right, center, bottom left, bottom right, then
the same five flipped."""


@dataclass(frozen=True)
class Preprocessing:
    """From stored images to what a network sees; saved with its weights."""

    stored_size: int
    """Side of stored images, pixels."""
    crop_size: int
    """Side of the crops that the network sees, pixels."""
    mean: Tensor
    """(stored_size, stored_size, 3) or (1, 1, 3), pixel units, float32."""
    std: Tensor
    """(3,), float32."""
    aligned: bool = False
    """Whether the mean image is cropped as the picture is, or always by its center."""
    flip: bool = True
    """Whether flipped images belong to the views: not for a network that was trained without."""

    @classmethod
    def of(cls, recipe: Recipe, found: Statistics, stored_size: int, crop_size: int) -> Preprocessing:
        """What a recipe says, for a training set with these statistics.

        Raises:
            ValueError: crops are larger than the stored images.
        """
        if crop_size > stored_size:
            raise ValueError(f"crops of {crop_size} pixels cannot be cut from images of {stored_size}")
        spec = recipe.input
        if isinstance(spec.mean, tuple):
            mean = torch.tensor(spec.mean).view(1, 1, 3)
        elif spec.mean == "channel":
            mean = torch.from_numpy(found.mean).view(1, 1, 3)
        else:
            mean = torch.from_numpy(found.mean_image)
        std = torch.from_numpy(found.std).clamp(min=1e-3) if spec.std == "channel" else torch.ones(3)
        if isinstance(spec.std, tuple):
            std = torch.tensor(spec.std)
        return cls(stored_size, crop_size, mean.float(), std.float(), spec.mean == "aligned image", recipe.flip)

    def to(self, device: torch.device | str) -> Preprocessing:
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))

    @property
    def margin(self) -> int:
        """Largest offset of a crop."""
        return self.stored_size - self.crop_size

    def normalize(
        self,
        images: Tensor,
        top: Tensor,
        left: Tensor,
        flipped: Tensor,
        color: Tensor | None = None,
        indices: Tensor | None = None,
        divisor: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Cut crops from images and put them into the network's units.

        Args:
            images: (N, stored_size, stored_size, 3), uint8.
            top, left: offsets of the crops, (M,), 0 … margin.
            flipped: (M,), bool.
            color: added to all pixels of a crop, in pixel units, (M, 3).
            indices: which image each crop is cut from, (M,); one from each in turn where None.
            divisor: of the result, as the 2012 code divides what its color shift has made more various.

        Returns:
            (M, 3, crop_size, crop_size), channels last.
        """
        if indices is None:
            indices = torch.arange(len(images), device=images.device)
        std = self.std * divisor
        return normalized_crops(
            images, indices, top, left, flipped, self.crop_size, self.mean, std, self.aligned, color, dtype
        )

    def normalize_resized(
        self, images: Tensor, windows: Tensor, flipped: Tensor, color: Tensor | None = None
    ) -> Tensor:
        """As `normalize`, for windows of any size, resized to crops bilinearly. A mean image is taken off beforehand.

        Args:
            windows: center x, center y, width and height as shares of the image, (N, 4).
        """
        pixels = images.float() - self.mean
        if color is not None:
            pixels += color[:, None, None, :]
        x, y, width, height = windows.unbind(1)
        zero = torch.zeros_like(x)
        width = torch.where(flipped, -width, width)
        to_window = torch.stack([width, zero, 2 * x - 1, zero, height, 2 * y - 1], 1).view(-1, 2, 3)
        grid = F.affine_grid(to_window, [len(images), 3, self.crop_size, self.crop_size], align_corners=False)
        pixels = (pixels / self.std).permute(0, 3, 1, 2)
        views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        return views.contiguous(memory_format=torch.channels_last)

    def center(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The central crop of every image, (N, 3, crop_size, crop_size)."""
        middle = torch.full((len(images),), self.margin // 2, device=images.device)
        return self.normalize(images, middle, middle, torch.zeros_like(middle, dtype=torch.bool), dtype=dtype)

    @property
    def views(self) -> int:
        """How many views of an image there are."""
        return 10 if self.flip else 5

    def all_views(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Section 4.1: four corners and center, and their flipped images; (views · N, 3, crop_size, crop_size).

        The views of an image stand together. CENTER says which is the central one.
        """
        far, middle = self.margin, self.margin // 2
        count, device = len(images), images.device
        sides = 2 if self.flip else 1
        top = torch.tensor([0, 0, middle, far, far] * sides, device=device).repeat(count)
        left = torch.tensor([0, far, middle, 0, far] * sides, device=device).repeat(count)
        flipped = torch.tensor(([False] * 5 + [True] * 5)[: 5 * sides], device=device).repeat(count)
        indices = torch.arange(count, device=device).repeat_interleave(self.views)
        return self.normalize(images, top, left, flipped, indices=indices, dtype=dtype)


def color_draws(shift: ColorShift, found: Statistics, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """The color added to each image, (N, 3), pixel units: eigenvectors · (scale ∘ r), r normal (section 4.1).

    An eigenvalue is a square, so its size depends on the unit; the paper does not say which. Here it is that of colors
    of 0 … 1, as others read it too, and the color is brought back to 0 … 255.
    """
    r = draws.normal(seed, epoch, indices, "color", 3) * shift.std
    scale = found.eigenvalues / 255 if shift.scaled_by == "eigenvalues" else np.sqrt(found.eigenvalues)
    return (r * scale) @ found.eigenvectors.T


def random_windows(drawn: np.ndarray, crop_scale: tuple[float, float], crop_ratio: float) -> np.ndarray:
    """Windows inside the image: center x, center y, width and height as shares of it, (N, 4).

    Args:
        drawn: indices in [0, 1), (N, 5): place down, place across, which side (not used here), size, shape.
    """
    side = np.sqrt(crop_scale[0] + (crop_scale[1] - crop_scale[0]) * drawn[:, 3])
    shape = crop_ratio ** (drawn[:, 4] - 0.5)
    width, height = np.minimum(side * shape, 1), np.minimum(side / shape, 1)
    x = width / 2 + (1 - width) * drawn[:, 1]
    y = height / 2 + (1 - height) * drawn[:, 0]
    return np.stack([x, y, width, height], axis=1)


def training_views(
    batch: Batch,
    recipe: Recipe,
    inputs: Preprocessing,
    found: Statistics,
    seed: int,
    epoch: int,
    color: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One random crop of each image as a recipe wants it, (N, 3, crop_size, crop_size).

    Everything drawn depends on (seed, epoch, image) alone; where `crop_group` images share a crop, on their place in
    the epoch.

    Args:
        color: whether the recipe's color shift, if it has one, is on.
    """
    device = batch.images.device
    places = batch.first + np.arange(len(batch.indices))
    who = places // recipe.crop_group if recipe.crop_group > 1 else batch.indices
    drawn = draws.uniform(seed, epoch, who, "crop", 5)
    flipped = torch.from_numpy((drawn[:, 2] < 0.5) & recipe.flip).to(device)
    shift = None
    if recipe.color_shift and color:
        shift = torch.from_numpy(color_draws(recipe.color_shift, found, seed, epoch, batch.indices)).float().to(device)
    divisor = 1 + recipe.color_shift.std if shift is not None and recipe.color_shift.divide else 1.0
    if recipe.crop_scale:
        windows = torch.from_numpy(random_windows(drawn, recipe.crop_scale, recipe.crop_ratio)).float().to(device)
        return inputs.normalize_resized(batch.images, windows, flipped, shift).div_(divisor).to(dtype)
    offsets = torch.from_numpy((drawn[:, :2] * (inputs.margin + 1)).astype(np.int64)).to(device)
    return inputs.normalize(batch.images, offsets[:, 0], offsets[:, 1], flipped, shift, divisor=divisor, dtype=dtype)
