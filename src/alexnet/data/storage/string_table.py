"""Millions of names as one block of bytes: half of what a list of strings takes, and read where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

SEPARATOR = b"\n"
"""Stands after each name, and in none."""
_AT_A_TIME = 65_536
"""Names decoded at once."""


class StringTable(Sequence[str]):
    """Strings in a fixed order.

    Args:
        block: UTF-8, SEPARATOR after each name but the last; read where it lies.
    """

    def __init__(self, block: np.ndarray):
        self.block = block
        ends = np.flatnonzero(block == SEPARATOR[0])
        self._ends = np.append(ends, len(block)) if len(block) else ends

    @classmethod
    def from_strings(cls, names: Iterable[str]) -> StringTable:
        """Line breaks become spaces; bytes that are not UTF-8, as Python holds them, stay as they are."""
        block = bytearray()
        for name in names:
            block += name.replace("\n", " ").encode("utf-8", "surrogateescape") + SEPARATOR
        del block[-1:]
        return cls(np.frombuffer(block, np.uint8))

    def select(self, numbers: Sequence[int]) -> StringTable:
        """Those of some numbers, in their order; itself where these are all in theirs."""
        if len(numbers) == len(self) and (np.diff(numbers) > 0).all():
            return self
        return StringTable.from_strings(self[number] for number in numbers)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        end = self._ends[number]  # an IndexError where there is none
        number = int(number) % len(self)
        start = self._ends[number - 1] + 1 if number else 0
        return bytes(self.block[start:end]).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_A_TIME):
            start = self._ends[first - 1] + 1 if first else 0
            end = self._ends[min(first + _AT_A_TIME, len(self)) - 1]
            yield from bytes(self.block[start:end]).decode("utf-8", "surrogateescape").split("\n")

    def __repr__(self) -> str:
        return f"StringTable({', '.join(self[:3])}{', …' if len(self) > 3 else ''}; {len(self):,})"
