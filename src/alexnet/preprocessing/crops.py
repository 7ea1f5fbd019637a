"""Crop, flip and put into a network's units, a whole batch in one pass over memory where there is a kernel for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import library, triton_is_here

_ONE_COLOR, _CENTRAL, _ALIGNED = range(3)  # as in kernels.c


def normalized_crops(
    images: Tensor,
    indices: Tensor,
    top: Tensor,
    left: Tensor,
    flipped: Tensor,
    size: int,
    mean: Tensor,
    std: Tensor,
    aligned: bool = False,
    color: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(pixel − mean + color) / std of one square of each image named, from right to left where flipped.

    Args:
        images: stored images, (N, side, side, 3), uint8.
        indices: which image each crop is cut from, (M,), int64.
        top, left: offsets of the crops, (M,), int64, 0 … side − size.
        flipped: (M,), bool.
        size: side of the crops, pixels.
        mean: (1, 1, 3) or (side, side, 3), pixel units, float32.
        std: (3,), float32.
        aligned: whether a mean image is cut and flipped as the picture is, or always at its center.
        color: added to all pixels of a crop, pixel units, (M, 3), float32.
        dtype: float32 or bfloat16.

    Returns:
        (M, 3, size, size), channels last in memory.
    """
    kind = _ONE_COLOR if mean.shape[0] == 1 else _ALIGNED if aligned else _CENTRAL
    if images.device.type == "cpu" and library() is not None:
        return _by_kernel(images, indices, top, left, flipped, size, mean, std, kind, color, dtype)
    if images.is_cuda and triton_is_here():
        from . import gpu

        return gpu.normalized_crops(images, indices, top, left, flipped, size, mean, std, aligned, color, dtype)
    pixels = crop_and_flip(images, indices, top, left, flipped, size).float()
    if kind == _ALIGNED:
        pixels -= crop_and_flip(mean[None], torch.zeros_like(indices), top, left, flipped, size)
    elif kind == _CENTRAL:
        start = (mean.shape[0] - size) // 2
        pixels -= mean[start : start + size, start : start + size]
    else:
        pixels -= mean
    if color is not None:
        pixels += color[:, None, None, :]
    return (pixels / std).to(dtype).permute(0, 3, 1, 2)


def crop_and_flip(images: Tensor, indices: Tensor, top: Tensor, left: Tensor, flipped: Tensor, size: int) -> Tensor:
    """The squares themselves, (M, size, size, channels), of the type of the images."""
    along = torch.arange(size, device=images.device)
    rows = top[:, None] + along
    columns = left[:, None] + torch.where(flipped[:, None], along.flip(0), along)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _by_kernel(images, indices, top, left, flipped, size, mean, std, kind, color, dtype) -> Tensor:
    out = torch.empty((len(top), size, size, 3), dtype=dtype)
    images, flipped = images.contiguous(), flipped.contiguous()
    indices, top, left = (each.long().contiguous() for each in (indices, top, left))
    mean, std = mean.float().contiguous(), std.float().contiguous()
    color = color.float().contiguous() if color is not None else None
    side = images.shape[1]
    ends = {"indices": (indices, len(images)), "top": (top, side - size + 1), "left": (left, side - size + 1)}
    for name, (values, end) in ends.items():
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise IndexError(f"{name} holds {values.min()} … {values.max()}; it may hold 0 … {end - 1}")
    inputs = (images, indices, top, left, flipped, mean, color, std, out)
    addresses = [each.data_ptr() if each is not None else None for each in inputs]
    library().crops(*addresses, dtype == torch.bfloat16, kind, len(top), side, size, torch.get_num_threads())
    return out.permute(0, 3, 1, 2)
