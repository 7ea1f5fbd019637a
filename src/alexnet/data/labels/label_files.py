"""Label files: JSON maps, and lists as CSV, TSV, text or JSON lines, with or without a header."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from reprlib import repr as short

from ..source import SPLITS
from ..storage.image_formats import is_image_file

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
CLASS_FILES = ("classes", "class_names", "classnames")
"""Stems of text files with one class per line, in the order of the indices."""
COLUMN_NAMES = {
    "image": ("image", "images", "path", "paths", "file", "files", "filename", "file_name", "filepath", "name", "id"),
    "label": ("label", "labels", "class", "classes", "target", "category", "index", "class_name", "label_name"),
    "split": ("split", "subset", "set", "part"),
}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MAX_JSON_BYTES = 100_000_000
"""Size of a JSON file, which takes more than ten times as much memory when it is parsed."""
MAX_LINE = 100_000
"""Characters in a line of a list."""
MAX_PATH, MAX_LABEL = 4096, 255
"""Characters of an image's path and of a label: the limits of most systems for a path and for a folder's name."""
OWN_LABELS = "labels must be for images in a folder, an archive or remote storage; these have labels"
"""Refuses label files that the user named for images that have labels of their own."""

Label = str | int
"""The name of a class, or its index."""
KnowsImage = Callable[[str], bool]
"""Whether there is an image of this path, name or stem."""


class LabelFileError(ValueError):
    def __init__(self, problem: str, line: int = 0):
        super().__init__(f"{f', line {line}' if line else ''}: {problem}")


class NoLabels(LabelFileError):
    """A file has neither labels of images nor names of classes, and was probably not meant to."""


@dataclass(frozen=True, slots=True)
class Row:
    image: str
    label: Label
    split: str | None = None
    line: int = 0


@dataclass(frozen=True)
class LabelFile:
    """Content of a label file: the labels of images, or the index of each class."""

    name: str
    rows: tuple[Row, ...] = ()
    indices: Mapping[str, int] | None = None
    is_given: bool = False
    """Whether the user named it; its labels then count more than folders."""


def read_labels(name: str, content: bytes, knows_image: KnowsImage) -> LabelFile:
    """Parse a label file of a kind that the suffix of its name tells.

    Raises:
        NoLabels: it does not look like a label file.
        LabelFileError: it is damaged; the message has its name and the line.
    """
    try:
        parsed = _parse(PurePosixPath(name.lower()), content, knows_image)
    except LabelFileError as error:
        error.args = (f"{name}{error}",)
        raise
    return LabelFile(name, indices=parsed) if isinstance(parsed, dict) else LabelFile(name, tuple(parsed))


def split_of(name: str) -> str | None:
    """The split that a folder, file or word is named after."""
    return SPLIT_NAMES.get(name.lower())


def is_text(string: str) -> bool:
    """Whether a string can be written as UTF-8; JSON may hold lone surrogates, and file names any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in string)


def _parse(path: PurePosixPath, content: bytes, knows_image: KnowsImage) -> Iterable[Row] | dict[str, int]:
    """The rows of a file, or the index of each class."""
    suffix = path.suffix
    if suffix == ".json" and len(content) > MAX_JSON_BYTES:
        raise NoLabels(f"a JSON file must have <= {MAX_JSON_BYTES:,} bytes, got {len(content):,}; use CSV")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LabelFileError(f"label files must be UTF-8, but byte {error.start:,} is not", line) from None
    if suffix == ".json":
        return _from_json(_parse_json(text), knows_image)
    if suffix == ".txt" and path.stem in CLASS_FILES:
        return _checked_indices(enumerate(filter(None, map(str.strip, text.splitlines()))))
    if suffix in (".jsonl", ".ndjson"):
        lines = enumerate(_lines(text), 1)
        return list(_from_records((line, _parse_json(each, line)) for line, each in lines if each.strip()))
    return list(_from_table(text, knows_image))


def _parse_json(text: str, line: int = 0):
    def without_duplicates(pairs: list[tuple[str, object]]) -> dict:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            duplicate = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise LabelFileError(f"duplicate key {short(duplicate)}", line)
        return parsed

    def parse_int(digits: str) -> int:
        if len(digits) > MAX_LABEL:
            raise LabelFileError(f"{short(digits)} has {len(digits):,} digits, the limit is {MAX_LABEL}", line)
        return int(digits)

    try:
        return json.loads(text, object_pairs_hook=without_duplicates, parse_int=parse_int)
    except json.JSONDecodeError as error:
        raise LabelFileError(f"{error.msg}, column {error.colno}", line or error.lineno) from None
    except RecursionError:
        raise LabelFileError("nested too deeply", line) from None


def _from_json(value, knows_image: KnowsImage) -> list[Row] | dict[str, int]:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return list(_from_records(enumerate(value, 1)))
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return _checked_indices(enumerate(value))
    if not isinstance(value, dict) or not value:
        raise NoLabels("not a map from images to labels, or from classes to indices")
    keys = list(value)
    if sum(map(knows_image, keys[:100])) * 2 >= len(keys[:100]):
        return [_row(item, {"image": 0, "label": 1}) for item in value.items()]
    if all(key.isdecimal() and len(key) <= MAX_LABEL for key in keys):
        # A map from index to class; Keras writes [id, name] for each class.
        classes = {index: each[0] if isinstance(each, list) and each else each for index, each in value.items()}
        value = {label: int(index) for index, label in classes.items() if isinstance(label, str)}
        if len(value) < len(keys):
            raise LabelFileError("each index must have a class of its own")
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in value.values()):
        raise NoLabels("neither names of images nor indices of classes")
    return _checked_indices((index, label) for label, index in value.items())


