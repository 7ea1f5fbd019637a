"""One image from wherever a user has it: a path, a URL, a Pillow image or an array."""

from __future__ import annotations

import http.client
import io
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from .resizing import square

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
        return square(image, side)
    source = io.BytesIO(_fetch(image)) if _is_url(image) else Path(image).expanduser()
    try:
        with Image.open(source) as opened:
            return square(opened, side)
    except FileNotFoundError:
        raise ValueError(f"{image} is not there") from None
    except Exception as error:  # whatever a broken file makes a decoder raise
        raise ValueError(f"{image} cannot be read as an image: {error}") from error


def _is_url(image: str | Path) -> bool:
    return isinstance(image, str) and image.startswith(("http://", "https://"))


def _fetch(url: str) -> bytes:
    quoted = urllib.parse.quote(url, safe=":/?&=#%+,;@!$'()*~[]")  # spaces and letters outside ASCII
    request = urllib.request.Request(quoted, headers={"User-Agent": "alexnet"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read(MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ValueError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"{url} has more than {MOST_BYTES:,} bytes, the most that an image may have")
    return content


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
