"""Crop, flip and normalize a whole batch, in one pass over memory where a fused kernel is available."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import has_triton, library

_COLOR, _FIXED, _FOLLOWS_CROP = range(3)  # as in kernels.c


@dataclass(frozen=True)
class Crops:
    """Where crops are cut from a batch of images, and which of them are flipped."""

    top: Tensor
    """Offset, (M,), int64, 0 … side − size."""
    left: Tensor
    """Offset, (M,), int64, 0 … side − size."""
    flipped: Tensor
    """Horizontally, (M,), bool."""
    indices: Tensor | None = None
    """The image that each crop is cut from, (M,), int64; None: one crop of each image, in order."""


def normalized_crops(
    images: Tensor,
    crops: Crops,
    size: int,
    mean: Tensor,
    std: Tensor,
    mean_follows_crop: bool = False,
    color: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(pixel − mean + color) / std of each crop, (M, 3, size, size), channels last in memory.

    Args:
        images: stored images, (N, side, side, 3), uint8.
        size: side of the crops, pixels.
        mean: (1, 1, 3); (size, size, 3), subtracted from every crop; or, if it follows the crop, (side, side, 3).
            Pixel units, float32.
        std: (3,), float32.
        mean_follows_crop: whether the mean is cropped and flipped like the image.
        color: added to all pixels of a crop, pixel units, (M, 3), float32.
        dtype: float32 or bfloat16.
    """
    indices = torch.arange(len(images), device=images.device) if crops.indices is None else crops.indices
    mean_follows_crop = mean_follows_crop and len(mean) > 1
    arguments = images, indices, crops, size, mean, std, mean_follows_crop, color, dtype
    if images.device.type == "cpu" and library() is not None:
        return _by_kernel(*arguments)
    if images.is_cuda and has_triton():
        from . import gpu

        return gpu.normalized_crops(*arguments)
    pixels = _crop_and_flip(images, indices, crops, size).float()
    pixels -= _crop_and_flip(mean[None], torch.zeros_like(indices), crops, size) if mean_follows_crop else mean
    if color is not None:
        pixels += color[:, None, None, :]
    return (pixels / std).to(dtype).permute(0, 3, 1, 2)


def _crop_and_flip(images: Tensor, indices: Tensor, crops: Crops, size: int) -> Tensor:
    """The crops as they are, (M, size, size, channels), of the images' dtype."""
    offsets = torch.arange(size, device=images.device)
    rows = crops.top[:, None] + offsets
    columns = crops.left[:, None] + torch.where(crops.flipped[:, None], offsets.flip(0), offsets)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _by_kernel(images, indices, crops, size, mean, std, mean_follows_crop, color, dtype) -> Tensor:
    out = torch.empty((len(crops.top), size, size, 3), dtype=dtype)
    images, flipped = images.contiguous(), crops.flipped.contiguous()
    indices, top, left = (each.long().contiguous() for each in (indices, crops.top, crops.left))
    mean, std = mean.float().contiguous(), std.float().contiguous()
    color = color.float().contiguous() if color is not None else None
    side = images.shape[1]
    ends = {"indices": (indices, len(images)), "top": (top, side - size + 1), "left": (left, side - size + 1)}
    for name, (values, end) in ends.items():
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise IndexError(f"{name} must be in 0 … {end - 1}, got {values.min()} … {values.max()}")
    mean_kind = _COLOR if len(mean) == 1 else _FOLLOWS_CROP if mean_follows_crop else _FIXED
    inputs = (images, indices, top, left, flipped, mean, color, std, out)
    addresses = [each.data_ptr() if each is not None else None for each in inputs]
    library().crops(*addresses, dtype == torch.bfloat16, mean_kind, len(top), side, size, torch.get_num_threads())
    return out.permute(0, 3, 1, 2)
