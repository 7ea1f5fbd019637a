"""Crop, mirror, mean, color and std (sections 2 and 4.1) in one Triton kernel: a pixel is read once, written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def crops(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    mirrored: Tensor,
    mean: Tensor,
    std: Tensor,
    color: Tensor | None,
    size: int,
    dtype: torch.dtype,
    *,
    aligned: bool = False,
) -> Tensor:
    """Cut one crop from each image and put it into the network's units: (pixel − mean + color) / std.

    Args:
        images: (N, side, side, 3), uint8, contiguous.
        top, left: offsets of the crops, (N,), 0 … side − size, int64.
        mirrored: which are read from right to left, (N,), bool.
        mean: pixel units, float32: (1, 1, 3), or (size, size, 3) for the crop, or, if aligned, (side, side, 3).
        std: (3,), float32.
        color: added to all pixels of an image, in pixel units, (N, 3), float32.
        size: side of the crops, pixels.
        dtype: float32, bfloat16 or float16; the arithmetic is float32.
        aligned: whether the mean is cut and mirrored as the image is.

    Returns:
        (N, 3, size, size), channels last.

    Raises:
        ValueError: images are not contiguous, or mean has another side.
    """
    count, side = images.shape[:2]
    if not images.is_contiguous():
        raise ValueError(f"images have strides {images.stride()}; they may be contiguous")
    whole = side if aligned else size
    if mean.shape not in ((1, 1, 3), (whole, whole, 3)):
        raise ValueError(f"mean has shape {tuple(mean.shape)}; it may be (1, 1, 3) or ({whole}, {whole}, 3)")
    mean = mean.expand(whole, whole, 3)  # strides of 0 repeat a single color
    top, left, mirrored = top.contiguous(), left.contiguous(), mirrored.contiguous()
    color = None if color is None else color.contiguous()
    y = torch.empty((count, 3, size, size), dtype=dtype, device=images.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(images):
        _crops[(count, triton.cdiv(size * size * 3, BLOCK))](
            images, top, left, mirrored, mean, *mean.stride(), std.contiguous(), color, y, side, size, aligned, BLOCK
        )
    return y


@triton.jit
def _crops(
    images,
    top,
    left,
    mirrored,
    mean,
    mean_row,
    mean_column,
    mean_channel,
    std,
    color,
    y,
    side,
    SIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)  # all images together may have more than 2³¹ pixels
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = number < SIZE * SIZE * 3
    row, column, channel = number // (SIZE * 3), number // 3 % SIZE, number % 3
    source_row = tl.load(top + image).to(tl.int32) + row
    source_column = tl.load(left + image).to(tl.int32) + tl.where(tl.load(mirrored + image), SIZE - 1 - column, column)
    pixel = images + image * side * side * 3 + (source_row * side + source_column) * 3 + channel
    value = tl.load(pixel, inside).to(tl.float32)
    if ALIGNED:
        row, column = source_row, source_column
    value -= tl.load(mean + row * mean_row + column * mean_column + channel * mean_channel, inside)
    if color is not None:
        value += tl.load(color + image * 3 + channel)
    tl.store(y + image * SIZE * SIZE * 3 + number, value / tl.load(std + channel), inside)
