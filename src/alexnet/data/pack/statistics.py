"""Mean image and colors of a training set (sections 2 and 4.1), in one pass over its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file, save_file

from ...files import atomic_write
from .reading import Pack

CHUNK = 64
"""Images summed at a time."""


@dataclass(frozen=True)
class Statistics:
    """Of the pixels of a training set, 0 … 255."""

    mean_image: np.ndarray
    """(side, side, 3), float32."""
    mean: np.ndarray
    """By channel, (3,), float32."""
    std: np.ndarray
    """By channel, (3,), float32."""
    eigenvalues: np.ndarray
    """Of the 3 × 3 covariance of the colors of all pixels, (3,), float32, ascending."""
    eigenvectors: np.ndarray
    """In columns, (3, 3), float32."""


def pack_statistics(packed: Pack) -> Statistics:
    """Statistics of the training images of a pack, kept beside it."""
    path = packed.path.with_suffix(".statistics.safetensors")
    if not path.exists():
        found = compute_statistics(packed.images, packed.indices("train"))
        with atomic_write(path) as temporary:
            save_file({name: np.ascontiguousarray(part) for name, part in vars(found).items()}, temporary)
    return Statistics(**load_file(path))


def compute_statistics(images: np.ndarray, indices: np.ndarray) -> Statistics:
    """Statistics of some of the images of a pack.

    Args:
        images: (N, side, side, 3), uint8.
        indices: which of them.
    """
    total = np.zeros(images.shape[1:], np.int64)
    products = np.zeros((3, 3))
    for start in range(0, len(indices), CHUNK):
        chunk = images[indices[start : start + CHUNK]]
        total += chunk.sum(axis=0, dtype=np.int64)
        colors = chunk.reshape(-1, 3).astype(np.float64)
        products += colors.T @ colors
    pixels = len(indices) * total.shape[0] * total.shape[1]
    mean = total.sum(axis=(0, 1)) / pixels
    covariance = products / pixels - np.outer(mean, mean)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    return Statistics(
        *(
            np.float32(part)
            for part in (
                total / len(indices),
                mean,
                np.sqrt(covariance.diagonal()),
                eigenvalues.clip(0),
                eigenvectors,
            )
        )
    )
