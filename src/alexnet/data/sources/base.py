"""What every source offers, and the split of a source that has none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Entry:
    """One labelled image."""

    name: str
    """Unique in its source; a path where the source is a folder."""
    label: int
    """Position of its class in the source's `classes`."""
    split: str
    """One of SPLITS."""


class Source(Protocol):
    """Labelled images."""

    name: str
    classes: Sequence[str]
    has_splits: bool
    """Whether the split is the source's own, or was cut by a hash."""
    entries: Sequence[Entry]

    def open(self, number: int) -> Image.Image:
        """The image of entries[number], undecoded where its format allows that."""

    def fingerprint(self) -> str:
        """A hash that changes when an image, a label or the split does."""


def stratified_split(names: Sequence[str], labels: Sequence[int], shares: dict[str, float], seed: int) -> list[str]:
    """A split for every image: within each class in the order of a hash, so that it does not depend on other classes.

    Args:
        shares: part of each class for every split but the one that takes the rest, which is the first with share 0.
            A class of two or more images keeps at least one for the rest, and gives one at least to each other
            split while it has more than it has splits.
    """
    rest = next(split for split, share in shares.items() if share == 0)
    splits = [rest] * len(names)
    members: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        members.setdefault(label, []).append(number)
    for numbers in members.values():
        numbers.sort(key=lambda number: hashlib.sha256(f"{seed}:{names[number]}".encode()).digest())
        start = 0
        for split, share in shares.items():
            count = round(share * len(numbers))
            if share and not count and len(numbers) > len(shares):
                count = 1
            for number in numbers[start : start + count]:
                splits[number] = split
            start += count
    return splits
