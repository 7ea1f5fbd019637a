"""Label files: JSON maps, and lists as CSV, TSV, text or JSON lines, with or without a header."""

import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import PurePosixPath
from reprlib import repr as short

from ...specs.names import counted, listed
from ..source import SPLITS
from ..storage.image_formats import is_image_file
from .columns import COLUMN_NAMES, FLAGS, Columns, KnowsImage, find_columns
from .exports import records_of_exports
from .split_names import split_in, split_of, words_of

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".lst", ".txt")
CLASS_FILES = ("classes", "class_names", "classnames")
"""Stems of text files with one class per line, in the order of the indices."""
MAP_WORDS = set(
    ["index", "indices", "idx", "class", "classes", "label", "labels", "map", "mapping", "names", "categories"]
)
"""In the name of a JSON map from classes to indices; a map by another name must count from 0 or 1, without gaps."""
COUNT_WORDS = {"count", "counts", "number", "numbers", "stats", "statistics", "weight", "weights", "size", "sizes"}
"""In the name of a JSON map that gives classes other numbers than indices."""
UNKNOWN_LABELS = ("-1", "?", "nan", "none", "null", "n/a", "")
"""What stands where a label is withheld."""
SAMPLE = 200
"""Rows by which the columns of a list are found."""
MAX_JSON_BYTES = 100_000_000
"""Size of a JSON file, which takes more than ten times as much memory when it is parsed."""
MAX_LINE = 100_000
"""Characters in a line of a list."""
MAX_EMPTY_LINES = 1_000_000
EMPTY_LINE = re.compile(r"(?>\r\n|\r|\n)[ \t]*(?=[\r\n])")
MAX_PATH, MAX_LABEL = 4096, 255
"""Characters of an image's path and of a label: the limits of most systems for a path and for a folder's name."""
UNDECIDED = "it does not say which of its columns is the label"
PIXELS = "it holds pixels as numbers; pass them as arrays, classifier.fit((X, y)) in Python"
OWN_LABELS = "labels must be for images in a folder, an archive or remote storage; these have labels"
"""Refuses label files that the user named for images that have labels of their own."""

Label = str | int
"""The name of a class, or its index."""


class LabelFileError(ValueError):
    def __init__(self, problem: str, line: int = 0):
        super().__init__(f"{f', line {line}' if line else ''}: {problem}")


class NoLabels(LabelFileError):
    """A file has neither labels of images nor names of classes, and was probably not meant to."""


@dataclass(frozen=True, slots=True)
class Row:
    image: str
    label: Label | None
    """None if the list only says that the image belongs to a split, or withholds its label."""
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
    encoding: str = "UTF-8"


def read_labels(
    name: str, content: bytes, knows_image: KnowsImage, classes: Collection[str] = frozenset()
) -> LabelFile:
    """Parse a label file of a kind that the suffix of its name tells.

    Args:
        classes: names of classes that are known already.

    Raises:
        NoLabels: it does not look like a label file.
        LabelFileError: it is damaged; the message has its name and the line.
    """
    text, encoding, bad_byte = _decoded(content)
    try:
        parsed = _parse(PurePosixPath(name), text, _Known(knows_image, classes))
        if bad_byte:
            raise bad_byte
    except LabelFileError as error:
        error = bad_byte if bad_byte and not isinstance(error, NoLabels) else error
        error.args = (f"{name}{error}",)
        raise error from None
    if isinstance(parsed, dict):
        return LabelFile(name, indices=parsed, encoding=encoding)
    return LabelFile(name, tuple(parsed), encoding=encoding)


@dataclass(frozen=True)
class _Known:
    """What is known of the images of a list before it is read."""

    image: KnowsImage
    classes: Collection[str]

    def are_images(self, keys: Iterable[object]) -> bool:
        """Whether most of the first keys name images."""
        first = [key for key in islice(keys, 100)]
        return bool(first) and sum(isinstance(key, str) and self.image(key) for key in first) * 2 >= len(first)


