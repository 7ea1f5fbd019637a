"""Which image files are read, and how they are opened safely."""

import warnings
from os import PathLike
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "DIB", "JPEG2000", "AVIF")
"""Pillow's names. It knows more formats, but some of them call other programs or are hardly ever tested."""
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",)),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), ("JPEG2000",)),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    **{f".{name.lower()}": (name,) for name in ("PNG", "WEBP", "GIF", "AVIF")},
}
"""Suffixes of image files, and the formats that each stands for."""


def open_image(file: BinaryIO | str | PathLike) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        OSError: its format is not in FORMATS.
        Image.DecompressionBombError: it has more than 179 million pixels.
    """
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # for half as many
        try:
            return Image.open(file, formats=FORMATS)
        except (UnidentifiedImageError, KeyError):  # KeyError: AVIF in an older Pillow
            raise UnidentifiedImageError("not an image of a known format, or its header is damaged") from None


def is_image_file(path: str) -> bool:
    """Whether a path has the suffix of an image."""
    return _suffix(path) in SUFFIXES


def has_wrong_suffix(path: str, format: str | None) -> bool:
    """Whether the suffix of an image stands for another format than it has."""
    return bool(format) and format not in SUFFIXES.get(_suffix(path), (format,))


def _suffix(path: str) -> str:
    dot = path.rfind(".")
    return path[dot:].lower() if dot >= 0 else ""
