"""Files of class names, in the forms in which they lie beside weights."""

import ast
import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..data.labels.label_files import MAX_JSON_BYTES, LabelFileError, NoLabels, check_label, read_labels

LIST_KEYS = ("names", "classes", "class_names", "labels", "id2label", "label_names", "categories")
"""Under which JSON and YAML have the names among other things."""
INDEX_COLUMNS = ("id", "index", "idx", "label", "class", "class_id", "classid", "target", "number", "class_index")
NAME_COLUMNS = ("name", "class_name", "classname", "label_name", "label", "class", "category", "display_name", "title")
"""Headings of the columns of a table, the likeliest first; "label" may be either."""
INDEX_FIRST = re.compile(r"""["']?(\d{1,9})["']?\s*[\s,:;=.)\]]\s*(\S.*)""")
INDEX_LAST = re.compile(r"(\S.*?)\s*[\s,:;=]\s*(\d{1,9})")
JSON = "names.json"
WORDNET = re.compile(r"(n[0-9]{8})[\s,:].*")


def read_classes(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names as given, or in the order of the scores from a file.

    It may have a name per line, with or without its index before or after it; be JSON, YAML or a dict of Python: a list
    of names, or names by index, or indices by name; or CSV with a header. In "n01440764 tench, Tinca tinca" and in
    ["n01440764", "tench"], the name is the WordNet ID, as ImageNet's folders have it.

    Raises:
        ValueError: the file cannot be read or has other content, or a name is there twice.
    """
    names, source = classes, "classes"
    if isinstance(classes, (str, Path)):
        source = path = Path(classes).expanduser()
        if not path.is_file():
            raise ValueError(f"{path} does not exist; classes must be names or a file with names")
        try:
            names = [WORDNET.sub(r"\1", name) for name in _names(path.read_bytes())]
        except LabelFileError as error:
            raise ValueError(f"{path} has no usable class names{str(error).removeprefix(JSON)}") from error
    if not len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes must be names in the order of the scores, or a file with names, got {classes!r}")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        indices = [index for index, name in enumerate(names) if name == repeated[0]]
        imagenet = "; without it, 1,000 classes are those of ImageNet" if len(names) == 1000 else ""
        raise ValueError(
            f"class names must be distinct; {source} has {repeated[0]!r} twice, as classes {indices[0]} and "
            f"{indices[1]}: rename one{imagenet}"
        )
    return tuple(names)


def _names(content: bytes) -> list[str]:
    """The names in a file, by index."""
    if len(content) > MAX_JSON_BYTES:
        raise LabelFileError(f"it must have <= {MAX_JSON_BYTES:,} bytes, got {len(content):,}")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LabelFileError(f"it must be UTF-8, but byte {error.start:,} is not", line) from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise LabelFileError("it is empty")
    if text[0] in "[{(\"'":
        try:
            return _of_value(_parsed(text))
        except LabelFileError:
            if text[0] in "[{(" or len(lines) == 1:
                raise
    for read in (_of_table, _of_yaml, _of_lines):
        if (names := read(lines)) is not None:
            return names
    return lines


def _parsed(text: str):
    """The value of JSON or of a literal of Python."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        try:
            return ast.literal_eval(text)  # builds constants and runs nothing
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise LabelFileError(f"not valid JSON ({error.msg}, column {error.colno})", error.lineno) from None
    except (RecursionError, ValueError):
        raise LabelFileError("nested too deeply, or with too long a number") from None


def _of_value(value) -> list[str]:
    """The names in what JSON, YAML or Python hold."""
    if isinstance(value, dict) and (keys := [key for key in LIST_KEYS if isinstance(value.get(key), (dict, list))]):
        value = value[keys[0]]
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, dict) for each in value):
        header = list(value[0])
        return _by_columns(header, [[str(each.get(column, "")) for column in header] for each in value])
    try:
        indices = read_labels(JSON, json.dumps(value).encode(), knows_image=lambda name: False).indices or {}
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, LabelFileError) and not isinstance(error, NoLabels):
            raise
        raise LabelFileError("neither a list of names, nor names by index, nor indices by name") from None
    return sorted(indices, key=indices.get)


