"""Label files: JSON maps, and lists as CSV, TSV, text or JSON lines, with or without a header."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MAX_JSON_BYTES = 100_000_000
"""Size of a JSON file, which takes more than ten times as much memory when it is parsed."""
MAX_LINE = 100_000
"""Characters in a line of a list."""
MAX_PATH, MAX_LABEL = 4096, 255
"""Characters of an image's path and of a label: the limits of most systems for a path and for a folder's name."""

Label = str | int
"""The name of a class, or its index."""
KnowsImage = Callable[[str], bool]
"""Whether there is an image of this path, name or stem."""


class NoLabels(ValueError):
    """The file holds neither labels of images nor names of classes."""


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


def read_labels(name: str, content: bytes, knows_image: KnowsImage) -> LabelFile:
    """Parse a label file.

    Args:
        name: its path, of which the suffix counts; shown in messages.

    Raises:
        NoLabels: it does not look like a label file.
        ValueError: it is damaged; the message names the line.
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix == ".json" and len(content) > MAX_JSON_BYTES:
        raise NoLabels(f"{name}: a JSON file must have <= {MAX_JSON_BYTES:,} bytes, got {len(content):,}; use CSV")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{name}, line {line}: label files must be UTF-8, but byte {error.start:,} is not") from None
    if suffix == ".json":
        return _from_json(name, _parse_json(name, text), knows_image)
    if suffix == ".txt" and path.stem.lower() in CLASS_FILES:
        return _from_class_list(name, [line.strip() for line in text.splitlines() if line.strip()])
    if suffix in (".jsonl", ".ndjson"):
        return LabelFile(name, _from_records(name, _json_lines(name, text)))
    return LabelFile(name, _from_table(name, text, knows_image))


def split_of(name: str) -> str | None:
    """The split that a folder, file or word is named after."""
    return next((split for split in SPLITS if name.lower() in SPLIT_NAMES[split]), None)


def position(name: str, line: int) -> str:
    """A row's position, in words; rows of a JSON map have no line."""
    return f"{name}, line {line}" if line else name


def is_text(string: str) -> bool:
    """Whether a string can be written as UTF-8; JSON may hold lone surrogates, and file names any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in string)


def _parse_json(name: str, text: str, line: int = 0):
    def without_duplicates(pairs: list[tuple[str, object]]) -> dict:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            seen: set[str] = set()
            duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"{position(name, line)}: duplicate key {short(duplicate)}")
        return parsed

    try:
        return json.loads(text, object_pairs_hook=without_duplicates, parse_int=partial(_parse_int, name, line))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {line or error.lineno}: {error.msg}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{position(name, line)}: nested too deeply for a label file") from None


def _parse_int(name: str, line: int, digits: str) -> int:
    if len(digits) > MAX_LABEL:
        raise ValueError(
            f"{position(name, line)}: {short(digits)} has {len(digits):,} digits, the limit is {MAX_LABEL}"
        )
    return int(digits)


def _from_json(name: str, value, knows_image: KnowsImage) -> LabelFile:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return LabelFile(name, _from_records(name, enumerate(value, 1)))
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return _from_class_list(name, value)
    if not isinstance(value, dict) or not value:
        raise NoLabels(f"{name} is not a map from images to labels, or from classes to indices")
    keys = list(value)
    if sum(map(knows_image, keys[:100])) * 2 >= len(keys[:100]):
        return LabelFile(name, tuple(_row(name, 0, item, {"image": 0, "label": 1}) for item in value.items()))
    if all(key.isdecimal() and len(key) <= MAX_LABEL for key in keys):
        # A map from index to class; Keras writes [id, name] for each class.
        classes = {index: each[0] if isinstance(each, list) and each else each for index, each in value.items()}
        value = {label: int(index) for index, label in classes.items() if isinstance(label, str)}
        if len(value) < len(keys):
            raise ValueError(f"{name}: each index must have a class of its own")
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in value.values()):
        raise NoLabels(f"{name} holds neither names of images nor indices of classes")
    return LabelFile(name, indices=_checked_indices(name, value.items()))


def _from_class_list(name: str, classes: list[str]) -> LabelFile:
    if not classes:
        raise ValueError(f"{name} is empty; it must name a class in each line")
    return LabelFile(name, indices=_checked_indices(name, ((label, index) for index, label in enumerate(classes))))


def _checked_indices(name: str, items: Iterable[tuple[str, int]]) -> dict[str, int]:
    indices: dict[str, int] = {}
    labels: dict[int, str] = {}
    for label, index in items:
        if problem := _label_problem(label):
            raise ValueError(f"{name}: {problem}")
        if label in indices:
            raise ValueError(f"{name}: duplicate class {short(label)}")
        if index in labels:
            raise ValueError(f"{name} gives index {index} to {labels[index]!r} and to {label!r}")
        indices[label], labels[index] = index, label
    return indices


def _json_lines(name: str, text: str) -> Iterator[tuple[int, dict]]:
    for line, each in enumerate(_lines(name, text), 1):
        if not each.strip():
            continue
        record = _parse_json(name, each, line)
        if not isinstance(record, dict):
            raise ValueError(f"{name}, line {line}: must be like {{'image': …, 'label': …}}, got {short(each)}")
        yield line, record


def _from_records(name: str, records: Iterable[tuple[int, dict]]) -> tuple[Row, ...]:
    rows = []
    for line, record in records:
        columns = _columns_by_header(list(record))
        if columns is None and not rows:
            raise NoLabels(f"{name}, line {line} must have an image and a label, got {short(list(record))}")
        if columns is None:
            raise ValueError(f"{name}, line {line} lacks an image or a label, unlike the lines before")
        rows.append(_row(name, line, list(record.values()), columns))
    return tuple(rows)


def _from_table(name: str, text: str, knows_image: KnowsImage) -> tuple[Row, ...]:
    lines = _split_lines(name, text)
    line, fields = next(lines, (0, []))
    if not line:
        raise NoLabels(f"{name} is empty")
    columns = _columns_by_header(fields)
    if columns is None:
        columns, lines = _columns_by_content(fields, knows_image), chain([(line, fields)], lines)
    if columns is None:
        image, label = (", ".join(COLUMN_NAMES[column][:4]) for column in ("image", "label"))
        raise NoLabels(
            f"{name}, line {line}: neither an image nor a header (names of the image column: {image} …; of the label "
            f"column: {label} …)"
        )
    return tuple(_row(name, line, fields, columns) for line, fields in lines)


def _split_lines(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty, after the comments at the top."""
    comments = re.match(r"(#[^\n]*(\n|\Z))*", text)[0]
    text, skipped = text[len(comments) :], comments.count("\n")
    first = next((line for line in _lines(name, text, skipped) if line.strip()), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    if delimiter is None:
        for line, each in enumerate(_lines(name, text, skipped), skipped + 1):
            if each.strip():
                yield line, _split_at_space(each.strip())
        return
    reader = csv.reader(_lines(name, text, skipped), delimiter=delimiter)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num + skipped, [field.strip() for field in fields]
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num + skipped}: {error}") from None


