"""Which image files are read, and what is asked of them before they are decoded."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "DIB", "JPEG2000", "AVIF")
"""By Pillow's names. It knows others, some of which call programs or are hardly ever tested."""
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",)),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), ("JPEG2000",)),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    **{f".{name.lower()}": (name,) for name in ("PNG", "WEBP", "GIF", "AVIF")},
}
"""Of files that are taken for images, and the formats that they promise."""


def open_image(file: BinaryIO | str | PathLike) -> Image.Image:
    """An image, undecoded.

    Raises:
        OSError: it is in none of FORMATS.
        Image.DecompressionBombError: it has more than 179 million pixels.
    """
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # of half as many
        try:
            return Image.open(file, formats=FORMATS)
        except (UnidentifiedImageError, KeyError):  # the latter of AVIF, which an older Pillow does not know
            raise UnidentifiedImageError("it is no image of a known format, or its beginning is damaged") from None


def is_image(path: str) -> bool:
    """Whether a file is taken for an image, by its suffix."""
    return _suffix(path) in SUFFIXES


def is_mislabelled(path: str, format: str | None) -> bool:
    """Whether a file's suffix promises another format than it has."""
    return bool(format) and format not in SUFFIXES.get(_suffix(path), (format,))


def _suffix(path: str) -> str:
    dot = path.rfind(".")
    return path[dot:].lower() if dot >= 0 else ""
