"""The bundled data set, Emoji-13: drawings of emoji by six vendors, 64 × 64, split by what they show."""

import csv
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from ..labels.label_files import OWN_LABELS, LabelFile
from ..source import SPLITS, ImageReader, Source
from ..storage.string_table import StringTable

CLASSES = (
    *("face", "hand", "person", "animal", "plant", "food", "vehicle"),
    *("place", "sky", "clothing", "object", "flag", "sign"),
)
SIDE = 64
"""Pixels."""
FOLDER = files("alexnet.data") / "emoji"


def emoji_source(label_files: Sequence[LabelFile] = ()) -> Source:
    """About 7,500 drawings in 13 classes. No emoji of the test split has another vendor's drawing in train."""
    if label_files:
        raise ValueError(OWN_LABELS)
    with (FOLDER / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    digest = hashlib.sha256((FOLDER / "images.csv").read_bytes())
    digest.update((FOLDER / "build.json").read_bytes())  # has the versions that the strips were made from
    return Source(
        name="emoji",
        layout="the bundled drawings",
        classes=CLASSES,
        names=StringTable.from_strings(f"{row['strip']}#{row['column']} {row['vendor']} {row['name']}" for row in rows),
        labels=np.array([CLASSES.index(row["class"]) for row in rows]),
        splits=np.array([SPLITS.index(row["split"]) for row in rows], np.uint8),
        reader=_StripReader(),
        locate=lambda index: (rows[index]["strip"], int(rows[index]["column"])),
        files_fingerprint=digest.hexdigest(),
    )


class _StripReader(ImageReader):
    """Reads drawings, each a column of a strip of many."""

    def open(self, location: tuple[str, int]) -> Image.Image:
        strip, column = location
        return _strip(strip).crop((column * SIDE, 0, (column + 1) * SIDE, SIDE))


@lru_cache(maxsize=16)
def _strip(name: str) -> Image.Image:
    with (FOLDER / "strips" / name).open("rb") as file, Image.open(file) as strip:
        return strip.convert("RGB")