def _lines(name: str, text: str, skipped: int = 0) -> Iterator[str]:
    """Lines with their ends."""
    for line, match in enumerate(re.finditer(r"[^\r\n]*(\r\n|\r|\n)|[^\r\n]+", text), skipped + 1):
        if match.end() - match.start() > MAX_LINE:
            error = NoLabels if match.start() == 0 else ValueError
            raise error(f"{name}, line {line}: a line must have <= {MAX_LINE:,} characters, got more")
        yield match[0]


def _split_at_space(line: str) -> list[str]:
    """Path and label in a line of text; the label may come first if the path has spaces and ends like an image."""
    before, _, after = line.rpartition(" ")
    if not before and "\t" not in line:
        return [line]
    if is_image_file(after) and not is_image_file(before):
        before, _, after = line.partition(" ")
    return [before.strip(), after.strip()]


def _columns_by_header(fields: list[str]) -> dict[str, int] | None:
    """Indices of the image, label and split columns; None if the fields are not a header."""
    columns: dict[str, int] = {}
    header = [field.strip().lower() for field in fields]
    for column, names in COLUMN_NAMES.items():
        known = [name for name in names if name in header]
        if known:
            columns[column] = header.index(known[0])
    return columns if {"image", "label"} <= set(columns) and columns["image"] != columns["label"] else None


def _columns_by_content(fields: list[str], knows_image: KnowsImage) -> dict[str, int] | None:
    columns = range(len(fields))
    image = next((column for test in (is_image_file, knows_image) for column in columns if test(fields[column])), None)
    if len(fields) < 2 or image is None:
        return None
    label, *others = (column for column in columns if column != image)
    split = next((column for column in others if split_of(fields[column])), None)
    return {"image": image, "label": label} | ({} if split is None else {"split": split})


def _row(name: str, line: int, values: Sequence, columns: dict[str, int]) -> Row:
    where = position(name, line)
    if len(values) <= max(columns["image"], columns["label"]):
        raise ValueError(f"{where}: an image and a label are needed, got {len(values)} fields")
    image, label = values[columns["image"]], values[columns["label"]]
    if not isinstance(image, (str, int)) or isinstance(image, bool) or image == "":
        raise ValueError(f"{where}: the image must be a path, a name or an integer, got {short(image)}")
    if len(str(image)) > MAX_PATH or "\0" in str(image) or not is_text(str(image)):
        raise ValueError(f"{where}: {short(image)} is not a valid path")
    if problem := _label_problem(label):
        raise ValueError(f"{where}: {problem}{'' if line else f' for {short(image)}'}")
    split = None
    if "split" in columns and len(values) > columns["split"]:
        split = split_of(str(values[columns["split"]]))
        if split is None:
            got = short(str(values[columns["split"]]))
            raise ValueError(f"{where}: the split must be one of {', '.join(SPLITS)}, got {got}")
    return Row(str(image), label, split, line)


def _label_problem(label) -> str | None:
    if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
        return f"the label must be a name or an integer, got {short(label)}"
    if len(str(label)) > MAX_LABEL or not is_text(str(label)):
        return f"the label must be text of <= {MAX_LABEL} characters, got {short(label)}"
    return None
