"""Files that are there whole or not at all, and are made by one process at a time; where they are kept."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

PART_SUFFIX = ".part"
"""How the names of unfinished files end; one that was left by a killed process is of no use."""
PATIENCE_S = 2.0
"""Seconds of waiting for another process before the user is told."""
MOST_NAME = 150
"""Bytes of another file's name in that of one of ours."""


def cache_folder() -> Path:
    """Where packs and downloads are kept: $ALEXNET_CACHE, or alexnet/ in the user's cache folder."""
    if "ALEXNET_CACHE" in os.environ:
        return Path(os.environ["ALEXNET_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alexnet"


def truncate_name(name: str) -> str:
    """The name of a file, or its beginning: a hash, an end, .lock and .part may follow within the 255 bytes of most."""
    return os.fsencode(name)[:MOST_NAME].decode("utf-8", "ignore")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` at the end, or is removed where an error is raised.

    What was written is on the disk before it gets its name, so a power failure leaves the old file or the new one.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives; some libraries write for the owner alone
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)  # not on Windows
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextlib.contextmanager
def file_lock(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold `path` against everyone else who asks for it here; waits while another does, in this process or in any.

    The system holds the lock, on an empty file `path`.lock that stays, and frees it when its holder ends in any way. A
    file system without locks has none, and nobody waits.

    Args:
        waiting: called once, after PATIENCE_S seconds of waiting.
    """
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        started, told = time.monotonic(), False
        while not _taken(file):
            if waiting and not told and time.monotonic() - started > PATIENCE_S:
                told = True
                waiting()
            time.sleep(0.05)
        yield  # closing the file frees it


def is_locked(path: Path) -> bool:
    """Whether someone holds `path` now, by `locked`."""
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        return not _taken(file)


def _taken(file: BinaryIO) -> bool:
    try:
        if os.name == "nt":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True
