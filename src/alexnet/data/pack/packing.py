"""Makes the pack of a source, unless the cache has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files import cache_folder, file_lock, truncate_name
from ..progress import Track
from ..source import TRAIN, Source
from .format import VERSION
from .reading import Pack, open_pack
from .writing import check_unreadable, write_pack


@dataclass(frozen=True)
class PackOptions:
    jpeg: int | None = None
    """JPEG quality of stored images, 1 to 95: at 90 they take about a tenth of the disk, but are decoded whenever they
    are read. None stores pixels."""
    workers: int | None = None
    """Processes that decode; one per core if None."""
    strict: bool = False
    """Whether a single unreadable image is an error."""

    def __post_init__(self):
        if self.jpeg is not None and not 1 <= self.jpeg <= 95:
            raise ValueError(f"jpeg must be a quality from 1 to 95, got {self.jpeg}")
        if self.workers is not None and not (isinstance(self.workers, int) and self.workers >= 1):
            raise ValueError(f"workers must be an integer >= 1, got {self.workers!r}")


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
    settings = {"version": VERSION, "side": side, "jpeg": options.jpeg, "source": source.fingerprint()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = folder / f"{truncate_name(source.name)}-{side}-{digest[:16]}.safetensors"
    pack = _open_existing(path, notify)
    if pack is None:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(path, lambda: notify(f"another process is making {path.name}; waiting for it")):
            pack = _open_existing(path)
            if pack is None:
                write_pack(source, side, path, options.jpeg, options.workers, options.strict, track)
                pack = open_pack(path)
    check_unreadable(source, pack.unreadable, len(source), options.strict)
    _check_classes(source, pack)
    return pack


def _open_existing(path: Path, notify: Callable[[str], object] = lambda message: None) -> Pack | None:
    if not path.exists():
        return None
    try:
        return open_pack(path)
    except ValueError as error:
        notify(f"{error}; packing again")
        return None


def _check_classes(source: Source, pack: Pack) -> None:
    """Raise ValueError if no training image of a class could be read."""
    is_readable = np.ones(len(source), bool)
    is_readable[list(pack.unreadable)] = False
    present = set(source.labels[is_readable & (source.splits == TRAIN)].tolist())
    used = ((label, name) for label, name in enumerate(source.classes) if name not in source.unused_classes)
    empty = [name for label, name in used if label not in present]
    if empty and present:
        raise ValueError(f"{source.name}: no readable training image in class {', '.join(empty)}")
