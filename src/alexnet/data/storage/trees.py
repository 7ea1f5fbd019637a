"""Trees of files: those below a folder, in an archive or in a remote store, or several trees joined."""

import errno
import hashlib
import os
import shutil
import stat
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...files import atomic_write, file_lock, open_regular_file, truncate_name
from ..progress import Track
from .archives import Archive, is_archive
from .image_formats import is_image_file
from .remote import download_remote, list_remote, open_remote
from .string_table import StringTable

MAX_LABEL_FILE_BYTES = 1_000_000_000
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Suffixes that mark a file as an archive, where its content is not at hand."""
MAX_NESTED_LINKS = 8
"""Links to folders, each inside the one before: folders that link to one another have endlessly many paths."""

FileOpener = Callable[[Any], BinaryIO]
"""Opens a file by its location; picklable and small, because each worker process gets a copy."""
SkipFolder = Callable[[str], bool]
"""Whether a folder, given its path, is not part of the data."""


@dataclass(frozen=True)
class Tree:
    name: str
    files: StringTable
    """Paths relative to the root, with "/"; without hidden files."""
    sizes: np.ndarray
    """Bytes of each file, int64; -1 if unknown."""
    fingerprint: str
    """Changes when a file changes."""
    open: FileOpener
    locate: Callable[[int], Any]
    """Location of the file at an index into `files`."""
    empty_folders: tuple[str, ...] = ()
    """Paths of folders that hold nothing, where the storage has such."""


def folder_tree(root: Path, skip_folder: SkipFolder | None = None) -> Tree:
    """The files below a local folder, sorted by path; links are followed."""
    sizes, digest = array("q"), hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape"))
    empty: list[str] = []

    def paths() -> Iterator[str]:
        for path, status in _walk(str(root), skip_folder, empty):
            sizes.append(status.st_size)
            digest.update(file_state(path, status))
            yield path

    files = StringTable.from_strings(paths())
    return Tree(
        name=root.resolve().name or "root",
        files=files,
        sizes=np.array(sizes, np.int64),
        fingerprint=digest.hexdigest(),
        open=open_regular_file,
        locate=lambda index: f"{root}/{files[index]}",
        empty_folders=tuple(empty),
    )


def archive_tree(path: Path, cache: Path, track: Track | None = None) -> Tree:
    """The files in a zip or tar file, in its order, as `Archive` reads it."""
    archive = Archive(path, cache, track)
    visible = array("q", (index for index, name in enumerate(archive.names) if not _is_hidden(name)))
    files, indices = StringTable.from_strings(archive.names[index] for index in visible), np.array(visible, np.int64)
    archive.names = ()  # a million strings would stay in memory

    def locate(index: int):
        return archive.member(indices[index])

    return Tree(path.name.split(".")[0], files, archive.sizes[indices], archive.fingerprint, archive.open, locate)


def remote_tree(url: str) -> Tree:
    """The files below a folder of a remote store, sorted by path."""
    scheme, _, path = url.partition("://")
    root = f"{path.strip('/')}/"
    listed = ((file.partition("://")[2].lstrip("/").removeprefix(root), size) for file, size in list_remote(url))
    visible = [(file, size) for file, size in sorted(listed) if not _is_hidden(file)]
    files = StringTable.from_strings(file for file, _ in visible)
    sizes = np.array([-1 if size is None else size for _, size in visible], np.int64)
    fingerprint = hashlib.sha256(repr((url, visible)).encode("utf-8", "surrogateescape")).hexdigest()
    name = root.split("/")[-2]
    return Tree(name, files, sizes, fingerprint, open_remote, lambda index: f"{scheme}://{root}{files[index]}")


def joined_tree(name: str, trees: Mapping[str, Tree]) -> Tree:
    """Several trees as the folders of one; that called "" is at its root."""
    starts, items = np.cumsum([0, *(len(tree.files) for tree in trees.values())]), list(trees.items())

    def locate(index: int) -> tuple[str, Any]:
        position = int(np.searchsorted(starts, index, side="right")) - 1
        folder, tree = items[position]
        return folder, tree.locate(index - int(starts[position]))

    return Tree(
        name,
        StringTable.from_strings(
            f"{folder}/{file}".lstrip("/") for folder, tree in trees.items() for file in tree.files
        ),
        np.concatenate([tree.sizes for tree in trees.values()]),
        " ".join(f"{folder}:{tree.fingerprint}" for folder, tree in trees.items()),
        partial(_open_joined, {folder: tree.open for folder, tree in trees.items()}),
        locate,
    )


def with_archives_opened(tree: Tree, cache: Path, track: Track | None = None) -> Tree:
    """A tree of archives and no images, in which each archive is a folder of its name; other trees as they are."""
    endings = {index: end for index, name in enumerate(tree.files) if (end := _archive_suffix(name))}
    if not endings or any(map(is_image_file, tree.files)):
        return tree
    others = [index for index in range(len(tree.files)) if index not in endings]
    trees = {}
    for index, end in endings.items():
        path = _local_copy(tree, index, cache)
        if is_archive(path):
            trees[tree.files[index][: -len(end)]] = archive_tree(path, cache, track)
        else:
            others.append(index)
    if others:
        files, sizes = tree.files.select(sorted(others)), tree.sizes[sorted(others)]
        trees[""] = replace(tree, files=files, sizes=sizes, locate=lambda index: tree.locate(sorted(others)[index]))
    return joined_tree(tree.name, trees)


def _archive_suffix(name: str) -> str:
    return next((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), "")


def _local_copy(tree: Tree, index: int, cache: Path) -> Path:
    """A file of a tree as a file of this machine: itself, or a copy in the cache."""
    location = tree.locate(index)
    if isinstance(location, str):
        return download_remote(location, cache) if "://" in location else Path(location)
    key = hashlib.sha256(f"{tree.fingerprint} {tree.files[index]}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = cache / f"{truncate_name(tree.files[index].rpartition('/')[2])}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with file_lock(path):
        if not path.exists():
            with atomic_write(path) as temporary, tree.open(location) as file, temporary.open("wb") as copy:
                shutil.copyfileobj(file, copy)
    return path


def read_file(tree: Tree, index: int, max_bytes: int = MAX_LABEL_FILE_BYTES) -> bytes:
    """Content of a file.

    Raises:
        ValueError: it has more than `max_bytes`, or cannot be read.
    """
    name = f"{tree.name}/{tree.files[index]}"
    try:
        with tree.open(tree.locate(index)) as file:
            content = read_up_to(file, max_bytes + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
    if len(content) > max_bytes:
        raise ValueError(f"{name} has more than {max_bytes:,} bytes, the limit for such a file")
    return content


def read_up_to(file: BinaryIO, max_bytes: int) -> bytes:
    """At most `max_bytes` of a file; `file.read(max_bytes)` would allocate all of them first."""
    blocks = []
    while max_bytes > 0 and (block := file.read(min(max_bytes, 1 << 20))):
        blocks.append(block)
        max_bytes -= len(block)
    return b"".join(blocks)


def file_state(path: str, status: os.stat_result) -> bytes:
    """What changes when a file does, for fingerprints."""
    return f"{path} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")


def _walk(
    folder: str, skip_folder: SkipFolder | None, empty: list[str], prefix: str = "", parents: tuple = (), links: int = 0
) -> Iterator[tuple[str, os.stat_result]]:
    """Path from the root and status of each regular file, folder by folder in sorted order; adds to `empty` folders."""
    if links > MAX_NESTED_LINKS:
        raise ValueError(f"{folder}: links in links must be <= {MAX_NESTED_LINKS} deep, got {links}")
    try:
        identity = (status := os.stat(folder)).st_dev, status.st_ino
        with os.scandir(folder) as scanned:
            entries = sorted((each for each in scanned if not _is_hidden(each.name)), key=lambda each: each.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error
    if identity in parents:
        return
    empty += [] if entries else [prefix[:-1]]
    for entry in entries:
        try:
            status = entry.stat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # a broken link, or a file removed since
                continue
            raise ValueError(f"{entry.path} cannot be read: {error.strerror}") from error
        if stat.S_ISREG(status.st_mode):
            yield prefix + entry.name, status
        elif stat.S_ISDIR(status.st_mode) and not (skip_folder and skip_folder(entry.path)):
            inner = f"{prefix}{entry.name}/", (*parents, identity), links + entry.is_symlink()
            yield from _walk(entry.path, skip_folder, empty, *inner)


def _is_hidden(path: str) -> bool:
    return path.startswith((".", "__MACOSX")) or "/." in path or "/__MACOSX" in path


def _open_joined(openers: dict[str, FileOpener], location: tuple[str, Any]) -> BinaryIO:
    folder, inner = location
    return openers[folder](inner)
