"""Crop, flip and normalize (sections 2 and 4.1) in one Triton kernel that reads and writes each pixel once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def normalized_crops(images, indices, crops, size, mean, std, mean_follows_crop, color, dtype) -> Tensor:
    """As `crops.normalized_crops`, and for float16; the images that crops are cut from, (M,), are always given."""
    count, side = len(crops.top), images.shape[1]
    mean_side = side if mean_follows_crop else size
    mean = mean.expand(mean_side, mean_side, 3)  # strides of 0 repeat a single color
    where = (each.contiguous() for each in (images, indices, crops.top, crops.left, crops.flipped))
    color = None if color is None else color.contiguous()
    y = torch.empty((count, 3, size, size), dtype=dtype, device=images.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(images):
        _crops[(count, triton.cdiv(size * size * 3, BLOCK))](
            *(*where, mean, *mean.stride(), std.contiguous(), color, y, side, size, mean_follows_crop, BLOCK)
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
    MEAN_FOLLOWS_CROP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    crop = tl.program_id(0).to(tl.int64)
    image = tl.load(indices + crop)  # int64: all images together may have more than 2³¹ pixels
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < SIZE * SIZE * 3
    row, column, channel = offset // (SIZE * 3), offset // 3 % SIZE, offset % 3
    source_row = tl.load(top + crop).to(tl.int32) + row
    source_column = tl.load(left + crop).to(tl.int32) + tl.where(tl.load(flipped + crop), SIZE - 1 - column, column)
    pixel = images + image * side * side * 3 + (source_row * side + source_column) * 3 + channel
    value = tl.load(pixel, inside).to(tl.float32)
    if MEAN_FOLLOWS_CROP:
        row, column = source_row, source_column
    value -= tl.load(mean + row * mean_row + column * mean_column + channel * mean_channel, inside)
    if color is not None:
        value += tl.load(color + crop * 3 + channel)
    tl.store(y + crop * SIZE * SIZE * 3 + offset, value / tl.load(std + channel), inside)
