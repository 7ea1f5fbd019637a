"""Files below one place: a folder, an archive, or several of those, each under a name."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from .archives import Archive, Member
from .image_formats import open_image
from .remote import open_remote, remote_files
from .string_table import StringTable

MOST_LABEL_BYTES = 1_000_000_000
"""Of a file of labels."""
RUN = ("run.json", "split.csv")
"""Files of a run of ours: a folder that holds them is no part of the data, even if runs/ lies among it."""
MOST_LINKS = 8
"""Links to folders, each inside of the one before: folders that link to one another have ever more paths."""


class Opener(Protocol):
    """Opens files by where they lie; small, so that every process which decodes has a copy."""

    def open(self, place: Any) -> BinaryIO: ...


class Tree(Protocol):
    name: str
    files: StringTable
    """Paths with "/", relative to the place; hidden ones are left out."""
    sizes: np.ndarray
    """Bytes of each file, int64; below 0 where unknown."""
    opener: Opener
    stamp: str
    """Changes when a file does."""

    def place(self, number: int) -> Any:
        """Where a file lies, for the opener."""


class ImageFiles:
    """Reads files of a tree as images."""

    def __init__(self, opener: Opener):
        self.opener = opener

    def open(self, place: Any) -> Image.Image:
        return open_image(self.opener.open(place))

    def content(self, place: Any) -> bytes:
        with self.opener.open(place) as file:
            return file.read()


class Folder:
    """Files below a folder of this machine, in the order of their paths; links are followed.

    Raises:
        ValueError: a folder cannot be read.
    """

    def __init__(self, root: Path):
        self.name = root.resolve().name or "root"
        self.opener = FilesBelow(str(root))
        sizes, digest = array("q"), hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape"))

        def names() -> Iterator[str]:
            for path, status in _files_below(str(root)):
                sizes.append(status.st_size)
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
                yield path

        self.files = StringTable.from_strings(names())
        self.sizes, self.stamp = np.array(sizes, np.int64), digest.hexdigest()

    def place(self, number: int) -> str:
        return self.files[number]


class Packed:
    """Files of a zip or tar file, in its order.

    Args:
        cache: folder for the list of its members.
        track: as for `Archive`.
    """

    def __init__(self, path: Path, cache: Path, track=None):
        archive = Archive(path, cache, track)
        self.name = path.name.split(".")[0]
        self._archive, self.opener = archive, _Members(archive)
        visible = array("q", (number for number, name in enumerate(archive.names) if not _is_hidden(name)))
        self.files = StringTable.from_strings(archive.names[number] for number in visible)
        archive.names = ()  # a million strings would stay in memory
        self._numbers = np.array(visible, np.int64)
        self.sizes = archive.sizes[self._numbers]
        self.stamp = archive.fingerprint()

    def place(self, number: int) -> Member:
        return self._archive.member(self._numbers[number])


class Remote:
    """Files below a folder of a remote store, by their names.

    Raises:
        ValueError: it cannot be listed.
    """

    def __init__(self, url: str):
        scheme, path = url.partition("://")[::2]
        root = f"{path.strip('/')}/"
        found = ((file.partition("://")[2].lstrip("/"), size) for file, size in remote_files(url))
        listed = sorted((file.removeprefix(root), size) for file, size in found)
        visible = [(file, size) for file, size in listed if not _is_hidden(file)]
        self.name, self.opener = root.split("/")[-2], _FilesOfStore(f"{scheme}://{root}")
        self.files = StringTable.from_strings(file for file, _ in visible)
        self.sizes = np.array([-1 if size is None else size for _, size in visible], np.int64)
        self.stamp = hashlib.sha256(repr((url, visible)).encode("utf-8", "surrogateescape")).hexdigest()

    def place(self, number: int) -> str:
        return self.files[number]


class Several:
    """Trees as folders of one."""

    def __init__(self, name: str, trees: Mapping[str, Tree]):
        self.name, self._trees = name, dict(trees)
        self.opener = _OneOf({part: tree.opener for part, tree in trees.items()})
        self.files = StringTable.from_strings(f"{part}/{file}" for part, tree in trees.items() for file in tree.files)
        self.sizes = np.concatenate([tree.sizes for tree in trees.values()])
        self.stamp = " ".join(f"{part}:{tree.stamp}" for part, tree in trees.items())

    def place(self, number: int) -> tuple[str, Any]:
        for part, tree in self._trees.items():
            if number < len(tree.files):
                return part, tree.place(number)
            number -= len(tree.files)
        raise IndexError(number)


def read_file(tree: Tree, number: int, most: int = MOST_LABEL_BYTES) -> bytes:
    """A file as a whole.

    Raises:
        ValueError: it has more bytes than `most`, or cannot be read.
    """
    name = f"{tree.name}/{tree.files[number]}"
    try:
        with tree.opener.open(tree.place(number)) as file:
            content = read_most(file, most + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if len(content) > most:
        raise ValueError(f"{name} has more than {most:,} bytes, the most that such a file may have")
    return content


def read_most(file: BinaryIO, most: int) -> bytes:
    """What a file holds, up to so many bytes; `file.read(most)` would take memory for all of them first."""
    blocks = []
    while most > 0 and (block := file.read(min(most, 1 << 20))):
        blocks.append(block)
        most -= len(block)
    return b"".join(blocks)


def _files_below(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of each file that can be reached, in the order of the parts of their paths."""
    levels = [("", _visible(root), [_identity(root)], 0)]
    while levels:
        below, entries, above, links = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to nothing or to itself; or it has just gone
                continue
            raise ValueError(f"{entry.path} cannot be read: {error.strerror}") from error
        if stat.S_ISREG(status.st_mode):  # no device, no pipe
            yield below + entry.name, status
        elif stat.S_ISDIR(status.st_mode) and (here := _identity(entry.path)) not in above:  # that would have no end
            if all(os.path.exists(f"{entry.path}/{name}") for name in RUN):
                continue
            links += entry.is_symlink()
            if links > MOST_LINKS:
                raise ValueError(f"{entry.path} is a link in a link, {links} deep; that may be {MOST_LINKS}")
            levels.append((f"{below}{entry.name}/", _visible(entry.path), [*above, here], links))


def _visible(folder: str) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as listing:
            return iter(sorted((each for each in listing if not _is_hidden(each.name)), key=lambda each: each.name))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_hidden(path: str) -> bool:
    return path.startswith((".", "__MACOSX")) or "/." in path or "/__MACOSX" in path


class FilesBelow:
    """Opens files by their paths from a folder."""

    def __init__(self, root: str):
        self.root = root

    def path(self, place: str) -> str:
        return os.path.join(self.root, place)

    def open(self, place: str) -> BinaryIO:
        path = self.path(place)
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would keep us waiting, a device have no end
            raise OSError(errno.EINVAL, "it is no file", path)
        return open(path, "rb")


class _FilesOfStore:
    def __init__(self, root: str):
        self.root = root

    def open(self, place: str) -> BinaryIO:
        return open_remote(self.root + place)


class _Members:
    def __init__(self, archive: Archive):
        self.archive = archive

    def open(self, place: Member) -> BinaryIO:
        return io.BytesIO(self.archive.read(place))


class _OneOf:
    def __init__(self, openers: dict[str, Opener]):
        self.openers = openers

    def open(self, place: tuple[str, Any]) -> BinaryIO:
        part, inner = place
        return self.openers[part].open(inner)
