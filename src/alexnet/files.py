"""Atomic file writes, locks between processes, and the cache folder."""

import contextlib
import csv
import errno
import itertools
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from .specs.names import csv_cell

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

PART_SUFFIX, LOCK = ".part", "lock"
"""Suffix of unfinished files and of the folders that hold them, and the name of the lock in such a folder."""
CACHE_REMEDY = "set the environment variable ALEXNET_CACHE to a folder that can be written to"
ABANDONED_S = 86400.0
"""Seconds without a change after which a temporary file is taken for abandoned where locks cannot tell."""
WAIT_NOTICE_S = 2.0
"""Seconds of waiting for a lock after which the user is told."""
NAMES = {"encoding": "utf-8", "errors": "surrogateescape"}
"""How files with names of images are opened, since a name may be any bytes."""
MAX_NAME_BYTES = 150
"""Bytes of a name that becomes part of another file's name."""


def cache_folder() -> Path:
    """The folder of packs and downloads: $ALEXNET_CACHE, or alexnet/ in the user's cache folder."""
    if os.environ.get("ALEXNET_CACHE"):
        return Path(os.environ["ALEXNET_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "alexnet"
    try:
        return Path.home() / ".cache" / "alexnet"
    except RuntimeError as error:
        raise ValueError(f"there is no home folder; {CACHE_REMEDY}") from error


def truncate_name(name: str) -> str:
    """A file name cut so that a hash, a suffix, .lock and .part fit behind it in 255 bytes, the usual limit."""
    return os.fsencode(name)[:MAX_NAME_BYTES].decode("utf-8", "ignore")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path, renamed to `path` at the end, or removed if an error is raised.

    It is in a folder of its own beside `path`, with whatever a library writes beside it, and so is the lock by which
    others see that it is in use. Those that killed processes left behind are removed on this occasion. The content is
    on the disk before the file gets its name, so a power failure leaves the old file or the new one.

    Raises:
        OSError: the disk is full, which names the file; or whatever is raised meanwhile.
    """
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise OSError(f"{path} cannot be written: {reason}")
    remove_abandoned(path.parent)
    folder = Path(tempfile.mkdtemp(PART_SUFFIX, f"{truncate_name(path.name)}.", path.parent))
    temporary = folder / path.name
    try:
        with open(folder / f"{LOCK}.new", "ab") as lock:
            _try_lock(lock)
            os.replace(lock.name, folder / LOCK)  # so that a lock that can be seen is held
            temporary.touch()
            mode = temporary.stat().st_mode  # from the umask; some libraries create files that only the owner can read
            yield temporary
            temporary.chmod(mode)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
    except Exception as error:
        safetensors_says = re.search(r"\(os error (\d+)\)", str(error))
        number = int(safetensors_says[1]) if safetensors_says else getattr(error, "errno", None)
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(f"{path} cannot be written: {os.strerror(number)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class CsvWriter:
    """Writes rows of a table, in which cells of text are harmless to spreadsheets (`from_csv_cell` undoes that)."""

    def __init__(self, file: TextIO):
        quoting = csv.QUOTE_MINIMAL, csv.QUOTE_ALL
        self.minimal, self.quoted = (csv.writer(file, lineterminator="\n", quoting=each) for each in quoting)

    def writerow(self, row: Iterable[object]) -> None:
        cells = [csv_cell(cell) if isinstance(cell, str) else cell for cell in row]
        has_return = any("\r" in cell for cell in cells if isinstance(cell, str))  # not quoted before Python 3.13
        (self.quoted if has_return else self.minimal).writerow(cells)

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        for row in rows:
            self.writerow(row)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left of an `atomic_write` in a folder, which may be a user's: nothing else in it."""
    for path in folder.glob(f"*{PART_SUFFIX}"):
        if re.search(rf"\.[a-z0-9_]{{8}}{re.escape(PART_SUFFIX)}$", path.name) and path.is_dir():
            with contextlib.suppress(OSError):  # it is gone, or somebody else's
                if not path.is_symlink() and _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(temporary: Path) -> bool:
    """Whether a temporary folder is of a process that has ended: its lock is free, or there is none yet after a day.

    Only a folder with our lock, or an empty one, can be ours.
    """
    names = {each.name for each in temporary.iterdir()}
    if names and not names & {LOCK, f"{LOCK}.new"}:
        return False
    if LOCK in names:
        with open(temporary / LOCK, "ab") as file:
            is_free = _try_lock(file)
        if is_free is not None:
            return is_free
    return time.time() - max(each.stat().st_mtime for each in (temporary, *temporary.iterdir())) > ABANDONED_S


def open_regular_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file, which is then one that `check_regular_file` lets pass."""
    check_regular_file(path)
    return open(path, "rb")


def check_regular_file(path: str | os.PathLike[str]) -> None:
    """Raise OSError for a folder, a pipe, which would block, or a device, which may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Content of a file; OSError if it is no regular file or has more than `max_bytes`."""
    with open_regular_file(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise OSError(
                errno.EFBIG, f"it has more than {max_bytes:,} bytes, the limit for such a file", os.fspath(path)
            )
        return file.read()


def make_folder(folder: Path) -> None:
    """Make a folder for files of the cache, which only their owner can read, as the images may be.

    Raises:
        ValueError: it cannot be made or written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
        reason = os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror
    raise ValueError(f"{folder}, for packs and downloads, cannot be written to: {reason}; {CACHE_REMEDY}")


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the system supports that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)  # not on Windows
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[bool]:
    """Hold the exclusive lock of `path`; waits while any other thread or process holds it.

    The system holds the lock, on an empty file `path`.lock that stays, and releases it however its holder ends. On a
    file system without locks nobody waits, and the value is False. By hand, because `filelock` fails on some of these
    file systems, and on others falls back to a marker file that a killed process leaves behind.

    Args:
        on_wait: called once, after WAIT_NOTICE_S seconds of waiting.
    """
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        started, notified = time.monotonic(), False
        while (is_held := _try_lock(file)) is False:
            if on_wait and not notified and time.monotonic() - started > WAIT_NOTICE_S:
                notified = True
                on_wait()
            time.sleep(0.05)
        yield is_held is True  # closing the file releases the lock


def is_locked(path: Path) -> bool | None:
    """Whether someone holds the `file_lock` of `path` now; None where the file system has no locks."""
    with open(path.with_name(f"{path.name}.lock"), "ab") as file:
        is_free = _try_lock(file)
        return None if is_free is None else not is_free


def _try_lock(file: BinaryIO) -> bool | None:
    """Take the lock of a file: whether it is held now, or None where the file system has no locks."""
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
        return None
    return True


def unused(path: Path) -> Path:
    """The path, or the first of NAME-2, NAME-3 … that does not exist, for a file that nobody named."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not os.path.lexists(each))


def siblings(path: Path) -> list[str]:
    """Names beside a path, of which one may have been meant."""
    with contextlib.suppress(OSError):
        return [each.name for each in path.parent.iterdir()]
    return []