def _decoded(content: bytes) -> tuple[str, str, LabelFileError | None]:
    """Text, its encoding (UTF-8, UTF-16 with its mark, or Windows-1252, as Excel writes it), and what is wrong."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("utf-16"), "UTF-16", None
    try:
        return content.decode("utf-8-sig"), "UTF-8", None
    except UnicodeDecodeError as error:
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("cp1252"), "Windows-1252", None
        line = content[: error.start].count(b"\n") + 1
        problem = LabelFileError(f"label files must be UTF-8, but byte {error.start:,} is not", line)
        return content.decode("latin-1"), "", problem


def is_text(string: str) -> bool:
    """Whether a string can be written as UTF-8; JSON may hold lone surrogates, and file names any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in string)


def _parse(path: PurePosixPath, text: str, known: _Known) -> Iterable[Row] | dict[str, int]:
    """The rows of a file, or the index of each class."""
    suffix = path.suffix.lower()
    if any(islice(EMPTY_LINE.finditer(text), MAX_EMPTY_LINES, None)):
        raise NoLabels(f"it must have <= {MAX_EMPTY_LINES:,} empty lines, got more")
    if suffix == ".json" and len(text) > MAX_JSON_BYTES:
        raise NoLabels(f"a JSON file must have <= {MAX_JSON_BYTES:,} bytes, got {len(text):,}; use CSV")
    if suffix == ".json":
        parsed = _from_json(_parse_json(text), known)
        if isinstance(parsed, dict) and not _may_be_indices(path.stem, [*parsed.values()]):
            raise NoLabels("its numbers are not the indices of classes")
        return parsed
    if suffix == ".txt" and path.stem.lower() in CLASS_FILES:
        return _checked_indices(enumerate(_without_numbers([*filter(None, map(str.strip, text.splitlines()))])))
    if suffix in (".jsonl", ".ndjson"):
        lines = enumerate(_lines(text), 1)
        return list(_from_records([(line, _parse_json(each, line)) for line, each in lines if each.strip()], known))
    return list(_from_table(path, text, known))


def _without_numbers(names: list[str]) -> list[str]:
    """Names without the running numbers that stand before them, if they do."""
    numbers = [name.partition(" ")[0] for name in names]
    counts = ([*map(str, range(first, first + len(names)))] for first in (0, 1))
    are_numbered = len(names) > 1 and numbers in counts
    return [name.partition(" ")[2].strip() or name for name in names] if are_numbered else names


def _may_be_indices(stem: str, indices: list[int]) -> bool:
    words = {*words_of(stem)}
    is_counting = sorted(indices) in ([*range(len(indices))], [*range(1, len(indices) + 1)])
    return not words & COUNT_WORDS and (is_counting or bool(words & MAP_WORDS))


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
        raise LabelFileError(f"not valid JSON ({error.msg}, column {error.colno})", line or error.lineno) from None
    except RecursionError:
        raise LabelFileError("nested too deeply", line) from None


def _from_json(value, known: _Known) -> list[Row] | dict[str, int]:
    """What a JSON file says; docs/data.md lists the forms."""
    if isinstance(value, list) and value:
        return _from_json_list(value, known)
    if not isinstance(value, dict) or not value:
        raise NoLabels("not a map from images to labels, or from classes to indices")
    try:
        exported = records_of_exports(value)
    except (AttributeError, KeyError, TypeError) as error:
        raise LabelFileError(f"a damaged export: {error!r}") from None
    if exported:
        return list(_from_records([*enumerate(exported, 1)], known))
    if all(map(split_of, value)) and all(isinstance(part, (dict, list)) for part in value.values()):
        rows = ((split_of(split), row) for split, part in value.items() for row in _from_json(part, known))
        return [replace(row, split=split) for split, row in rows]
    inner, *others = value.values()
    if not others and isinstance(inner, list) and inner and isinstance(inner[0], (dict, list)):
        return _from_json(inner, known)  # {"labels": [["a.jpg", 3], …]}
    if known.are_images(value):
        return [_row(item, Columns(0, 1)) for item in value.items()]
    members = [(member, label) for label, each in value.items() if isinstance(each, list) for member in each]
    if members and known.are_images(member for member, _ in members):
        return [_row(member, Columns(0, 1)) for member in members]
    return _indices_of_map(value)


