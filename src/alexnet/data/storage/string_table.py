"""Millions of strings in one buffer of bytes: half the memory of a list, and readable from a mapped file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

SEPARATOR = b"\n"
_CHUNK = 65_536
"""Strings decoded at once."""


class StringTable(Sequence[str]):
    """An immutable sequence of strings without line breaks.

    Args:
        buffer: the strings as UTF-8, with a SEPARATOR between them, uint8; not copied.
    """

    def __init__(self, buffer: np.ndarray):
        self.buffer = buffer
        ends = np.flatnonzero(buffer == SEPARATOR[0])
        self._ends = np.append(ends, len(buffer)) if len(buffer) else ends

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> StringTable:
        """A line break becomes "␤", which hardly any other name has; surrogate escapes, which stand for bytes that are
        not UTF-8, are kept."""
        buffer = bytearray()
        for string in strings:
            buffer += string.replace("\n", "␤").encode("utf-8", "surrogateescape") + SEPARATOR
        del buffer[-1:]
        return cls(np.frombuffer(buffer, np.uint8))

    def select(self, indices: Sequence[int]) -> StringTable:
        """The strings at `indices`; the same table if these are all in order."""
        if len(indices) == len(self) and (np.diff(indices) > 0).all():
            return self
        return StringTable.from_strings(self[index] for index in indices)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        end = self._ends[index]  # raises IndexError
        index = int(index) % len(self)
        start = self._ends[index - 1] + 1 if index else 0
        return bytes(self.buffer[start:end]).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _CHUNK):
            start = self._ends[first - 1] + 1 if first else 0
            end = self._ends[min(first + _CHUNK, len(self)) - 1]
            yield from bytes(self.buffer[start:end]).decode("utf-8", "surrogateescape").split("\n")
