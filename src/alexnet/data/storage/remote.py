"""Files of a remote store, through fsspec and the package that it needs for the store."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...files import atomic_write, file_lock, make_folder, truncate_name
from .download import BLOCK, MAX_BYTES, redact

STORES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""URL schemes of remote stores, and the package through which fsspec reaches each."""


def list_remote(url: str) -> Iterator[tuple[str, int]]:
    """The URL and size in bytes of every file below a folder of a remote store.

    Args:
        url: s3://…, gs://… or hf://…

    Raises:
        ValueError: the scheme is unknown, the folder cannot be read, or a package is missing.
    """
    try:
        store, path = _open_store(url)
        for _, _, files in store.walk(path, detail=True, on_error="raise"):
            yield from ((store.unstrip_protocol(file["name"]), file["size"]) for _, file in sorted(files.items()))
    except Exception as error:  # each store raises errors of its own
        raise ValueError(f"{redact(url)} cannot be listed: {error}") from error


def open_remote(url: str) -> BinaryIO:
    """Open a file of a remote store for reading."""
    try:
        store, path = _open_store(url)
        return store.open(path, "rb")
    except Exception as error:  # each store raises errors of its own
        raise ValueError(f"{redact(url)} cannot be opened: {error}") from error


def download_remote(url: str, cache: Path) -> Path:
    """The cached copy of a file of a remote store, downloaded now if there is none.

    Args:
        cache: folder of the copy, which is named after the file and a hash of its URL.

    Raises:
        ValueError: as `list_remote`; or the file has more than MAX_BYTES.
    """
    path = cache / f"{truncate_name(url.rpartition('/')[2])}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    make_folder(cache)
    with file_lock(path):
        if path.exists():
            return path
        with atomic_write(path) as temporary, open_remote(url) as remote, temporary.open("wb") as file:
            while block := remote.read(BLOCK):
                file.write(block)
                if file.tell() > MAX_BYTES:
                    raise ValueError(f"{redact(url)} has more than {MAX_BYTES:,} bytes, the limit for a file")
    return path


def _open_store(url: str):
    scheme, _, path = url.partition("://")
    if scheme not in STORES:
        raise ValueError(
            f"the URL of a remote store must begin with {', '.join(f'{known}://' for known in STORES)}; a web address "
            "must be that of one archive or image, because web servers do not list their files"
        )
    try:
        import fsspec

        return fsspec.filesystem(scheme), path  # not fsspec.open, which would follow a :: to any other file system
    except ImportError as error:
        raise ValueError(f"a package is missing: pip install fsspec {STORES[scheme]}") from error
