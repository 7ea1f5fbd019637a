"""Images of a pack that are stored as JPEG instead of pixels."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image

from ...device import processors


class JpegImages:
    """Behaves like an array (N, side, side, 3), uint8, of which some images are read at a time.

    They are decoded on every access, by a thread per processor: Pillow releases Python's lock meanwhile.

    Args:
        block: all JPEG files in a row, uint8.
        starts: where each begins, and where the last ends, (N + 1,), int64. An image without bytes is black.
    """

    def __init__(self, block: np.ndarray, starts: np.ndarray, side: int):
        self.block, self.starts = block, starts
        self.shape = len(starts) - 1, side, side, 3

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Size in storage."""
        return self.block.nbytes

    def stored(self, index: int) -> bytes:
        """The JPEG file of an image."""
        return self.block[self.starts[index] : self.starts[index + 1]].tobytes()

    def __getitem__(self, indices: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(indices, (int, np.integer)):
            return self._decode(int(indices))
        indices = np.arange(len(self))[indices]
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)

        def decode(row: int) -> None:
            images[row] = self._decode(int(indices[row]))

        list(_threads().map(decode, range(len(indices))))
        return images

    def _decode(self, index: int) -> np.ndarray:
        if not (stored := self.stored(index)):
            return np.zeros(self.shape[1:], np.uint8)
        return np.asarray(Image.open(io.BytesIO(stored), formats=("JPEG",)))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="jpeg")
