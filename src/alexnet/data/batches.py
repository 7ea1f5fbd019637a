"""Batches of stored images, in an order fixed by (seed, epoch), read ahead by a thread."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..counter_rng import permutation
from .pack.reading import Pack, open_pack
from .progress import ahead

BLOCK, BLOCKS_IN_MEMORY = 256, 64
"""Images in a block (50 MB at 256 × 256 pixels) and blocks shuffled together, when shuffling by blocks."""
MAX_GPU_FRACTION = 0.5
"""Fraction of a GPU's free memory below which a pack is kept there."""
PREFETCH = 4
"""Batches read ahead."""


@dataclass(frozen=True)
class Batch:
    images: Tensor
    """As stored, (N, side, side, 3), uint8; (K, side, side, 3) if only some are read."""
    labels: Tensor
    """(N,), int64."""
    indices: np.ndarray
    """Into the pack, (N,)."""
    first: int
    """Position of the first image in the order of the epoch."""
    read: np.ndarray | slice = field(default_factory=lambda: slice(None))
    """Which of the N are in `images`, (K,)."""

    def to(self, device: torch.device) -> Batch:
        tensors = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.labels))
        return Batch(*tensors, self.indices, self.first, self.read)


def epoch_order(indices: np.ndarray, seed: int, epoch: int, shuffle: str) -> np.ndarray:
    """The images of an epoch in training order.

    Args:
        shuffle: "epoch" draws a new order each epoch, "once" one order for all epochs (like the 2012 code, which wrote
            shuffled files once). "blocks" draws a new order of blocks of BLOCK neighboring images and shuffles within
            every BLOCKS_IN_MEMORY of them, so that a pack larger than memory is read in long stretches.
    """
    if shuffle == "blocks":
        order = permutation(seed, epoch, -(-len(indices) // BLOCK))
        blocks = [indices[block * BLOCK : (block + 1) * BLOCK] for block in order]
        starts = range(0, len(blocks), BLOCKS_IN_MEMORY)
        groups = [np.concatenate(blocks[start : start + BLOCKS_IN_MEMORY]) for start in starts]
        return np.concatenate([group[permutation(seed, epoch, len(group))] for group in groups] or [indices])
    return indices[permutation(seed, epoch if shuffle == "epoch" else 0, len(indices))]


def read_batches(
    pack: Pack,
    order: np.ndarray,
    batch_size: int,
    device: torch.device | str = "cpu",
    start: int = 0,
    choose: Callable[[np.ndarray], np.ndarray | slice] = lambda indices: slice(None),
) -> Iterator[Batch]:
    """Batches of the images in `order` from batch `start` on; the last one is shorter if they do not divide evenly.

    Args:
        choose: given the indices of a batch, which of its images are read.
    """
    device = torch.device(device)
    firsts = range(start * batch_size, len(order), batch_size)
    may_fit = device.type == "cuda" and isinstance(pack.images, np.ndarray)
    if may_fit and pack.images.nbytes < MAX_GPU_FRACTION * torch.cuda.mem_get_info(device)[0]:
        yield from _resident_batches(pack, order, batch_size, device, firsts, choose)
        return

    def read(first: int) -> Batch:
        indices = order[first : first + batch_size]
        images = torch.from_numpy(pack.images[indices[read := choose(indices)]])
        if device.type == "cuda":
            images = images.pin_memory()
        return Batch(images, torch.from_numpy(pack.labels[indices]), indices, first, read)

    with ThreadPoolExecutor(1, "batches") as reader:
        try:
            for batch in ahead((reader.submit(read, first) for first in firsts), PREFETCH):
                yield batch.result().to(device)
        finally:
            reader.shutdown(cancel_futures=True)


def _resident_batches(
    pack: Pack, order: np.ndarray, batch_size: int, device: torch.device, firsts: range, choose: Callable
) -> Iterator[Batch]:
    """Batches of a pack that is entirely in the device's memory."""
    images = _load_to_device(pack.path, device)
    labels = torch.from_numpy(pack.labels).to(device)  # not those of the file: a network may have another order
    for first in firsts:
        indices = order[first : first + batch_size]
        read = choose(indices)
        chosen, selected = (torch.from_numpy(each).to(device, non_blocking=True) for each in (indices[read], indices))
        yield Batch(images[chosen], labels[selected], indices, first, read)


@lru_cache(maxsize=1)
def _load_to_device(path: Path, device: torch.device) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # torch warns that the mapped file is read-only
        return torch.from_numpy(np.asarray(open_pack(path).images)).to(device)
