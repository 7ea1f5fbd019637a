"""Finds the row of an image in a label file, by any of the ways to name an image."""

import unicodedata
from collections import Counter
from functools import cached_property
from pathlib import PurePosixPath
from posixpath import splitext
from reprlib import repr as short

from .label_files import UNKNOWN_LABELS, LabelFile, Row
from .split_names import split_in


def folded(path: str) -> str:
    """A path without what two systems may write differently: case, composed characters and the suffix."""
    return unicodedata.normalize("NFC", splitext(path)[0]).casefold()


def normalized(path: str) -> str:
    """A path with "/" only, as in a tree."""
    return path.replace("\\", "/").removeprefix("./")


class Lookup:
    """Rows of a label file; ValueError if an image has two labels in it."""

    def __init__(self, file: LabelFile):
        self.name, self.rows = file.name, file.rows
        path = PurePosixPath(file.name)
        words = () if file.is_given else (path.stem, *reversed(path.parts[:-1]))
        self.split = next(filter(None, map(split_in, words)), None)
        """The split that the file or its folder is named after."""
        self.indices: dict[str, int] = {}
        """Index of the row by the path that it gives."""
        self.matched: dict[int, str] = {}
        """Path of the image that a row fits."""
        repeats: Counter[str] = Counter()
        for index, row in enumerate(file.rows):
            first = file.rows[self.indices.setdefault(normalized(row.image), index)]
            if first is not row:
                repeats[row.image] += 1
            if first.label != row.label:
                labels = f"{row.label!r}, but {first.label!r} in line {first.line}"
                raise ValueError(f"{self.position(row)}: {short(row.image)} is {labels}")
        self.repeated = len(repeats), max(repeats.values(), default=0) + 1
        """How many images are listed several times, and how often the most frequent of them is."""
        texts = {str(row.label) for row in file.rows if row.label is not None}
        self.labels = {text for text in texts if text.lower() not in UNKNOWN_LABELS}
        """All labels of the file but those that are withheld."""
        self.only_integers = all(map(str.isdecimal, self.labels))

    def position(self, row: Row) -> str:
        return f"{self.name}, line {row.line}" if row.line else self.name  # rows of a JSON map have no line

    def find(self, path: str) -> int | None:
        """Index of the row of the image at a path; ValueError if it fits another image as well."""
        parts = path.split("/")
        tails = ["/".join(parts[first:]) for first in range(len(parts))]
        exact = (self.indices.get(key) for tail in tails for key in (tail, splitext(tail)[0]))
        index = next((each for each in exact if each is not None), None)
        if index is None:
            loose = (self._folded.get(folded(tail)) for tail in tails)
            index = next((each for each in loose if each is not None), self._from_elsewhere(folded(path)))
        if index is None:
            return None
        other = self.matched.setdefault(index, path)
        if other != path:
            raise ValueError(
                f"{self.name}: {short(self.rows[index].image)} is ambiguous, it fits {other} and {path}; write paths "
                f"relative to the folder of {self.name}"
            )
        return index

    @cached_property
    def _folded(self) -> dict[str, int | None]:
        """Index of the row by folded path; None where two rows have the same."""
        rows: dict[str, int | None] = {}
        for key, index in self.indices.items():
            rows[folded(key)] = None if folded(key) in rows else index
        return rows

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Folded paths of the rows by their last part."""
        paths: dict[str, list[str]] = {}
        for path in self._folded:
            paths.setdefault(path.rpartition("/")[2], []).append(path)
        return paths

    def _from_elsewhere(self, path: str) -> int | None:
        """The row whose path, perhaps on another machine, ends like that of the image."""
        longer = [key for key in self._by_name.get(path.rpartition("/")[2], ()) if key.endswith(f"/{path}")]
        return self._folded[longer[0]] if len(longer) == 1 else None
