"""Makes the pack of a source, unless the cache has it.

While unfinished, it has another name and a log from which an interrupted packing resumes.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import math
import os
import secrets
import time
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...device import decoders
from ...files import PART_SUFFIX, cache_folder, file_lock, is_locked, make_folder, truncate_name
from ...specs.settings import check_setting, option
from ..progress import Track, run_tracked
from ..source import TRAIN, ImageReader, Source
from .reading import DTYPES, UNREADABLE, VERSION, Pack, crc32_of, open_pack
from .resizing import Squares, stored_square
from .workers import Failed, run_task

MAX_UNREADABLE, FEW_UNREADABLE = 0.01, 5
"""Fraction of images that may be unreadable, and how many may be in small data sets."""
LOG_S = 2.0
"""Seconds between entries in the log."""
ABANDONED_S = 30 * 86400.0
"""Seconds after which an unfinished pack is removed, whatever it is of."""


@dataclass(frozen=True)
class PackOptions:
    jpeg: int | None = None
    """JPEG quality of stored images, 1 to 95: at 90 they take about a tenth of the disk, but are decoded whenever they
    are read. None stores pixels."""
    workers: int | None = None
    """Processes that decode; one per core if None."""
    strict: bool = False
    """Whether a single unreadable image is an error."""
    squares: Squares = Squares()

    def __post_init__(self):
        for name in ("jpeg", "workers"):
            check_setting(name, getattr(self, name))


def make_pack(
    source: Source,
    side: int,
    folder: Path | None = None,
    options: PackOptions = PackOptions(),
    track: Track | None = None,
    notify: Callable[[str], object] = lambda message: None,
) -> Pack:
    """The pack of a source at a stored size, made now unless the same pack exists.

    Args:
        side: side of the stored squares, pixels.
        folder: where packs are kept; `cache_folder()` if None.
        track: shows how many images are packed.
        notify: called with messages for the user.

    Raises:
        ValueError: too many images, or all images of a class, cannot be read; or the disk is full.
    """
    folder = (folder or cache_folder()) / "packs"
    settings = {"version": VERSION, "side": side, "jpeg": options.jpeg, "source": source_fingerprint(source)}
    if options.squares != Squares():
        settings["squares"] = vars(options.squares)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = folder / f"{truncate_name(source.name)}-{side}-{digest[:16]}.safetensors"
    pack = _open_existing(source, path, options, notify)
    if pack is None:
        make_folder(folder)
        with file_lock(path, lambda: notify(f"another process is making {path.name}; waiting for it")) as is_held:
            pack = _open_existing(source, path, options)
            if pack is None:
                _write_pack(_UnfinishedPack(source, side, path, options, is_held), options, track)
                pack = open_pack(path)
    _check_unreadable(source, pack.unreadable, len(source), options.strict)
    return pack


def source_fingerprint(source: Source) -> str:
    """A hash that changes when an image, a label or a split of a source changes."""
    digest = hashlib.sha256(repr((source.classes, source.files_fingerprint)).encode())
    for table in (source.names.buffer, source.labels, source.splits):
        digest.update(np.ascontiguousarray(table))
    return digest.hexdigest()


def _open_existing(
    source: Source, path: Path, options: PackOptions, notify: Callable[[str], object] = lambda message: None
) -> Pack | None:
    """The pack of a path, unless it is damaged or lacks images that can be read by now."""
    if not path.exists():
        return None
    try:
        pack = open_pack(path)
    except ValueError as error:
        notify(f"{error}; packing again")
        return None
    if pack.passing:
        images = [(index, source.locate(index)) for index in sorted(pack.passing)]
        task = _StoreSquare(source.reader, pack.side, Squares(), 90, path, 0)  # which writes nothing, as for JPEG
        results = itertools.chain(*run_task(task, images, len(images), options.workers or decoders()))
        if any(not isinstance(result, Failed) for result in results):
            notify(f"images of {source.name} that could not be read can be read now; packing again")
            return None
    return pack


def _write_pack(file: "_UnfinishedPack", options: PackOptions, track: Track | None) -> None:
    """Decode all images of a source into a new file, or resume an interrupted packing."""
    source, count = file.source, len(file.source)
    if not file.done:
        file.allocate()
    images = ((index, source.locate(index)) for index in range(file.done, count))

    def write() -> Iterator[int]:
        yield file.done
        logged = time.monotonic()
        for results in run_task(file.task(), images, count - file.done, options.workers or decoders()):
            file.add(results)
            _check_unreadable(source, file.unreadable, file.done, options.strict)
            if time.monotonic() - logged > LOG_S:
                file.write_log()
                logged = time.monotonic()
            yield len(results)

    try:
        run_tracked(write(), count, track)
        file.finish()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise file.no_room(error) from error
        file.write_log()
        raise


def _check_unreadable(source: Source, unreadable: Mapping[int, str], done: int, strict: bool) -> None:
    """Raise ValueError if too many of the first `done` images of a source cannot be read, or all of a class."""
    count, limit = len(source), max_unreadable(len(source), strict)
    if len(unreadable) > limit:
        images = f"{len(unreadable)} of {'' if done == count else 'the first '}{done:,} images cannot be read"
        allowed = f"none may be skipped ({option('strict', True)})" if strict else f"at most {limit:,} may be skipped"
        commands = f"alexnet check {source.arguments} --fix kept.csv && alexnet train kept.csv"
        remedy = f". To leave them out: {commands}" if source.arguments else ""
        raise ValueError(f"{source.name}: {images}; {allowed}{remedy}\n  {_reasons(source, unreadable)}")
    if done == count and (lost := lost_classes(source, unreadable)):
        classes = ", ".join(source.classes[label] for label in lost)
        reasons = _reasons(source, {index: why for index, why in unreadable.items() if source.labels[index] in lost})
        raise ValueError(f"{source.name}: no training image of class {classes} can be read:\n  {reasons}")


def lost_classes(source: Source, unreadable: Collection[int]) -> list[int]:
    """Classes that have training images, none of which can be read, given the indices of those that cannot."""
    of_train = source.splits == TRAIN
    is_readable = np.ones(len(source), bool)
    is_readable[list(unreadable)] = False
    return np.setdiff1d(source.labels[of_train], source.labels[of_train & is_readable]).tolist()


def max_unreadable(count: int, strict: bool) -> int:
    """How many of `count` images may be unreadable."""
    return 0 if strict else max(FEW_UNREADABLE, int(MAX_UNREADABLE * count))


def _reasons(source: Source, unreadable: Mapping[int, str]) -> str:
    """The first images that cannot be read, and why, a line for each."""
    lines = [f"{source.names[index]}: {reason}" for index, reason in [*unreadable.items()][:10]]
    return "\n  ".join([*lines, "…"] if len(unreadable) > 10 else lines)


@dataclass(frozen=True)
class _StoreSquare:
    """Worker task: write the pixels of a square to the file, and return their checksum; or return its JPEG file."""

    reader: ImageReader
    side: int
    squares: Squares
    jpeg: int | None
    path: Path
    start: int
    """Offset of the first square, bytes."""
    _file: list[FileIO] = field(default_factory=list)

    def run(self, index: int, location: Any) -> int | bytes | Failed:
        try:
            with self.reader.open(location) as image:
                pixels = stored_square(image, self.side, self.squares)
        except Exception as error:  # decoders raise all kinds for a broken file
            return Failed.of(error)
        if self.jpeg:
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG", quality=self.jpeg)
            return encoded.getvalue()
        if not self._file:
            self._file.append(FileIO(self.path, "r+"))  # a mapped file would first be read page by page
        self._file[0].seek(self.start + index * pixels.nbytes)
        if self._file[0].write(pixels.data) != pixels.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return zlib.crc32(pixels)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": []}


class _UnfinishedPack:
    """A pack that is being written.

    The log begins with a line that names the data set. Then it has a line of JSON for every LOG_S seconds: how many
    images are done, and for those since the previous line their checksums, their lengths (of JPEG files), why some
    could not be read, and for which of these the system is to blame: packing resumes from the first of them.

    Args:
        is_held: whether the lock of `path` keeps other processes away; where a file system has no locks, each writes a
            file of its own, and none resumes.
    """

    def __init__(self, source: Source, side: int, path: Path, options: PackOptions, is_held: bool = True):
        self.source, self.side, self.path, self.jpeg = source, side, path, options.jpeg
        self.squares = options.squares
        name = path.name if is_held else f"{path.name}.{secrets.token_hex(4)}"
        self.part, self.log = (path.with_name(f"{name}{PART_SUFFIX}{suffix}") for suffix in ("", ".log"))
        self.metadata = {"version": VERSION, "name": source.name, "classes": source.classes, "side": side}
        if self.squares != Squares():
            self.metadata["squares"] = vars(self.squares)
        # As JSON in JSON it takes at most twice its size, and the fields take less than 2 KB.
        self.header_size = 64 * (len(json.dumps(self.metadata)) // 32 + 33)
        self.checksums, self.lengths = array("I"), array("q")
        self.unreadable: dict[int, str] = {}
        self.passing: set[int] = set()
        self._remove_abandoned()
        self._logged = 0, 0
        self._read_log()
        self.jpeg_size = sum(self.lengths)

    @property
    def done(self) -> int:
        return len(self.checksums)

    def task(self) -> _StoreSquare:
        return _StoreSquare(self.source.reader, self.side, self.squares, self.jpeg, self.part, self.header_size)

    def allocate(self) -> None:
        """Reserve the disk space, so that a full disk is noticed now; the size of JPEG files is not known yet."""
        size = self.header_size + (0 if self.jpeg else len(self.source) * (self.side * self.side * 3 + 64))
        try:
            with open(self.part, "wb") as file:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
            self._begin_log()
        except OSError as error:
            raise self.no_room(error) from error

    def add(self, results: Sequence[int | bytes | Failed]) -> None:
        """Record the results of the next images."""
        black = b"" if self.jpeg else zlib.crc32(bytes(self.side * self.side * 3))
        failures = {self.done + i: each for i, each in enumerate(results) if isinstance(each, Failed)}
        self.unreadable |= {index: each.reason for index, each in failures.items()}
        self.passing |= {index for index, each in failures.items() if each.is_passing}
        results = [black if isinstance(each, Failed) else each for each in results]
        if self.jpeg:
            with open(self.part, "r+b") as file:
                file.seek(self.header_size + self.jpeg_size)
                file.writelines(results)
            self.lengths.extend(map(len, results))
            self.jpeg_size += sum(map(len, results))
            results = map(zlib.crc32, results)
        self.checksums.extend(results)

    def write_log(self) -> None:
        """Log what is done, after flushing it to the disk."""
        with open(self.part, "r+b") as file:
            os.fsync(file.fileno())
        done, unreadable = self._logged
        entry = {
            "done": self.done,
            "sums": self.checksums[done:].tolist(),
            "lengths": self.lengths[done:].tolist(),
            "unread": dict(new := list(self.unreadable.items())[unreadable:]),
            "passing": [index for index, _ in new if index in self.passing],
        }
        with self.log.open("a", encoding="utf-8") as log:
            print(json.dumps(entry), file=log, flush=True)
            os.fsync(log.fileno())
        self._logged = self.done, len(self.unreadable)

    def finish(self) -> None:
        """Add the tables and the header, and rename the file."""
        splits = self.source.splits.copy()
        splits[list(self.unreadable)] = UNREADABLE
        unread = {index: [why] if index in self.passing else why for index, why in self.unreadable.items()}
        tables = {
            "labels": self.source.labels.astype(np.int64),
            "splits": splits,
            "sums": np.array(self.checksums, np.uint32),
            "names": self.source.names.buffer,
            "unread": np.frombuffer(json.dumps(unread).encode(), np.uint8),
        }
        shape = len(splits), self.side, self.side, 3
        if self.jpeg:
            tables["starts"] = np.cumsum([0, *self.lengths], dtype=np.int64)
            shape = (self.jpeg_size,)
        fields = {"images": (np.dtype(np.uint8), shape)} | {name: (a.dtype, a.shape) for name, a in tables.items()}
        metadata = self.metadata | {"tables": crc32_of(tables.values())}
        with open(self.part, "r+b") as file:
            file.write(_encode_header(fields, metadata, self.header_size))
            file.seek(self.header_size + math.prod(shape))
            for table in tables.values():
                file.write(np.ascontiguousarray(table))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.part, self.path)
        self.log.unlink(missing_ok=True)

    def no_room(self, error: OSError) -> ValueError:
        _remove(self.part)
        return ValueError(f"no room in {self.path.parent} for {self.path.name}: {error.strerror}")

    def _begin_log(self) -> None:
        self.log.write_text(json.dumps({"data": self.source.location}) + "\n", encoding="utf-8")
        self._logged = 0, 0

    def _read_log(self) -> None:
        """Take over what an interrupted packing did, up to the first image that may be readable now."""
        if not (self.log.exists() and self.part.exists()):
            return
        for line in self.log.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError):  # the last line may be incomplete
                entry = json.loads(line)
                self.checksums.extend(entry["sums"])
                self.lengths.extend(entry["lengths"])
                self.unreadable |= {int(index): reason for index, reason in entry["unread"].items()}
                self.passing |= {*map(int, entry.get("passing", entry["unread"]))}
        self._logged = self.done, len(self.unreadable)
        if self.passing:
            first = min(self.passing)
            del self.checksums[first:], self.lengths[first:]
            self.unreadable = {index: why for index, why in self.unreadable.items() if index < first}
            self.passing.clear()
            self._begin_log()
            self.write_log()

    def _remove_abandoned(self) -> None:
        """Remove unfinished packs of this data set whose images, labels or splits have changed since, and old ones."""
        for part in self.path.parent.glob(f"*{PART_SUFFIX}"):
            log, other = part.with_name(f"{part.name}.log"), part.with_suffix("")
            in_use = is_locked(other)
            if other == self.path or not log.exists() or in_use:
                continue
            with log.open(encoding="utf-8") as file, contextlib.suppress(ValueError, AttributeError):
                is_same = json.loads(file.readline(100_000)).get("data") == self.source.location
                if (is_same and in_use is False) or time.time() - log.stat().st_mtime > ABANDONED_S:
                    _remove(part)


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
    """Remove an unfinished pack and its log."""
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.log").unlink(missing_ok=True)
