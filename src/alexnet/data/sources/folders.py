"""Folders: root/{train,val,test}/class/… or root/class/…"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .base import SPLITS, Entry, stratified_split

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
OTHER_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class FolderSource:
    """A folder per class, below train/ and val/ (and test/), or directly below the root.

    Classes are the folders of train/ that hold images, sorted. What is missing is cut from train by class, in the order
    of a hash: a tenth for val, and another tenth for test where the root has neither split. Without train/, the splits
    that are there can be evaluated on, but not trained.

    Raises:
        ValueError: no images are found, or val/ or test/ has a class that train/ lacks.
    """

    def __init__(self, root: Path, split_seed: int = 0):
        self.root = root
        self.name = root.resolve().name or "root"
        folders = {split: self._split_folder(split) for split in SPLITS}
        present = {split: folder for split, folder in folders.items() if folder is not None}
        self.has_splits = bool(present)
        present = present or {"train": root}
        named = next(iter(present.values()))
        self.classes = tuple(folder.name for folder in _class_folders(named))
        if not self.classes:
            raise ValueError(
                f"{named} has no folder with images in it; it may have one per class ({', '.join(sorted(SUFFIXES))})"
            )
        self.entries = self._entries(present, split_seed)

    def open(self, number: int) -> Image.Image:
        return Image.open(self.root / self.entries[number].name)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((str(self.root.resolve()), self.classes)).encode())
        for entry in self.entries:
            status = os.stat(self.root / entry.name)
            digest.update(repr((entry, status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()

    def _split_folder(self, split: str) -> Path | None:
        for name in OTHER_NAMES[split]:
            if (self.root / name).is_dir():
                return self.root / name
        return None

    def _entries(self, folders: dict[str, Path], seed: int) -> list[Entry]:
        entries = []
        for split, folder in folders.items():
            for class_folder in _class_folders(folder):
                if class_folder.name not in self.classes:
                    known = f"{', '.join(self.classes[:20])}{' …' if len(self.classes) > 20 else ''}"
                    first = next(iter(folders.values())).name
                    raise ValueError(f"{class_folder} is of a class that {first}/ lacks; it may be of {known}")
                label = self.classes.index(class_folder.name)
                files = (file.relative_to(self.root).as_posix() for file in image_files(class_folder))
                entries += [Entry(file, label, split) for file in files]
        if "val" in folders or "train" not in folders:
            return entries
        shares = {"train": 0.0, "val": 0.1} if "test" in folders else {"train": 0.0, "val": 0.1, "test": 0.1}
        training = [entry for entry in entries if entry.split == "train"]
        splits = stratified_split([e.name for e in training], [e.label for e in training], shares, seed)
        cut = [Entry(entry.name, entry.label, split) for entry, split in zip(training, splits, strict=True)]
        return cut + [entry for entry in entries if entry.split != "train"]


def image_files(folder: Path) -> Iterator[Path]:
    """Files below a folder whose suffix is that of an image, sorted; hidden ones and hidden folders are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _class_folders(folder: Path) -> list[Path]:
    """Folders that hold images, sorted."""
    visible = (each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return sorted(each for each in visible if any(image_files(each)))
