"""Files of labels: JSON maps, and lists as CSV, TSV, text or JSON lines, with or without a header."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from reprlib import repr as short

from ..source import SPLITS
from ..storage.image_formats import is_image

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
"""Of files that may hold labels."""
CLASS_FILES = ("classes", "class_names", "classnames")
"""Stems of text files that name a class in each line, in the order of the indices."""
HEADS = {
    "image": ("image", "images", "path", "paths", "file", "files", "filename", "file_name", "filepath", "name", "id"),
    "label": ("label", "labels", "class", "classes", "target", "category", "index", "class_name", "label_name"),
    "split": ("split", "subset", "set", "part"),
}
"""Words by which a header calls its columns."""
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
MOST_JSON_BYTES = 100_000_000
"""Of a JSON file, which is read as a whole, into ten times as much memory and more."""
MOST_LINE = 100_000
"""Characters in a line of a list."""
MOST_PATH, MOST_LABEL = 4096, 255
"""Characters of the path of an image and of a label, as systems have it of paths and of folders' names."""

Label = str | int
"""The name of a class, or its index."""


class NoLabels(ValueError):
    """A file that holds no labels of images, nor names of classes."""


@dataclass(frozen=True, slots=True)
class Row:
    image: str
    label: Label
    split: str | None = None
    line: int = 0


@dataclass(frozen=True)
class LabelFile:
    """What a file says: labels of images, or which index each class has."""

    name: str
    rows: tuple[Row, ...] = ()
    indices: Mapping[str, int] | None = None


def read_labels(name: str, content: bytes, knows: Callable[[str], bool]) -> LabelFile:
    """The labels in a file.

    Args:
        name: its path, for its suffix and for messages.
        knows: whether there is an image of that path, name or stem.

    Raises:
        NoLabels: it seems to be no file of labels.
        ValueError: it seems to be one, and is damaged; the message names the line.
    """
    path = PurePosixPath(name)
    if path.suffix.lower() == ".json" and len(content) > MOST_JSON_BYTES:
        raise NoLabels(f"{name} has {len(content):,} bytes; labels in JSON may have {MOST_JSON_BYTES:,}, in CSV more")
    text = _text(name, content)
    if path.suffix.lower() == ".json":
        return _from_json(name, _parsed(name, text), knows)
    if path.stem.lower() in CLASS_FILES and path.suffix.lower() == ".txt":
        return LabelFile(
            name, indices=_indices_in_order(name, [line.strip() for line in text.splitlines() if line.strip()])
        )
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return LabelFile(name, _from_records(name, _json_lines(name, text)))
    return LabelFile(name, _from_table(name, text, knows))


def split_of(word: str) -> str | None:
    """The split that a word stands for."""
    return next((split for split in SPLITS if word.lower() in SPLIT_WORDS[split]), None)


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {line}: byte {error.start:,} is not UTF-8, as a file of labels may be"
        ) from None


def _parsed(name: str, text: str, line: int = 0):
    def once(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"{at(name, line)}: {short(twice)} stands there twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once, parse_int=partial(_whole, name, line))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {line or error.lineno}: {error.msg}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{at(name, line)} is nested too deeply for a file of labels") from None


def _whole(name: str, line: int, digits: str) -> int:
    if len(digits) > MOST_LABEL:
        raise ValueError(f"{at(name, line)}: {short(digits)} has {len(digits):,} digits; it may have {MOST_LABEL}")
    return int(digits)


def at(name: str, line: int) -> str:
    """Where a row stands, in words; rows of a JSON map have no line."""
    return f"{name}, line {line}" if line else name


def _from_json(name: str, value, knows: Callable[[str], bool]) -> LabelFile:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return LabelFile(name, _from_records(name, enumerate(value, 1)))
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return LabelFile(name, indices=_indices_in_order(name, value))
    if not isinstance(value, dict) or not value:
        raise NoLabels(f"{name} holds no map from images to labels, nor from labels to indices")
    keys = list(value)
    if sum(map(knows, keys[:100])) * 2 >= len(keys[:100]):
        for key, label in value.items():
            if wrong := _wrong(label):
                raise ValueError(f"{name}: the label of {short(key)} is {wrong}")
        return LabelFile(name, tuple(_row(name, 0, each, {"image": 0, "label": 1}) for each in value.items()))
    if all(key.isdecimal() and len(key) <= MOST_LABEL for key in keys):
        # From index to label; Keras has [id, name] there.
        named = {index: each[0] if isinstance(each, list) and each else each for index, each in value.items()}
        value = {label: int(index) for index, label in named.items() if isinstance(label, str)}
        if len(value) < len(keys):
            raise ValueError(f"{name} gives one label to two indices, or one that is no word")
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in value.values()):
        raise NoLabels(f"{name} holds neither names of images nor indices of labels")
    return LabelFile(name, indices=_checked_indices(name, value))


def _indices_in_order(name: str, classes: list[str]) -> dict[str, int]:
    indices = {label: index for index, label in enumerate(classes)}
    if not indices:
        raise ValueError(f"{name} is empty; it may name a class in each line")
    if len(indices) < len(classes):
        twice = next(label for index, label in enumerate(classes) if indices[label] != index)
        raise ValueError(f"{name} names {short(twice)} twice; each class may have one index")
    return _checked_indices(name, indices)


def _checked_indices(name: str, indices: dict[str, int]) -> dict[str, int]:
    named: dict[int, str] = {}
    for label, index in indices.items():
        if wrong := _wrong(label):
            raise ValueError(f"{name}: a label is {wrong}")
        if index in named:
            raise ValueError(f"{name} gives index {index} to {named[index]!r} and to {label!r}")
        named[index] = label
    return indices


