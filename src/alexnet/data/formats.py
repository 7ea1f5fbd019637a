"""Which image files are read, and what is asked of them before they are decoded."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "DIB", "JPEG2000", "AVIF")
"""By Pillow's names. It knows others, some of which call programs or are hardly ever tested."""
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif"),
    )
)
"""Of files that are taken for images."""


def open_image(file: BinaryIO | str | PathLike) -> Image.Image:
    """An image, undecoded.

    Raises:
        OSError: it is in none of FORMATS.
        Image.DecompressionBombError: it has more than 179 million pixels.
    """
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # of half as many
        try:
            return Image.open(file, formats=FORMATS)
        except KeyError:  # of this list, an older Pillow lacks the last
            raise UnidentifiedImageError("it is no image of a known format") from None


def is_image(path: str) -> bool:
    """Whether a file is taken for an image, by its suffix."""
    dot = path.rfind(".")
    return dot >= 0 and path[dot:].lower() in SUFFIXES
