"""The bundled set, Emoji-13: drawings of emoji by six vendors, 64 × 64, split by what they show."""

from __future__ import annotations

import csv
import hashlib
from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from ..source import SPLITS, Source
from ..storage.string_table import StringTable

CLASSES = (
    *("face", "hand", "person", "animal", "plant", "food", "vehicle"),
    *("place", "sky", "clothing", "object", "flag", "sign"),
)
SIDE = 64
"""Pixels."""


def emoji_source() -> Source:
    """About 7,500 drawings in 13 classes. No emoji of the test part has another vendor's drawing in the train part."""
    folder = files("alexnet.data") / "emoji"
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    stamp = hashlib.sha256((folder / "images.csv").read_bytes())
    stamp.update((folder / "build.json").read_bytes())  # names the versions that the strips were made from
    return Source(
        name="emoji",
        layout="the bundled drawings",
        classes=CLASSES,
        names=StringTable.from_strings(f"{row['strip']}#{row['column']} {row['vendor']} {row['name']}" for row in rows),
        labels=np.array([CLASSES.index(row["class"]) for row in rows]),
        splits=np.array([SPLITS.index(row["split"]) for row in rows], np.uint8),
        reader=_Strips(),
        place=lambda number: (rows[number]["strip"], int(rows[number]["column"])),
        stamp=stamp.hexdigest(),
    )


class _Strips:
    """Reads drawings, each a column of a strip of many."""

    def open(self, place: tuple[str, int]) -> Image.Image:
        strip, column = place
        return _strip(strip).crop((column * SIDE, 0, (column + 1) * SIDE, SIDE))

    def content(self, place: tuple[str, int]) -> bytes:
        return self.open(place).tobytes()


@lru_cache(maxsize=16)
def _strip(name: str) -> Image.Image:
    with (files("alexnet.data") / "emoji" / "strips" / name).open("rb") as file, Image.open(file) as strip:
        return strip.convert("RGB")
