"""Resizes any image to the square that is stored (section 2): exactly the pixels of Pillow's bicubic filter.

Pillow resizes one value at a time. The kernel in C computes the same integer sums on vectors, so that the pixels are
identical and packing is limited by decoding.
"""

import functools
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from ...kernels import library
from ..storage.image_formats import eight_bits

ORIENTATION = 0x0112
"""The EXIF tag for the orientation of an image."""
DEEP_MODES = ("I", "F")
"""Begin Pillow's modes of gray with more than eight bits."""
Aspect = Literal["crop", "squash", "pad"]
_REACH = 2
"""Radius of the bicubic filter, in pixels of the smaller of the two images."""
_FRACTION_BITS = 22
"""Bits after the point of Pillow's fixed-point weights."""


@dataclass(frozen=True)
class Squares:
    """How images become squares of eight bits."""

    aspect: Aspect = "crop"
    """The central square; or all of the image, squashed, or padded with black."""
    white: float | None = None
    """What becomes white in gray of more than eight bits: 4096 in images of 12 bits (default: by the values of each
    image, as in `eight_bits`)."""


def stored_square(image: Image.Image, side: int, squares: Squares = Squares()) -> np.ndarray:
    """An image as it is stored: upright by its EXIF tag, RGB, shorter side resized to `side`, central square.

    Transparent parts become white; deep gray is divided by its white; of an animation the first frame is used.

    Returns:
        (side, side, 3), uint8.

    Raises:
        ValueError: it has no pixels.
    """
    if 0 in image.size:
        raise ValueError("it has no pixels")
    image.load()
    if image.getexif().get(ORIENTATION, 1) != 1:  # exif_transpose would copy an upright image
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(DEEP_MODES):
        image = Image.fromarray(eight_bits(np.asarray(image), squares.white))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if squares.aspect == "pad":
        longer = max(image.size)
        size = max(1, round(image.width * side / longer)), max(1, round(image.height * side / longer))
        square = Image.new("RGB", (side, side))
        square.paste(image.resize(size, Image.Resampling.BICUBIC), ((side - size[0]) // 2, (side - size[1]) // 2))
        return np.asarray(square)
    return resize(image, side, *(image.size if squares.aspect == "squash" else (min(image.size),) * 2))


def resize(image: Image.Image, side: int, width: int, height: int) -> np.ndarray:
    """The center of an RGB image, resized to (side, side, 3), uint8: first along the rows, then the columns.

    Args:
        width, height: of the center, pixels of the image.
    """
    left, top = (image.width - width) / 2, (image.height - height) / 2
    if library() is None:  # in two calls, because versions of Pillow differ in which direction comes first
        image = image.resize((side, image.height), Image.Resampling.BICUBIC, (left, 0, left + width, image.height))
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, (0, top, side, top + height)))
    pixels, square = np.asarray(image), np.empty((side, side, 3), np.uint8)
    weights = _weights(image.width, left, width, side), _weights(image.height, top, height, side)
    horizontal, vertical = ((*(array.ctypes.data for array in arrays), arrays[2].shape[1]) for arrays in weights)
    library().resize(pixels.ctypes.data, square.ctypes.data, image.width, side, *horizontal, *vertical)
    return square


@functools.lru_cache(maxsize=64)
def _weights(length: int, start: float, extent: float, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels of a row each new pixel sums, and with what weights.

    The new pixels cover `extent` old ones from `start`. Computed as in Pillow: in double precision, normalized to a sum
    of 1, then rounded to fixed point.

    Args:
        length: pixels in the row.
        side: new pixels.

    Returns:
        Index of the first pixel and number of pixels, (side,), and weights, (side, max_taps), all int32.
    """
    scale = extent / side
    stretch = max(scale, 1.0)
    center = start + (np.arange(side) + 0.5) * scale
    first = np.maximum((center - _REACH * stretch + 0.5).astype(np.int64), 0)
    taps = np.minimum((center + _REACH * stretch + 0.5).astype(np.int64), length) - first
    max_taps = ceil(_REACH * stretch) * 2 + 1
    tap = np.arange(max_taps)
    weights = _bicubic((tap + first[:, None] - center[:, None] + 0.5) * (1.0 / stretch)) * (tap < taps[:, None])
    total = functools.reduce(np.add, weights.T)  # in this order, because rounding depends on it
    weights /= total[:, None]
    fixed = np.trunc(weights * (1 << _FRACTION_BITS) + np.where(weights < 0, -0.5, 0.5))
    return first.astype(np.int32), taps.astype(np.int32), np.ascontiguousarray(fixed, np.int32)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys's cubic convolution with a = −1/2."""
    x, a = np.abs(x), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
