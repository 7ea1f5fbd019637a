"""From image files, their folders and files of labels to classes and splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from re import split as cut_at
from reprlib import repr as short

import numpy as np

from ..source import SPLITS, TEST, TRAIN, VAL, Problem, Source, hold_out
from ..storage.string_table import StringTable
from ..storage.trees import ImageFiles, Tree
from .label_files import Label, LabelFile, Row, at, is_text, split_of

UNSPLIT = len(SPLITS)
"""Of images that are in no split's folder."""
NONE = -1
"""No label, or not known yet."""
MOST_INDICES = 10
"""Times as many indices as there are labels."""


@dataclass(frozen=True)
class Images:
    """Files of a tree that are images, and what their folders say of them."""

    numbers: np.ndarray
    """In the tree."""
    splits: np.ndarray
    """By the folder they are in: positions in SPLITS, or UNSPLIT; uint8."""
    folders: np.ndarray
    """Positions in `folder_names` of the folder that may be their class, or NONE; int64."""
    folder_names: list[str]
    paths: StringTable
    """Below the folder that holds everything."""


def labelled_source(
    tree: Tree, images: Images, files: Sequence[LabelFile], problems: Sequence[Problem], split_seed: int
) -> Source:
    """The source that image files and files of labels make.

    Classes are the folders of train/ that hold images, sorted; or the labels that files of labels give to the images
    of train/, sorted; where labels are indices, or a file gives an index to each, these are kept. What is missing is
    cut from train by class, in the order of a hash: a tenth for val, and another tenth for test where there is
    neither split. Without train/, the splits that are there can be evaluated on, but not trained.

    Args:
        problems: found so far.

    Raises:
        ValueError: the labels contradict one another.
    """
    labelled = _Labelled(images)
    found = labelled.label(tree.name, files) if (images.folders == NONE).any() else []
    has_splits = bool((labelled.splits < UNSPLIT).any())
    labelled.splits[labelled.splits == UNSPLIT] = TRAIN
    classes, unused, indices, unknown = labelled.classes(tree.name)
    labels = indices[labelled.tokens]
    kept = np.flatnonzero(labels != NONE)
    kept = kept[np.argsort(labelled.splits[kept], kind="stable")]
    numbers, labels, splits = images.numbers[kept], labels[kept], labelled.splits[kept]
    names = tree.files.select(numbers)
    present = set(splits.tolist())
    if TRAIN in present and VAL not in present:
        splits = hold_out(names, labels, splits, split_seed, "val" if TEST in present else "val and test")
    return Source(
        name=tree.name,
        layout=labelled.layout(),
        classes=classes,
        names=names,
        labels=labels,
        splits=splits,
        reader=ImageFiles(tree.opener),
        place=lambda number: tree.place(int(numbers[number])),
        stamp=tree.stamp,
        has_splits=has_splits,
        sizes=tree.sizes[numbers],
        unused=unused,
        problems=(*problems, *found, *unknown),
    )


