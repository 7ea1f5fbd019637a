"""What every source of images becomes: a table of labeled images, and a way to open each of them."""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from .storage.image_formats import open_image
from .storage.string_table import StringTable
from .storage.trees import FileOpener

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
"""Indices into SPLITS, as tables store them."""

Level = Literal["error", "warning", "note"]


_blake2b = functools.partial(hashlib.blake2b, digest_size=16)


class Indexed(Protocol):
    """Labeled images in memory; docs/data.md lists the kinds."""

    def __getitem__(self, index: Any, /) -> Any: ...


Data = str | Path | Indexed
"""What can be trained and evaluated on: a path, a URL, "emoji", or labeled images in memory."""


class ImageReader(ABC):
    """Opens images by their location; small, because each worker process gets a copy."""

    @abstractmethod
    def open(self, location: Any) -> Image.Image:
        """The image, undecoded if its format allows that."""

    def digest(self, location: Any) -> bytes:
        """A hash by which duplicates are found: of its file, or of the pixels of an image without one."""
        return _blake2b(self.open(location).tobytes()).digest()


@dataclass(frozen=True)
class ImageFileReader(ImageReader):
    open_file: FileOpener

    def open(self, location: Any) -> Image.Image:
        return open_image(self.open_file(location))

    def digest(self, location: Any) -> bytes:
        with self.open_file(location) as file:
            return hashlib.file_digest(file, _blake2b).digest()


@dataclass(frozen=True)
class Finding:
    """Something that the owner of a data set should know."""

    level: Level
    """An error must be fixed before training; a warning should be looked at; a note is good to know."""
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}{f' ({self.examples[0]} …)' if self.examples else ''}"


@dataclass(frozen=True)
class Source:
    """Labeled images in their original storage."""

    name: str
    layout: str
    """The detected layout, in words."""
    classes: tuple[str, ...]
    names: StringTable
    """Unique names of the images; their paths if they are files."""
    labels: np.ndarray
    """Indices into `classes`, (N,), int64."""
    splits: np.ndarray
    """Indices into SPLITS, (N,), uint8."""
    reader: ImageReader
    locate: Callable[[int], Any]
    """Location of the image at an index, for the reader."""
    files_fingerprint: str
    """Changes when a file changes."""
    has_splits: bool = True
    """False if the splits were drawn by `hold_out`."""
    sizes: np.ndarray | None = None
    """Bytes of each image if images are files, (N,), int64."""
    unused_classes: frozenset[str] = frozenset()
    """Classes that only fill gaps between the indices of others; no image has them."""
    findings: tuple[Finding, ...] = field(default=(), compare=False)
    """Found while reading folders and label files."""
    location: str = ""
    """What is recorded of where it is, as `location_of` says it."""
    labels_from: str = ""
    """What labels the images, in words."""
    splits_from: str = ""
    """What puts them into splits, in words."""
    unused: tuple[str, ...] = ()
    """Files that lay there and might have been meant to be read, each with why it was not."""
    arguments: str = ""
    """What names the data set on a command line, quoted for the shell; "" if it is in memory."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reading(self) -> dict[str, str]:
        """How the data was read: layout, where labels and splits come from, and what was not used."""
        about = {"layout": self.layout, "labels": self.labels_from or self.layout}
        about["splits"] = self.splits_from or "the data itself"
        return about | ({"not used": "; ".join(self.unused)} if self.unused else {})

    def open(self, index: int) -> Image.Image:
        return self.reader.open(self.locate(index))

    @property
    def training_images(self) -> int:
        return int((self.splits == TRAIN).sum())


def hold_out(
    names: Sequence[str], labels: np.ndarray, splits: np.ndarray, seed: int, fraction: float = 0.1
) -> np.ndarray:
    """Splits in which val is held out from train if it is missing, and test too if both are missing.

    Each takes a fraction of every class, at least one image of classes that have more images than splits; of two or
    three images, val takes one. Within a class
    images are ordered by a hash of their names, so that the split of a class does not depend on the others.
    """
    present = set(splits.tolist())
    if TRAIN not in present or VAL in present:
        return splits
    missing = (VAL,) if TEST in present else (VAL, TEST)
    indices = np.flatnonzero(splits == TRAIN)
    keys = (f"{seed}:{names[index]}".encode("utf-8", "surrogateescape") for index in indices)
    hashes = np.fromiter((hashlib.sha256(key).digest() for key in keys), "S32", len(indices))
    order = indices[np.lexsort((hashes, labels[indices]))]
    splits = splits.copy()
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    for start, count in zip(starts, counts, strict=True):
        held_out = round(fraction * count) or int(count > len(missing) + 1)
        for split in missing if held_out else missing[: int(count > 1)]:
            held_out = held_out or 1
            splits[order[start : start + held_out]] = split
            start += held_out
    return splits
