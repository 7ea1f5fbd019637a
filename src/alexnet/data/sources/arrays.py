"""Images stored as arrays of pixels: what CIFAR's files and idx files have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ..source import SPLITS, ImageReader, Source, hold_out
from ..storage.string_table import StringTable
from ..storage.trees import FileOpener, Tree

ArrayParser = Callable[[bytes], tuple[np.ndarray, np.ndarray | None]]
"""Parses a file to pixels, (N, height, width[, 3]), uint8, and labels, (N,), if any."""
MAX_FILES = 1000
"""Files in a tree beyond which no files of arrays are looked for."""


@dataclass(frozen=True)
class ArrayFile:
    index: int
    """In the tree."""
    split: int
    labels: np.ndarray


class ArrayReader(ImageReader):
    """Reads images from files of arrays; a process keeps the last two files."""

    def __init__(self, open_file: FileOpener, parse: ArrayParser):
        self.open_file, self.parse = open_file, parse

    def open(self, location: tuple[Any, int]) -> Image.Image:
        file, row = location
        return Image.fromarray(_pixels(self.open_file, self.parse, file)[row])


def array_source(
    tree: Tree, layout: str, parse: ArrayParser, files: Iterable[ArrayFile], classes: Iterable[str], split_seed: int
) -> Source:
    """The source of several files of arrays; missing splits are held out from train.

    Raises:
        ValueError: a label has no class.
    """
    files, classes = sorted(files, key=lambda file: file.split), tuple(classes)
    labels = np.concatenate([file.labels for file in files]).astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"{tree.name}: labels must be 0 … {len(classes) - 1}, because {len(classes)} classes are named; got "
            f"{labels.min()} … {labels.max()}"
        )
    sizes = [len(file.labels) for file in files]
    starts = np.cumsum([0, *sizes])
    names = StringTable.from_strings(
        f"{tree.files[file.index]}#{row}" for file, size in zip(files, sizes, strict=True) for row in range(size)
    )
    splits = np.repeat(np.array([file.split for file in files], np.uint8), sizes)

    def locate(index: int) -> tuple[Any, int]:
        file = int(np.searchsorted(starts, index, side="right")) - 1
        return tree.locate(files[file].index), index - int(starts[file])

    return Source(
        name=tree.name,
        layout=f"{layout}: {', '.join(_describe_splits(tree, files))}",
        classes=classes,
        names=names,
        labels=labels,
        splits=hold_out(names, labels, splits, split_seed),
        reader=ArrayReader(tree.open, parse),
        locate=locate,
        files_fingerprint=tree.fingerprint,
    )


def _describe_splits(tree: Tree, files: Iterable[ArrayFile]) -> Iterable[str]:
    for split, name in enumerate(SPLITS):
        first, *others = [tree.files[file.index] for file in files if file.split == split] or [None]
        if first:
            yield f"{name} from {first}{f' and {len(others)} more' if others else ''}"


@lru_cache(maxsize=2)
def _pixels(open_file: FileOpener, parse: ArrayParser, file: Any) -> np.ndarray:
    with open_file(file) as opened:
        return parse(opened.read())[0]
