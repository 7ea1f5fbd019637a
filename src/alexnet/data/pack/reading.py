"""A pack: the images of a source, decoded and resized, in one memory-mapped file.

It is a safetensors file, so that others can read it: `images` (N, side, side, 3), `labels`, `splits`, `sums` (the
CRC-32 of each image), `names` joined by newlines, and `unread` as JSON (why images could not be read: as text, in a
list if the system was to blame rather than the image); the classes are in its metadata. Images may be stored as JPEG;
then `images` is all JPEG files in a row, and `starts` where each begins and where the last ends.
"""

import io
import json
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, reduce
from pathlib import Path

import numpy as np
from PIL import Image

from ...device import decoders
from ..source import SPLITS
from ..storage.string_table import StringTable
from .resizing import Squares

VERSION = 3
"""Changes when the same source would make other pixels or fields."""
MAX_HEADER_BYTES = 100_000_000
DTYPES = {"U8": np.uint8, "U32": np.uint32, "I64": np.int64}
"""By safetensors' names."""
UNREADABLE = 255
"""Split of images that could not be read."""
VERIFIED_IMAGES = 1000
"""Images whose checksums are verified when a pack is opened, evenly spread."""


class JpegImages:
    """Behaves like an array (N, side, side, 3), uint8, of which some images are read at a time.

    They are decoded on every access, by several threads: Pillow releases Python's lock meanwhile.

    Args:
        block: all JPEG files in a row, uint8.
        starts: where each begins, and where the last ends, (N + 1,), int64. An image without bytes is black.
    """

    def __init__(self, block: np.ndarray, starts: np.ndarray, side: int):
        self.block, self.starts = block, starts
        self.shape = len(starts) - 1, side, side, 3

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size in storage."""
        return self.block.nbytes

    def stored(self, index: int) -> bytes:
        """The JPEG file of an image."""
        return self.block[self.starts[index] : self.starts[index + 1]].tobytes()

    def __getitem__(self, indices: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(indices, (int, np.integer)):
            return self._decode(int(indices))
        indices = np.arange(len(self))[indices]
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)

        def decode(row: int) -> None:
            images[row] = self._decode(int(indices[row]))

        list(_threads().map(decode, range(len(indices))))
        return images

    def _decode(self, index: int) -> np.ndarray:
        if not (stored := self.stored(index)):
            return np.zeros(self.shape[1:], np.uint8)
        return np.asarray(Image.open(io.BytesIO(stored), formats=("JPEG",)))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(decoders(), thread_name_prefix="jpeg")


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
    passing: frozenset[int]
    """Those of them that the system was to blame for, so that they may be readable now."""
    checksum: int
    """CRC-32 of names, classes, labels, splits and image checksums; independent of where the images are stored."""
    squares: Squares = Squares()

    def __reduce__(self) -> tuple:
        """For other processes of this machine, which map the same file."""
        return _reopened, (self.path, self.classes, self.labels, self.splits)

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


@dataclass(frozen=True)
class Images:
    """Some images of a data set, at the stored size of a network."""

    packed: Pack
    indices: np.ndarray
    """Those that are looked at, (N,), ascending."""
    has_splits: bool = True
    """Whether the splits are those of the data or of a run; else, they were drawn."""
    location: str = ""
    """Where the data is, as `location_of` says it."""
    sizes: np.ndarray | None = None
    """Bytes of each image of the pack, if images are files."""

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> str:
        """The file of an image of the pack, or else its name."""
        name, folder = self.packed.names[index], Path(self.location)
        return str(folder / name) if folder.is_absolute() and folder.is_dir() else name

    def label(self, index: int) -> str:
        """The class of an image of the pack; "" without labels."""
        return self.packed.classes[self.packed.labels[index]]

    def split(self, index: int) -> str:
        """The split of an image of the pack; "" without splits."""
        return SPLITS[self.packed.splits[index]] if self.has_splits else ""


def open_pack(path: Path) -> Pack:
    """Map a pack into memory, and verify the checksums of its tables and of VERIFIED_IMAGES images.

    Raises:
        ValueError: the file is not a pack of this version, is truncated or damaged.
    """
    fields, metadata = _map_fields(path)
    images = fields.pop("images")
    if crc32_of(fields.values()) != metadata["tables"]:
        raise ValueError(f"{path} is damaged: checksum mismatch in its tables")
    unread = {int(index): reason for index, reason in json.loads(bytes(fields["unread"])).items()}
    pack = Pack(
        path=path,
        name=metadata["name"],
        classes=tuple(metadata["classes"]),
        images=JpegImages(images, fields["starts"], metadata["side"]) if "starts" in fields else images,
        image_checksums=fields["sums"],
        labels=np.array(fields["labels"]),
        splits=np.array(fields["splits"]),
        names=StringTable(fields["names"]),
        unreadable={index: why[0] if isinstance(why, list) else why for index, why in unread.items()},
        passing=frozenset(index for index, why in unread.items() if isinstance(why, list)),
        checksum=zlib.crc32(repr((metadata["classes"], metadata["tables"])).encode()),
        squares=Squares(**metadata.get("squares", {})),
    )
    count = len(pack.labels)
    sample = np.unique(np.linspace(0, count - 1, VERIFIED_IMAGES).astype(np.int64)) if count else []
    for index in damaged_images(pack, sample):
        raise ValueError(f"{path} is damaged: checksum mismatch in image {index}")
    return pack


def _reopened(path: Path, classes: tuple[str, ...], labels: np.ndarray, splits: np.ndarray) -> Pack:
    return replace(open_pack(path), classes=classes, labels=labels, splits=splits)


def damaged_images(pack: Pack, indices: Iterable[int]) -> Iterator[int]:
    """Which of the images at `indices` differ from those that were written."""
    stored = pack.images.stored if isinstance(pack.images, JpegImages) else pack.images.__getitem__
    return (int(index) for index in indices if zlib.crc32(stored(index)) != pack.image_checksums[index])


def describe_splits(pack: Pack) -> str:
    """The size of each split in words: "5,375 to train on, 706 to validate, 1,431 to test"."""
    uses = {"train": "to train on", "val": "to validate", "test": "to test"}
    return ", ".join(f"{len(pack.indices(split)):,} {uses[split]}" for split in SPLITS if len(pack.indices(split)))


def crc32_of(arrays: Iterable[np.ndarray]) -> int:
    """CRC-32 of several arrays, one after the other."""
    return reduce(lambda checksum, array: zlib.crc32(np.ascontiguousarray(array), checksum), arrays, 0)


def _map_fields(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The fields of a pack, mapped into memory, and its metadata."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError("its header has no valid length")
            header = json.loads(file.read(length))
        metadata = json.loads(header.pop("__metadata__")["pack"])
        version = metadata["version"]
        size = 8 + length + max(field["data_offsets"][1] for field in header.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a pack of images: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path}: the version of a pack must be {VERSION}, got {version}")
    if path.stat().st_size != size:
        raise ValueError(f"{path} is truncated: it must have {size:,} bytes, got {path.stat().st_size:,}")
    content = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.empty(0, np.uint8)
    return {
        name: content[slice(*field["data_offsets"])].view(DTYPES[field["dtype"]]).reshape(field["shape"])
        for name, field in header.items()
    }, metadata
