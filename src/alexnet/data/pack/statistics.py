"""Mean image and color statistics of a training set (sections 2 and 4.1), in one pass over its images."""

import contextlib
import zlib
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ...files import atomic_write
from .reading import JpegImages, Pack, crc32_of

CHUNK = 64
"""Images summed at a time."""


CHECKSUM = "checksum"
"""Name of the CRC-32 of the arrays beside it in a file."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the pixels of a training set, in the range 0 … 255."""

    mean_image: np.ndarray
    """(side, side, 3), float32."""
    mean: np.ndarray
    """By channel, (3,), float32."""
    std: np.ndarray
    """By channel, (3,), float32."""
    eigenvalues: np.ndarray
    """Those of the 3 × 3 covariance matrix of all pixels' colors, ascending, (3,), float32."""
    eigenvectors: np.ndarray
    """In columns, (3, 3), float32."""


def pack_statistics(pack: Pack) -> Statistics:
    """Statistics of the training images of a pack, cached beside it for each split into train and others."""
    train = pack.indices("train")
    path = pack.path.with_suffix(f".{zlib.crc32(train):08x}.statistics.safetensors")
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # it is not there, or damaged
        arrays = load_file(path)
        if arrays.pop(CHECKSUM) == crc32_of(arrays[name] for name in sorted(arrays)):
            return Statistics(**arrays)
    statistics = compute_statistics(pack.images, train)
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(vars(statistics).items())}
    with atomic_write(path) as temporary:
        save_file(arrays | {CHECKSUM: np.uint32([crc32_of(arrays.values())])}, temporary)
    return statistics


def compute_statistics(images: np.ndarray | JpegImages, indices: np.ndarray) -> Statistics:
    """Statistics of the images at `indices`.

    Args:
        images: (N, side, side, 3), uint8.
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
        mean_image=np.float32(total / len(indices)),
        mean=np.float32(mean),
        std=np.float32(np.sqrt(covariance.diagonal())),
        eigenvalues=np.float32(eigenvalues.clip(0)),
        eigenvectors=np.float32(eigenvectors),
    )
