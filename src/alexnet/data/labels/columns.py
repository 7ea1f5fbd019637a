"""Which columns of a list hold the image, the label and the split: by the header, and by what stands in them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..storage.image_formats import is_image_file
from .split_names import split_in, split_of, words_of

COLUMN_NAMES = {
    "image": ("image", "images", "path", "paths", "file", "files", "filename", "file_name", "filepath", "name", "id"),
    "label": ("label", "labels", "class", "classes", "target", "category", "index", "class_name", "label_name"),
    "split": ("split", "subset", "set", "part", "partition"),
}
LABEL_WORDS = {"label", "labels", "class", "classes", "target", "category", "breed", "species", "diagnosis", "dx"}
"""Words that tell the label in a header that is not in COLUMN_NAMES."""
FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}

KnowsImage = Callable[[str], bool]
"""Whether there is an image of this path, name or stem."""


@dataclass(frozen=True)
class Columns:
    """Indices of the columns."""

    image: int
    label: int | None
    split: int | None = None
    flag: str | None = None
    """The split that a true value of the split's column stands for, if it holds true and false: of is_valid, val."""
    one_hot: tuple[tuple[int, str], ...] = ()
    """Columns of 0 and 1, and the class of each, where these are the labels."""
    has_header: bool = True
    undecided: tuple[str, ...] = ()
    """Headers of several columns, of which any may be the label."""


def columns_by_header(fields: Sequence[str]) -> dict[str, int] | None:
    """Indices of the image, label and split columns; None if the fields are not a header."""
    header = [field.strip().lower() for field in fields]
    first_names = {column: next(filter(header.__contains__, names), None) for column, names in COLUMN_NAMES.items()}
    columns = {column: header.index(name) for column, name in first_names.items() if name}
    return columns if {"image", "label"} <= set(columns) and columns["image"] != columns["label"] else None


def find_columns(sample: Sequence[Sequence[str]], knows_image: KnowsImage, classes: Collection[str]) -> Columns | None:
    """The columns of a list, or None if it is not a list of images.

    The image is the column most of whose values are images, or else the one that a known header names. The label is the
    column with a known header, or with the names of classes, or the only other one; or without a header, the one after
    the image, unless it counts the rows or is always the same.

    Args:
        sample: the first rows, of which the first may be a header.
        classes: names of classes that are known already.
    """
    table = _Table(sample)
    header, by_header = table.rows[0], columns_by_header(table.rows[0])
    image = by_header["image"] if by_header else None
    for test in (knows_image, is_image_file):
        if images := [column for column in table.columns if table.fraction(column, test) >= 0.5]:
            image = min(images, key=lambda column: (_rank(header[column], "image"), -table.distinct(column), column))
            break
    if image is None:
        return None
    table.has_header = bool(by_header) or not (
        knows_image(header[image]) or is_image_file(header[image]) or len(table.rows) == 1 or header[image].isdecimal()
    )
    split, flag = table.split_column(image)
    others = [column for column in table.columns if column not in (image, split)]
    if one_hot := table.one_hot(others):
        return Columns(image, None, split, flag, one_hot)
    label = table.label_column(image, others, classes)
    may_be = [header[column] for column in others if table.has_header and table.distinct(column) > 1]
    undecided = tuple(may_be) if label is None and len(may_be) > 1 else ()
    return Columns(image, label, split, flag, (), table.has_header, undecided)


def _rank(name: str, column: str) -> int:
    names = COLUMN_NAMES[column]
    return names.index(name.lower()) if name.lower() in names else len(names)


class _Table:
    def __init__(self, rows: Sequence[Sequence[str]]):
        self.rows, self.has_header = rows, False
        self.columns = range(len(rows[0]))

    @property
    def header(self) -> Sequence[str]:
        return self.rows[0] if self.has_header else [""] * len(self.rows[0])

    def values(self, column: int) -> list[str]:
        return [row[column] for row in self.rows[self.has_header :] if column < len(row)]

    def distinct(self, column: int) -> int:
        return len(set(self.values(column)))

    def fraction(self, column: int, test: Callable[[str], object]) -> float:
        values = self.values(column)
        return sum(map(bool, map(test, values))) / max(len(values), 1)

    def split_column(self, image: int) -> tuple[int | None, str | None]:
        for column in self.columns:
            if self.header[column].lower() in COLUMN_NAMES["split"]:
                return column, None
        for column in self.columns:
            flag = next(filter(None, map(split_of, words_of(self.header[column]))), None)
            if flag and all(value.lower() in FLAGS for value in self.values(column)):
                return column, flag
            if column != image and len(self.columns) > 2 and self.fraction(column, split_in) == 1:
                return column, None
        return None, None

    def label_column(self, image: int, others: Sequence[int], classes: Collection[str]) -> int | None:
        if named := [column for column in others if self.header[column].lower() in COLUMN_NAMES["label"]]:
            return min(named, key=lambda column: _rank(self.header[column], "label"))
        if named := [column for column in others if LABEL_WORDS & {*words_of(self.header[column])}]:
            exact = [column for column in named if self.header[column].lower() in LABEL_WORDS]
            rows = {tuple(row[column] for column in named) for row in self.rows[1:] if len(row) > max(named)}
            are_the_same = all(self.distinct(column) == len(rows) for column in named)
            return exact[0] if exact else named[0] if are_the_same else None
        for test in (classes.__contains__, lambda value: value.partition(" ")[0] in classes):
            if of_classes := [column for column in others if self.fraction(column, test) >= 0.9]:
                return of_classes[0]
        others = sorted((column for column in others if not self.counts_rows(column)), key=lambda each: each < image)
        varied = [column for column in others if 1 < self.distinct(column) < len(self.values(column))]
        varied = [column for column in varied if not self.fraction(column, _is_fraction)]
        if self.has_header and len(others) > 1:  # any of them may be what is meant
            return varied[0] if len(varied) == 1 else None
        return next(iter(varied or others), None)

    def counts_rows(self, column: int) -> bool:
        """Whether a column holds the indices of the rows."""
        values = self.values(column)
        numbers = [int(value) for value in values if value.isdecimal() and len(value) < 10]
        steps = all(after == before + 1 for before, after in pairwise(numbers))
        return steps and len(numbers) == len(values) > 2 and numbers[0] in (0, 1)

    def one_hot(self, columns: Sequence[int]) -> tuple[tuple[int, str], ...]:
        """The columns of 0 and 1, if each row has a single 1, and their headers."""
        bits = [column for column in columns if self.fraction(column, lambda value: value in _BITS) == 1]
        rows = [[row[column] for column in bits] for row in self.rows[1:] if len(row) == len(self.columns)]
        is_one_hot = self.has_header and len(bits) > 1 and all(sum(map(float, row)) == 1 for row in rows)
        return tuple((column, self.header[column]) for column in bits) if rows and is_one_hot else ()


_BITS = ("0", "1", "0.0", "1.0")


def _is_fraction(value: str) -> bool:
    try:
        return not float(value).is_integer()
    except (ValueError, OverflowError):
        return False