class _Labelled:
    """What each image is labelled by: a token, which is the name of a folder, a label of a file, or an index."""

    def __init__(self, images: Images):
        self.images = images
        self.splits, self.tokens = images.splits.copy(), images.folders.copy()
        self.words: list[Label] = list(images.folder_names)
        self.indices: dict[str, int] | None = None
        self.files: list[str] = []
        """That labelled images."""

    def label(self, place: str, files: Sequence[LabelFile]) -> list[Problem]:
        """Label the images that are in no folder of a class by files of labels.

        Raises:
            ValueError: two labels are given to one image, or one to two images.
        """
        flat = np.flatnonzero(self.images.folders == NONE)
        problems = []
        given = [file for file in files if file.indices is not None]
        if given:
            self.indices = dict(given[0].indices)
        lookups = [_Lookup(file) for file in files if file.rows]
        codes: dict[Label, int] = {}
        for image in flat:
            path, split = self.images.paths[image], int(self.splits[image])
            about = [each for each in lookups if each.split in (None, split) or split == UNSPLIT]
            found = [(lookup, row) for lookup in about if (row := lookup.find(path))]
            if not found:
                continue
            lookup, row = found[0]
            for other, again in found[1:]:
                if again.label != row.label:
                    raise ValueError(
                        f"{path} is {row.label!r} by {at(lookup.name, row.line)}, and {again.label!r} by "
                        f"{at(other.name, again.line)}"
                    )
            if split == UNSPLIT:
                self.splits[image] = next(
                    (own for each, row in found if (own := each.split_of(row)) is not None), split
                )
            token = int(row.label) if lookup.only_indices else row.label
            self.tokens[image] = codes.setdefault(token, len(self.words))
            if codes[token] == len(self.words):
                self.words.append(token)
        self.files = [lookup.name for lookup in lookups if lookup.used]
        missing = sum(len(lookup.rows) - len(lookup.used) for lookup in lookups)
        if missing:
            first = next(f"{each.name}: {short(key)}" for each in lookups for key in each.rows if key not in each.used)
            problems.append(Problem(f"{missing:,} labels are of images that are not there, the first {first}"))
        return problems + list(self._unlabelled(place, flat))

    def _unlabelled(self, place: str, flat: np.ndarray) -> Iterator[Problem]:
        for split in (*range(len(SPLITS)), UNSPLIT):
            here = flat[self.splits[flat] == split]
            without = here[self.tokens[here] == NONE]
            if not len(without):
                continue
            first = self.images.paths[without[0]]
            others = (self.tokens[self.splits == split] != NONE).any()
            where = f"{place}/{SPLITS[split]}" if split < UNSPLIT else place
            if others or split == TEST:
                yield Problem(f"{where}: {len(without):,} images have no label and are left out, the first {first}")
            else:
                yield Problem(
                    f"{where} has {len(without):,} images directly in it (the first {first}), and no file says what "
                    f"they show; it may have a folder for each class, or beside it a list (CSV, TSV, text, JSON "
                    f"lines: image, label) or a JSON map from image to label",
                    fatal=True,
                )

    def classes(self, place: str) -> tuple[tuple[str, ...], frozenset[str], np.ndarray, list[Problem]]:
        """The classes, those that are but gaps between indices, the class of each token, and what is wrong with them.

        Raises:
            ValueError: the indices would make too many classes.
        """
        has_label = self.tokens != NONE
        first = min(self.splits[has_label], default=TRAIN)
        tokens = sorted(set(self.tokens[has_label & (self.splits == first)].tolist()))
        named, unused = None, frozenset()
        if self.indices is not None:
            named = {index: label for label, index in self.indices.items()}
        elif tokens and all(isinstance(self.words[token], int) for token in tokens):
            used = set(self.tokens[has_label].tolist())
            named = {self.words[token]: str(self.words[token]) for token in used if isinstance(self.words[token], int)}
        if named is not None:
            if min(named) < 0 or max(named) >= MOST_INDICES * len(named) + 100:
                raise ValueError(
                    f"{place}: indices of classes run from {min(named)} to {max(named):,} for {len(named):,} labels; "
                    f"they may begin at 0 and have few gaps, as there is an output for each"
                )
            classes = tuple(named.get(index, f"unused {index}") for index in range(max(named) + 1))
            unused = frozenset(f"unused {index}" for index in range(max(named) + 1) if index not in named)
        else:
            classes = tuple(sorted({str(self.words[token]) for token in tokens}))
        index_of = {label: index for index, label in enumerate(classes)}
        indices = np.full(len(self.words) + 1, NONE, np.int64)  # the last for NONE
        for token, word in enumerate(self.words):
            index = index_of.get(str(word), NONE)
            is_index = index == NONE and isinstance(word, int) and 0 <= word < len(classes)
            indices[token] = word if is_index else index
        problems = [
            Problem(
                f"{place} has a folder {os.fsencode(name)!r}, whose name is not UTF-8; it may be renamed", fatal=True
            )
            for name in classes
            if not is_text(name)
        ]
        return classes, unused, indices, problems + list(self._unknown(indices, classes, first, place))

    def _unknown(self, indices: np.ndarray, classes: Sequence[str], first: int, place: str) -> Iterator[Problem]:
        known = f"{', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}"
        for token in np.unique(self.tokens[self.tokens != NONE]):
            if indices[token] != NONE:
                continue
            of_it = np.flatnonzero(self.tokens == token)
            for split in sorted(set(self.splits[of_it].tolist())):
                where = f"{place}/{SPLITS[split]}/{self.words[token]}"
                images = int((self.splits[of_it] == split).sum())
                yield Problem(
                    f"{where} is of a class that {SPLITS[first]}/ lacks; it may be of {known} ({images:,} images)",
                    fatal=True,
                )

    def layout(self) -> str:
        """In words."""
        parts = []
        splits = [split for split in range(len(SPLITS)) if (self.images.splits == split).any()]
        for split in splits or [UNSPLIT]:
            where = f"{SPLITS[split]}/" if split < UNSPLIT else ""
            direct = (self.images.folders[self.images.splits == split] == NONE).all()
            parts.append(f"{where}{'IMAGE' if direct else 'CLASS/IMAGE'}")
        return ", ".join(parts) + (f"; labels from {', '.join(self.files)}" if self.files else "")


class _Lookup:
    """Rows of a file of labels, by what they call an image."""

    def __init__(self, file: LabelFile):
        self.name = file.name
        path = PurePosixPath(file.name)
        words = [split_of(word) for word in (*path.parts[:-1], *cut_at(r"[_\-. ]", path.stem)[:1])]
        split = next((word for word in words if word), None)
        self.split = SPLITS.index(split) if split else None
        """The split that it is about, where its folder or its name says."""
        self.rows = {}
        for row in file.rows:
            before = self.rows.setdefault(row.image, row)
            if before.label != row.label:
                raise ValueError(
                    f"{file.name}, line {row.line}: {short(row.image)} is {row.label!r}, "
                    f"but {before.label!r} in line {before.line}"
                )
        self.only_indices = all(str(row.label).isdecimal() for row in file.rows)
        self._keys = {image.replace("\\", "/").removeprefix("./"): row for image, row in self.rows.items()}
        self._found: dict[str, str] = {}
        self.used: set[str] = set()
        """What the rows that an image was found for call it."""

    def split_of(self, row: Row) -> int | None:
        """The split that a row puts its image into, where it or the file says."""
        return SPLITS.index(row.split) if row.split else self.split

    def find(self, path: str) -> Row | None:
        """The row of an image.

        Raises:
            ValueError: it may be another image's as well.
        """
        parts = path.split("/")
        for first in range(len(parts)):
            whole = "/".join(parts[first:])
            for key in (whole, whole.rpartition(".")[0]):
                if key not in self._keys:
                    continue
                row, other = self._keys[key], self._found.setdefault(key, path)
                if other != path:
                    raise ValueError(
                        f"{self.name} says {short(row.image)}, which may be {other} and {path}; a path from the folder "
                        f"of {self.name} tells them apart"
                    )
                self.used.add(row.image)
                return row
        return None
