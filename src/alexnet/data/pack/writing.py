"""The file of a pack, while it is being written: under another name, with a log of how far it is."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import json
import math
import os
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...files import is_locked
from ..source import Reader, Source
from .reading import TYPES, UNREADABLE, VERSION, sum_of
from .resizing import stored_square
from .workers import Failed, run_task

MAX_UNREADABLE = 0.01
"""Share of images that may be unreadable."""
LOG_S = 2.0
"""Seconds between entries in the log."""


def write_pack(source: Source, side: int, path: Path, jpeg: int | None, workers: int, track, strict: bool) -> None:
    """Decode all images of a source into a new file, or go on with one that was interrupted.

    Args:
        jpeg: quality of JPEG by which squares are stored, None to store their pixels.

    Raises:
        ValueError: too many images cannot be read, or there is no room on the disk.
    """
    _remove_abandoned(path)
    made, count = _Unfinished(source, side, path, jpeg), len(source)
    if not made.done:
        made.begin()
    images = ((number, source.place(number)) for number in range(made.done, count))

    def work() -> Iterator[int]:
        yield made.done
        logged = time.monotonic()
        for some in run_task(made.task(), images, count - made.done, workers):
            made.add(some)
            if len(made.unreadable) > most_unread(count, strict):
                raise too_many(source, made.unreadable, made.done, strict)
            if time.monotonic() - logged > LOG_S:
                made.write_log()
                logged = time.monotonic()
            yield len(some)

    try:
        for _ in track(work(), count) if track else work():
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


def too_many(source: Source, unread: Mapping[int, str], done: int, strict: bool) -> ValueError:
    """The error that more images cannot be read than may be."""
    examples = "\n  ".join(f"{source.names[number]}: {reason}" for number, reason in list(unread.items())[:5])
    limit = (
        "none may be left out (--strict)" if strict else f"up to {MAX_UNREADABLE:.0%} of {len(source):,} are left out"
    )
    of = "" if done == len(source) else "the first "
    return ValueError(
        f"{source.name}: {len(unread)} of {of}{done:,} images cannot be read; {limit}. The first:\n  {examples}"
    )


def most_unread(count: int, strict: bool) -> int:
    """How many of that many images may be unreadable."""
    return 0 if strict else max(1, int(MAX_UNREADABLE * count))


@dataclass(frozen=True)
class _Squares:
    """The task of a process: write squares into their places in a file; gives their sums."""

    reader: Reader
    side: int
    path: Path
    start: int
    """Where the first lies, bytes."""
    _file: list[FileIO] = field(default_factory=list)

    def do(self, number: int, place: Any) -> int | Failed:
        pixels = _square(self.reader, place, self.side)
        if isinstance(pixels, Failed):
            return pixels
        if not self._file:
            self._file.append(FileIO(self.path, "r+"))  # a mapped one would be fetched page by page first
        self._file[0].seek(self.start + number * pixels.nbytes)
        if self._file[0].write(pixels.data) != pixels.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return zlib.crc32(pixels)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": []}


@dataclass(frozen=True)
class _Jpegs:
    """The task of a process: squares as JPEG, whose places are known when those before them are done."""

    reader: Reader
    side: int
    quality: int

    def do(self, number: int, place: Any) -> bytes | Failed:
        pixels = _square(self.reader, place, self.side)
        if isinstance(pixels, Failed):
            return pixels
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
        return file.getvalue()


def _square(reader: Reader, place: Any, side: int) -> np.ndarray | Failed:
    try:
        with reader.open(place) as image:
            return stored_square(image, side)
    except Exception as error:  # whatever a broken file makes a decoder raise
        return Failed(str(error) or type(error).__name__)


class _Unfinished:
    """A pack that is being made.

    The log has a line of JSON for every LOG_S seconds: how many images are done, and of those since the line before it
    the sums, the lengths (of JPEGs), and why some could not be read.
    """

    def __init__(self, source: Source, side: int, path: Path, jpeg: int | None):
        self.source, self.side, self.path, self.jpeg = source, side, path, jpeg
        self.part, self.log = (path.with_name(f"{path.name}.part{end}") for end in ("", ".log"))
        self.room = len(self._head({name: 10**15 for name in ("images", "unread")}, 2**32))
        self.sums, self.lengths = array("I"), array("q")
        self.unreadable: dict[int, str] = {}
        self._read_log()
        self.size = sum(self.lengths)
        self._logged = self.done, len(self.unreadable)

    @property
    def done(self) -> int:
        return len(self.sums)

    def task(self) -> _Squares | _Jpegs:
        """What the processes do."""
        if self.jpeg:
            return _Jpegs(self.source.reader, self.side, self.jpeg)
        return _Squares(self.source.reader, self.side, self.part, self.room)

    def begin(self) -> None:
        """Take the room on the disk, so that a full one is an error here; of JPEGs nobody knows how much."""
        size = self.room + (0 if self.jpeg else len(self.source) * (self.side * self.side * 3 + 64))
        try:
            with open(self.part, "wb") as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
            self.log.write_text("", encoding="utf-8")
        except OSError as error:
            self.remove()
            said = f"{self.path.parent} has no room for a pack of {size:,} bytes: {error.strerror}"
            raise ValueError(said) from error

    def add(self, some: Sequence[int | bytes | Failed]) -> None:
        """The results of the next images."""
        blank = b"" if self.jpeg else zlib.crc32(bytes(self.side * self.side * 3))
        self.unreadable |= {self.done + at: each.reason for at, each in enumerate(some) if isinstance(each, Failed)}
        whole = [blank if isinstance(each, Failed) else each for each in some]
        if self.jpeg:
            with open(self.part, "r+b") as file:
                file.seek(self.room + self.size)
                file.writelines(whole)
            self.lengths.extend(map(len, whole))
            self.size += sum(map(len, whole))
            whole = map(zlib.crc32, whole)
        self.sums.extend(whole)

    def write_log(self) -> None:
        """Say how far it is, once what was done until now is safe."""
        with open(self.part, "r+b") as file:
            os.fsync(file.fileno())
        done, unread = self._logged
        new = dict(list(self.unreadable.items())[unread:])
        new_sums, new_lengths = self.sums[done:].tolist(), self.lengths[done:].tolist()
        entry = {"done": self.done, "sums": new_sums, "lengths": new_lengths, "unread": new}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
            log.flush()
            os.fsync(log.fileno())
        self._logged = self.done, len(self.unreadable)

    def finish(self) -> None:
        """Add the tables and the header, and give the file its name."""
        splits = self.source.splits.copy()
        splits[list(self.unreadable)] = UNREADABLE
        unread = np.frombuffer(json.dumps(self.unreadable).encode(), np.uint8)
        sums = np.array(self.sums, np.uint32)
        tables = [self.source.labels.astype(np.int64), splits, sums, self.source.names.block, unread]
        if self.jpeg:
            tables.append(np.cumsum([0, *self.lengths], dtype=np.int64))
        size = self.size if self.jpeg else len(splits) * self.side * self.side * 3
        with open(self.part, "r+b") as file:
            file.seek(self.room + size)
            for table in tables:
                file.write(np.ascontiguousarray(table))
            file.truncate()
            file.seek(0)
            file.write(self._head({"images": size, "unread": len(unread)}, sum_of(*tables)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.part, self.path)
        self.log.unlink(missing_ok=True)

    def remove(self) -> None:
        self.part.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)

    def _head(self, sizes: Mapping[str, int], tables: int) -> bytes:
        """The header.

        Args:
            sizes: bytes of the fields that are known at the end.
            tables: the sum of all fields but the images.
        """
        source, count = self.source, len(self.source)
        fields = {
            "images": ("U8", (sizes["images"],) if self.jpeg else (count, self.side, self.side, 3)),
            "labels": ("I64", (count,)),
            "splits": ("U8", (count,)),
            "sums": ("U32", (count,)),
            "names": ("U8", (len(source.names.block),)),
            "unread": ("U8", (sizes["unread"],)),
        } | ({"starts": ("I64", (count + 1,))} if self.jpeg else {})
        about = {
            "version": VERSION,
            "name": source.name,
            "classes": source.classes,
            "side": self.side,
            "tables": tables,
        }
        header: dict = {"__metadata__": {"pack": json.dumps(about)}}
        end = 0
        for name, (dtype, shape) in fields.items():
            start, end = end, end + math.prod(shape) * np.dtype(TYPES[dtype]).itemsize
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        length = getattr(self, "room", 8 + len(text) + (-(8 + len(text)) % 64)) - 8
        return length.to_bytes(8, "little") + text.ljust(length)

    def _read_log(self) -> None:
        """Take up what was done before."""
        if not (self.log.exists() and self.part.exists()):
            return
        for line in self.log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError):  # the last one may be half a line
                entry = json.loads(line)
                self.sums.extend(entry["sums"])
                self.lengths.extend(entry["lengths"])
                self.unreadable |= {int(number): reason for number, reason in entry["unread"].items()}


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished packs of the same name whose images, labels or splits have changed since."""
    for part in path.parent.glob(f"{glob.escape(path.name.rpartition('-')[0])}-*.part"):
        other = part.with_suffix("")
        if other != path and not is_locked(other):
            part.unlink(missing_ok=True)
            part.with_name(f"{part.name}.log").unlink(missing_ok=True)
