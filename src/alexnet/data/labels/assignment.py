"""Assigns classes and splits to images, by their folders and by label files."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from reprlib import repr as short
from typing import Any

import numpy as np

from ...specs.names import counted, listed
from ...specs.settings import option
from ..source import SPLITS, TEST, TRAIN, Finding, ImageFileReader, Source
from ..storage.string_table import StringTable
from ..storage.trees import Tree
from .class_table import canonical, class_table, ignoring_case, meaning_of_integers
from .label_files import Label, LabelFile, Row, is_text
from .lookup import Lookup
from .split_names import words_of

UNSPLIT = len(SPLITS)
"""Split of images that are not in the folder of a split."""
NONE = -1
"""No label, or none yet."""
LABELS = (
    "a folder for each class, or a list (CSV, TSV, text or JSON lines with image and label) or a JSON map from image "
    "to label beside it"
)
"""What images must have."""
SEPARATORS = "|;,&+/"
"""What stands between several labels of one image."""
TEMPLATE_WORDS = {"submission", "template"}
"""In the names of lists whose labels are only examples."""


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
    layout: str
    """What the folders are, in words."""


def labeled_source(
    tree: Tree, images: ImageFiles, files: Sequence[LabelFile], findings: Sequence[Finding] = ()
) -> Source:
    """The source that images and label files make.

    Classes are the folders of train/ that hold images, sorted; or the labels that label files give to the images of
    train/, sorted. If labels are indices, or a file gives each label an index, these are kept. Without train/, the
    other splits can be evaluated on, but not trained on.
    """
    assignment = _Assignment(tree.name, images, files)
    findings = [*findings, *assignment.add_label_files()]
    has_splits = bool((assignment.splits < UNSPLIT).any())
    assignment.splits[assignment.splits == UNSPLIT] = TRAIN
    findings += assignment.settle_integers()
    used = assignment.used_labels()
    first = next(iter(used.values()), set())
    classes, unused, class_of = class_table(tree.name, set().union(*used.values()), first, assignment.declared)
    findings += assignment.class_findings(used, classes, class_of)
    labels = np.array([NONE if index is None else index for index in map(class_of.get, assignment.labels)], np.int64)
    kept = np.flatnonzero(labels != NONE)
    kept = kept[np.argsort(assignment.splits[kept], kind="stable")]
    indices, labels = images.indices[kept], labels[kept]
    label_files = ", ".join(assignment.label_files)
    return Source(
        name=tree.name,
        layout=f"{images.layout}; labels from {label_files}" if label_files else images.layout,
        classes=classes,
        names=tree.files.select(indices),
        labels=labels,
        splits=assignment.splits[kept],
        reader=ImageFileReader(tree.open),
        locate=lambda index: tree.locate(int(indices[index])),
        files_fingerprint=tree.fingerprint,
        has_splits=has_splits,
        sizes=tree.sizes[indices],
        unused_classes=unused,
        findings=tuple(findings),
        labels_from=label_files or "the names of folders",
        splits_from=", ".join(assignment.split_files) or ("the names of folders" if has_splits else ""),
    )


class _Assignment:
    """The split and the label of each image: the name of its class, an index, or None."""

    def __init__(self, root: str, images: ImageFiles, label_files: Sequence[LabelFile]):
        self.root, self.images, self.splits = root, images, images.splits.copy()
        self.folders = images.folders.copy()
        self.labels = np.array([*map(canonical, images.folder_names), None], object)[self.folders]  # None is at NONE
        self.needs_labels = bool((self.folders == NONE).any())
        self.problems: list[Finding] = []
        """Files that contradict themselves, where folders label the images anyway."""
        readable = (self._if_readable(Lookup, file) for file in label_files if file.rows)
        self.lookups = [lookup for lookup in readable if lookup]
        self.labeled_by = np.full(len(self.labels), NONE, np.int64)
        """Index into `lookups` of the file that labels each image, or NONE."""
        self.encodings = {file.name: file.encoding for file in label_files if file.encoding == "Windows-1252"}
        self.given = next((file.name for file in label_files if file.is_given and file.rows), None)
        self.declared, self.declared_by = self._declared(label_files)
        self.label_files: list[str] = []
        """Names of the files that labeled images."""
        self.split_files: list[str] = []
        """Names of the files that put images into splits."""

    def _declared(self, files: Sequence[LabelFile]) -> tuple[dict[str, int] | None, str | None]:
        """Class indices that a file declares, and its name; one among the images only if lists label some of these."""
        labels = set().union(*(lookup.labels for lookup in self.lookups))
        for file in files:
            indices = file.indices and {canonical(label): index for label, index in file.indices.items()}
            fits = self.lookups and (labels & {*(indices or ())} or all(map(str.isdecimal, labels)))
            if indices and (file.is_given or fits):
                return indices, file.name
        return None, None

    def add_label_files(self) -> list[Finding]:
        """Label the images by the files; ValueError if an image has two labels."""
        none = np.full(len(self.splits), NONE, np.int64)
        rows = [self._if_readable(self._rows_of_images, lookup) for lookup in self.lookups]  # of each image, or NONE
        rows = [none if row_of is None else row_of for row_of in rows]
        findings = self.problems + [finding for lookup in self.lookups for finding in self._reading_findings(lookup)]
        used, numbered = [], _first_of_numbered(self.lookups)
        if len(numbered) < len(self.lookups):
            left_out = listed([lookup.name for lookup in self.lookups if lookup not in numbered], 5)
            findings.append(Finding("warning", f"of several official splits the first one is used, not {left_out}"))
        for lookup, row_of in zip(self.lookups, rows, strict=True):
            if lookup not in numbered:
                continue
            if problem := self._template_problem(lookup, row_of):
                findings.append(Finding("warning", f"{lookup.name} is not used: {problem}"))
                continue
            findings += self._compare_with_folders(lookup, row_of)
            used.append((lookup, row_of))
        for image in np.flatnonzero(np.any([row_of != NONE for _, row_of in used], axis=0)).tolist() if used else ():
            matches = [(lookup, lookup.rows[row_of[image]]) for lookup, row_of in used if row_of[image] != NONE]
            self._assign(image, matches)
        missing = [(each, each.rows[i]) for each, _ in used for i in each.indices.values() if i not in each.matched]
        if missing:
            text = f"of missing images, first {missing[0][0].name}: {short(missing[0][1].image)}"
            findings.append(Finding("warning", f"{counted(len(missing), 'label')} {text}"))
        return [*findings, *self._unlisted(), *self._unlabeled()]

    def _if_readable(self, read: Callable, file: LabelFile | Lookup) -> Any:
        """What `read` makes of a file; None if it is an error, but not needed."""
        try:
            return read(file)
        except ValueError as error:
            if self.needs_labels:
                raise
            self.problems.append(Finding("warning", f"{file.name} is not used: {error}"))
            return None

    def _rows_of_images(self, lookup: Lookup) -> np.ndarray:
        """Index of the row of each image, or NONE."""
        row_of = np.full(len(self.splits), NONE, np.int64)
        in_question = (self.folders == NONE) | (self.splits == UNSPLIT)
        if lookup.split:
            in_question &= np.isin(self.splits, (UNSPLIT, SPLITS.index(lookup.split)))
        for image in np.flatnonzero(in_question).tolist():
            row = lookup.find(self.images.paths[image])
            row_of[image] = NONE if row is None else row
        return row_of

    def _reading_findings(self, lookup: Lookup) -> Iterator[Finding]:
        """What was unusual in a file."""
        if encoding := self.encodings.get(lookup.name):
            yield Finding("warning", f"{lookup.name} is not UTF-8 and was read as {encoding}; save it as UTF-8")
        repeated, most = lookup.repeated
        if repeated:
            text = f"lists {counted(repeated, 'image')} several times, up to {most} times; each counts once"
            yield Finding("warning", f"{lookup.name} {text}")

    def _template_problem(self, lookup: Lookup, row_of: np.ndarray) -> str:
        """Why the labels of a file are not the truth; "" if they may be."""
        if lookup.name == self.given:
            return ""
        if TEMPLATE_WORDS & {*words_of(lookup.name)}:
            return "it is a template of answers, by its name"
        splits = set(self.splits[row_of != NONE].tolist())
        others = set().union(*(other.labels for other in self.lookups if other is not lookup))
        if len(lookup.labels) == 1 and len(lookup.rows) >= 5 and splits == {TEST} and len(others) > 1:
            return f"it gives the same label to all {len(lookup.rows):,} images, as a template of answers does"
        return ""

    def _compare_with_folders(self, lookup: Lookup, row_of: np.ndarray) -> Iterator[Finding]:
        """Where a file labels images in folders: whether these are classes. If not, the file's labels count."""
        both = np.flatnonzero((row_of != NONE) & (self.folders != NONE))
        pairs = Counter((self.labels[image], str(lookup.rows[row_of[image]].label)) for image in both.tolist())
        pairs = Counter({pair: count for pair, count in pairs.items() if pair[1] in lookup.labels})
        if not pairs:
            return
        folders, labels = ({pair[side] for pair in pairs} for side in (0, 1))
        label_repeats, folder_repeats = len(pairs) > len(labels), len(pairs) > len(folders)
        in_folders = int((self.folders != NONE).sum())
        if labels <= folders:
            if wrong := [pair for pair in pairs if pair[0] != pair[1]]:
                count = counted(sum(pairs[pair] for pair in wrong), "image")
                first = f"first {wrong[0][1]} in the folder {wrong[0][0]}"
                text = f"{lookup.name} has other labels than the folders for {count}, {first}; the folders count"
                yield Finding("warning", text)
        elif folder_repeats and (label_repeats or len(folders) == 1) and 2 * pairs.total() >= in_folders:
            self.labels[self.folders != NONE], self.folders[:] = None, NONE
            if len(folders) > 1:
                names = listed(sorted(folders), 5)
                reason = f"{lookup.name} gives their images the same labels"
                yield Finding("warning", f"the folders {names} are not taken for classes, because {reason}")
        elif folder_repeats or label_repeats:
            text = f"{lookup.name} has other labels than the folders and is not used for them; --labels makes it count"
            yield Finding("warning", text)

    def _assign(self, image: int, matches: list[tuple[Lookup, Row]]) -> None:
        """Label an image by its rows, and put it into a split if its folder does not."""
        if self.splits[image] == UNSPLIT:
            named = ((row.split or lookup.split, lookup.name) for lookup, row in matches)
            split, file = next(((split, file) for split, file in named if split), (None, ""))
            if split:
                self.splits[image] = SPLITS.index(split)
                self.split_files += [file] if file not in self.split_files else []
        if self.folders[image] != NONE:
            return
        labels = [(lookup, row) for lookup, row in matches if str(row.label) in lookup.labels]
        for (lookup, row), (other, other_row) in zip(labels[:1] * len(labels), labels[1:], strict=False):
            if canonical(row.label) != canonical(other_row.label):
                here, there = lookup.position(row), other.position(other_row)
                path = self.images.paths[image]
                remedy = f"; name the list that counts with {option('labels')}"
                raise ValueError(f"{path} is {row.label!r} in {here}, but {other_row.label!r} in {there}{remedy}")
        if labels:
            lookup, row = labels[0]
            self.labels[image], self.labeled_by[image] = canonical(row.label), self.lookups.index(lookup)
            self.label_files += [lookup.name] if lookup.name not in self.label_files else []

    def settle_integers(self) -> Iterator[Finding]:
        """Make indices of the labels of files that are integers, unless these are names of classes."""
        by_integers = [number for number, lookup in enumerate(self.lookups) if lookup.only_integers]
        is_name = ~np.isin(self.labeled_by, by_integers) & np.array([label is not None for label in self.labels], bool)
        splits = self.splits[is_name]
        names = {str(label) for label in self.labels[is_name & (self.splits == splits.min(initial=TEST))]}
        classes = sorted(self.declared, key=self.declared.__getitem__) if self.declared else sorted(names)
        for number in by_integers:
            images, lookup = np.flatnonzero(self.labeled_by == number), self.lookups[number]
            meaning, note = {label: int(label) for label in lookup.labels}, ""
            if classes and len(images):
                meaning, note = meaning_of_integers(lookup.labels, classes, bool(self.declared))
            self.labels[images] = [meaning[str(label)] for label in self.labels[images]]
            if note:
                yield Finding("warning", f"{lookup.name}: {note}")

    def _unlisted(self) -> Iterator[Finding]:
        """Leave out images in no list, where lists say what is trained on."""
        if self.split_files and (self.splits == TRAIN).any():
            unlisted = [image for image in np.flatnonzero(self.splits == UNSPLIT) if self.labels[image] is not None]
            self.labels[unlisted] = None
            if unlisted:
                text = f"are in none of the lists {', '.join(self.split_files)} and are left out"
                first = f"first {self.images.paths[unlisted[0]]}"
                yield Finding("warning", f"{counted(len(unlisted), 'image')} {text}, {first}")

    def _unlabeled(self) -> Iterator[Finding]:
        has_label = np.array([label is not None for label in self.labels], bool)
        for split in (*range(len(SPLITS)), UNSPLIT):
            unlabeled = np.flatnonzero((self.splits == split) & ~has_label)
            if not len(unlabeled):
                continue
            first = self.images.paths[unlabeled[0]]
            folder = f"{self.root}/{SPLITS[split]}" if split < UNSPLIT else self.root
            if split == TEST or has_label[self.splits == split].any() or self.split_files:
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
        self, used: dict[int, set[Label]], classes: Sequence[str], class_of: dict[Label, int | None]
    ) -> Iterator[Finding]:
        """Classes whose names cannot be written or differ in case only, and labels that are not a class.

        Labels that differ from a class in case only get its index in `class_of`.
        """
        for raw in (os.fsencode(name) for name in classes if not is_text(name)):
            yield Finding("error", f"{self.root}: the name of folder {raw!r} is not UTF-8; rename the folder")
        for name, other in pairwise(sorted(classes, key=lambda each: (each.casefold(), each))):
            if name.casefold() == other.casefold():
                yield Finding("warning", f"{self.root}: the classes {name} and {other} differ in case only")
        for sign in SEPARATORS:
            several = [name for name in classes if sign in name and {*map(str.strip, name.split(sign))} <= {*classes}]
            if several:
                what = f"labels such as {several[0]} seem to name several classes of one image"
                yield Finding("warning", f"{self.root}: {what}; each combination is a class of its own here")
        for split, labels in used.items():
            for label in sorted({str(label) for label in labels if class_of[label] is None}):
                folder = f"{self.root}/{SPLITS[split]}/{label}"
                declared = self.declared_by or f"{SPLITS[min(used)]}/"
                if near := ignoring_case(label, classes):
                    class_of[label] = classes.index(near)
                    yield Finding("warning", f"{folder} is taken for {near} of {declared}, which differs in case only")
                else:
                    yield Finding("error", f"{folder} is not a class of {declared}, which has {listed(classes, 20)}")


def _first_of_numbered(lookups: Sequence[Lookup]) -> list[Lookup]:
    """All files but those of a second and further split: of train1.txt, test1.txt, train2.txt ... the first two."""
    by_words: dict[str, list[tuple[int, Lookup]]] = defaultdict(list)
    for lookup in lookups:
        if lookup.split and not lookup.labels and (match := re.fullmatch(r"(.*\D)(\d+)\.\w+", lookup.name)):
            by_words[match[1]].append((int(match[2]), lookup))
    least = min((number for files in by_words.values() for number, _ in files), default=0)
    later = [lookup for files in by_words.values() for number, lookup in files if number > least]
    return [lookup for lookup in lookups if lookup not in later]
