"""How stored pixels become a network's input; saved with its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.pack.resizing import Squares
from ..data.pack.statistics import Statistics
from ..specs.architecture import MAX_SIDE
from ..specs.checks import check_fields
from ..specs.recipe import Input
from .crops import Crops, normalized_crops

CENTER = 2
"""Index of the center crop among the views of an image: top left, top right, center, bottom left, bottom right, then
the same five flipped."""


@dataclass(frozen=True)
class Preprocessing:
    """Crop, subtract a mean, divide by a standard deviation: (N, side, side, 3), uint8 → (N, 3, crop, crop), floats.

    The results are channels last in memory.
    """

    stored_size: int
    """Side of stored images, pixels."""
    crop_size: int
    """Side of the crops that the network sees, pixels."""
    mean: Tensor
    """(stored_size, stored_size, 3) or (1, 1, 3), pixel units, float32."""
    std: Tensor
    """(3,), float32."""
    mean_follows_crop: bool = False
    """Whether a mean image is cropped and flipped like the image (Caffe) or always at its center (2012)."""
    flip: bool = True
    """Whether flipped images are among the views; False for a network that was trained without flips."""
    squares: Squares = Squares()
    """How images become the stored squares."""

    def __post_init__(self):
        check_fields(self, dict.fromkeys(("stored_size", "crop_size"), (1, MAX_SIDE)), "preprocessing")
        if self.crop_size > self.stored_size:
            raise ValueError(f"crop_size must be <= stored_size, got {self.crop_size} > {self.stored_size}")
        image, shape = (self.stored_size, self.stored_size, 3), tuple(self.mean.shape)
        if shape not in ((1, 1, 3), image) or not self.mean.isfinite().all():
            raise ValueError(f"mean must be finite numbers of shape (1, 1, 3) or {image}, got shape {shape}")
        if tuple(self.std.shape) != (3,) or not (self.std > 0).all() or not self.std.isfinite().all():
            raise ValueError(f"std must be three finite numbers > 0, got {str(self.std.tolist())[:80]}")

    @classmethod
    def from_statistics(
        cls, spec: Input, statistics: Statistics, stored_size: int, crop_size: int, flip: bool = True
    ) -> Preprocessing:
        """The preprocessing that a recipe's input calls for on a training set with these statistics.

        Raises:
            ValueError: crops are larger than the stored images.
        """
        means = {"channel": statistics.mean} | dict.fromkeys(("image", "aligned image"), statistics.mean_image)
        stds = {"one": (1.0, 1.0, 1.0), "channel": statistics.std.clip(1e-3)}
        mean = torch.as_tensor(means.get(spec.mean, spec.mean), dtype=torch.float32)
        std = torch.as_tensor(stds.get(spec.std, spec.std), dtype=torch.float32)
        mean = mean if mean.dim() == 3 else mean.view(1, 1, 3)
        return cls(stored_size, crop_size, mean, std, spec.mean == "aligned image", flip)

    def to(self, device: torch.device | str) -> Preprocessing:
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))

    def resized(self, stored_size: int, crop_size: int, flip: bool) -> Preprocessing:
        """The same mean and std for other sizes: a mean image is resized, as is the mean of resized images."""
        mean = self.mean
        if len(mean) not in (1, stored_size):
            size = (stored_size, stored_size)
            image = F.interpolate(mean.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
            mean = image[0].permute(1, 2, 0).contiguous()
        return replace(self, stored_size=stored_size, crop_size=crop_size, mean=mean, flip=flip)

    @property
    def mean_color(self) -> list[float]:
        """Red, green and blue that are subtracted, on average over a mean image."""
        return self.mean.mean((0, 1)).tolist()

    @property
    def colors_in_words(self) -> tuple[str, str]:
        """The mean color and the standard deviation: "123.7, 116.3, 103.5"."""
        mean, std = (", ".join(f"{value:.4g}" for value in color) for color in (self.mean_color, self.std.tolist()))
        return mean, std

    @property
    def image_range(self) -> tuple[float, float]:
        """What pixels of 0 and of 255 become, in the color of the widest range."""
        color = int(self.std.argmin())
        low, high = ((pixel - self.mean[..., color].mean()) / self.std[color] for pixel in (0, 255))
        return float(low), float(high)

    @property
    def margin(self) -> int:
        """Largest offset of a crop."""
        return self.stored_size - self.crop_size

    @cached_property
    def center_crop(self) -> CenterCrop:
        """The center crop of every image, as a module, so that exporters can put it in front of a network."""
        with torch.inference_mode(False):  # tensors of inference mode cannot be exported
            return CenterCrop(self)

    def normalized_crops(
        self,
        images: Tensor,
        crops: Crops,
        color: Tensor | None = None,
        divisor: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Cut crops from stored images and normalize them; see `crops.normalized_crops`.

        Args:
            divisor: divides the result, as in the 2012 code after its color shift, which widens the distribution.
        """
        mean = self.mean if self.mean_follows_crop else self.center_crop.mean
        std = self.std * divisor
        return normalized_crops(images, crops, self.crop_size, mean, std, self.mean_follows_crop, color, dtype)

    def resized_crops(self, images: Tensor, windows: Tensor, flipped: Tensor, color: Tensor | None = None) -> Tensor:
        """Normalize stored images, cut one window from each and resize it bilinearly, (N, 3, crop_size, crop_size).

        Args:
            windows: center x, center y, width and height as fractions of the image, (N, 4).
        """
        pixels = images.float() - self.mean
        if not len(images):  # which `affine_grid` refuses
            return pixels.new_empty(0, 3, self.crop_size, self.crop_size)
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

    @property
    def view_count(self) -> int:
        """Number of views of an image: ten, or five without flips."""
        return 10 if self.flip else 5

    def all_views(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Ten-crop (section 4.1): corners and center, also flipped; (view_count · N, 3, crop_size, crop_size).

        The views of an image are adjacent. CENTER is the index of the center crop among them.
        """
        far, center = self.margin, self.margin // 2
        top, left, flipped = (
            torch.tensor(views[: self.view_count], device=images.device).repeat(len(images))
            for views in ([0, 0, center, far, far] * 2, [0, far, center, 0, far] * 2, [False] * 5 + [True] * 5)
        )
        indices = torch.arange(len(images), device=images.device).repeat_interleave(self.view_count)
        return self.normalized_crops(images, Crops(top, left, flipped, indices), dtype=dtype)


class CenterCrop(nn.Module):
    """The normalized center crop of stored images: (N, side, side, 3), uint8 → (N, 3, crop, crop).

    For torch.export and torch.onnx.export, this is slicing and arithmetic; otherwise, the fused kernel is used.
    """

    mean: Tensor
    """(crop, crop, 3) or (1, 1, 3)."""
    std: Tensor

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.start, self.size, mean = preprocessing.margin // 2, preprocessing.crop_size, preprocessing.mean
        self.end = self.start + self.size
        if len(mean) > 1:
            mean = mean[self.start : self.end, self.start : self.end]
        self.register_buffer("mean", mean.contiguous())
        self.register_buffer("std", preprocessing.std)

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if torch.compiler.is_compiling():
            pixels = images[:, self.start : self.end, self.start : self.end].float()
            return ((pixels - self.mean) / self.std).to(dtype).permute(0, 3, 1, 2)
        offsets = torch.full((len(images),), self.start, device=images.device)
        crops = Crops(offsets, offsets, torch.zeros_like(offsets, dtype=torch.bool))
        return normalized_crops(images, crops, self.size, self.mean, self.std, dtype=dtype)
