"""A pack that is being written, by one process or by several, on one machine or on many that share the folder.

Beside the unfinished file, NAME.ID.part, each process has a log of JSON lines, NAME.ID.part.ID.log: what it works on,
the chunks of images that it takes, and every few seconds the results of its images. Whatever is done in a log is done;
a chunk that is not done and that no living process has taken is free. So whoever comes later helps, and what a killed
process leaves is taken over. Two processes that do the same images by mistake write the same bytes; where a file system
has no locks, or none that other machines see, that costs time but does no harm.
"""

import contextlib
import glob
import io
import json
import math
import os
import random
import secrets
import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...files import PART_SUFFIX, file_lock, is_locked
from ..source import Source
from .reading import DTYPES, UNREADABLE, VERSION, crc32_of
from .resizing import Squares
from .workers import Failed

CHUNK_IMAGES = 256
"""Images that a process takes at a time, at least."""
PAGE_BYTES = 4096
"""Chunks of squares begin and end at pages of memory, since machines write a shared file page by page."""
SILENT_S = 60.0
"""Seconds without an entry after which a process is taken for dead where its lock does not tell."""
ABANDONED_S = 30 * 86400.0
"""Seconds after which an unfinished pack is removed, whatever it is of."""


@dataclass(frozen=True)
class _Entry:
    """Results of images, a line of a log."""

    indices: list[int]
    sums: list[int]
    unread: dict[int, str]
    """Why some could not be read, by index."""
    passing: list[int]
    """For which of these the system is to blame."""
    lengths: list[int]
    """Bytes of JPEG files, which are in a row in the process's own file, from `offset` on; none for pixels."""
    offset: int = 0

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        unread = {int(index): why for index, why in line["unread"].items()}
        return cls(line["indices"], line["sums"], unread, line["passing"], line["lengths"], line["offset"])

    def followed_by(self, other: Self) -> Self:
        lists = (getattr(self, name) + getattr(other, name) for name in ("indices", "sums"))
        unread, passing = self.unread | other.unread, self.passing + other.passing
        return type(self)(*lists, unread, passing, self.lengths + other.lengths, self.offset)


