"""Batches in an order fixed by (seed, epoch), fetched ahead by a thread."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..counter_rng import permutation
from .pack.reading import Pack, open_pack

BLOCK, MIXED = 256, 64
"""Images in a block, 50 MB of 256 × 256 pixels, and blocks in memory at a time, where they are shuffled by blocks."""
RESIDENT = 0.5
"""Share of a GPU's free memory that a pack may take to be kept there."""
AHEAD = 3
"""Batches read before they are asked for."""


@dataclass(frozen=True)
class Batch:
    """Whole stored images, as they leave the disk."""

    images: Tensor
    """(N, side, side, 3), uint8."""
    labels: Tensor
    """(N,), int64."""
    indices: np.ndarray
    """Which images of the pack they are, (N,)."""
    first: int
    """Place of the first of them in the epoch."""

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.indices,
            self.first,
        )


def epoch_order(indices: np.ndarray, seed: int, epoch: int, shuffle: str) -> np.ndarray:
    """The images of an epoch in the order in which they are trained on.

    Args:
        shuffle: "epoch" draws a new order each epoch, "once" one for all epochs (as the 2012 code, which wrote its
            shuffled files once). "blocks" draws a new order of blocks of BLOCK neighbors and shuffles within every
            MIXED of them, so that a pack that does not fit into memory is read in long stretches.

    Raises:
        ValueError: shuffle is another word.
    """
    if shuffle not in ("epoch", "once", "blocks"):
        raise ValueError(f"shuffle is {shuffle!r}; it may be 'epoch', 'once' or 'blocks'")
    if shuffle == "blocks":
        order = permutation(seed, epoch, -(-len(indices) // BLOCK))
        blocks = [indices[first * BLOCK : (first + 1) * BLOCK] for first in order]
        parts = [np.concatenate(blocks[first : first + MIXED]) for first in range(0, len(blocks), MIXED)]
        return np.concatenate([part[permutation(seed, epoch, len(part))] for part in parts] or [indices])
    return indices[permutation(seed, epoch if shuffle == "epoch" else 0, len(indices))]


def read_batches(
    packed: Pack, order: np.ndarray, batch_size: int, device: torch.device | str = "cpu", start: int = 0
) -> Iterator[Batch]:
    """Batches of the images in `order`, the last one shorter where they do not divide.

    Args:
        start: how many batches of the epoch to pass over.
    """
    device = torch.device(device)
    firsts = range(start * batch_size, len(order), batch_size)
    is_array = isinstance(packed.images, np.ndarray)
    if device.type == "cuda" and is_array and packed.images.nbytes < RESIDENT * torch.cuda.mem_get_info(device)[0]:
        yield from _resident_batches(packed, order, batch_size, device, firsts)
        return
    ready: queue.Queue = queue.Queue(AHEAD)
    stopped = threading.Event()

    def read() -> None:
        try:
            for first in firsts:
                indices = order[first : first + batch_size]
                images = torch.from_numpy(packed.images[indices])
                if device.type == "cuda":
                    images = images.pin_memory()
                _put(Batch(images, torch.from_numpy(packed.labels[indices]), indices, first))
            _put(None)
        except BaseException as error:  # raised again where the batches are used
            _put(error)

    def _put(item) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    reader = threading.Thread(target=read, name="batches", daemon=True)
    reader.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.to(device)
    finally:
        stopped.set()
        reader.join()


def _resident_batches(
    packed: Pack, order: np.ndarray, batch_size: int, device: torch.device, firsts: range
) -> Iterator[Batch]:
    """Batches of a pack that lies in the device's memory as a whole."""
    images, labels = _resident(packed.path, device)
    for first in firsts:
        indices = order[first : first + batch_size]
        chosen = torch.from_numpy(indices).to(device, non_blocking=True)
        yield Batch(images[chosen], labels[chosen], indices, first)


@lru_cache(maxsize=1)
def _resident(path: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    packed = open_pack(path)
    with warnings.catch_warnings(action="ignore"):  # torch's, of a mapped file that cannot be written to; nor is it
        images = torch.from_numpy(np.asarray(packed.images))
    return images.to(device), torch.from_numpy(packed.labels).to(device)
