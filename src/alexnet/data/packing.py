"""Decode, resize and crop every image once, into one memory-mapped file of uint8.

The file is a safetensors file, so that others can read it: `images` (N, side, side, 3), `labels`, `splits`, `sums`, the
CRC-32 of each image, `names` joined by newlines and `unread` as JSON; classes and settings are in its header. Section 2
of the paper: the shorter side is resized to the stored size and the central square cut out; nothing else is done to the
pixels.

It is written under another name, with a log of how far it is, so that an interrupted packing goes on where it was.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from ..files import cache_folder, is_locked, locked, short_name
from .decoding import Failed, processors, results
from .names import Names
from .resizing import square
from .sources.base import SPLITS, TRAIN, Reader, Source

VERSION = 3
"""Of the pack's pixels and fields; another one means another file."""
BROKEN = 255
"""In `splits`: this image could not be read."""
MOST_BROKEN = 0.01
"""Share of images that may be unreadable."""
LOG_S = 2.0
"""Seconds between entries in the log of a pack that is being made."""
COMPARED = 1000
"""Images that are compared with their sums when a pack is opened, spread over all."""
TYPES = {"U8": np.uint8, "U32": np.uint32, "I64": np.int64}
"""By safetensors' names."""


@dataclass(frozen=True)
class Pack:
    """Images of one size in memory-mapped storage, with what is known of them."""

    path: Path
    name: str
    classes: tuple[str, ...]
    images: np.ndarray
    """(N, side, side, 3), uint8, not in memory until touched."""
    labels: np.ndarray
    """(N,), int64."""
    splits: np.ndarray
    """(N,), uint8: positions in SPLITS, or BROKEN."""
    names: Names
    unread: dict[int, str]
    """Which images could not be read, and why."""

    @property
    def side(self) -> int:
        return self.images.shape[1]

    def numbers(self, split: str) -> np.ndarray:
        """Which images are of a split: numbers into `images`, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


def pack(
    source: Source,
    side: int,
    folder: Path | None = None,
    workers: int | None = None,
    progress=None,
    strict: bool = False,
    say: Callable[[str], object] = lambda words: None,
) -> Pack:
    """The pack of a source at a stored size, made now unless the same was made before.

    Args:
        side: side of the stored squares, pixels.
        folder: where packs are kept; `cache_folder()` where None.
        workers: processes that decode; one per core where None.
        progress: a function that wraps an iterable of counts, given (counts, total), to show how far it is.
        strict: whether one image that cannot be read is an error already.
        say: is told what the user may wonder about.

    Raises:
        ValueError: more images than MOST_BROKEN, or all of one class, cannot be read; or there is no room on the disk.
    """
    folder = (folder or cache_folder()) / "packs"
    settings = {"version": VERSION, "side": side, "source": source.fingerprint()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = folder / f"{short_name(source.name)}-{side}-{digest[:16]}.safetensors"
    made = None
    if path.exists():
        try:
            made = open_pack(path)
        except ValueError as error:
            say(f"{error}; it is made anew")
    if made is None:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(path, lambda: say(f"another process is making {path.name}; waiting for it")):
            made = _whole(path) or _make(source, side, path, workers or processors(), progress, strict)
    _judge(source, made.unread, strict)
    return made


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

    tables = {name: tensor(name) for name in ("labels", "splits", "sums", "names", "unread")}
    if _sum(*tables.values()) != about["tables"]:
        raise ValueError(f"{path} is damaged: its tables have another sum than when they were written")
    packed = Pack(
        path,
        about["name"],
        tuple(about["classes"]),
        tensor("images"),
        np.array(tables["labels"]),
        np.array(tables["splits"]),
        Names(tables["names"]),
        {int(number): reason for number, reason in json.loads(bytes(tables["unread"])).items()},
    )
    some = np.unique(np.linspace(0, len(packed.labels) - 1, COMPARED).astype(np.int64)) if len(packed.labels) else []
    for number in damaged(packed, some):
        raise ValueError(f"{path} is damaged: image {number} has another sum than when it was written")
    return packed


def damaged(packed: Pack, numbers: Sequence[int]) -> Iterator[int]:
    """Which of some images of a pack are not as they were written."""
    header, start = _header(packed.path)
    offset = start + header["fields"]["sums"]["data_offsets"][0]
    sums = np.memmap(packed.path, np.uint32, "r", offset, (len(packed.labels),))
    return (int(number) for number in numbers if zlib.crc32(packed.images[number]) != sums[number])


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


def _whole(path: Path) -> Pack | None:
    """The pack, where it was made in the meantime."""
    with contextlib.suppress(ValueError):
        return open_pack(path)
    return None


@dataclass(frozen=True)
class _Squares:
    """The task of a process: write images into their places in a file; gives their sums."""

    reader: Reader
    path: Path
    offset: int
    side: int
    _file: list[FileIO] = field(default_factory=list)

    def do(self, number: int, place: Any) -> int | Failed:
        try:
            with self.reader.open(place) as image:
                pixels = square(image, self.side)
        except Exception as error:  # whatever a broken file makes a decoder raise
            return Failed(str(error) or type(error).__name__)
        if not self._file:
            self._file.append(FileIO(self.path, "r+"))  # a mapped one would be fetched page by page first
        self._file[0].seek(self.offset + number * pixels.nbytes)
        if self._file[0].write(pixels.data) != pixels.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return zlib.crc32(pixels)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": []}


class _Unfinished:
    """A pack that is being made: the file, and the log of how far it is."""

    def __init__(self, source: Source, side: int, path: Path):
        self.source, self.path = source, path
        self.part, self.log = (path.with_name(f"{path.name}.part{end}") for end in ("", ".log"))
        count = len(source)
        self.fields = {
            "images": ("U8", (count, side, side, 3)),
            "labels": ("I64", (count,)),
            "splits": ("U8", (count,)),
            "sums": ("U32", (count,)),
            "names": ("U8", (len(source.names.block),)),
        }
        self._blank = zlib.crc32(bytes(side * side * 3))
        self.room = len(self._head(unread=10**12, tables=2**32))
        self.done, self.unread = self._so_far()
        self._logged = len(self.unread)

    def begin(self) -> None:
        """Take the room on the disk, so that a full one is an error here."""
        size = self._start("unread")
        try:
            with open(self.part, "wb") as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
            self.log.write_text("", encoding="utf-8")
        except OSError as error:
            self.remove()
            raise ValueError(
                f"{self.path.parent} has no room for a pack of {size:,} bytes: {error.strerror}"
            ) from error

    def add(self, sums: Sequence[int | Failed]) -> None:
        """The results of the next images."""
        failed = {self.done + at: each.reason for at, each in enumerate(sums) if isinstance(each, Failed)}
        whole = np.array([self._blank if isinstance(each, Failed) else each for each in sums], np.uint32)
        with open(self.part, "r+b") as file:
            file.seek(self._start("sums") + 4 * self.done)
            file.write(whole)
        self.unread |= failed
        self.done += len(sums)

    def write_log(self) -> None:
        """Say how far it is, once what was done until now is safe."""
        with open(self.part, "r+b") as file:
            os.fsync(file.fileno())
        new = dict(list(self.unread.items())[self._logged :])
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"done": self.done, "unread": new}) + "\n")
            log.flush()
            os.fsync(log.fileno())
        self._logged = len(self.unread)

    def finish(self) -> None:
        """Add the tables and the header, and give the file its name."""
        splits = self.source.splits.copy()
        splits[list(self.unread)] = BROKEN
        unread = np.frombuffer(json.dumps(self.unread).encode(), np.uint8)
        with open(self.part, "r+b") as file:
            file.seek(self._start("sums"))
            sums = np.frombuffer(file.read(4 * len(splits)), np.uint32)
            tables = self.source.labels.astype(np.int64), splits, sums, self.source.names.block, unread
            file.seek(self._start("labels"))
            for table in tables:
                file.write(np.ascontiguousarray(table))
            file.seek(0)
            file.write(self._head(len(unread), _sum(*tables)).ljust(self.room))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.part, self.path)
        self.log.unlink(missing_ok=True)

    def remove(self) -> None:
        self.part.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)

    def _start(self, field_name: str) -> int:
        """Where a field begins in the file."""
        before = list(self.fields)[: list(self.fields).index(field_name)] if field_name in self.fields else self.fields
        return self.room + sum(_bytes(*self.fields[name]) for name in before)

    def _head(self, unread: int, tables: int) -> bytes:
        """The header of a pack whose `unread` has that many bytes, and whose tables have that sum."""
        source = self.source
        about = {"version": VERSION, "name": source.name, "classes": list(source.classes), "tables": tables}
        header: dict = {"__metadata__": {"pack": json.dumps(about)}}
        end = 0
        for name, (dtype, shape) in (self.fields | {"unread": ("U8", (unread,))}).items():
            start, end = end, end + _bytes(dtype, shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        length = getattr(self, "room", 8 + len(text) + (-(8 + len(text)) % 64)) - 8
        return length.to_bytes(8, "little") + text.ljust(length)

    def _so_far(self) -> tuple[int, dict[int, str]]:
        """How many images are done, and which of them could not be read."""
        done, unread = 0, {}
        if self.log.exists() and self.part.exists() and self.part.stat().st_size == self._start("unread"):
            for line in self.log.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # the last one may be half a line
                    entry = json.loads(line)
                    unread |= {int(number): reason for number, reason in entry["unread"].items()}
                    done = entry["done"]
        return done, unread


def _make(source: Source, side: int, path: Path, workers: int, progress, strict: bool) -> Pack:
    _remove_abandoned(path)
    made = _Unfinished(source, side, path)
    if not made.done:
        made.begin()
    task, count = _Squares(source.reader, made.part, made.room, side), len(source)
    images = ((number, source.place(number)) for number in range(made.done, count))

    def work() -> Iterator[int]:
        yield made.done
        logged = time.monotonic()
        for sums in results(task, images, count - made.done, workers):
            made.add(sums)
            if len(made.unread) > (0 if strict else _most_unread(count)):
                raise _too_many(source, made.unread, made.done, strict)
            if time.monotonic() - logged > LOG_S:
                made.write_log()
                logged = time.monotonic()
            yield len(sums)

    try:
        for _ in progress(work(), count) if progress else work():
            pass
        made.finish()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            made.write_log()
            raise
        made.remove()
        raise ValueError(f"{path.parent} has no room left for {path.name}: {error.strerror}") from error
    except BaseException:
        made.write_log()
        raise
    return open_pack(path)


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished packs of the same name whose images, labels or splits have changed since."""
    for part in path.parent.glob(f"{glob.escape(path.name.rpartition('-')[0])}-*.part"):
        other = part.with_suffix("")
        if other != path and not is_locked(other):
            part.unlink(missing_ok=True)
            part.with_name(f"{part.name}.log").unlink(missing_ok=True)


