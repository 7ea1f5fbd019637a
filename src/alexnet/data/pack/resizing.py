"""From any image to a square as it is stored (section 2): the pixels of Pillow's bicubic filter.

Pillow resizes one value at a time. The kernel in C does the same whole-number sums on vectors, so that the pixels are
the same to the bit and packing is limited by decoding.
"""

from __future__ import annotations

import functools
from math import ceil

import numpy as np
from PIL import Image, ImageOps

from ...kernels import library

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""
_REACH = 2
"""Of the bicubic filter to each side, in the pixels of the smaller of both images."""
_POINT = 22
"""Bits after the point of Pillow's weights."""


def stored_square(image: Image.Image, side: int) -> np.ndarray:
    """An image as it is stored: upright by its EXIF tag, RGB, shorter side resized to `side`, central square.

    Transparent parts become white; 16-bit grey keeps its upper eight bits; of an animation the first frame is taken.

    Returns:
        (side, side, 3), uint8.
    """
    image.load()
    if image.getexif().get(ORIENTATION, 1) != 1:  # else it would be copied for nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return resize_center(image if image.mode == "RGB" else image.convert("RGB"), side)


def resize_center(image: Image.Image, side: int) -> np.ndarray:
    """The central square of an RGB image, resized to (side, side, 3), uint8: along the rows, then along the columns."""
    shorter = min(image.size)
    left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
    if library() is None:  # one way at a time, since which comes first differs between versions of Pillow
        image = image.resize((side, image.height), Image.Resampling.BICUBIC, (left, 0, left + shorter, image.height))
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, (0, top, side, top + shorter)))
    pixels, square = np.asarray(image), np.empty((side, side, 3), np.uint8)
    across, down = _weights(image.width, left, shorter, side), _weights(image.height, top, shorter, side)
    arrays = [(*(each.ctypes.data for each in sums), sums[2].shape[1]) for sums in (across, down)]
    if not library().resize(pixels.ctypes.data, square.ctypes.data, image.width, side, *arrays[0], *arrays[1]):
        raise MemoryError(f"there is no memory to resize an image of {image.width} × {image.height}")
    return square


@functools.lru_cache(maxsize=64)
def _weights(length: int, start: float, extent: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels of a row of `length` each of `side` new ones sums, and with what weights.

    The new pixels cover `extent` old ones from `start`. As Pillow reckons it: in double precision, weights normalized
    to a sum of 1, then rounded to 22 bits after the point.

    Returns:
        first and number of the pixels, (side,), and weights, (side, most), all int32.
    """
    scale = extent / side
    stretch = max(scale, 1.0)
    center = start + (np.arange(side) + 0.5) * scale
    first = np.maximum((center - _REACH * stretch + 0.5).astype(np.int64), 0)
    taps = np.minimum((center + _REACH * stretch + 0.5).astype(np.int64), length) - first
    most = ceil(_REACH * stretch) * 2 + 1
    tap = np.arange(most)
    weights = _bicubic((tap + first[:, None] - center[:, None] + 0.5) * (1.0 / stretch)) * (tap < taps[:, None])
    total = functools.reduce(np.add, weights.T)  # one after the other, as rounding depends on it
    weights /= total[:, None]
    whole = np.trunc(weights * (1 << _POINT) + np.where(weights < 0, -0.5, 0.5))
    return first.astype(np.int32), taps.astype(np.int32), np.ascontiguousarray(whole, np.int32)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys's cubic convolution with a = −1/2."""
    x, a = np.abs(x), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