def _of_table(lines: list[str]) -> list[str] | None:
    """The names in a table with a header; None if there is none."""
    if lines[0].lower() in NAME_COLUMNS:
        return lines[1:]
    delimiter = next((mark for mark in ",\t;" if mark in lines[0]), ",")
    header, *rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    header = [each.strip().lower() for each in header]
    is_table = len(header) > 1 and {*header} & {*NAME_COLUMNS} and {*header} & {*INDEX_COLUMNS}
    return _by_columns(header, rows) if is_table and rows else None


def _by_columns(header: list[str], rows: list[list[str]]) -> list[str]:
    """The names of a table, sorted by its column of indices if it has one."""
    columns = {str(name).lower(): column for name, column in zip(header, zip(*rows, strict=False), strict=False)}
    names = next((columns[each] for each in NAME_COLUMNS if each in columns and not _are_indices(columns[each])), None)
    if names is None:
        raise LabelFileError(f"it has no column of names; its columns are {', '.join(map(str, header))}")
    indices = (columns[each] for each in INDEX_COLUMNS if each in columns and _are_indices(columns[each]))
    return _by_index(names, next(indices, [*map(str, range(len(names)))]))


def _of_yaml(lines: list[str]) -> list[str] | None:
    """The names in a list or a block of YAML, perhaps under "names:"; None if it is neither."""
    starts = [index for index, line in enumerate(lines) if line.partition(":")[0] in LIST_KEYS and ":" in line]
    if starts:
        flow = " ".join(lines[starts[0] :]).partition(":")[2].strip()
        if flow[:1] in ("[", "{"):
            flow = flow[: flow.find({"[": "]", "{": "}"}[flow[0]]) + 1]
            try:
                return _of_value(_parsed(flow))
            except LabelFileError:  # names without quotes
                items = [each.strip() for each in flow[1:-1].split(",")]
                return _of_lines(items) or items
        lines = lines[starts[0] + 1 :]
        rest = next((n for n, line in enumerate(lines) if not re.match(r"-\s|\d+\s*:", line)), len(lines))
        lines = lines[:rest]
    if lines and all(re.match(r"-\s+\S", line) for line in lines):
        return [line[1:].strip().strip("\"'") for line in lines]
    return _of_lines(lines) if starts and lines else None


def _of_lines(lines: list[str]) -> list[str] | None:
    """The names of lines that all begin or all end with their index; None if they do not.

    Only if the indices are those of all classes: in other files, numbers belong to the names.
    """
    for pattern, name, index in ((INDEX_FIRST, 2, 1), (INDEX_LAST, 1, 2)):
        matches = [pattern.fullmatch(line.rstrip(",")) for line in lines]
        if not all(matches):
            continue
        names, indices = ([each[group].strip("\"'") for each in matches] for group in (name, index))
        is_numbered = len({*indices}) == len(lines) and (len({*names}) > 1 or len(lines) == 1)
        if is_numbered and (pattern is INDEX_FIRST or _are_all(sorted(map(int, indices)))):
            return _by_index(names, indices)
    return None


def _by_index(names: Sequence[str], indices: Sequence[str]) -> list[str]:
    """Names sorted by their indices, which must be those of all classes, from 0 or from 1."""
    numbers = [*map(int, indices)]
    if not _are_all(sorted(numbers)):
        given = ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")
        raise LabelFileError(f"the indices of {len(names)} classes must be 0 to {len(names) - 1}, got {given}")
    for name in names:
        check_label(name)
    return [name.strip() for _, name in sorted(zip(numbers, names, strict=True))]


def _are_all(indices: list[int]) -> bool:
    """Whether these are the indices of all classes, from 0 or from 1."""
    return indices in ([*range(len(indices))], [*range(1, len(indices) + 1)])


def _are_indices(column: Sequence[str]) -> bool:
    return all(str(each).isdecimal() and len(str(each)) < 10 for each in column)
