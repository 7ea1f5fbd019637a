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

    Classes are the folders of train/, sorted. What is missing is cut from train by class, in the order of a hash: a
    tenth for val, and another tenth for test where the root has neither split.

    Raises:
        ValueError: no images are found, or val/ or test/ has a class that train/ lacks.
    """

    def __init__(self, root: Path, split_seed: int = 0):
        self.root = root
        self.name = root.resolve().name
        folders = {split: self._split_folder(split) for split in SPLITS}
        if folders["train"] is None and any(folders.values()):
            raise ValueError(f"{root} has {' and '.join(s for s in SPLITS if folders[s])} but no train/")
        self.has_splits = folders["train"] is not None
        if not self.has_splits:
            folders = {"train": root}
        present = {split: folder for split, folder in folders.items() if folder is not None}
        self.classes = tuple(sorted(f.name for f in present["train"].iterdir() if f.is_dir() and any(image_files(f))))
        if not self.classes:
            raise ValueError(
                f"{present['train']} has no folder with images in it; it may have one per class "
                f"({', '.join(sorted(SUFFIXES))})"
            )
        if len(self.classes) == 1:
            raise ValueError(f"{present['train']} has the one class {self.classes[0]!r}; two or more can be told apart")
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
            unknown = sorted(f.name for f in folder.iterdir() if f.is_dir() and f.name not in self.classes)
            if unknown and split != "train":
                raise ValueError(
                    f"{folder} has classes that train/ lacks: {', '.join(unknown[:5])}"
                    f"{' …' if len(unknown) > 5 else ''}; it may have {', '.join(self.classes[:5])} …"
                )
            for label, name in enumerate(self.classes):
                if (folder / name).is_dir():
                    files = (file.relative_to(self.root).as_posix() for file in image_files(folder / name))
                    entries += [Entry(file, label, split) for file in files]
        if "val" in folders:
            return entries
        shares = {"train": 0.0, "val": 0.1} if "test" in folders else {"train": 0.0, "val": 0.1, "test": 0.1}
        training = [entry for entry in entries if entry.split == "train"]
        splits = stratified_split([e.name for e in training], [e.label for e in training], shares, seed)
        cut = [Entry(entry.name, entry.label, split) for entry, split in zip(training, splits, strict=True)]
        return cut + [entry for entry in entries if entry.split != "train"]


def image_files(folder: Path) -> Iterator[Path]:
    """Files below a folder whose suffix is that of an image, sorted; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path
