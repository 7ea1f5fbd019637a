"""The bundled set, Emoji-13: drawings of emoji by six vendors, 64 × 64, split by what they show."""

from __future__ import annotations

import csv
import hashlib
from functools import lru_cache
from importlib.resources import files

from PIL import Image

from .base import Entry

CLASSES = (
    *("face", "hand", "person", "animal", "plant", "food", "vehicle"),
    *("place", "sky", "clothing", "object", "flag", "sign"),
)
SIDE = 64
"""Pixels."""


class EmojiSource:
    """About 7,500 drawings in 13 classes. No emoji of the test part has another vendor's drawing in the train part."""

    name = "emoji"
    classes = CLASSES
    has_splits = True

    def __init__(self):
        self._folder = files("alexnet.data") / "emoji"
        with (self._folder / "images.csv").open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.entries = [
            Entry(
                f"{row['strip']}#{row['column']} {row['vendor']} {row['name']}",
                CLASSES.index(row["class"]),
                row["split"],
            )
            for row in self.rows
        ]

    def open(self, number: int) -> Image.Image:
        left = int(self.rows[number]["column"]) * SIDE
        return _strip(self.rows[number]["strip"]).crop((left, 0, left + SIDE, SIDE))

    def fingerprint(self) -> str:
        digest = hashlib.sha256((self._folder / "images.csv").read_bytes())
        digest.update((self._folder / "build.json").read_bytes())  # names the versions that the strips were made from
        return digest.hexdigest()


@lru_cache(maxsize=16)
def _strip(name: str) -> Image.Image:
    with (files("alexnet.data") / "emoji" / "strips" / name).open("rb") as file, Image.open(file) as strip:
        return strip.convert("RGB")