def _from_json_list(value: list, known: _Known) -> list[Row] | dict[str, int]:
    if all(isinstance(each, dict) for each in value):
        return list(_from_records([*enumerate(value, 1)], known))
    if all(isinstance(each, str) for each in value):
        return [Row(each, None) for each in value] if known.are_images(value) else _checked_indices(enumerate(value))
    if all(isinstance(each, list) and each for each in value):
        sample = [[str(field) for field in each] for each in value[:SAMPLE]]
        if columns := find_columns(sample, known.image, known.classes):
            return [_row(each, columns) for each in value]
    raise NoLabels("not a map from images to labels, or from classes to indices")


def _indices_of_map(value: dict) -> dict[str, int]:
    keys = list(value)
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


def _from_records(records: Sequence[tuple[int, object]], known: _Known) -> Iterator[Row]:
    """Rows of JSON objects with the same keys."""
    keys: list[str] = []
    columns = None
    for line, record in records:
        if not isinstance(record, dict):
            raise LabelFileError(f"must be like {{'image': …, 'label': …}}, got {short(record)}", line)
        if not keys:
            keys = list(record)
            sample = [each for _, each in records[:SAMPLE] if isinstance(each, dict)]
            rows = [keys, *([str(each.get(key, "")) for key in keys] for each in sample)]
            columns = find_columns(rows, known.image, known.classes)
        if columns is None or columns.image is None:
            raise NoLabels(f"must have an image and a label, got {short(keys)}", line)
        needed = [keys[each] for each in (columns.image, columns.label) if each is not None]
        if absent := [key for key in needed if key not in record]:
            raise LabelFileError(f"must have an image and a label, but lacks {absent[0]!r}", line)
        yield _row([record.get(key, "") for key in keys], columns, line)


def _from_table(path: PurePosixPath, text: str, known: _Known) -> Iterator[Row]:
    lines = _split_lines(text, known.image)
    sample = _with_whole_header(list(islice(lines, SAMPLE)))
    columns = find_columns([fields for _, fields in sample], known.image, known.classes) if sample else None
    if columns is None:
        image, label = (f"{', '.join(COLUMN_NAMES[column][:4])}, …" for column in ("image", "label"))
        problem = f"neither an image nor a header with an image column ({image}) and a label ({label})"
        if sample and any("pixel" in field.lower() for field in sample[0][1]):
            problem = PIXELS
        raise NoLabels(problem, sample[0][0] if sample else 0)
    words = {*words_of(path.stem)}
    if columns.undecided and columns.split is None and not split_in(path.stem):
        several = listed(columns.undecided, 5)
        raise NoLabels(f"{UNDECIDED} ({several}); a list of two columns does")
    if columns.split is None and len(sample[0][1]) == 2 and words & {"partition", "split", "splits"}:
        splits = [fields[1 - columns.image] for _, fields in sample[columns.has_header :] if len(fields) == 2]
        if all(each in ("0", "1", "2") or split_of(each) for each in splits):
            columns = replace(columns, split=1 - columns.image, label=None)
    takes_first_word = _labels_begin_with_class([fields for _, fields in sample], columns, known.classes)
    for line, fields in chain(sample[columns.has_header :], lines):
        row = _row(fields, columns, line)
        yield replace(row, label=str(row.label).partition(" ")[0]) if takes_first_word else row