@dataclass
class _Log:
    """What another process says of itself, as far as it has been read."""

    path: Path
    data: str = ""
    machine: str = ""
    chunks: set[int] = field(default_factory=set)
    """Those that it has taken, by their first images."""
    position: int = 0

    def new_entries(self) -> list[_Entry]:
        """Read on: results since the last call. The last line may be incomplete."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                lines = file.read().rpartition(b"\n")[0]
        except OSError:  # its pack is finished
            return []
        self.position += len(lines) + bool(lines)
        entries = []
        for text in lines.splitlines():
            with contextlib.suppress(ValueError, KeyError):  # damaged by a power failure
                line = json.loads(text)
                if "indices" in line:
                    entries.append(_Entry.of(line))
                elif "take" in line:
                    self.chunks.add(line["take"])
                else:
                    self.data, self.machine = line["data"], line["machine"]
        return entries

    def is_alive(self, now: float) -> bool:
        """Whether its process lives. A lock that is free tells so only if it was taken on this machine."""
        locked = is_locked(self.path)
        if locked is True or (locked is False and self.machine == machine()):
            return locked
        with contextlib.suppress(OSError):
            return now - self.path.stat().st_mtime < SILENT_S
        return False


class UnfinishedPack:
    """A pack that this process writes, alone or with others.

    Args:
        side: side of the stored squares, pixels.
        path: of the finished pack.
        jpeg: quality of stored images, or None for pixels.
        wait: called once if another process holds the lock of `path` for long.
    """

    def __init__(
        self,
        source: Source,
        side: int,
        path: Path,
        jpeg: int | None,
        squares: Squares,
        wait: Callable[[], object] = lambda: None,
    ):
        self.source, self.side, self.path, self.jpeg, self.squares, self.wait = source, side, path, jpeg, squares, wait
        self.metadata = {"version": VERSION, "name": source.name, "classes": source.classes, "side": side}
        if squares != Squares():
            self.metadata["squares"] = vars(squares)
        # As JSON in JSON it takes at most twice its size, and the fields take less than 2 KB.
        self.header_size = PAGE_BYTES * -(-(2 * len(json.dumps(self.metadata)) + 2112) // PAGE_BYTES)
        square = side * side * 3
        pages = PAGE_BYTES // math.gcd(PAGE_BYTES, square)
        self.chunk = pages * -(-CHUNK_IMAGES // pages)
        self.black = b"" if jpeg else zlib.crc32(bytes(square))
        count, self.done = len(source), 0
        self.is_done, self.checksums = np.zeros(count, bool), np.zeros(count, np.uint32)
        self.lengths, self.offsets = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.writers = np.zeros(count, np.int32)
        """Index in `logs` of the process that has an image's JPEG file, which begins at `offsets` in its own file."""
        self.logs: list[Path] = []
        self.unreadable: dict[int, str] = {}
        self.passing: set[int] = set()
        self._others: dict[Path, _Log] = {}
        self._chunks: set[int] = set()
        self._begun: deque[int] = deque()
        self._new: _Entry | None = None

    @property
    def is_finished(self) -> bool:
        """Whether this or another process has finished the pack."""
        return self.path.exists()

    def __enter__(self) -> Self:
        """Join those that write it, or begin; the lock of `path` must be held, where there are locks."""
        self.part = self._join()
        self.log = self.part.with_name(f"{self.part.name}.{_new_id()}.log")
        self.logs.append(self.log)
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(file_lock(self.log))
        try:
            self._log({"data": self.source.location, "machine": machine()})
            self._remove_abandoned()
            self._read_logs(joining=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_finished or not self.log.exists():
            for path in (self.log, _jpegs(self.log), self.log.with_name(f"{self.log.name}.lock")):
                path.unlink(missing_ok=True)
        self._lock.close()

    def take_images(self) -> Iterator[int]:
        """Indices of images for this process to do, chunk by chunk, until none is free; all must be given to `add`."""
        while (first := self._take_chunk()) is not None:
            for index in range(first, min(first + self.chunk, len(self.is_done))):
                if not self.is_done[index]:
                    self._begun.append(index)
                    yield index

    def add(self, results: Sequence[int | bytes | Failed]) -> None:
        """Record the results of the next images that were taken; pixels are in the file already."""
        indices = [self._begun.popleft() for _ in results]
        failed = {index: each for index, each in zip(indices, results, strict=True) if isinstance(each, Failed)}
        stored = [self.black if isinstance(each, Failed) else each for each in results]
        lengths, jpegs = [], _jpegs(self.log)
        offset = jpegs.stat().st_size if jpegs.exists() else 0
        if self.jpeg:
            with open(jpegs, "ab") as file:
                file.writelines(stored)
            lengths, stored = [*map(len, stored)], [*map(zlib.crc32, stored)]
        unread = {index: each.reason for index, each in failed.items()}
        passing = [index for index, each in failed.items() if each.is_passing]
        entry = _Entry(indices, stored, unread, passing, lengths, offset)
        self._record(self.log, entry)
        self._new = self._new.followed_by(entry) if self._new else entry

    def write_log(self) -> None:
        """Log what was done since the last call, after flushing it to the disk."""
        if self._new and not self.is_finished:
            with open(_jpegs(self.log) if self.jpeg else self.part, "r+b") as file:
                os.fsync(file.fileno())
            self._log({"done": self.done} | vars(self._new), flush=True)
            self._new = None

    def finish(self) -> None:
        """If all images are done, add the tables and the header, and rename the file, unless another process has."""
        with file_lock(self.path, self.wait):
            self._read_logs()
            if self.is_finished or not self.is_done.all():
                return
            with open(self.part, "r+b") as file:
                if self.jpeg:
                    self._gather(file)
                self._write_tables(file)
            os.replace(self.part, self.path)
            for part in (self.part, *self._parts()):
                _remove(part)

    def no_room(self, part: Path, error: OSError) -> ValueError:
        _remove(part)
        return ValueError(f"no room in {self.path.parent} for {self.path.name}: {error.strerror}")

    def _join(self) -> Path:
        """The unfinished file, which is made if there is none."""
        if not (parts := self._parts()):
            self._allocate(self.path.with_name(f"{self.path.name}.{_new_id()}{PART_SUFFIX}"))
            parts = self._parts()  # without locks, two processes may have come to the same point at once
        return parts[0]

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.*{PART_SUFFIX}"))

    def _allocate(self, part: Path) -> None:
        """Reserve the disk space, so that a full disk is noticed now; the size of JPEG files is not known yet."""
        size = self.header_size + (0 if self.jpeg else len(self.source) * (self.side * self.side * 3 + 64))
        try:
            with open(part, "xb") as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise self.no_room(part, error) from error

    def _take_chunk(self) -> int | None:
        """The index of the first image of a free chunk, which is then this process's; None if there is none."""
        with file_lock(self.path, self.wait) as is_held:
            self._read_logs()
            if self.is_finished:
                return None
            now = self._now()
            others = [other.chunks for other in self._others.values() if other.chunks and other.is_alive(now)]
            not_free = self._chunks.union(*others)
            firsts = np.arange(0, len(self.is_done), self.chunk)
            undone = firsts[~np.logical_and.reduceat(self.is_done, firsts)].tolist() if len(firsts) else []
            free = [first for first in undone if first not in not_free]
            if not free:
                return None
            first = free[0] if is_held else random.choice(free)
            self._chunks.add(first)
            self._log({"take": first})
            return first

    def _log(self, entry: Mapping[str, Any], flush: bool = False) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            print(json.dumps(entry), file=log, flush=True)
            if flush:
                os.fsync(log.fileno())

    def _now(self) -> float:
        """The time of the machine that has the files; our log is then as new as that."""
        os.utime(self.log)
        return self.log.stat().st_mtime

    def _read_logs(self, joining: bool = False) -> None:
        """Learn what others have done; when joining, try again what the system was to blame for, by its dead logs."""
        for path in self.path.parent.glob(f"{glob.escape(self.part.name)}.*.log"):
            if path == self.log:
                continue
            other = self._others.setdefault(path, _Log(path))
            entries = other.new_entries()
            is_dead = joining and not other.is_alive(self._now())
            for entry in entries:
                self._record(path, entry)
                if is_dead and entry.passing:
                    self.done -= int(self.is_done[entry.passing].sum())
                    self.is_done[entry.passing] = False
                    self._forget(entry.passing)

    def _record(self, log: Path, entry: "_Entry") -> None:
        """Take results into account: our own, or those of a log. What was read once can be read."""
        known = [index for index in entry.unread if self.is_done[index] and index not in self.unreadable]
        indices = np.array(entry.indices, np.int64)
        new = ~np.isin(indices, known)
        self._forget(entry.indices)
        self.unreadable |= {index: why for index, why in entry.unread.items() if index not in known}
        self.passing |= {*entry.passing} - {*known}
        indices = indices[new]
        self.done += int((~self.is_done[indices]).sum())
        self.checksums[indices], self.is_done[indices] = np.array(entry.sums, np.uint32)[new], True
        if entry.lengths:
            if log not in self.logs:
                self.logs.append(log)
            self.writers[indices], self.lengths[indices] = self.logs.index(log), np.array(entry.lengths)[new]
            self.offsets[indices] = (entry.offset + np.cumsum([0, *entry.lengths[:-1]]))[new]

    def _forget(self, indices: Iterable[int]) -> None:
        """Those of the images that could not be read, which are tried again or can be read by now."""
        for index in self.unreadable.keys() & {*indices}:
            del self.unreadable[index]
            self.passing.discard(index)

    def _gather(self, file) -> None:
        """Write the JPEG files of all processes in the order of the images."""
        file.seek(self.header_size)
        with contextlib.ExitStack() as stack:
            paths = [_jpegs(log) for log in self.logs]
            files = [stack.enter_context(open(path, "rb")) if path.exists() else io.BytesIO() for path in paths]
            for writer, offset, length in zip(self.writers, self.offsets.tolist(), self.lengths.tolist(), strict=True):
                files[writer].seek(offset)
                file.write(files[writer].read(length))

    def _write_tables(self, file) -> None:
        splits = self.source.splits.copy()
        unreadable = dict(sorted(self.unreadable.items()))
        splits[list(unreadable)] = UNREADABLE
        unread = {index: [why] if index in self.passing else why for index, why in unreadable.items()}
        tables = {
            "labels": self.source.labels.astype(np.int64),
            "splits": splits,
            "sums": self.checksums,
            "names": self.source.names.buffer,
            "unread": np.frombuffer(json.dumps(unread).encode(), np.uint8),
        }
        shape: tuple[int, ...] = len(splits), self.side, self.side, 3
        if self.jpeg:
            tables["starts"] = np.cumsum([0, *self.lengths], dtype=np.int64)
            shape = (int(self.lengths.sum()),)
        fields = {"images": (np.dtype(np.uint8), shape)} | {name: (a.dtype, a.shape) for name, a in tables.items()}
        metadata = self.metadata | {"tables": crc32_of(tables.values())}
        file.seek(0)
        file.write(_encode_header(fields, metadata, self.header_size))
        file.seek(self.header_size + math.prod(shape))
        for table in tables.values():
            file.write(np.ascontiguousarray(table))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())

    def _remove_abandoned(self) -> None:
        """Remove unfinished packs of this data set whose images, labels or splits have changed since, and old ones."""
        logs: dict[Path, list[_Log]] = {}
        for path in self.path.parent.glob(f"*{PART_SUFFIX}.*.log"):
            part = path.with_suffix("").with_suffix("")
            if part != self.part:
                logs.setdefault(part, []).append(_Log(path))
        for part, others in logs.items():
            for other in others:
                other.new_entries()
            with contextlib.suppress(OSError):  # it is finished meanwhile
                age = self._now() - max(other.path.stat().st_mtime for other in others)
                is_same = self.source.location in {other.data for other in others}
                if age > ABANDONED_S or (is_same and not any(other.is_alive(self._now()) for other in others)):
                    _remove(part)


def machine() -> str:
    """What tells this machine, since it was started, from others."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _new_id() -> str:
    return secrets.token_hex(8)


def _jpegs(log: Path) -> Path:
    """The JPEG files of a process, in the order in which it did them."""
    return log.with_suffix(".jpegs")


def _encode_header(fields: Mapping[str, tuple[np.dtype, Sequence[int]]], metadata: Mapping, size: int) -> bytes:
    """The header of a pack, of `size` bytes, given the type and shape of each field in the order of the file."""
    names = {np.dtype(kind): name for name, kind in DTYPES.items()}
    header: dict = {"__metadata__": {"pack": json.dumps(metadata)}}
    end = 0
    for name, (dtype, shape) in fields.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [start, end]}
    return (size - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(size - 8)


def _remove(part: Path) -> None:
    """Remove an unfinished pack and all its logs."""
    for path in [*part.parent.glob(f"{glob.escape(part.name)}.*"), part]:
        path.unlink(missing_ok=True)
