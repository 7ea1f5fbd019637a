"""One image from wherever a user has it: a path, a URL, a Pillow image or an array."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.pack.resizing import stored_square
from ..data.storage.download import fetch_bytes, redact

MOST_BYTES = 100_000_000
"""Of an image fetched from a URL."""

ImageLike = str | Path | Image.Image | np.ndarray


def stored_image(image: ImageLike, side: int) -> np.ndarray:
    """An image as a pack would store it, (side, side, 3), uint8.

    Args:
        image: a path, an http(s) URL, a Pillow image, or an array of (height, width), (height, width, 1, 3 or 4):
            uint8, or floats of 0 … 1.

    Raises:
        ValueError: it cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if isinstance(image, Image.Image):
        return stored_square(image, side)
    source, name = Path(image).expanduser(), image
    if _is_url(image):
        source, name = io.BytesIO(fetch_bytes(image, MOST_BYTES)), redact(image)
    try:
        with Image.open(source) as opened:
            return stored_square(opened, side)
    except FileNotFoundError:
        raise ValueError(f"{name} is not there") from None
    except Exception as error:  # whatever a broken file makes a decoder raise
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def _is_url(image: str | Path) -> bool:
    return isinstance(image, str) and image.startswith(("http://", "https://"))


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an array of shape {pixels.shape} is no image; it may be (height, width[, 1, 3 or 4])")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"an image of floats may hold 0 … 1; this one holds {pixels.min():g} … {pixels.max():g}")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"an image of {pixels.dtype} is given; it may be of uint8, or of floats of 0 … 1")
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
