"""Assigns classes and splits to images, by their folders and by label files."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from reprlib import repr as short

import numpy as np

from ...specs.names import listed
from ..source import SPLITS, TEST, TRAIN, Finding, ImageFileReader, Source, counted
from ..storage.string_table import StringTable
from ..storage.trees import Tree
from .label_files import Label, LabelFile, Row, is_text, split_of

UNSPLIT = len(SPLITS)
"""Split of images that are not in the folder of a split."""
NONE = -1
"""No label, or none yet."""
LABELS = (
    "a folder for each class, or a list (CSV, TSV, text or JSON lines with image and label) or a JSON map from image "
    "to label beside it"
)
"""What images must have."""


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
    tree: Tree, images: ImageFiles, files: Sequence[LabelFile], findings: Sequence[Finding] = ()
) -> Source:
    """The source that images and label files make.

    Classes are the folders of train/ that hold images, sorted; or the labels that label files give to the images of
    train/, sorted. If labels are indices, or a file gives each label an index, these are kept. Without train/, the
    other splits can be evaluated on, but not trained on.
    """
    assignment = _Assignment(tree.name, images, files)
    findings = [*findings, *(assignment.add_label_files(files) if (images.folders == NONE).any() else [])]
    has_splits = bool((assignment.splits < UNSPLIT).any())
    assignment.splits[assignment.splits == UNSPLIT] = TRAIN
    used = assignment.used_labels()
    first = next(iter(used.values()), set())
    classes, unused, class_of = class_table(tree.name, set().union(*used.values()), first, assignment.indices)
    findings += assignment.class_findings(used, classes, class_of)
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
        splits=assignment.splits[kept],
        reader=ImageFileReader(tree.open),
        locate=lambda index: tree.locate(int(indices[index])),
        files_fingerprint=tree.fingerprint,
        has_splits=has_splits,
        sizes=tree.sizes[indices],
        unused_classes=unused,
        findings=tuple(findings),
    )


def class_table(
    name: str, labels: set[Label], of_train: set[Label], declared: Mapping[str, int] | None
) -> tuple[tuple[str, ...], frozenset[str], dict[Label, int]]:
    """The classes, those that only fill gaps between indices, and the class index of each label, or NONE.

    Args:
        labels: all that images have.
        of_train: those that define the classes, unless `declared` gives the index of each.
    """
    if declared is not None:
        names = {index: label for label, index in declared.items()}
    elif all(isinstance(label, int) for label in of_train):
        names = {label: str(label) for label in labels if isinstance(label, int)}
    else:
        names = dict(enumerate(sorted(map(str, of_train))))
    if names and (min(names) < 0 or max(names) >= 10 * len(names) + 100):
        raise ValueError(
            f"{name}: class indices must start at 0 and have few gaps, because each has an output; got "
            f"{min(names)} to {max(names):,} for {len(names):,} labels"
        )
    gaps = {index: f"unused {index}" for index in range(max(names, default=0)) if index not in names}
    classes = tuple(label for _, label in sorted((names | gaps).items()))
    index_of = {label: index for index, label in enumerate(classes)}
    index_of |= {index: index for index in range(len(classes))}
    class_of = {label: index_of.get(str(label), index_of.get(label, NONE)) for label in labels}
    return classes, frozenset(gaps.values()), class_of


class _Assignment:
    """The split and the label of each image: the name of its class, an index, or None."""

    def __init__(self, root: str, images: ImageFiles, label_files: Sequence[LabelFile]):
        self.root, self.images, self.splits = root, images, images.splits.copy()
        self.labels = np.array([*images.folder_names, None], object)[images.folders]  # None is at NONE
        declaring = next((file for file in label_files if file.indices), None)
        self.indices = declaring and declaring.indices
        """Class indices that a file declares."""
        self.declared_by = declaring.name if declaring else None
        self.given = next((file.name for file in label_files if file.is_given and file.rows), None)
        self.files: list[str] = []
        """Names of the files that labeled images."""

    def add_label_files(self, files: Sequence[LabelFile]) -> list[Finding]:
        """Label the images that are not in the folder of a class; ValueError if an image has two labels."""
        lookups = [_Lookup(file) for file in files if file.rows]
        for image in np.flatnonzero(self.images.folders == NONE).tolist():
            path = self.images.paths[image]
            split = None if self.splits[image] == UNSPLIT else SPLITS[self.splits[image]]
            relevant = [lookup for lookup in lookups if None in (split, lookup.split) or lookup.split == split]
            matches = [(lookup, row) for lookup in relevant if (row := lookup.find(path))]
            if not matches:
                continue
            lookup, row = matches[0]
            for other, other_row in matches[1:]:
                if other_row.label != row.label:
                    here, there = lookup.position(row), other.position(other_row)
                    raise ValueError(f"{path} is {row.label!r} in {here}, but {other_row.label!r} in {there}")
            named = filter(None, (each_row.split or each.split for each, each_row in matches))
            if split is None and (split := next(named, None)):
                self.splits[image] = SPLITS.index(split)
            self.labels[image] = int(row.label) if lookup.only_indices else row.label
        self.files = [lookup.name for lookup in lookups if lookup.matched]
        missing = [(file, key) for file in lookups for key in file.rows if key not in file.matched]
        findings = []
        if missing:
            text = f"of missing images, first {missing[0][0].name}: {short(missing[0][1])}"
            findings.append(Finding("warning", f"{counted(len(missing), 'label')} {text}"))
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
                text = f"{folder}: skipped {counted(len(unlabeled), 'image')} without a label, first {first}"
                yield Finding("warning", text)
                continue
            remedy = f" in {self.given}" if self.given else f"; it must have {LABELS}"
            images = f"{counted(len(unlabeled), 'image')} (first {first})"
            yield Finding("error", f"{folder} has {images} without labels{remedy}")

    def used_labels(self) -> dict[int, set[Label]]:
        """The labels of each split that has any; those of the first, usually train, define the classes."""
        labels = {split: set(self.labels[self.splits == split]) - {None} for split in range(len(SPLITS))}
        return {split: used for split, used in labels.items() if used}

    def class_findings(
        self, used: dict[int, set[Label]], classes: Sequence[str], class_of: dict[Label, int]
    ) -> Iterator[Finding]:
        """Classes whose names cannot be written, and labels that are not a class."""
        for raw in (os.fsencode(name) for name in classes if not is_text(name)):
            yield Finding("error", f"{self.root}: the name of folder {raw!r} is not UTF-8; rename the folder")
        for split, labels in used.items():
            for label in sorted({str(label) for label in labels if class_of[label] == NONE}):
                folder = f"{self.root}/{SPLITS[split]}/{label}"
                declared = self.declared_by or f"{SPLITS[min(used)]}/"
                yield Finding("error", f"{folder} is not a class of {declared}, which has {listed(classes, 20)}")

    def layout(self) -> str:
        """The layout in words."""
        patterns = []
        for split in np.unique(self.images.splits).tolist():
            is_flat = (self.images.folders[self.images.splits == split] == NONE).all()
            patterns.append(f"{[*SPLITS, ''][split]}/{'' if is_flat else 'CLASS/'}IMAGE".lstrip("/"))
        return ", ".join(patterns) + (f"; labels from {', '.join(self.files)}" if self.files else "")


class _Lookup:
    """Rows of a label file, found by any of the ways to name an image."""

    def __init__(self, file: LabelFile):
        self.name = file.name
        path = PurePosixPath(file.name)
        words = () if file.is_given else (*path.parts[:-1], re.split(r"[_\-. ]", path.stem)[0])
        self.split = next((split for word in words if (split := split_of(word))), None)
        """The split that the file or its folder is named after."""
        self.rows: dict[str, Row] = {}
        self.matched: dict[str, str] = {}
        """Path of the image that a key of `rows` fits."""
        for row in file.rows:
            first = self.rows.setdefault(row.image.replace("\\", "/").removeprefix("./"), row)
            if first.label != row.label:
                labels = f"{row.label!r}, but {first.label!r} in line {first.line}"
                raise ValueError(f"{self.position(row)}: {short(row.image)} is {labels}")
        self.only_indices = all(str(row.label).isdecimal() for row in file.rows)

    def position(self, row: Row) -> str:
        return f"{self.name}, line {row.line}" if row.line else self.name  # rows of a JSON map have no line

    def find(self, path: str) -> Row | None:
        """The row of the image at a path; ValueError if it fits another image as well."""
        parts = path.split("/")
        suffixes = ("/".join(parts[first:]) for first in range(len(parts)))
        keys = (key for suffix in suffixes for key in (suffix, suffix.rpartition(".")[0]))
        key = next(filter(self.rows.__contains__, keys), None)
        if key is None:
            return None
        row, other = self.rows[key], self.matched.setdefault(key, path)
        if other != path:
            raise ValueError(
                f"{self.name}: {short(row.image)} is ambiguous, it fits {other} and {path}; write paths relative to "
                f"the folder of {self.name}"
            )
        return row
