"""Makes the pack of a source, unless the cache has it.

Several processes that make the same pack divide its images; an interrupted packing resumes.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...device import decoders
from ...files import cache_folder, file_lock, make_folder, truncate_name
from ...specs.settings import check_setting, option
from ..progress import Track, run_tracked
from ..source import TRAIN, ImageReader, Source
from .reading import VERSION, Pack, open_pack
from .resizing import Squares, stored_square
from .unfinished import UnfinishedPack
from .workers import Failed, run_task

MAX_UNREADABLE, FEW_UNREADABLE = 0.01, 5
"""Fraction of images that may be unreadable, and how many may be in small data sets."""
LOG_S = 2.0
"""Seconds between entries in the log."""
WAIT_S = 0.2
"""Seconds after which a process looks again whether others have finished, or left something to do."""
TOLD_WAITS = 10
"""After how many of these the user is told."""


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
        wait = partial(notify, f"another process is making {path.name}; waiting for it")
        with contextlib.ExitStack() as stack:
            with file_lock(path, wait):
                pack = _open_existing(source, path, options)
                if pack is None:
                    path.unlink(missing_ok=True)
                    unfinished = UnfinishedPack(source, side, path, options.jpeg, options.squares, wait)
                    stack.enter_context(unfinished)
            if pack is None:
                _write_pack(unfinished, options, track, notify)
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


def _write_pack(
    file: UnfinishedPack, options: PackOptions, track: Track | None, notify: Callable[[str], object]
) -> None:
    """Decode the images of a source that nobody else has decoded or is decoding, until the pack is finished."""
    source, count = file.source, len(file.source)
    task = _StoreSquare(source.reader, file.side, file.squares, file.jpeg, file.part, file.header_size)

    def write() -> Iterator[int]:
        shown, logged, waits = 0, time.monotonic(), 0
        while not file.is_finished:
            images = ((index, source.locate(index)) for index in file.take_images())
            yield file.done - shown
            shown = file.done
            for results in run_task(task, images, count - shown, options.workers or decoders()):
                file.add(results)
                _check_unreadable(source, file.unreadable, file.done, options.strict)
                if time.monotonic() - logged > LOG_S:
                    file.write_log()
                    logged = time.monotonic()
                yield file.done - shown
                shown = file.done
            file.write_log()
            file.finish()
            if not file.is_finished:
                waits += 1
                if waits == TOLD_WAITS:
                    notify(f"other processes are making the rest of {file.path.name}; waiting for them")
                time.sleep(WAIT_S)
        yield count - shown

    try:
        run_tracked(write(), count, track)
    except BaseException as error:
        if isinstance(error, OSError) and file.is_finished:
            return  # by another process, which has renamed the file
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise file.no_room(file.part, error) from error
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
