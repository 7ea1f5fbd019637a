"""Files of a remote store, by fsspec and the package that it needs for the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...files import atomic_write, file_lock, truncate_name
from .download import BLOCK, MOST_BYTES, redact

STORES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""Remote stores: the scheme, and the package by which fsspec reaches it."""


def remote_files(url: str) -> Iterator[tuple[str, int]]:
    """Every file below a folder of a remote store, as its URL and its size in bytes.

    Args:
        url: s3://…, gs://… or hf://…

    Raises:
        ValueError: it is of another scheme, cannot be read, or a package is missing, which is then named.
    """
    try:
        store, path = _store(url)
        for _, _, files in store.walk(path, detail=True, on_error="raise"):
            yield from ((store.unstrip_protocol(file["name"]), file["size"]) for _, file in sorted(files.items()))
    except Exception as error:  # each store has errors of its own
        raise ValueError(f"{redact(url)} cannot be listed: {error}") from error


def open_remote(url: str) -> BinaryIO:
    """A file of a remote store, to be read.

    Raises:
        ValueError: as by `remote_files`.
    """
    try:
        store, path = _store(url)
        return store.open(path, "rb")
    except Exception as error:  # each store has errors of its own
        raise ValueError(f"{redact(url)} cannot be opened: {error}") from error


def kept_remote(url: str, folder: Path, most_bytes: int = MOST_BYTES) -> Path:
    """A file of a remote store, in a cache: copied now, unless it was before.

    Args:
        folder: the cache; the file is kept under its own name and a hash of its address.

    Raises:
        ValueError: as by `remote_files`; or it has more than `most_bytes`.
    """
    path = folder / f"{truncate_name(url.rpartition('/')[2])}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(path):
        if path.exists():
            return path
        with atomic_write(path) as temporary, open_remote(url) as remote, temporary.open("wb") as file:
            while block := remote.read(BLOCK):
                file.write(block)
                if file.tell() > most_bytes:
                    raise ValueError(f"{redact(url)} has more than {most_bytes:,} bytes, the most that a file may have")
    return path


def _store(url: str):
    scheme, _, path = url.partition("://")
    if scheme not in STORES:
        raise ValueError(
            f"it is no remote store; that may be {', '.join(f'{known}://' for known in STORES)}. "
            "A web address may be of one archive or one image, since a server does not list its files"
        )
    try:
        import fsspec

        return fsspec.filesystem(scheme), path  # not fsspec.open, which follows a :: to any other place
    except ImportError as error:
        raise ValueError(f"a package is missing; try: pip install fsspec {STORES[scheme]}") from error
