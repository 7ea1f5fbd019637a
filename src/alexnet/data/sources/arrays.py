"""Images stored as arrays of pixels: what CIFAR's files and idx files have in common."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ..labels.class_table import class_table
from ..source import SPLITS, ImageReader, Source
from ..storage.image_formats import eight_bits
from ..storage.string_table import StringTable
from ..storage.trees import FileOpener, Tree

ArrayParser = Callable[[bytes], tuple[np.ndarray, np.ndarray | None]]
"""Parses a file to pixels, (N, height, width[, 3]), uint8, and labels, (N,), if any."""


@dataclass(frozen=True)
class ArrayFile:
    index: int
    """In the tree."""
    split: int
    labels: np.ndarray


@dataclass(frozen=True)
class ArrayReader(ImageReader):
    """Reads images from files of arrays; a process keeps the last two files."""

    open_file: FileOpener
    parse: ArrayParser

    def open(self, location: tuple[Any, int]) -> Image.Image:
        file, row = location
        return Image.fromarray(_pixels(self.open_file, self.parse, file)[row])


def array_source(
    tree: Tree,
    layout: str,
    parse: ArrayParser,
    files: Iterable[ArrayFile],
    classes: Iterable[str] | None,
) -> Source:
    """The source of several files of arrays.

    Args:
        classes: their names; None if they are called by their indices.
    """
    files, unused = sorted(files, key=lambda file: file.split), frozenset[str]()
    labels = np.concatenate([file.labels for file in files]).astype(np.int64)
    if classes is None:
        occurring = set(labels.tolist())
        classes, unused, index_of = class_table(tree.name, occurring, occurring, None)
        labels = np.array([index_of[label] for label in labels.tolist()], np.int64)
    classes = tuple(classes)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"{tree.name}: labels must be 0 … {len(classes) - 1}, because {len(classes)} classes are named; got "
            f"{labels.min()} … {labels.max()}"
        )
    indices = np.concatenate([np.full(len(file.labels), file.index) for file in files])
    splits = np.concatenate([np.full(len(file.labels), file.split, np.uint8) for file in files])
    rows = np.concatenate([np.arange(len(file.labels)) for file in files])
    names = StringTable.from_strings(f"{tree.files[index]}#{row}" for index, row in zip(indices, rows, strict=True))

    described = []
    for split, name in enumerate(SPLITS):
        if in_split := [tree.files[file.index] for file in files if file.split == split]:
            more = f" and {len(in_split) - 1} more" if len(in_split) > 1 else ""
            described.append(f"{name} from {in_split[0]}{more}")
    return Source(
        name=tree.name,
        layout=f"{layout}: {', '.join(described)}",
        classes=classes,
        names=names,
        labels=labels,
        splits=splits,
        reader=ArrayReader(tree.open, parse),
        locate=lambda index: (tree.locate(int(indices[index])), int(rows[index])),
        files_fingerprint=tree.fingerprint,
        unused_classes=unused,
    )


def image_array(array: Any, batch: bool = False, white: float | None = None) -> np.ndarray:
    """Pixels as uint8, (height, width[, 3 or 4]), from an array or a tensor of one image, or of a batch.

    Args:
        array: uint8, uint16, floats from 0 to 1, or any numbers if they are all whole and from 0 to 255; channels last,
            or first if only that makes sense.
        white: what becomes white in uint16; see `eight_bits`.

    Raises:
        ValueError: its shape or its values are not those of images.
    """
    pixels = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    axes = pixels.ndim - batch
    channels = (1, 3, 4)
    if axes == 3 and pixels.shape[-1] not in channels and pixels.shape[-3] in channels:
        pixels = np.moveaxis(pixels, -3, -1)
    if axes not in (2, 3) or (axes == 3 and pixels.shape[-1] not in channels) or 0 in pixels.shape[batch:]:
        shape = "(images, height, width[, 1, 3 or 4])" if batch else "(height, width[, 1, 3 or 4])"
        raise ValueError(f"an image array must have shape {shape}, got {pixels.shape}")
    if axes == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint16:
        return eight_bits(pixels, white)
    return pixels if pixels.dtype == np.uint8 else _as_bytes(pixels)


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    if not np.issubdtype(pixels.dtype, np.number) or np.iscomplexobj(pixels):
        raise ValueError(f"an image array must be uint8, or floats from 0 to 1, got {pixels.dtype}")
    least, most = pixels.min(initial=0), pixels.max(initial=0)
    if np.issubdtype(pixels.dtype, np.floating) and 0 <= least <= most <= 1:
        return (pixels * 255).round().astype(np.uint8)
    if 0 <= least <= most <= 255 and (pixels == (as_bytes := pixels.astype(np.uint8))).all():
        return as_bytes
    must_be = "uint8, floats from 0 to 1, or integers from 0 to 255"
    raise ValueError(f"an image array must be {must_be}, got {pixels.dtype} from {least:g} to {most:g}")


@lru_cache(maxsize=2)
def _pixels(open_file: FileOpener, parse: ArrayParser, file: Any) -> np.ndarray:
    with open_file(file) as opened:
        return parse(opened.read())[0]
