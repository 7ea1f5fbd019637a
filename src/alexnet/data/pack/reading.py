"""A pack: square images of one size in one memory-mapped file of uint8.

The file is a safetensors file, so that others can read it: `images` (N, side, side, 3), `labels`, `splits`, `sums`, the
CRC-32 of each image, `names` joined by newlines, and `unread` as JSON; classes are in its header. Section 2 of the
paper: the shorter side is resized to the stored size and the central square cut out; nothing else is done to the
pixels. Squares may be stored as JPEG instead; then `images` holds one after the other, and `starts` where each begins.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..source import SPLITS
from ..storage.string_table import StringTable
from .jpeg_images import EncodedImages

VERSION = 3
"""Of the pack's pixels and fields; another one means another file."""
UNREADABLE = 255
"""In `splits`: this image could not be read."""
TYPES = {"U8": np.uint8, "U32": np.uint32, "I64": np.int64}
"""By safetensors' names."""
COMPARED = 1000
"""Images that are compared with their sums when a pack is opened, spread over all."""


@dataclass(frozen=True)
class Pack:
    """Images of one size in memory-mapped storage, with what is known of them."""

    path: Path
    name: str
    classes: tuple[str, ...]
    images: np.ndarray | EncodedImages
    """(N, side, side, 3), uint8, not in memory until touched."""
    labels: np.ndarray
    """(N,), int64."""
    splits: np.ndarray
    """(N,), uint8: positions in SPLITS, or UNREADABLE."""
    names: StringTable
    unreadable: dict[int, str]
    """Which images could not be read, and why."""
    checksum: int = 0
    """Of names, classes, labels, splits and pixels, wherever the images lie: a CRC-32."""

    @property
    def side(self) -> int:
        return self.images.shape[1]

    def indices(self, split: str) -> np.ndarray:
        """Which images are of a split: numbers into `images`, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


def open_pack(path: Path) -> Pack:
    """Map a pack into memory, and compare its tables and some of its images with their sums.

    Raises:
        ValueError: the file is not a pack of this version, is cut short or damaged.
    """
    header, start = _header(path)
    about = header["pack"]
    size = start + max(entry["data_offsets"][1] for entry in header["fields"].values())
    if os.path.getsize(path) != size:
        raise ValueError(f"{path} has {os.path.getsize(path):,} bytes; a whole one has {size:,}")

    def tensor(name: str) -> np.ndarray:
        entry = header["fields"][name]
        shape, offset = tuple(entry["shape"]), start + entry["data_offsets"][0]
        if 0 in shape:
            return np.empty(shape, TYPES[entry["dtype"]])
        return np.memmap(path, TYPES[entry["dtype"]], "r", offset, shape)

    tables = {name: tensor(name) for name in header["fields"] if name != "images"}
    if sum_of(*tables.values()) != about["tables"]:
        raise ValueError(f"{path} is damaged: its tables have another sum than when they were written")
    packed = Pack(
        path,
        about["name"],
        tuple(about["classes"]),
        EncodedImages(tensor("images"), tables["starts"], about["side"]) if "starts" in tables else tensor("images"),
        np.array(tables["labels"]),
        np.array(tables["splits"]),
        StringTable(tables["names"]),
        {int(number): reason for number, reason in json.loads(bytes(tables["unread"])).items()},
        zlib.crc32(repr((about["classes"], about["tables"])).encode()),
    )
    some = np.unique(np.linspace(0, len(packed.labels) - 1, COMPARED).astype(np.int64)) if len(packed.labels) else []
    for number in damaged_images(packed, some):
        raise ValueError(f"{path} is damaged: image {number} has another sum than when it was written")
    return packed


def damaged_images(packed: Pack, numbers: Iterable[int]) -> Iterator[int]:
    """Which of some images of a pack are not as they were written."""
    header, start = _header(packed.path)
    offset = start + header["fields"]["sums"]["data_offsets"][0]
    sums = np.memmap(packed.path, np.uint32, "r", offset, (len(packed.labels),))
    stored = packed.images.stored if isinstance(packed.images, EncodedImages) else packed.images.__getitem__
    return (int(number) for number in numbers if zlib.crc32(stored(number)) != sums[number])


def _header(path: Path) -> tuple[dict, int]:
    """Fields and settings of a pack, and where its data begins.

    Raises:
        ValueError: it is none of this version.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= 100_000_000:
                raise ValueError("its header has no length")
            fields = json.loads(file.read(length))
        about = json.loads(fields.pop("__metadata__")["pack"])
        version = about["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a pack of images ({error})") from error
    if version != VERSION:
        raise ValueError(f"{path} is a pack of version {version}; it may be {VERSION}")
    return {"fields": fields, "pack": about}, 8 + length


def sum_of(*tables: np.ndarray) -> int:
    """CRC-32 of several arrays, one after the other."""
    total = 0
    for table in tables:
        total = zlib.crc32(np.ascontiguousarray(table), total)
    return total


def describe_splits(packed: Pack) -> str:
    """How many images each split has: "5,375 to train on, 706 to validate, 1,431 to test"."""
    uses = {"train": "to train on", "val": "to validate", "test": "to test"}
    counts: Sequence[tuple[str, int]] = [(uses[split], len(packed.indices(split))) for split in SPLITS]
    return ", ".join(f"{count:,} {use}" for use, count in counts if count)
