"""Assigns classes and splits to images, by their folders and by label files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from reprlib import repr as short

import numpy as np

from ..source import SPLITS, TEST, TRAIN, Finding, ImageFileReader, Source, hold_out
from ..storage.string_table import StringTable
from ..storage.trees import Tree
from .label_files import Label, LabelFile, Row, is_text, split_of

UNSPLIT = len(SPLITS)
"""Split of images that are not in the folder of a split."""
NONE = -1
"""No label, or none yet."""
MAX_INDICES_PER_LABEL = 10


@dataclass(frozen=True)
class ImageFiles:
    """The images of a tree, and what their folders say about them."""

    indices: np.ndarray
    """Into the files of the tree."""
    splits: np.ndarray
    """By folder: indices into SPLITS, or UNSPLIT; uint8."""
    folders: np.ndarray
    """Index into `folder_names` of the folder that may be the class, or NONE; int64."""
    folder_names: list[str]
    paths: StringTable
    """Relative to the folder that holds all images."""


def labeled_source(
    tree: Tree, images: ImageFiles, files: Sequence[LabelFile], findings: Sequence[Finding], split_seed: int
) -> Source:
    """The source that images and label files make.

    Classes are the folders of train/ that hold images, sorted; or the labels that label files give to the images of
    train/, sorted. If labels are indices, or a file gives each label an index, these are kept. Missing splits are held
    out from train. Without train/, the other splits can be evaluated on, but not trained on.

    Args:
        findings: made so far.

    Raises:
        ValueError: labels contradict one another.
    """
    assignment = _Assignment(tree.name, images)
    findings = [*findings, *(assignment.add_label_files(files) if (images.folders == NONE).any() else [])]
    has_splits = bool((assignment.splits < UNSPLIT).any())
    assignment.splits[assignment.splits == UNSPLIT] = TRAIN
    classes, unused, class_of = assignment.classes()
    findings += assignment.class_findings(classes, class_of)
    labels = np.array([class_of.get(label, NONE) for label in assignment.labels], np.int64)
    kept = np.flatnonzero(labels != NONE)
    kept = kept[np.argsort(assignment.splits[kept], kind="stable")]
    indices, labels = images.indices[kept], labels[kept]
    names = tree.files.select(indices)
    return Source(
        name=tree.name,
        layout=assignment.layout(),
        classes=classes,
        names=names,
        labels=labels,
        splits=hold_out(names, labels, assignment.splits[kept], split_seed),
        reader=ImageFileReader(tree.open),
        locate=lambda index: tree.locate(int(indices[index])),
        files_fingerprint=tree.fingerprint,
        has_splits=has_splits,
        sizes=tree.sizes[indices],
        unused_classes=unused,
        findings=tuple(findings),
    )


class _Assignment:
    """The split and the label of each image: the name of its class, an index, or None."""

    def __init__(self, root: str, images: ImageFiles):
        self.root, self.images, self.splits = root, images, images.splits.copy()
        names = [*images.folder_names, None]  # the last is at NONE
        self.labels: list[Label | None] = [names[folder] for folder in images.folders.tolist()]
        self.indices: dict[str, int] | None = None
        """Class indices that a file declares."""
        self.files: list[str] = []
        """Names of the files that labeled images."""

    def add_label_files(self, files: Sequence[LabelFile]) -> list[Finding]:
        """Label the images that are not in the folder of a class.

        Raises:
            ValueError: one image has two labels, or one label fits two images.
        """
        self.indices = next((dict(file.indices) for file in files if file.indices is not None), None)
        lookups = [_Lookup(file) for file in files if file.rows]
        for image in np.flatnonzero(self.images.folders == NONE).tolist():
            path, split = self.images.paths[image], int(self.splits[image])
            relevant = [lookup for lookup in lookups if lookup.split in (None, split) or split == UNSPLIT]
            matches = [(lookup, row) for lookup in relevant if (row := lookup.find(path))]
            if not matches:
                continue
            lookup, row = matches[0]
            for other, other_row in matches[1:]:
                if other_row.label != row.label:
                    here, there = lookup.position(row), other.position(other_row)
                    raise ValueError(f"{path} is {row.label!r} in {here}, but {other_row.label!r} in {there}")
            if split == UNSPLIT:
                splits = (each.split_of(each_row) for each, each_row in matches)
                self.splits[image] = next((each for each in splits if each is not None), UNSPLIT)
            self.labels[image] = int(row.label) if lookup.only_indices else row.label
        self.files = [lookup.name for lookup in lookups if lookup.used]
        findings = []
        if count := sum(len(lookup.rows) - len(lookup.used) for lookup in lookups):
            first = next(f"{each.name}: {short(key)}" for each in lookups for key in each.rows if key not in each.used)
            findings.append(Finding("warning", f"{count:,} labels are of missing images, the first {first}"))
        return findings + list(self._unlabeled())

    def _unlabeled(self) -> Iterator[Finding]:
        has_label = np.array([label is not None for label in self.labels], bool)
        for split in (*range(len(SPLITS)), UNSPLIT):
            unlabeled = np.flatnonzero((self.splits == split) & ~has_label)
            if not len(unlabeled):
                continue
            first = self.images.paths[unlabeled[0]]
            folder = f"{self.root}/{SPLITS[split]}" if split < UNSPLIT else self.root
            if split == TEST or has_label[self.splits == split].any():
                text = f"{folder}: {len(unlabeled):,} images without a label are skipped, first {first}"
                yield Finding("warning", text)
            else:
                yield Finding(
                    "error",
                    f"{folder} has {len(unlabeled):,} images (the first {first}) without labels; it must have a folder "
                    "for each class, or a list (CSV, TSV, text or JSON lines with image and label) or a JSON map from "
                    "image to label beside it",
                )

    def classes(self) -> tuple[tuple[str, ...], frozenset[str], dict[Label, int]]:
        """The classes, those of them that only fill gaps between indices, and the class index of each label, or NONE.

        Raises:
            ValueError: the indices would make too many classes.
        """
        labels = {label for label in self.labels if label is not None}
        first = self._first_split()
        in_first = {label for label, split in zip(self.labels, self.splits, strict=True) if split == first} - {None}
        names, unused = None, frozenset()
        if self.indices is not None:
            names = {index: name for name, index in self.indices.items()}
        elif in_first and all(isinstance(label, int) for label in in_first):
            names = {label: str(label) for label in labels if isinstance(label, int)}
        if names is None:
            classes = tuple(sorted(map(str, in_first)))
        else:
            if min(names) < 0 or max(names) >= MAX_INDICES_PER_LABEL * len(names) + 100:
                raise ValueError(
                    f"{self.root}: class indices must start at 0 and have few gaps, because each has an output; got "
                    f"{min(names)} to {max(names):,} for {len(names):,} labels"
                )
            classes = tuple(names.get(index, f"unused {index}") for index in range(max(names) + 1))
            unused = frozenset(f"unused {index}" for index in range(max(names) + 1) if index not in names)
        index_of = {name: index for index, name in enumerate(classes)}

        def class_index(label: Label) -> int:
            is_index = str(label) not in index_of and isinstance(label, int) and 0 <= label < len(classes)
            return label if is_index else index_of.get(str(label), NONE)

        return classes, unused, {label: class_index(label) for label in labels}

    def class_findings(self, classes: Sequence[str], class_of: dict[Label, int]) -> Iterator[Finding]:
        """Classes whose names cannot be written, and labels that are not a class."""
        for name in classes:
            if not is_text(name):
                raw = os.fsencode(name)
                yield Finding("error", f"{self.root}: the name of folder {raw!r} is not UTF-8; rename the folder")
        labels = zip(self.splits.tolist(), self.labels, strict=True)
        unknown = {(split, str(label)) for split, label in labels if class_of.get(label) == NONE}
        known = f"{', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}"
        for split, label in sorted(unknown):
            folder = f"{self.root}/{SPLITS[split]}/{label}"
            yield Finding("error", f"{folder} is not a class of {SPLITS[self._first_split()]}/, which has {known}")

    def _first_split(self) -> int:
        """The first split with labels, usually train; its labels define the classes."""
        labels = zip(self.splits.tolist(), self.labels, strict=True)
        return min((split for split, label in labels if label is not None), default=TRAIN)

    def layout(self) -> str:
        """The layout in words."""
        patterns = []
        splits = [split for split in range(len(SPLITS)) if (self.images.splits == split).any()]
        for split in splits or [UNSPLIT]:
            is_flat = (self.images.folders[self.images.splits == split] == NONE).all()
            folder = f"{SPLITS[split]}/" if split < UNSPLIT else ""
            patterns.append(f"{folder}{'IMAGE' if is_flat else 'CLASS/IMAGE'}")
        return ", ".join(patterns) + (f"; labels from {', '.join(self.files)}" if self.files else "")


class _Lookup:
    """Rows of a label file, found by any of the ways to name an image."""

    def __init__(self, file: LabelFile):
        self.name = file.name
        path = PurePosixPath(file.name)
        words = (*path.parts[:-1], re.split(r"[_\-. ]", path.stem)[0])
        split = next((split for word in words if (split := split_of(word))), None)
        self.split = SPLITS.index(split) if split else None
        """The split that the file or its folder is named after."""
        self.rows: dict[str, Row] = {}
        for row in file.rows:
            first = self.rows.setdefault(row.image, row)
            if first.label != row.label:
                labels = f"{row.label!r}, but {first.label!r} in line {first.line}"
                raise ValueError(f"{self.position(row)}: {short(row.image)} is {labels}")
        self.only_indices = all(str(row.label).isdecimal() for row in file.rows)
        self._keys = {image.replace("\\", "/").removeprefix("./"): row for image, row in self.rows.items()}
        self._matched: dict[str, str] = {}
        """Path of the image that matched each key."""
        self.used: set[str] = set()
        """`image` of the rows that matched."""

    def position(self, row: Row) -> str:
        """Where a row stands, in words; rows of a JSON map have no line."""
        return f"{self.name}, line {row.line}" if row.line else self.name

    def split_of(self, row: Row) -> int | None:
        """The split of a row: its own, or that of the file."""
        return SPLITS.index(row.split) if row.split else self.split

    def find(self, path: str) -> Row | None:
        """The row of the image at a path.

        Raises:
            ValueError: the row fits another image as well.
        """
        parts = path.split("/")
        for first in range(len(parts)):
            suffix = "/".join(parts[first:])
            for key in (suffix, suffix.rpartition(".")[0]):
                if key not in self._keys:
                    continue
                row, other = self._keys[key], self._matched.setdefault(key, path)
                if other != path:
                    raise ValueError(
                        f"{self.name}: {short(row.image)} is ambiguous, it fits {other} and {path}; write paths "
                        f"relative to the folder of {self.name}"
                    )
                self.used.add(row.image)
                return row
        return None
