"""Crop, flip, mean, color and std (sections 2 and 4.1) in one Triton kernel: a pixel is read once, written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def normalized_crops(
    images: Tensor,
    indices: Tensor,
    top: Tensor,
    left: Tensor,
    flipped: Tensor,
    size: int,
    mean: Tensor,
    std: Tensor,
    aligned: bool,
    color: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """As `crops.normalized_crops`; float16 too."""
    count, side = len(top), images.shape[1]
    if mean.shape[0] == side and not aligned:
        start = (side - size) // 2
        mean = mean[start : start + size, start : start + size]
    whole = side if aligned else size
    mean = mean.expand(whole, whole, 3)  # strides of 0 repeat a single color
    images, indices, top, left, flipped, std = (
        each.contiguous() for each in (images, indices, top, left, flipped, std)
    )
    color = None if color is None else color.contiguous()
    y = torch.empty((count, 3, size, size), dtype=dtype, device=images.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(images):
        _crops[(count, triton.cdiv(size * size * 3, BLOCK))](
            images, indices, top, left, flipped, mean, *mean.stride(), std, color, y, side, size, aligned, BLOCK
        )
    return y


@triton.jit
def _crops(
    images,
    indices,
    top,
    left,
    flipped,
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
    crop = tl.program_id(0).to(tl.int64)
    image = tl.load(indices + crop)  # 64 bits: all images together may have more than 2³¹ pixels
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = number < SIZE * SIZE * 3
    row, column, channel = number // (SIZE * 3), number // 3 % SIZE, number % 3
    source_row = tl.load(top + crop).to(tl.int32) + row
    source_column = tl.load(left + crop).to(tl.int32) + tl.where(tl.load(flipped + crop), SIZE - 1 - column, column)
    pixel = images + image * side * side * 3 + (source_row * side + source_column) * 3 + channel
    value = tl.load(pixel, inside).to(tl.float32)
    if ALIGNED:
        row, column = source_row, source_column
    value -= tl.load(mean + row * mean_row + column * mean_column + channel * mean_channel, inside)
    if color is not None:
        value += tl.load(color + crop * 3 + channel)
    tl.store(y + crop * SIZE * SIZE * 3 + number, value / tl.load(std + channel), inside)
