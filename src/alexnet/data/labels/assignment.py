"""Assigns classes and splits to images, by their folders and by label files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from reprlib import repr as short

import numpy as np

from ..source import SPLITS, TEST, TRAIN, Finding, Source, hold_out
from ..storage.string_table import StringTable
from ..storage.trees import ImageFileReader, Tree
from .label_files import Label, LabelFile, Row, is_text, position, split_of

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
    labels = class_of[assignment.tokens]
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
    """A token for each image: an index into `labels`, which holds folder names, labels of files and class indices."""

    def __init__(self, root: str, images: ImageFiles):
        self.root, self.images = root, images
        self.splits, self.tokens = images.splits.copy(), images.folders.copy()
        self.labels: list[Label] = list(images.folder_names)
        self.indices: dict[str, int] | None = None
        """Class indices that a file declares."""
        self.files: list[str] = []
        """Names of the files that labeled images."""

    def add_label_files(self, files: Sequence[LabelFile]) -> list[Finding]:
        """Label the images that are not in the folder of a class.

        Raises:
            ValueError: one image has two labels, or one label may be that of two images.
        """
        self.indices = next((dict(file.indices) for file in files if file.indices is not None), None)
        lookups = [_Lookup(file) for file in files if file.rows]
        tokens: dict[Label, int] = {}
        flat = np.flatnonzero(self.images.folders == NONE)
        for image in flat:
            path, split = self.images.paths[image], int(self.splits[image])
            relevant = [lookup for lookup in lookups if lookup.split in (None, split) or split == UNSPLIT]
            matches = [(lookup, row) for lookup in relevant if (row := lookup.find(path))]
            if not matches:
                continue
            lookup, row = matches[0]
            for other, other_row in matches[1:]:
                if other_row.label != row.label:
                    raise ValueError(
                        f"{path} is {row.label!r} in {position(lookup.name, row.line)}, but {other_row.label!r} in "
                        f"{position(other.name, other_row.line)}"
                    )
            if split == UNSPLIT:
                named = (each.split_of(each_row) for each, each_row in matches)
                self.splits[image] = next((each for each in named if each is not None), UNSPLIT)
            label = int(row.label) if lookup.only_indices else row.label
            self.tokens[image] = tokens.setdefault(label, len(self.labels))
            if tokens[label] == len(self.labels):
                self.labels.append(label)
        self.files = [lookup.name for lookup in lookups if lookup.used]
        findings = []
        if count := sum(len(lookup.rows) - len(lookup.used) for lookup in lookups):
            first = next(f"{each.name}: {short(key)}" for each in lookups for key in each.rows if key not in each.used)
            findings.append(Finding("warning", f"{count:,} labels are of missing images, the first {first}"))
        return findings + list(self._unlabeled(flat))

    def _unlabeled(self, flat: np.ndarray) -> Iterator[Finding]:
        for split in (*range(len(SPLITS)), UNSPLIT):
            unlabeled = flat[(self.splits[flat] == split) & (self.tokens[flat] == NONE)]
            if not len(unlabeled):
                continue
            first = self.images.paths[unlabeled[0]]
            others_have_labels = (self.tokens[self.splits == split] != NONE).any()
            folder = f"{self.root}/{SPLITS[split]}" if split < UNSPLIT else self.root
            if others_have_labels or split == TEST:
                text = f"{folder}: {len(unlabeled):,} images without a label are skipped, first {first}"
                yield Finding("warning", text)
            else:
                yield Finding(
                    "error",
                    f"{folder} has {len(unlabeled):,} images (the first {first}) without labels; it must have a folder "
                    "for each class, or a list (CSV, TSV, text or JSON lines with image and label) or a JSON map from "
                    "image to label beside it",
                )

    def classes(self) -> tuple[tuple[str, ...], frozenset[str], np.ndarray]:
        """The classes, those of them that only fill gaps between indices, and the class index of each token, or NONE.

        Raises:
            ValueError: the indices would make too many classes.
        """
        has_label = self.tokens != NONE
        labeled = set(self.tokens[has_label].tolist())
        tokens = set(self.tokens[has_label & (self.splits == self._first_split())].tolist())  # these define the classes
        names = None
        if self.indices is not None:
            names = {index: label for label, index in self.indices.items()}
        elif tokens and all(isinstance(self.labels[token], int) for token in tokens):
            names = {self.labels[t]: str(self.labels[t]) for t in labeled if isinstance(self.labels[t], int)}
        unused: frozenset[str] = frozenset()
        if names is None:
            classes = tuple(sorted({str(self.labels[token]) for token in tokens}))
        else:
            if min(names) < 0 or max(names) >= MAX_INDICES_PER_LABEL * len(names) + 100:
                raise ValueError(
                    f"{self.root}: class indices must start at 0 and have few gaps, because each has an output; got "
                    f"{min(names)} to {max(names):,} for {len(names):,} labels"
                )
            classes = tuple(names.get(index, f"unused {index}") for index in range(max(names) + 1))
            unused = frozenset(f"unused {index}" for index in range(max(names) + 1) if index not in names)
        index_of = {name: index for index, name in enumerate(classes)}
        class_of = np.full(len(self.labels) + 1, NONE, np.int64)  # the last is for NONE
        for token, label in enumerate(self.labels):
            is_index = str(label) not in index_of and isinstance(label, int) and 0 <= label < len(classes)
            class_of[token] = label if is_index else index_of.get(str(label), NONE)
        return classes, unused, class_of

    def _first_split(self) -> int:
        """The first split with labels, usually train."""
        return min(self.splits[self.tokens != NONE], default=TRAIN)

    def class_findings(self, classes: Sequence[str], class_of: np.ndarray) -> Iterator[Finding]:
        """Classes whose names cannot be written, and labels that are not a class."""
        for name in classes:
            if not is_text(name):
                raw = os.fsencode(name)
                yield Finding("error", f"{self.root}: the name of folder {raw!r} is not UTF-8; rename the folder")
        known = f"{', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}"
        for token in np.unique(self.tokens[self.tokens != NONE]):
            if class_of[token] != NONE:
                continue
            for split in np.unique(self.splits[self.tokens == token]):
                label = f"{self.root}/{SPLITS[split]}/{self.labels[token]}"
                yield Finding("error", f"{label} is not a class of {SPLITS[self._first_split()]}/, which has {known}")

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
                raise ValueError(
                    f"{file.name}, line {row.line}: {short(row.image)} is {row.label!r}, "
                    f"but {first.label!r} in line {first.line}"
                )
        self.only_indices = all(str(row.label).isdecimal() for row in file.rows)
        self._keys = {image.replace("\\", "/").removeprefix("./"): row for image, row in self.rows.items()}
        self._matched: dict[str, str] = {}
        """Path of the image that matched each key."""
        self.used: set[str] = set()
        """`image` of the rows that matched."""

    def split_of(self, row: Row) -> int | None:
        """The split of a row: its own, or that of the file."""
        return SPLITS.index(row.split) if row.split else self.split

    def find(self, path: str) -> Row | None:
        """The row of the image at a path.

        Raises:
            ValueError: the row may be another image's as well.
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
                        f"{self.name}: {short(row.image)} is ambiguous, it may be {other} or {path}; write paths "
                        f"relative to the folder of {self.name}"
                    )
                self.used.add(row.image)
                return row
        return None
