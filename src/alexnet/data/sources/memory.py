"""Images and labels in memory: arrays, lists, tables, and the data sets of PyTorch and of Hugging Face.

They are known by what they offer, not by their type, so that no package is imported for them. Images are taken from
them by this process, because what a notebook defines cannot be sent to others, and decoded by the workers.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
from PIL import Image

from ...specs.names import counted, listed
from ..labels.class_table import class_table
from ..labels.columns import columns_by_header
from ..labels.label_files import OWN_LABELS, Label, LabelFile, check_label
from ..labels.split_names import split_of
from ..progress import Track, run_tracked
from ..source import SPLITS, Data, Finding, ImageReader, Source
from ..storage.download import redact
from ..storage.image_formats import open_image
from ..storage.string_table import StringTable
from ..storage.trees import file_state
from .arrays import image_array

EXPECTED = (
    "data must be a path or a URL; or in memory arrays (X, y), a list of (image, label), a table with an image and a "
    "label column, a data set with a length and items (image, label), or a dict of these by split"
)
PREFIX = "in-memory:"
"""Begins what is recorded of where data in memory is; a hash follows."""


@dataclass(frozen=True)
class _Part:
    """Some of the data: its items, and what it says about all of them."""

    name: str
    count: int
    item: Callable[[int], tuple[Any, Any]]
    """Image and label at an index."""
    classes: tuple[str, ...] | None = None
    splits: Sequence[str | None] | None = None


class InMemory:
    """Labeled images in memory, read once: for their labels, and for a hash of their content.

    Args:
        data: what a user has; see EXPECTED.
        track: shows how many images are read.

    Raises:
        ValueError: it is something else, or an image or a label is not valid.
    """

    def __init__(self, data: Any, track: Track | None):
        parts = data if isinstance(data, Mapping) else {None: data}
        if unknown := [key for key in parts if key is not None and not split_of(str(key))]:
            raise ValueError(f"the keys of a dict of data must be {', '.join(SPLITS)}, got {short(unknown[0])}")
        self.parts = [(split and split_of(str(split)), _part(part)) for split, part in parts.items()]
        self.name = self.parts[0][1].name if self.parts else "memory"
        self.classes = next((part.classes for _, part in self.parts if part.classes), None)
        self.names: dict[str, tuple[Label, str | None]] = {}
        """Label and split of each image by its name: its path, or its index."""
        self.items: list[tuple[_Part, int]] = []
        self.unlabeled = 0
        """Images that are left out, because their label is -1."""
        self._digest = hashlib.sha256()
        count = sum(part.count for _, part in self.parts)
        if not count:
            raise ValueError(f"{self.name} has no images")
        run_tracked(self._read(), count, track)
        if not self.items:
            raise ValueError(f"{self.name}: all {count:,} labels are -1, which stands for an unknown label")
        self.fingerprint = self._digest.hexdigest()
        self.location = f"{PREFIX}{self.name}-{self.fingerprint[:16]}"
        """What is recorded of where the data is."""

    def locate(self, index: int) -> Any:
        part, row = self.items[index]
        return _location(part.item(row)[0])

    def _read(self) -> Iterator[int]:
        for split, part in self.parts:
            for row in range(part.count):
                where = f"{part.name}[{row}]"
                try:
                    image, label = part.item(row)
                    name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"{split or part.name}#{row}"
                    image, label = _location(image), _label(label)
                except Exception as error:  # a data set may raise anything
                    problem = str(error).removeprefix(": ") or type(error).__name__
                    raise ValueError(f"{where}: {problem}") from error
                if label in (-1, "-1"):
                    self.unlabeled += 1
                    yield 1
                    continue
                about = label, split or (part.splits and part.splits[row])
                if self.names.setdefault(name, about) != about:
                    raise ValueError(f"{where}: {name} has two labels or two splits")
                if len(self.names) > len(self.items):  # the same path may come again
                    self.items.append((part, row))
                    self._digest.update(repr((name, about)).encode("utf-8", "surrogateescape"))
                    self._digest.update(_state(image))
                yield 1


@dataclass(frozen=True)
class _Reader(ImageReader):
    def open(self, location: Any) -> Image.Image:
        match location:
            case str():
                return open_image(location)
            case bytes():
                return open_image(io.BytesIO(location))
            case np.ndarray():
                return Image.fromarray(location)
        return location.copy()  # whoever opens it closes it


def hold(data: Data, track: Track | None = None) -> str | Path | InMemory:
    """Data as it is opened: a path, a URL or "emoji" as it is, and what is in memory read once.

    Raises:
        ValueError: it is neither, or an image in memory or its label is not valid.
    """
    return data if isinstance(data, (str, os.PathLike, InMemory)) else InMemory(data, track)


def location_of(data: str | Path | InMemory) -> str:
    """What is recorded of where data is: an absolute path, so that it holds from every folder; or its hash; or a URL
    without passwords and tokens."""
    if isinstance(data, InMemory):
        return data.location
    if str(data) == "emoji" or "://" in str(data) or str(data).startswith(PREFIX):
        return redact(str(data))
    try:
        return str(Path(data).expanduser().resolve())
    except (OSError, RuntimeError, ValueError) as error:  # ~NAME of an unknown user, or a byte 0
        raise ValueError(f"{data} cannot be read: {error}") from error


def memory_source(data: InMemory, label_files: Sequence[LabelFile]) -> Source:
    """The source of images in memory."""
    if any(file.rows for file in label_files):
        raise ValueError(OWN_LABELS)
    declared = next((file.indices for file in label_files if file.indices), None)
    if declared is None and data.classes:
        declared = {name: index for index, name in enumerate(data.classes)}
    labels, splits = zip(*data.names.values(), strict=True)
    classes, unused, class_of = class_table(data.name, set(labels), set(labels), declared)
    if unknown := [label for label in class_of if class_of[label] is None]:
        raise ValueError(f"{data.name}: labels must be among {listed(classes, 20)}, got {unknown[0]!r}")
    indices = np.array([class_of[label] for label in labels], np.int64)
    skipped = f"skipped {counted(data.unlabeled, 'image')} with the label -1, which stands for an unknown label"
    findings = (Finding("warning", skipped),) if data.unlabeled else ()
    names = StringTable.from_strings(data.names)
    return Source(
        name=data.name,
        layout=f"{len(names):,} images in memory",
        classes=classes,
        names=names,
        labels=indices,
        splits=np.array([SPLITS.index(split or "train") for split in splits], np.uint8),
        reader=_Reader(),
        locate=data.locate,
        files_fingerprint=data.fingerprint,
        has_splits=any(splits),
        findings=findings,
        unused_classes=unused | {name for index, name in enumerate(classes) if index not in indices},
    )


def _part(data: Any) -> _Part:
    """Some data of one split."""
    kind = type(data).__name__
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], (tuple, str)):
        return _arrays(*data)
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _table(data)
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return _hugging_face(data)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, (bytes, np.ndarray)):
        hint = "; pass its dataset" if hasattr(data, "dataset") else ""
        raise ValueError(f"{EXPECTED}, got {kind}{hint}")

    def item(index: int) -> tuple[Any, Any]:
        pair = data[index]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"an item must be (image, label), got {short(pair)}")
        return tuple(pair)

    classes = getattr(data, "classes", None) or getattr(getattr(data, "dataset", None), "classes", None)  # of a Subset
    is_named = isinstance(classes, (list, tuple)) and all(isinstance(each, str) for each in classes)
    return _Part("images" if kind in ("list", "tuple") else kind, len(data), item, tuple(classes) if is_named else None)


def _arrays(images: Any, labels: Any) -> _Part:
    images = image_array(images, batch=True) if getattr(images, "ndim", 1) > 1 else list(images)
    labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(labels) != len(images):
        raise ValueError(f"X and y must have the same length, got {len(images):,} and {len(labels):,}")
    if labels and isinstance(labels[0], list):
        remedy = "y.argmax(1) undoes one-hot" if len(labels[0]) > 1 else "y.ravel() undoes the rows"
        raise ValueError(f"y must have a label for each image, got rows of {len(labels[0])}; {remedy}")
    return _Part("arrays", len(labels), lambda index: (images[index], labels[index]))


def _table(table: Any) -> _Part:
    """A data frame of pandas, or what behaves like one."""
    columns = columns_by_header([str(name) for name in table.columns])
    if columns is None:
        raise ValueError(f"a table must have columns image and label, got {', '.join(map(str, table.columns))}")
    values = {name: table.iloc[:, column].tolist() for name, column in columns.items()}
    splits = [split_of(str(word)) for word in values["split"]] if "split" in values else None
    if splits and None in splits:
        word = values["split"][splits.index(None)]
        raise ValueError(f"the split must be one of {', '.join(SPLITS)}, got {short(word)}")
    pairs = list(zip(values["image"], values["label"], strict=True))
    return _Part("table", len(pairs), pairs.__getitem__, None, splits)


def _hugging_face(data: Any) -> _Part:
    """A data set of `datasets`; its images stay encoded, so that the workers decode them."""
    if not hasattr(data, "__len__"):
        raise ValueError("a streamed data set has no length; load it without streaming=True")
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    columns = columns_by_header(data.column_names) or {}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
    image = image or (data.column_names[columns["image"]] if columns else None)
    label = label or next((name for name in ("label", "labels", "class", "target") if name in kinds), None)
    if image is None or label is None:
        raise ValueError(f"a data set must have an image and a label column, got {', '.join(data.column_names)}")
    if kinds[image] == "Image":
        data = data.cast_column(image, type(data.features[image])(decode=False))

    def item(index: int) -> tuple[Any, Any]:
        row = data[index]
        return row[image], row[label]

    info = getattr(data, "info", None)
    classes = getattr(data.features[label], "names", None)
    return _Part(getattr(info, "dataset_name", None) or "dataset", len(data), item, classes and tuple(classes))


def _location(image: Any) -> str | bytes | np.ndarray | Image.Image:
    """An image as it is sent to the workers."""
    if isinstance(image, Mapping):  # as Hugging Face stores it
        image = image.get("bytes") or image.get("path")
    if isinstance(image, os.PathLike):
        image = os.fspath(image)
    if isinstance(image, str):
        return os.path.abspath(os.path.expanduser(image))
    if isinstance(image, (bytes, Image.Image)):
        return image
    if hasattr(image, "shape"):
        return image_array(image)
    raise ValueError(f"an image must be a path, bytes, a Pillow image, an array or a tensor, got {short(image)}")


def _label(label: Any) -> Label:
    if hasattr(label, "item") and not getattr(label, "shape", None):  # a scalar of NumPy or PyTorch
        label = label.item()
    label = str(label) if isinstance(label, bool) else label
    check_label(label)
    return label


def _state(image: str | bytes | np.ndarray | Image.Image) -> bytes:
    """What changes when an image does, for fingerprints."""
    match image:
        case str():
            return file_state(image, os.stat(image)) if os.path.exists(image) else b""
        case bytes():
            return image
        case np.ndarray():
            return repr(image.shape).encode() + image.tobytes()
    return repr((image.mode, image.size)).encode() + image.tobytes()
