"""What every source is: a table of labelled images, and a way to open one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from .storage.string_table import StringTable

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
"""Positions in SPLITS, as tables hold them."""


class Reader(Protocol):
    """Opens images by where they lie; small, so that every process which decodes has a copy."""

    def open(self, place: Any) -> Image.Image:
        """The image, undecoded where its format allows that."""

    def content(self, place: Any) -> bytes:
        """What is stored of it, from which duplicates are told."""


@dataclass(frozen=True)
class Problem:
    """Something about a data set that its owner should know."""

    text: str
    fatal: bool = False
    """Whether nothing can be trained on it as it is."""


@dataclass(frozen=True)
class Source:
    """Labelled images, where they lie."""

    name: str
    layout: str
    """How they were recognised, in words."""
    classes: tuple[str, ...]
    names: StringTable
    """Of the images, each once; paths where they are files."""
    labels: np.ndarray
    """Positions in `classes`, (N,), int64."""
    splits: np.ndarray
    """Positions in SPLITS, (N,), uint8."""
    reader: Reader
    place: Callable[[int], Any]
    """Where the image of a number lies, for the reader."""
    stamp: str
    """Changes when an image may have."""
    has_splits: bool = True
    """Whether the split is the source's own, or was cut by a hash."""
    sizes: np.ndarray | None = None
    """Bytes of each image where they are files, (N,), int64."""
    unused: frozenset[str] = frozenset()
    """Classes that stand for indices which no label has."""
    problems: tuple[Problem, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, number: int) -> Image.Image:
        return self.reader.open(self.place(number))

    def fingerprint(self) -> str:
        """A hash that changes when an image, a label or the split does."""
        digest = hashlib.sha256(repr((self.classes, self.stamp)).encode())
        for part in (self.names.block, self.labels, self.splits):
            digest.update(np.ascontiguousarray(part))
        return digest.hexdigest()

    def check_fatal(self) -> None:
        """Refuse what cannot be used.

        Raises:
            ValueError: there is a fatal problem; the first is named.
        """
        for problem in self.problems:
            if problem.fatal:
                raise ValueError(problem.text)


def hold_out(
    names: Sequence[str], labels: np.ndarray, splits: np.ndarray, seed: int, missing: Literal["val", "val and test"]
) -> np.ndarray:
    """The splits, with what is missing taken from train: a tenth of each class for val, another for test.

    Within each class images go in the order of a hash of their names, so that a split does not depend on other classes.
    A class of more images than it has splits gives at least one to each.
    """
    shares = {VAL: 0.1} if missing == "val" else {VAL: 0.1, TEST: 0.1}
    numbers = np.flatnonzero(splits == TRAIN)
    hashes = np.fromiter((_hash(f"{seed}:{names[number]}") for number in numbers), "S32", len(numbers))
    order = numbers[np.lexsort((hashes, labels[numbers]))]
    cut = splits.copy()
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    for first, count in zip(starts, counts, strict=True):
        for split, share in shares.items():
            taken = round(share * count) or int(count > len(shares) + 1)
            cut[order[first : first + taken]] = split
            first += taken
    return cut


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
