"""Opens a pack: the images of a source, decoded and resized, mapped into memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..source import SPLITS
from ..storage.string_table import StringTable
from .format import crc32_of, map_fields
from .jpeg_images import JpegImages

UNREADABLE = 255
"""Split of images that could not be read."""
VERIFIED_IMAGES = 1000
"""Images whose checksums are verified when a pack is opened, evenly spread."""


@dataclass(frozen=True)
class Pack:
    """Square images of one size in a memory-mapped file, with their labels and splits."""

    path: Path
    name: str
    classes: tuple[str, ...]
    images: np.ndarray | JpegImages
    """(N, side, side, 3), uint8, not in memory until used."""
    image_checksums: np.ndarray
    """CRC-32 of each stored image, (N,), uint32."""
    labels: np.ndarray
    """(N,), int64."""
    splits: np.ndarray
    """Indices into SPLITS, or UNREADABLE, (N,), uint8."""
    names: StringTable
    unreadable: dict[int, str]
    """Indices of images that could not be read, and why."""
    checksum: int
    """CRC-32 of names, classes, labels, splits and image checksums; independent of where the images are stored."""

    @property
    def side(self) -> int:
        return self.images.shape[1]

    def indices(self, split: str) -> np.ndarray:
        """Indices of the images of a split, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @property
    def reported_split(self) -> str:
        """Where final errors are counted: test, or val if there is no test split, or train if there is neither."""
        return next((split for split in ("test", "val") if len(self.indices(split))), "train")


def open_pack(path: Path) -> Pack:
    """Map a pack into memory, and verify the checksums of its tables and of VERIFIED_IMAGES images.

    Raises:
        ValueError: the file is not a pack of this version, is truncated or damaged.
    """
    fields, metadata = map_fields(path)
    images = fields.pop("images")
    if crc32_of([*fields.values()]) != metadata["tables"]:
        raise ValueError(f"{path} is damaged: checksum mismatch in its tables")
    pack = Pack(
        path=path,
        name=metadata["name"],
        classes=tuple(metadata["classes"]),
        images=JpegImages(images, fields["starts"], metadata["side"]) if "starts" in fields else images,
        image_checksums=fields["sums"],
        labels=np.array(fields["labels"]),
        splits=np.array(fields["splits"]),
        names=StringTable(fields["names"]),
        unreadable={int(index): reason for index, reason in json.loads(bytes(fields["unread"])).items()},
        checksum=zlib.crc32(repr((metadata["classes"], metadata["tables"])).encode()),
    )
    count = len(pack.labels)
    sample = np.unique(np.linspace(0, count - 1, VERIFIED_IMAGES).astype(np.int64)) if count else []
    for index in damaged_images(pack, sample):
        raise ValueError(f"{path} is damaged: checksum mismatch in image {index}")
    return pack


def damaged_images(pack: Pack, indices: Iterable[int]) -> Iterator[int]:
    """Which of the images at `indices` differ from those that were written."""
    stored = pack.images.stored if isinstance(pack.images, JpegImages) else pack.images.__getitem__
    return (int(index) for index in indices if zlib.crc32(stored(index)) != pack.image_checksums[index])


def describe_splits(pack: Pack) -> str:
    """The size of each split in words: "5,375 to train on, 706 to validate, 1,431 to test"."""
    uses = {"train": "to train on", "val": "to validate", "test": "to test"}
    return ", ".join(f"{len(pack.indices(split)):,} {uses[split]}" for split in SPLITS if len(pack.indices(split)))