def _json_lines(name: str, text: str) -> Iterator[tuple[int, dict]]:
    for line, each in enumerate(_lines(name, text), 1):
        if not each.strip():
            continue
        record = _parsed(name, each, line)
        if not isinstance(record, dict):
            raise ValueError(
                f"{name}, line {line}: {short(each)} is no object; it may be like {{'image': …, 'label': …}}"
            )
        yield line, record


def _from_records(name: str, records: Iterator[tuple[int, dict]]) -> tuple[Row, ...]:
    rows = []
    for line, record in records:
        columns = _named_columns(list(record))
        if columns is None:
            if not rows:
                raise NoLabels(f"{name}, line {line} has no image and label, but {short(list(record))}")
            raise ValueError(f"{name}, line {line} lacks an image or a label, unlike the lines before")
        values = list(record.values())
        rows.append(_row(name, line, values, columns))
    return tuple(rows)


def _from_table(name: str, text: str, knows: Callable[[str], bool]) -> tuple[Row, ...]:
    lines = _fields(name, text)
    first = next(lines, None)
    if first is None:
        raise NoLabels(f"{name} is empty")
    columns, start = _named_columns(first[1]), [first]
    if columns is not None:
        start = []
    else:
        columns = _columns_by_content(first[1], knows)
        if columns is None:
            head = ", ".join(HEADS["image"][:4]), ", ".join(HEADS["label"][:4])
            raise NoLabels(
                f"{name}, line {first[0]}: neither a header (an image is called {head[0]} …; a label {head[1]} …) "
                f"nor an image"
            )
    return tuple(_row(name, line, fields, columns) for part in (start, lines) for line, fields in part)


def _fields(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty, after the comments at the top."""
    comments = re.match(r"(#[^\n]*(\n|\Z))*", text)[0]
    text, before = text[len(comments) :], comments.count("\n")
    first = next((line for line in _lines(name, text, before) if line.strip()), "")
    mark = next((mark for mark in "\t,;" if mark in first), None)
    if mark is None:
        for line, each in enumerate(_lines(name, text, before), before + 1):
            if each.strip():
                yield line, _two(each.strip())
        return
    reader = csv.reader(_lines(name, text, before), delimiter=mark)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num + before, [field.strip() for field in fields]
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num + before}: {error}") from None


def _lines(name: str, text: str, before: int = 0) -> Iterator[str]:
    """One after the other, each with its end."""
    for number, match in enumerate(re.finditer(r"[^\r\n]*(\r\n|\r|\n)|[^\r\n]+", text), before + 1):
        if match.end() - match.start() > MOST_LINE:
            kind = NoLabels if match.start() == 0 else ValueError
            raise kind(f"{name}, line {number} has more than {MOST_LINE:,} characters, the most of a line of a list")
        yield match[0]


def _two(line: str) -> list[str]:
    """A line of text as path and label; the label may come first where the path has a space and ends like an image."""
    before, _, after = line.rpartition(" ")
    if not before and "\t" not in line:
        return [line]
    if is_image(after) and not is_image(before):
        before, _, after = line.partition(" ")
    return [before.strip(), after.strip()]


def _named_columns(fields: list[str]) -> dict[str, int] | None:
    """Where a header has image, label and split; None where it is no header."""
    columns: dict[str, int] = {}
    words = [field.strip().lower() for field in fields]
    for kind, names in HEADS.items():
        for word in names:
            if word in words:
                columns.setdefault(kind, words.index(word))
    return columns if {"image", "label"} <= set(columns) and columns["image"] != columns["label"] else None


def _columns_by_content(fields: list[str], knows: Callable[[str], bool]) -> dict[str, int] | None:
    if len(fields) < 2:
        return None
    for is_it in (is_image, knows):
        image = next((place for place, field in enumerate(fields) if is_it(field)), None)
        if image is not None:
            break
    else:
        return None
    others = [place for place in range(len(fields)) if place != image]
    split = next((place for place in others[1:] if split_of(fields[place])), None)
    return {"image": image, "label": others[0]} | ({} if split is None else {"split": split})


def _row(name: str, line: int, values: Sequence, columns: dict[str, int]) -> Row:
    if len(values) <= max(columns["image"], columns["label"]):
        raise ValueError(f"{name}, line {line}: {len(values)} fields; an image and a label are needed")
    image, label = values[columns["image"]], values[columns["label"]]
    if not isinstance(image, (str, int)) or isinstance(image, bool) or image == "":
        raise ValueError(f"{at(name, line)}: the image is {short(image)}; it may be a path, a name or a number")
    if len(str(image)) > MOST_PATH or "\0" in str(image) or not is_text(str(image)):
        raise ValueError(f"{at(name, line)}: {short(image)} is no path")
    if wrong := _wrong(label):
        raise ValueError(f"{at(name, line)}: the label is {wrong}")
    split = None
    if "split" in columns and len(values) > columns["split"]:
        word = str(values[columns["split"]])
        split = split_of(word)
        if split is None:
            raise ValueError(f"{at(name, line)}: the split is {short(word)}; it may be {', '.join(SPLITS)}")
    return Row(str(image), label, split, line)


def _wrong(label) -> str | None:
    """What a label is and may be, where it is none."""
    if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
        return f"{short(label)}; it may be a word or a whole number"
    if len(str(label)) > MOST_LABEL or not is_text(str(label)):
        return f"{short(label)}; it may have {MOST_LABEL} characters of text"
    return None


def is_text(word: str) -> bool:
    """Whether it can be written down: JSON may hold halves of characters, and names of folders other bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in word)
