"""Images that users hand over, of any kind, as the stored pixels that a network expects."""

import glob
import io
import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from os import PathLike, fspath
from os.path import exists, expanduser, isdir, splitext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from ..data.pack.resizing import Squares, stored_square
from ..data.sources.arrays import image_array
from ..data.storage.download import fetch_bytes, redact
from ..data.storage.image_formats import HELP, ignored_files, is_image_file, open_image
from ..data.storage.trees import SkipFolder, folder_tree

MAX_BYTES = 100_000_000
"""Largest image that is fetched from a URL or read from a stream."""

ImageLike = str | PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | Tensor
_OPENING = threading.Lock()
"""For `open_image`, which changes the filters of warnings, and these belong to all threads."""


def holds_many(images: ImageLike | Iterable[ImageLike]) -> bool:
    """Whether it stands for any number of images: a folder, a pattern, a batch or an iterable; and not for one."""
    if isinstance(images, (str, PathLike)):
        path = expanduser(images)
        return "://" not in fspath(images) and (isdir(path) or (glob.has_magic(path) and not exists(path)))
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim in (1, 4)
    return isinstance(images, Iterable) and not isinstance(images, (bytes, bytearray)) and not hasattr(images, "read")


def each_image(
    images: ImageLike | Iterable[ImageLike],
    skip_folder: SkipFolder | None = None,
    notify: Callable[[str], object] = warnings.warn,
) -> Iterator[tuple[str, ImageLike]]:
    """Every image with its name: its path or URL, or "image 3", counted from 0, or nothing if it is the only one.

    Args:
        images: an image; a folder, for all images below it; a pattern such as `photos/*.jpg`; a batch, as an array or
            tensor with four dimensions; or an iterable of all these.
        notify: receives which files of a folder are ignored, if they were probably meant to be images.

    Raises:
        ValueError: there is no image in a folder, or none that a pattern matches.
    """
    names = map("image {}".format, itertools.count()) if holds_many(images) else itertools.repeat("")
    yield from _named(images, names, lambda folder: _images_below(folder, skip_folder, notify))


def stored_image(image: ImageLike, side: int, squares: Squares = Squares()) -> np.ndarray:
    """An image as a pack would store it, (side, side, 3), uint8.

    Args:
        image: a path, an http(s) URL, the bytes of a file, a file object, a Pillow image, or an array or a tensor of
            pixels, as `image_array` takes it.

    Raises:
        ValueError: it cannot be read as an image.
        TypeError: it is none of these.
    """
    if isinstance(image, (np.ndarray, Tensor)):
        image = image.float() if isinstance(image, Tensor) and image.is_floating_point() else image
        image = Image.fromarray(image_array(image, white=squares.white))
    if isinstance(image, Image.Image):
        name = image.filename if getattr(image, "filename", "") else "the Pillow image"
    else:
        image, name = _source(image)
    try:
        if isinstance(image, Image.Image):
            return stored_square(image, side, squares)
        with _OPENING:
            opened = open_image(image)
        with opened:
            return stored_square(opened, side, squares)
    except FileNotFoundError:
        raise ValueError(f"{name} does not exist") from None
    except Exception as error:  # decoders raise anything on a broken file
        remedy = "" if is_image_file(name) else HELP.get(splitext(name)[1].lower(), "")
        raise ValueError(f"{name} cannot be read as an image: {error}{remedy and f' ({remedy})'}") from error


def _named(
    images: ImageLike | Iterable[ImageLike], names: Iterator[str], images_below: Callable[[Path], list[Path]]
) -> Iterator[tuple[str, ImageLike]]:
    if isinstance(images, (str, PathLike)) and holds_many(images):
        path = expanduser(images)
        paths = map(Path, [path] if isdir(path) else sorted(glob.glob(path, recursive=True)))
        files = [file for path in paths for file in (images_below(path) if path.is_dir() else [path])]
        if not files:
            raise ValueError(f"no images found in {images}")
        yield from ((str(file), file) for file in files)
    elif holds_many(images):
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4 and "float" in str(images.dtype):
            images = image_array(images, batch=True)  # the range of a batch is that of all its images
        for image in images:
            yield from _named(image, names, images_below)
    else:
        position = next(names)
        name = images if isinstance(images, (str, PathLike)) else None
        name = name or getattr(images, "filename", None) or getattr(images, "name", None)
        yield fspath(name) if isinstance(name, (str, PathLike)) else position, images


def _images_below(folder: Path, skip_folder: SkipFolder | None, notify: Callable[[str], object]) -> list[Path]:
    files = folder_tree(folder, skip_folder).files
    helped, _ = ignored_files(name for name in files if not is_image_file(name))
    if helped:
        notify(f"ignored in {folder}: {helped}")
    return [folder / name for name in files if is_image_file(name)]


def _source(image: str | PathLike[str] | bytes | BinaryIO) -> tuple[str | BinaryIO, str]:
    """What Pillow opens, and its name in messages."""
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return io.BytesIO(fetch_bytes(image, MAX_BYTES)), redact(image)
    if isinstance(image, (str, PathLike)):
        return expanduser(image), fspath(image)
    if isinstance(image, (bytes, bytearray)):
        return io.BytesIO(image), "the bytes"
    if not hasattr(image, "read"):
        raise TypeError(
            "an image must be a path, a URL, bytes, a file object, a Pillow image, an array or a tensor, got "
            f"{type(image).__name__}"
        )
    content = image.read(MAX_BYTES + 1)
    if not isinstance(content, bytes):
        raise ValueError("a file object must be opened in binary mode, as in open(path, 'rb'), got text")
    if not content:
        raise ValueError("a file object must hold an image, got no bytes")
    if len(content) > MAX_BYTES:
        raise ValueError(f"a file object must have <= {MAX_BYTES:,} bytes, got more")
    return io.BytesIO(content), "the file object"
