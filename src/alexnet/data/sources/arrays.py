"""Images whose pixels lie in arrays: what CIFAR's archives and idx files have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ..source import SPLITS, TEST, TRAIN, VAL, Source, hold_out
from ..storage.string_table import StringTable
from ..storage.trees import Opener, Tree

Read = Callable[[bytes], tuple[np.ndarray, np.ndarray | None]]
"""From the content of a file to pixels, (N, height, width[, 3]), uint8, and labels, (N,), if any."""


@dataclass(frozen=True)
class Part:
    """Images of one file."""

    file: int
    """Number of the file in the tree."""
    split: int
    labels: np.ndarray


class ArrayImages:
    """Reads images from files of arrays, of which a process keeps the last two."""

    def __init__(self, opener: Opener, read: Read):
        self.opener, self.read = opener, read

    def open(self, place: tuple[Any, int]) -> Image.Image:
        file, row = place
        return Image.fromarray(_array(self.opener, self.read, file)[row])

    def content(self, place: tuple[Any, int]) -> bytes:
        file, row = place
        return _array(self.opener, self.read, file)[row].tobytes()


def array_source(
    tree: Tree, layout: str, read: Read, parts: Iterable[Part], classes: Iterable[str], split_seed: int
) -> Source:
    """The source of several files of arrays; a tenth of train is cut for val where there is none.

    Raises:
        ValueError: a label is of no class.
    """
    parts, classes = sorted(parts, key=lambda part: part.split), tuple(classes)
    labels = np.concatenate([part.labels for part in parts]).astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"{tree.name} has labels {labels.min()} … {labels.max()}; they may be 0 … {len(classes) - 1}, as there are "
            f"{len(classes)} names of classes"
        )
    splits = np.repeat(np.array([part.split for part in parts], np.uint8), [len(part.labels) for part in parts])
    starts = np.cumsum([0, *(len(part.labels) for part in parts)])
    files = [tree.files[part.file] for part in parts]
    described = [
        f"{SPLITS[split]} from {here[0]}{f' and {len(here) - 1} more' if here[1:] else ''}"
        for split in range(len(SPLITS))
        if (here := [file for file, part in zip(files, parts, strict=True) if part.split == split])
    ]
    names = StringTable.from_strings(
        f"{file}#{row}" for file, part in zip(files, parts, strict=True) for row in range(len(part.labels))
    )
    if TRAIN in splits and VAL not in splits:
        splits = hold_out(names, labels, splits, split_seed, "val" if TEST in splits else "val and test")

    def place(number: int) -> tuple[Any, int]:
        part = int(np.searchsorted(starts, number, side="right")) - 1
        return tree.place(parts[part].file), number - int(starts[part])

    return Source(
        name=tree.name,
        layout=f"{layout}: {', '.join(described)}",
        classes=classes,
        names=names,
        labels=labels,
        splits=splits,
        reader=ArrayImages(tree.opener, read),
        place=place,
        stamp=tree.stamp,
    )


@lru_cache(maxsize=2)
def _array(opener: Opener, read: Read, file: Any) -> np.ndarray:
    with opener.open(file) as opened:
        return read(opened.read())[0]