def _judge(source: Source, unread: Mapping[int, str], strict: bool) -> None:
    count = len(source)
    if len(unread) > (0 if strict else _most_unread(count)):
        raise _too_many(source, unread, count, strict)
    read = np.ones(count, bool)
    read[list(unread)] = False
    seen = set(source.labels[read & (source.splits == TRAIN)].tolist())
    empty = [name for label, name in enumerate(source.classes) if label not in seen and name not in source.unused]
    if empty and seen:
        raise ValueError(f"{source.name}: no image to train on can be read of class {', '.join(empty)}")


def _too_many(source: Source, unread: Mapping[int, str], done: int, strict: bool) -> ValueError:
    examples = "\n  ".join(f"{source.names[number]}: {reason}" for number, reason in list(unread.items())[:5])
    limit = "none may be left out (--strict)" if strict else f"up to {MOST_BROKEN:.0%} of {len(source):,} are left out"
    of = "" if done == len(source) else "the first "
    return ValueError(
        f"{source.name}: {len(unread)} of {of}{done:,} images cannot be read; {limit}. The first:\n  {examples}"
    )


def _most_unread(count: int) -> int:
    return max(1, int(MOST_BROKEN * count))


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * np.dtype(TYPES[dtype]).itemsize


def _sum(*tables: np.ndarray) -> int:
    total = 0
    for table in tables:
        total = zlib.crc32(np.ascontiguousarray(table), total)
    return total


def describe_splits(packed: Pack) -> str:
    """How many images each split has: "5,375 to train on, 706 to validate, 1,431 to test"."""
    uses = {"train": "to train on", "val": "to validate", "test": "to test"}
    counts: Sequence[tuple[str, int]] = [(uses[split], len(packed.numbers(split))) for split in SPLITS]
    return ", ".join(f"{count:,} {use}" for use, count in counts if count)
