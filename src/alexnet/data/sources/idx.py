"""Files of arrays in idx format, as MNIST's: images in …-images-idx3-ubyte, labels in …-labels-idx1-ubyte."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import PurePosixPath

import numpy as np

from ..labels.label_files import split_of
from ..source import SPLITS, Source
from ..storage.trees import Tree, read_file, read_most
from .arrays import Part, array_source

IMAGES = re.compile(r"(.*?)[-._]?images?[-._]idx([34])[-._]ubyte(\.gz)?")
MOST_BYTES = 1_000_000_000
"""Of a file, unpacked; the largest of EMNIST has 547 million."""


def idx_source(tree: Tree, split_seed: int = 0) -> Source | None:
    """Pairs of idx files; None where the tree has none. Classes are named by classes.txt, or by their numbers.

    Raises:
        ValueError: a file is damaged or lacks its other half.
    """
    if len(tree.files) > 1000:
        return None
    numbers = {name: number for number, name in enumerate(tree.files)}
    parts, most = [], 0
    for name, number in numbers.items():
        path = PurePosixPath(name)
        match = IMAGES.fullmatch(path.name)
        if not match:
            continue
        other = path.name.replace("images", "labels").replace("image", "label").replace(f"idx{match[2]}", "idx1")
        label_file = next(
            (n for n in numbers if PurePosixPath(n).name in (other, f"{other}.gz", other.removesuffix(".gz"))), None
        )
        if label_file is None:
            raise ValueError(f"{tree.name} has {name}, but not {other}")
        word = re.split(r"[-._]", match[1])[-1]
        split = "test" if word == "t10k" else split_of(word)
        if split is None:
            raise ValueError(f"{tree.name}/{name} is of no split; its name may begin with train, val, test or t10k")
        try:
            images = read_idx(read_file(tree, number, MOST_BYTES))[0]
            labels = _array(read_file(tree, numbers[label_file], MOST_BYTES))
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{tree.name}/{name} or its labels cannot be read as idx: {error}") from error
        if labels.shape != (len(images),):
            raise ValueError(f"{tree.name}/{name} has {len(images):,} images, but labels of shape {labels.shape}")
        parts.append(Part(number, SPLITS.index(split), labels.astype(np.int64)))
        most = max(most, int(labels.max(initial=0)))
    if not parts:
        return None
    listed = next((number for name, number in numbers.items() if PurePosixPath(name).name == "classes.txt"), None)
    names = [str(label) for label in range(most + 1)]
    if listed is not None:
        names = read_file(tree, listed).decode("utf-8", "replace").split("\n")
        names = [name.strip() for name in names if name.strip()]
    return array_source(tree, "idx files", read_idx, parts, names, split_seed)


def read_idx(content: bytes) -> tuple[np.ndarray, None]:
    """Images, (N, height, width) or (N, height, width, 3)."""
    images = _array(content)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"it holds an array of {images.shape}; images may be (N, height, width) or (N, height, width, 3)"
        )
    return images, None


def _array(content: bytes) -> np.ndarray:
    """The array of an idx file, perhaps compressed by gzip."""
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as file:
            content = read_most(file, MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise ValueError(f"it begins with {content[:4].hex(' ')}; an idx file of bytes does with 00 00 08 and 01 … 04")
    shape = (
        tuple(np.frombuffer(content, ">u4", content[3], 4).tolist()) if len(content) >= 4 + 4 * content[3] else (-1,)
    )
    start = 4 + 4 * content[3]
    if len(content) - start != np.prod(shape, dtype=object):
        raise ValueError(f"it has {len(content):,} bytes, which an array of {shape} does not")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
