"""Batches in an order fixed by (seed, epoch), fetched ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .draws import permutation
from .packing import Pack

AHEAD = 3
"""Batches read before they are asked for."""


@dataclass(frozen=True)
class Batch:
    """Whole stored images, as they leave the disk."""

    images: Tensor
    """(N, side, side, 3), uint8."""
    labels: Tensor
    """(N,), int64."""
    numbers: np.ndarray
    """Which images of the pack they are, (N,)."""
    first: int
    """Place of the first of them in the epoch."""

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.numbers,
            self.first,
        )


def epoch_order(numbers: np.ndarray, seed: int, epoch: int, shuffle: str) -> np.ndarray:
    """The images of an epoch in the order in which they are trained on.

    Args:
        shuffle: "epoch" draws a new order each epoch, "once" one for all epochs (as the 2012 code, which wrote its
            shuffled files once).

    Raises:
        ValueError: shuffle is another word.
    """
    if shuffle not in ("epoch", "once"):
        raise ValueError(f"shuffle is {shuffle!r}; it may be 'epoch' or 'once'")
    return numbers[permutation(seed, epoch if shuffle == "epoch" else 0, len(numbers))]


def batches(
    packed: Pack, order: np.ndarray, batch_size: int, device: torch.device | str = "cpu", start: int = 0
) -> Iterator[Batch]:
    """Batches of the images in `order`, the last one shorter where they do not divide.

    Args:
        start: how many batches of the epoch to pass over.
    """
    device = torch.device(device)
    firsts = range(start * batch_size, len(order), batch_size)
    ready: queue.Queue = queue.Queue(AHEAD)
    stopped = threading.Event()

    def read() -> None:
        try:
            for first in firsts:
                numbers = order[first : first + batch_size]
                images = torch.from_numpy(packed.images[numbers])
                if device.type == "cuda":
                    images = images.pin_memory()
                _put(Batch(images, torch.from_numpy(packed.labels[numbers]), numbers, first))
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
