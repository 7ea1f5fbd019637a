"""Atomic file writes, locks between processes, and the cache folder."""

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
"""Suffix of unfinished files. One that a killed process left behind is useless."""
WAIT_NOTICE_S = 2.0
"""Seconds of waiting for a lock after which the user is told."""
MAX_NAME_BYTES = 150
"""Bytes of a name that becomes part of another file's name."""


def cache_folder() -> Path:
    """The folder of packs and downloads: $ALEXNET_CACHE, or alexnet/ in the user's cache folder."""
    if "ALEXNET_CACHE" in os.environ:
        return Path(os.environ["ALEXNET_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alexnet"


def truncate_name(name: str) -> str:
    """A file name cut so that a hash, a suffix, .lock and .part fit behind it in 255 bytes, the usual limit."""
    return os.fsencode(name)[:MAX_NAME_BYTES].decode("utf-8", "ignore")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` at the end, or removed if an error is raised.

    The content is on the disk before the file gets its name, so a power failure leaves the old file or the new one.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # from the umask; some libraries create files that only the owner can read
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the system supports that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)  # not on Windows
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the exclusive lock of `path`; waits while any other thread or process holds it.

    The system holds the lock, on an empty file `path`.lock that stays, and releases it however its holder ends. On a
    file system without locks nobody waits. By hand, because `filelock` fails on some of these file systems, and on
    others falls back to a marker file that a killed process leaves behind.

    Args:
        on_wait: called once, after WAIT_NOTICE_S seconds of waiting.
    """
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        started, notified = time.monotonic(), False
        while not _try_lock(file):
            if on_wait and not notified and time.monotonic() - started > WAIT_NOTICE_S:
                notified = True
                on_wait()
            time.sleep(0.05)
        yield  # closing the file releases the lock


def is_locked(path: Path) -> bool:
    """Whether someone holds the `file_lock` of `path` now."""
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        return not _try_lock(file)


def _try_lock(file: BinaryIO) -> bool:
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


def siblings(path: Path) -> list[str]:
    """Names beside a path, of which one may have been meant."""
    with contextlib.suppress(OSError):
        return [each.name for each in path.parent.iterdir()]
    return []
