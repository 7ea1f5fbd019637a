"""Decode, resize and crop every image once, into one memory-mapped file of uint8.

The file is a safetensors file, so that others can read it: `images` (N, side, side, 3), `labels`, `splits`, and `names`
joined by newlines as bytes; classes and settings are in its header. Section 2 of the paper: the shorter side is resized
to the stored size and the central square cut out; nothing else is done to the pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import written_whole
from .decoding import Squares, Unread, decode
from .sources import SPLITS, Source

VERSION = 2
"""Of the pack's pixels and fields; another one means another file."""
BROKEN = 255
"""In `splits`: this image could not be read."""
MOST_BROKEN = 0.01
"""Share of images that may be unreadable."""


@dataclass(frozen=True)
class Pack:
    """Images of one size in memory-mapped storage, with what is known of them."""

    path: Path
    name: str
    classes: tuple[str, ...]
    images: np.ndarray
    """(N, side, side, 3), uint8, not in memory until touched."""
    labels: np.ndarray
    """(N,), int64."""
    splits: np.ndarray
    """(N,), uint8: positions in SPLITS, or BROKEN."""
    names: tuple[str, ...]

    @property
    def side(self) -> int:
        return self.images.shape[1]

    def numbers(self, split: str) -> np.ndarray:
        """Which images are of a split: numbers into `images`, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @property
    def broken(self) -> list[str]:
        return [self.names[number] for number in np.flatnonzero(self.splits == BROKEN)]


def pack(source: Source, side: int, folder: Path | None = None, workers: int | None = None, progress=None) -> Pack:
    """The pack of a source at a stored size, made now unless the same was made before.

    Args:
        side: side of the stored squares, pixels.
        folder: where packs are kept; `cache_folder()` where None.
        workers: processes that decode; one per core where None.
        progress: a function that wraps an iterable of counts, given (counts, total), to show how far it is.

    Raises:
        ValueError: more than 1 % of the images cannot be read, or all of one class.
    """
    folder = (folder or cache_folder()) / "packs"
    settings = {"version": VERSION, "side": side, "source": source.fingerprint()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = folder / f"{source.name}-{side}-{digest[:16]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(source, side, path, workers or os.cpu_count() or 1, progress)
    return open_pack(path)


def cache_folder() -> Path:
    """Where packs are kept: $ALEXNET_CACHE, or alexnet/ in the user's cache folder."""
    if "ALEXNET_CACHE" in os.environ:
        return Path(os.environ["ALEXNET_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alexnet"


def open_pack(path: Path) -> Pack:
    """Map a pack into memory.

    Raises:
        ValueError: the file is not a pack of this version, or is cut short.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= 100_000_000:
            raise ValueError(f"{path} is not a pack of images")
        header = json.loads(file.read(length))
    about = json.loads(header.get("__metadata__", {}).get("pack", "{}"))
    if about.get("version") != VERSION:
        raise ValueError(
            f"{path} is a pack of version {about.get('version')}; it may be {VERSION}. Delete it and pack again"
        )
    size = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    if os.path.getsize(path) != size:
        raise ValueError(f"{path} has {os.path.getsize(path)} bytes; a whole one has {size}. Delete it and pack again")

    def tensor(name: str) -> np.ndarray:
        entry = header[name]
        dtype = {"U8": np.uint8, "I64": np.int64}[entry["dtype"]]
        return np.memmap(path, dtype, "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))

    names = bytes(tensor("names")).decode().split("\n")
    return Pack(
        path,
        about["name"],
        tuple(about["classes"]),
        tensor("images"),
        np.array(tensor("labels")),
        np.array(tensor("splits")),
        tuple(names),
    )


def _write(source: Source, side: int, path: Path, workers: int, progress) -> None:
    entries = source.entries
    names = "\n".join(entry.name.replace("\n", " ") for entry in entries).encode()
    count = len(entries)
    fields = {
        "images": ("U8", (count, side, side, 3), count * side * side * 3),
        "labels": ("I64", (count,), 8 * count),
        "splits": ("U8", (count,), count),
        "names": ("U8", (len(names),), len(names)),
    }
    header: dict = {
        "__metadata__": {"pack": json.dumps({"version": VERSION, "name": source.name, "classes": list(source.classes)})}
    }
    end = 0
    for name, (dtype, shape, size) in fields.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    head += b" " * (-(8 + len(head)) % 64)
    with written_whole(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            file.truncate(8 + len(head) + end)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a crash in the middle
                os.posix_fallocate(file.fileno(), 0, 8 + len(head) + end)
        storage = np.memmap(temporary, np.uint8, "r+", offset=8 + len(head))
        splits = np.array([SPLITS.index(entry.split) for entry in entries], np.uint8)
        decoded = decode(source, Squares(temporary, 8 + len(head), count, side), workers)
        counted = _collected(decoded, unread := {})
        for _ in progress(counted, count) if progress else counted:
            pass
        splits[list(unread)] = BROKEN
        _judge_unread(source, splits, unread)
        rest = np.array([entry.label for entry in entries], np.int64).tobytes() + splits.tobytes() + names
        storage[fields["images"][2] :] = np.frombuffer(rest, np.uint8)
        storage.flush()


def _collected(decoded: Iterator[tuple[int, Unread]], unread: Unread) -> Iterator[int]:
    """How many images are done at a time; those that could not be read are added to `unread`."""
    for done, failed in decoded:
        unread.update(failed)
        yield done


def _judge_unread(source: Source, splits: np.ndarray, unread: dict[int, str]) -> None:
    if len(unread) > max(1, MOST_BROKEN * len(splits)):
        examples = "\n  ".join(list(unread.values())[:5])
        raise ValueError(
            f"{source.name}: {len(unread)} of {len(splits)} images cannot be read; up to {MOST_BROKEN:.0%} are left "
            f"out. The first:\n  {examples}"
        )
    read = {entry.label for entry, split in zip(source.entries, splits, strict=True) if split == SPLITS.index("train")}
    empty = [name for label, name in enumerate(source.classes) if label not in read]
    if empty and read:
        raise ValueError(f"{source.name}: no image to train on can be read of class {', '.join(empty)}")


def describe_splits(packed: Pack) -> str:
    """How many images each split has: "5,375 to train on, 706 to validate, 1,431 to test"."""
    uses = {"train": "to train on", "val": "to validate", "test": "to test"}
    counts: Sequence[tuple[str, int]] = [(uses[split], len(packed.numbers(split))) for split in SPLITS]
    return ", ".join(f"{count:,} {use}" for use, count in counts if count)
