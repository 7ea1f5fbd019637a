"""Decode, resize and crop every image of a source once, into a pack."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...device import processors
from ...files import cache_folder, file_lock, truncate_name
from ..source import TRAIN, Source
from .reading import VERSION, Pack, open_pack
from .writing import most_unread, too_many, write_pack


@dataclass(frozen=True)
class PackOptions:
    """How a pack is made."""

    jpeg: int | None = None
    """Quality of JPEG, 1 to 95, by which squares are stored: about a tenth of the disk at 90, decoded whenever they
    are read. Where None, their pixels are stored."""
    workers: int | None = None
    """Processes that decode; one per core where None."""
    strict: bool = False
    """Whether one image that cannot be read is an error already."""

    def __post_init__(self):
        if self.jpeg is not None and not 1 <= self.jpeg <= 95:
            raise ValueError(f"jpeg is {self.jpeg}; it may be a quality of 1 to 95")
        if self.workers is not None and not (isinstance(self.workers, int) and self.workers >= 1):
            raise ValueError(f"workers is {self.workers!r}; it may be a whole number, 1 or more")


def make_pack(
    source: Source,
    side: int,
    folder: Path | None = None,
    options: PackOptions = PackOptions(),
    track=None,
    notify: Callable[[str], object] = lambda words: None,
) -> Pack:
    """The pack of a source at a stored size, made now unless the same was made before.

    Args:
        side: side of the stored squares, pixels.
        folder: where packs are kept; `cache_folder()` where None.
        track: a function that wraps an iterable of counts, given (counts, total), to show how far it is.
        notify: is told what the user may wonder about.

    Raises:
        ValueError: too many images, or all of one class, cannot be read; or the disk is full.
    """
    folder = (folder or cache_folder()) / "packs"
    settings = {"version": VERSION, "side": side, "jpeg": options.jpeg, "source": source.fingerprint()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = folder / f"{truncate_name(source.name)}-{side}-{digest[:16]}.safetensors"
    made = None
    if path.exists():
        try:
            made = open_pack(path)
        except ValueError as error:
            notify(f"{error}; it is made anew")
    if made is None:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(path, lambda: notify(f"another process is making {path.name}; waiting for it")):
            made = _whole(path)
            if made is None:
                write_pack(source, side, path, options.jpeg, options.workers or processors(), track, options.strict)
                made = open_pack(path)
    _judge(source, made.unreadable, options.strict)
    return made


def _whole(path: Path) -> Pack | None:
    """The pack, where it was made in the meantime."""
    with contextlib.suppress(ValueError):
        return open_pack(path)
    return None


def _judge(source: Source, unread: Mapping[int, str], strict: bool) -> None:
    count = len(source)
    if len(unread) > most_unread(count, strict):
        raise too_many(source, unread, count, strict)
    read = np.ones(count, bool)
    read[list(unread)] = False
    seen = set(source.labels[read & (source.splits == TRAIN)].tolist())
    empty = [name for label, name in enumerate(source.classes) if label not in seen and name not in source.unused]
    if empty and seen:
        raise ValueError(f"{source.name}: no image to train on can be read of class {', '.join(empty)}")