def _with_whole_header(sample: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Lines without the number of images that may come first, and with a name for a first column that has none."""
    if len(sample) > 2 and len(sample[0][1]) == 1 and sample[0][1][0].isdecimal() and len(sample[1][1]) > 1:
        sample = sample[1:]
    if len(sample) > 1:
        line, header = sample[0]
        names = " ".join(header).split()
        if 2 < len(names) + 1 == len(sample[1][1]) != len(header):
            sample = [(line, ["image", *names]), *sample[1:]]
    return sample


def _labels_begin_with_class(sample: list[list[str]], columns: Columns, classes: Collection[str]) -> bool:
    """Whether class and boxes stand in one column, as in ImageNet's LOC_val_solution.csv."""
    if columns.label is None:
        return False
    labels = [fields[columns.label] for fields in sample[1:] if len(fields) > columns.label]
    begin = sum(label not in classes and label.partition(" ")[0] in classes for label in labels)
    return begin * 2 > len(labels)


def _split_lines(text: str, knows_image: KnowsImage) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty, after the comments at the top and Excel's sep=;"""
    comments = re.match(r"(?:#[^\n]*+(?:\n|\Z))*+(?:sep=.\r?\n)?", text)[0]
    text, skipped = text.removeprefix(comments), comments.count("\n")
    first = next((line for line in _lines(text, skipped) if line.strip()), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    lines = _lines(text, skipped)
    rows = enumerate((_split_at_space(line, knows_image) for line in lines), 1)
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


def _split_at_space(line: str, knows_image: KnowsImage) -> list[str]:
    """Path and label in a line of text; the label may come first if the path has spaces and ends like an image."""
    line = line.strip()
    before, _, after = line.rpartition(" ")
    if (not before and "\t" not in line) or (knows_image(line) and not (before.isdecimal() or knows_image(before))):
        return [line]
    if len(fields := line.split()) > 2 and knows_image(fields[0]):
        return fields
    if is_image_file(after) and not is_image_file(before):
        before, _, after = line.partition(" ")
    return [before, after]


def _row(values: Sequence, columns: Columns, line: int = 0) -> Row:
    if len(values) <= max(columns.image, columns.label or 0):
        raise LabelFileError(f"a line must have an image and a label, got {counted(len(values), 'field')}", line)
    image, label = values[columns.image], None if columns.label is None else values[columns.label]
    if not isinstance(image, (str, int)) or isinstance(image, bool) or image == "":
        raise LabelFileError(f"the image must be a path, a name or an integer, got {short(image)}", line)
    if len(str(image)) > MAX_PATH or "\0" in str(image) or not is_text(str(image)):
        raise LabelFileError(f"{short(image)} is not a valid path", line)
    if columns.one_hot:
        label = next((name for index, name in columns.one_hot if float(values[index] or 0)), None)
    if columns.label is not None or columns.one_hot:
        check_label(label, line, "" if line else f" for {short(image)}")
    return Row(str(image), label, _split(values, columns, line), line)


def _split(values: Sequence, columns: Columns, line: int) -> str | None:
    if columns.split is None or len(values) <= columns.split:
        return None
    word = str(values[columns.split])
    if columns.flag:
        is_set = FLAGS.get(word.lower(), False)
        return columns.flag if is_set else "test" if columns.flag == "train" else "train"
    split = SPLITS[int(word)] if word in ("0", "1", "2") else split_in(word)  # as CelebA and WILDS count them
    if split is None:
        raise LabelFileError(f"the split must be one of {', '.join(SPLITS)}, got {short(word)}", line)
    return split


def check_label(label: object, line: int = 0, image: str = "") -> None:
    if not isinstance(label, (str, int)) or isinstance(label, bool) or label == "":
        raise LabelFileError(f"a label must be a name or an integer, got {short(label)}{image}", line)
    if len(str(label)) > MAX_LABEL or not is_text(str(label)):
        raise LabelFileError(f"a label must be text of <= {MAX_LABEL} characters, got {short(label)}{image}", line)
