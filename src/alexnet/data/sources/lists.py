"""A list of images, wherever they lie: CSV, TSV, text (`path label`), JSON lines or JSON."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short

import numpy as np

from ...files import atomic_write
from ..labels.assignment import NONE, UNSPLIT, Images, labelled_source
from ..labels.label_files import MOST_PATH, LabelFile, is_text, read_labels
from ..source import SPLITS, Problem, Source
from ..storage.string_table import StringTable
from ..storage.trees import MOST_LABEL_BYTES, FilesBelow

OF = "# images of "
"""Begins a list of images of another place, by their names there; the place stands behind it."""


def listed_source(path: Path, split_seed: int, open_named: Callable[[str], Source]) -> Source:
    """The images that a list names, by paths from the folder of the list.

    Args:
        open_named: opens the place that the list is of, where it says so in its first line.

    Raises:
        ValueError: the file is no list, is damaged, or none of its images is there.
    """
    if path.stat().st_size > MOST_LABEL_BYTES:
        raise ValueError(f"{path} has more than {MOST_LABEL_BYTES:,} bytes, the most that a list may have")
    content = path.read_bytes()
    listed = read_labels(path.name, content, lambda key: os.path.isfile(path.parent / key))
    if not listed.rows:
        raise ValueError(f"{path} names classes, but no images; a list may have an image and a label in each line")
    first = content.partition(b"\n")[0].decode("utf-8", "replace").strip()
    if first.startswith(OF) and len(first) > MOST_PATH:
        raise ValueError(f"{path}, line 1: {short(first.removeprefix(OF))} is no place of images")
    if first.startswith(OF):
        try:
            whole = open_named(first.removeprefix(OF))
        except ValueError as error:
            raise ValueError(f"{path} is of images of another place, and {error}") from error
        return _chosen(path, listed, whole)
    tree = _Listed(path, listed)
    count = len(tree.files)
    images = Images(np.arange(count), np.full(count, UNSPLIT, np.uint8), np.full(count, NONE), [], tree.files)
    if tree.missing == count:
        raise ValueError(
            f"{path}: none of its {count:,} images is there, the first {short(tree.files[0])}; paths are those from "
            f"the folder of the list, {path.resolve().parent}"
        )
    source = labelled_source(tree, images, [listed], [], split_seed)
    return replace(source, layout=f"a list, {path.name}", name=path.stem)


def write_list(path: Path, source: Source, numbers: Iterable[int], data: str) -> None:
    """Write a list of some of the images of a source, in its splits; training on it is training on these.

    Args:
        data: what the source was opened by.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{OF}{data}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "label", "split"))
        for number in numbers:
            label, split = source.classes[source.labels[number]], SPLITS[source.splits[number]]
            name = source.names[number]
            if not is_text(name):
                raise ValueError(f"the name {os.fsencode(name)!r} is not UTF-8, as a list may be; rename the file")
            writer.writerow((name, label, split))


class _Listed:
    """The files that a list names, as a tree; those that are not there are found out when they are read."""

    def __init__(self, path: Path, listed: LabelFile):
        self.name, self.opener, self.missing = path.stem, FilesBelow(str(path.resolve().parent)), 0
        paths = list(dict.fromkeys(row.image for row in listed.rows))
        digest, sizes = hashlib.sha256(str(path.resolve()).encode()), []
        for image in paths:
            try:
                status = os.stat(self.opener.path(image))
                sizes.append(status.st_size)
                digest.update(f"{image} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            except (OSError, ValueError):
                sizes.append(0)
                self.missing += 1
        self.files, self.sizes, self.stamp = (
            StringTable.from_strings(paths),
            np.array(sizes, np.int64),
            digest.hexdigest(),
        )

    def place(self, number: int) -> str:
        return self.files[number]


def _chosen(path: Path, listed: LabelFile, whole: Source) -> Source:
    """Of a source, the images that a list names, with its labels and splits."""
    rows = {row.image: row for row in listed.rows}
    numbers = np.array([number for number, name in enumerate(whole.names) if name in rows], np.int64)
    chosen = [rows[whole.names[number]] for number in numbers]
    index = {name: label for label, name in enumerate(whole.classes)}
    if unknown := next((row for row in chosen if str(row.label) not in index), None):
        known = ", ".join(whole.classes[:20])
        raise ValueError(f"{path}, line {unknown.line}: the label is {unknown.label!r}; it may be one of {known}")
    problems = list(whole.problems)
    if gone := len(rows) - len(numbers):
        problems.append(Problem(f"{path.name}: {gone:,} of its images are no longer in {whole.name}"))
    return replace(
        whole,
        layout=f"{whole.layout}; of these the {len(numbers):,} in {path.name}",
        names=StringTable.from_strings(row.image for row in chosen),
        labels=np.array([index[str(row.label)] for row in chosen], np.int64),
        splits=np.array([SPLITS.index(row.split or "train") for row in chosen], np.uint8),
        place=lambda number: whole.place(int(numbers[number])),
        sizes=None if whole.sizes is None else whole.sizes[numbers],
        problems=tuple(problems),
    )
