"""A single image, given as a path, URL, Pillow image or array, as the stored pixels that a network expects."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.pack.resizing import stored_square
from ..data.storage.download import fetch_bytes, redact

MAX_BYTES = 100_000_000
"""Largest image that is fetched from a URL."""

ImageLike = str | Path | Image.Image | np.ndarray


def stored_image(image: ImageLike, side: int) -> np.ndarray:
    """An image as a pack would store it, (side, side, 3), uint8.

    Args:
        image: a path, an http(s) URL, a Pillow image, or an array of shape (height, width[, 1, 3 or 4]), uint8 or
            floats of 0 … 1.

    Raises:
        ValueError: it cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if isinstance(image, Image.Image):
        return stored_square(image, side)
    source, name = Path(image).expanduser(), image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        source, name = io.BytesIO(fetch_bytes(image, MAX_BYTES)), redact(image)
    try:
        with Image.open(source) as opened:
            return stored_square(opened, side)
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except Exception as error:  # decoders raise anything on a broken file
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an image array must have shape (height, width[, 1, 3 or 4]), got {pixels.shape}")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"a float image must be in the range 0 to 1, got {pixels.min():g} to {pixels.max():g}")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"an image array must be uint8, or floats from 0 to 1, got {pixels.dtype}")
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