def _checked_indices(items: Iterable[tuple[int, str]]) -> dict[str, int]:
    """The index of each class, from pairs of both."""
    indices: dict[str, int] = {}
    labels: dict[int, str] = {}
    for index, label in items:
        check_label(label)
        if label in indices:
            raise LabelFileError(f"duplicate class {short(label)}")
        if index in labels:
            raise LabelFileError(f"index {index} is that of {labels[index]!r} and of {label!r}")
        indices[label], labels[index] = index, label
    if not indices:
        raise LabelFileError("it must name a class in each line, but is empty")
    return indices


def _from_records(records: Iterable[tuple[int, object]]) -> Iterator[Row]:
    error = NoLabels
    for line, record in records:
        if not isinstance(record, dict):
            raise LabelFileError(f"must be like {{'image': …, 'label': …}}, got {short(record)}", line)
        columns = columns_by_header(list(record))
        if columns is None:
            raise error(f"must have an image and a label, got {short(list(record))}", line)
        yield _row(list(record.values()), columns, line)
        error = LabelFileError  # a file that begins with labels is meant to have them


def _from_table(text: str, knows_image: KnowsImage) -> Iterator[Row]:
    lines = _split_lines(text)
    line, fields = next(lines, (0, []))
    columns = columns_by_header(fields)
    if columns is None:
        columns, lines = _columns_by_content(fields, knows_image), chain([(line, fields)], lines)
    if columns is None:
        image, label = (f"{', '.join(COLUMN_NAMES[column][:4])}, …" for column in ("image", "label"))
        raise NoLabels(f"neither an image nor a header with an image column ({image}) and a label ({label})", line)
    for line, fields in lines:
        yield _row(fields, columns, line)


def _split_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty, after the comments at the top."""
    comments = re.match(r"(#[^\n]*(\n|\Z))*", text)[0]
    text, skipped = text.removeprefix(comments), comments.count("\n")
    first = next((line for line in _lines(text, skipped) if line.strip()), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    lines = _lines(text, skipped)
    rows = enumerate(map(_split_at_space, lines), 1)
    if delimiter:
        reader = csv.reader(lines, delimiter=delimiter)
        rows = ((reader.line_num, row) for row in reader)
    try:
        for line, row in rows:
            if any(fields := [field.strip() for field in row]):
                yield line + skipped, fields
    except csv.Error as error:
        raise LabelFileError(f"{error}", reader.line_num + skipped) from None


def _lines(text: str, skipped: int = 0) -> Iterator[str]:
    """Lines with their ends."""
    for line, match in enumerate(re.finditer(r"[^\r\n]*(\r\n|\r|\n)|[^\r\n]+", text), skipped + 1):
        if match.end() - match.start() > MAX_LINE:
            error = NoLabels if match.start() == 0 else LabelFileError
            raise error(f"a line must have <= {MAX_LINE:,} characters, got more", line)
        yield match[0]


def _split_at_space(line: str) -> list[str]:
    """Path and label in a line of text; the label may come first if the path has spaces and ends like an image."""
    line = line.strip()
    before, _, after = line.rpartition(" ")
    if not before and "\t" not in line:
        return [line]
    if is_image_file(after) and not is_image_file(before):
        before, _, after = line.partition(" ")
    return [before, after]


def columns_by_header(fields: list[str]) -> dict[str, int] | None:
    """Indices of the image, label and split columns; None if the fields are not a header."""
    header = [field.strip().lower() for field in fields]
    first_names = {column: next(filter(header.__contains__, names), None) for column, names in COLUMN_NAMES.items()}
    columns = {column: header.index(name) for column, name in first_names.items() if name}
    return columns if {"image", "label"} <= set(columns) and columns["image"] != columns["label"] else None


def _columns_by_content(fields: list[str], knows_image: KnowsImage) -> dict[str, int] | None:
    columns = range(len(fields))
    image = next((column for test in (is_image_file, knows_image) for column in columns if test(fields[column])), None)
    if len(fields) < 2 or image is None:
        return None
    label, *others = (column for column in columns if column != image)
    split = next((column for column in others if split_of(fields[column])), None)
    return {"image": image, "label": label} | ({} if split is None else {"split": split})


def _row(values: Sequence, columns: dict[str, int], line: int = 0) -> Row:
    if len(values) <= max(columns["image"], columns["label"]):
        raise LabelFileError(f"an image and a label are needed, got {len(values)} fields", line)
    image, label = values[columns["image"]], values[columns["label"]]
    if not isinstance(image, (str, int)) or isinstance(image, bool) or image == "":
        raise LabelFileError(f"the image must be a path, a name or an integer, got {short(image)}", line)
    if len(str(image)) > MAX_PATH or "\0" in str(image) or not is_text(str(image)):
        raise LabelFileError(f"{short(image)} is not a valid path", line)
    check_label(label, line, "" if line else f" for {short(image)}")
    if "split" not in columns or len(values) <= columns["split"]:
        return Row(str(image), label, None, line)
    word = str(values[columns["split"]])
    split = split_of(word)
    if split is None:
        raise LabelFileError(f"the split must be one of {', '.join(SPLITS)}, got {short(word)}", line)
    return Row(str(image), label, split, line)


def check_label(label: object, line: int = 0, image: str = "") -> None:
    if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
        raise LabelFileError(f"a label must be a name or an integer, got {short(label)}{image}", line)
    if len(str(label)) > MAX_LABEL or not is_text(str(label)):
        raise LabelFileError(f"a label must be text of <= {MAX_LABEL} characters, got {short(label)}{image}", line)
