"""Squares that are stored as JPEG, in the place of an array of their pixels."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image

from ...device import processors


class EncodedImages:
    """Looks like an array of (N, side, side, 3), uint8, of which some images are taken at a time.

    They are decoded when they are taken, by a thread for each processor: Pillow lets go of Python meanwhile.

    Args:
        block: all JPEGs, one after the other, uint8.
        starts: where each begins, and where the last ends, (N + 1,), int64. An image of no bytes is black.
    """

    def __init__(self, block: np.ndarray, starts: np.ndarray, side: int):
        self.block, self.starts = block, starts
        self.shape = len(starts) - 1, side, side, 3

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """As they are stored."""
        return self.block.nbytes

    def stored(self, number: int) -> bytes:
        """An image as it is stored."""
        return self.block[self.starts[number] : self.starts[number + 1]].tobytes()

    def __getitem__(self, numbers: int | np.ndarray) -> np.ndarray:
        if isinstance(numbers, (int, np.integer)):
            return self._decoded(int(numbers))
        every = np.arange(len(self))[numbers]
        taken = np.empty((len(every), *self.shape[1:]), np.uint8)

        def decode(at: int) -> None:
            taken[at] = self._decoded(int(every[at]))

        list(_threads().map(decode, range(len(every))))
        return taken

    def _decoded(self, number: int) -> np.ndarray:
        if not (stored := self.stored(number)):
            return np.zeros(self.shape[1:], np.uint8)
        return np.asarray(Image.open(io.BytesIO(stored), formats=("JPEG",)))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="jpeg")
