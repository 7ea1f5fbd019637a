"""Tables with an image in each row, as Hugging Face publishes data sets: Parquet, and Arrow by `save_to_disk`."""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np
from PIL import Image

from ...specs.names import counted
from ..labels.class_table import class_table
from ..labels.columns import columns_by_header
from ..labels.label_files import UNKNOWN_LABELS, check_label
from ..labels.split_names import split_in
from ..source import SPLITS, Finding, ImageReader, Source
from ..storage.image_formats import is_image_file, open_image
from ..storage.string_table import StringTable
from ..storage.trees import FileOpener, Tree

SUFFIXES = (".parquet", ".arrow")


def table_source(tree: Tree) -> Source | None:
    """The rows of all tables of a tree; None if it has images of its own, or no tables.

    Raises:
        ValueError: pyarrow is missing, a table cannot be read, or has no column of images or of labels.
    """
    names = [PurePosixPath(name) for name in tree.files]
    indices = [i for i, name in enumerate(names) if name.suffix in SUFFIXES and not name.name.startswith("cache-")]
    if not indices or any(map(is_image_file, tree.files)):
        return None
    parts = [_Part.read(tree, index) for index in indices]
    labels = [label for part in parts for label in part.labels]
    known = [row for row, label in enumerate(labels) if str(label).lower() not in UNKNOWN_LABELS]
    files = np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts])[known]
    rows = np.concatenate([np.arange(len(part.labels)) for part in parts])[known]
    paths = [(indices[file], names[indices[file]]) for file in files]
    has_splits, names_of = any(part.split for part in parts), parts[0].classes
    used = {labels[row] for row in known}
    classes, unused, index_of = class_table(tree.name, used, used, names_of and {n: i for i, n in enumerate(names_of)})
    findings = []
    if skipped := len(labels) - len(known):
        findings.append(Finding("warning", f"{tree.name}: skipped {counted(skipped, 'image')} without a label"))
    return Source(
        name=tree.name,
        layout=f"{counted(len(parts), 'table')} with images in the column {parts[0].image}",
        classes=classes,
        names=StringTable.from_strings(f"{path}#{row}" for (_, path), row in zip(paths, rows, strict=True)),
        labels=np.array([index_of[labels[row]] for row in known], np.int64),
        splits=np.array([SPLITS.index(part.split or "train") for part in parts], np.uint8)[files],
        reader=TableReader(tree.open, parts[0].image),
        locate=lambda index: (tree.locate(paths[index][0]), paths[index][1].suffix, int(rows[index])),
        files_fingerprint=tree.fingerprint,
        has_splits=has_splits,
        unused_classes=unused,
        findings=tuple(findings),
        labels_from=f"the column {parts[0].label}",
        splits_from="the names of the tables" if has_splits else "",
    )


@dataclass(frozen=True)
class TableReader(ImageReader):
    """Reads images from tables; a process keeps the last two parts of tables."""

    open_file: FileOpener
    column: str

    def open(self, location: tuple[Any, str, int]) -> Image.Image:
        return open_image(io.BytesIO(self._content(location)))

    def digest(self, location: tuple[Any, str, int]) -> bytes:
        return hashlib.sha256(self._content(location)).digest()

    def _content(self, location: tuple[Any, str, int]) -> bytes:
        file, suffix, row = location
        first, table = _rows(self.open_file, file, suffix, self.column, _group_of(self.open_file, file, suffix, row))
        value = table[row - first].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError("its bytes are not in the table")
        return content


@dataclass(frozen=True)
class _Part:
    """A table: its columns, and the label of each row."""

    image: str
    label: str
    labels: list
    classes: tuple[str, ...] | None
    """Names of the classes by the indices that are the labels."""
    split: str | None

    @classmethod
    def read(cls, tree: Tree, index: int) -> Self:
        path = PurePosixPath(tree.files[index])
        try:
            with tree.open(tree.locate(index)) as file:
                schema, column = _open_table(file, path.suffix)
                image, label, classes = _columns(schema)
                labels = column(label)
        except ImportError as error:
            raise ValueError(f"{tree.name}/{path} needs pyarrow: pip install 'alexnet[parquet]'") from error
        except Exception as error:  # pyarrow raises all kinds for a damaged file
            raise ValueError(f"{tree.name}/{path} cannot be read as a table: {error}") from error
        labels = [label if label is None or isinstance(label, int) else str(label) for label in labels]
        for each in {*labels} - {None, ""}:
            check_label(each)
        if classes:
            labels = [classes[each] if isinstance(each, int) and 0 <= each < len(classes) else None for each in labels]
        split = next(filter(None, map(split_in, (path.stem, *reversed(path.parts[:-1])))), None)
        return cls(image, label, labels, classes, split)


def _open_table(file, suffix: str):
    """The schema of a table, and a function that reads a column of it as a list."""
    if suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        table = ParquetFile(file)
        return table.schema_arrow, lambda name: table.read(columns=[name])[name].to_pylist()
    import pyarrow

    table = pyarrow.ipc.open_stream(file).read_all()
    return table.schema, lambda name: table[name].to_pylist()


def _columns(schema) -> tuple[str, str, tuple[str, ...] | None]:
    """The columns of images and of labels, and the names of the classes, as Hugging Face describes them, or by name."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    by_header = columns_by_header(schema.names) or {}
    holding_bytes = (field.name for field in schema if "binary" in str(field.type))
    image = next((name for name, kind in kinds.items() if kind == "Image"), None) or next(holding_bytes, None)
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
    known = ("label", "labels", "class", "target", "fine_label", *(schema.names[i] for i in by_header.values()))
    label = label or next((name for name in known if name in schema.names and name != image), None)
    if image is None or label is None:
        raise ValueError(f"it must have a column of images and one of labels, got {', '.join(schema.names)}")
    names = features.get(label, {}).get("names")
    return image, label, tuple(map(str, names)) if names else None


@lru_cache(maxsize=64)
def _group_starts(open_file: FileOpener, file: Any) -> tuple[int, ...]:
    from pyarrow.parquet import ParquetFile

    with open_file(file) as opened:
        metadata = ParquetFile(opened).metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return tuple(np.cumsum([0, *counts]).tolist())


def _group_of(open_file: FileOpener, file: Any, suffix: str, row: int) -> int:
    """The row group of a Parquet file that a row is in."""
    if suffix != ".parquet":
        return 0
    return int(np.searchsorted(_group_starts(open_file, file), row, side="right")) - 1


@lru_cache(maxsize=2)
def _rows(open_file: FileOpener, file: Any, suffix: str, column: str, group: int) -> tuple[int, Any]:
    """The index of the first row of a group, and the column of images in it."""
    with open_file(file) as opened:
        if suffix == ".parquet":
            from pyarrow.parquet import ParquetFile

            first = _group_starts(open_file, file)[group]
            return first, ParquetFile(opened).read_row_group(group, columns=[column])[column]
        import pyarrow

        return 0, pyarrow.ipc.open_stream(opened).read_all()[column]
