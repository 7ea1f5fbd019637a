"""Arrays in idx format, as MNIST's: images in …-images-idx3-ubyte, labels in …-labels-idx1-ubyte."""

import gzip
import io
import re
import zlib
from pathlib import PurePosixPath

import numpy as np

from ..labels.label_files import split_of
from ..source import SPLITS, Source
from ..storage.trees import Tree, read_file, read_up_to
from .arrays import ArrayFile, array_source

IMAGE_FILE = re.compile(r"(.*?)[-._]?images?[-._]idx([34])[-._]ubyte(\.gz)?")
MAX_BYTES = 1_000_000_000
"""Size of a file, decompressed; the largest of EMNIST has 547 million bytes."""


def idx_source(tree: Tree) -> Source | None:
    """Pairs of idx files; None if the tree has none. Classes are named by classes.txt, or by their indices."""
    names = [PurePosixPath(name).name for name in tree.files]
    matches = [(index, match) for index, name in enumerate(names) if (match := IMAGE_FILE.fullmatch(name))]
    if not matches:
        return None
    indices = dict(zip(names[::-1], range(len(names))[::-1], strict=True))  # the first of equal names counts
    files = [_array_file(tree, index, match, indices) for index, match in matches]
    classes = map(str, range(max(int(file.labels.max(initial=0)) for file in files) + 1))
    if "classes.txt" in indices:
        lines = read_file(tree, indices["classes.txt"]).decode("utf-8", "replace").split("\n")
        classes = filter(None, map(str.strip, lines))
    return array_source(tree, "idx files", parse_images, files, classes)


def parse_images(content: bytes) -> tuple[np.ndarray, None]:
    """Images, (N, height, width) or (N, height, width, 3), uint8."""
    images = _parse_array(content)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or 0 in images.shape[1:]:
        raise ValueError(f"images must be (N, height, width) or (N, height, width, 3), got {images.shape}")
    return images, None


def _array_file(tree: Tree, index: int, match: re.Match, indices: dict[str, int]) -> ArrayFile:
    """The images at an index of the tree, with the labels in their counterpart."""
    path = f"{tree.name}/{tree.files[index]}"
    counterpart = match[0].replace("images", "labels").replace("image", "label").replace(f"idx{match[2]}", "idx1")
    candidates = (counterpart, f"{counterpart}.gz", counterpart.removesuffix(".gz"))
    label_file = next((indices[candidate] for candidate in candidates if candidate in indices), None)
    if label_file is None:
        raise ValueError(f"{path} has no labels: {counterpart} is missing")
    word = re.split(r"[-._]", match[1])[-1]
    split = "test" if word == "t10k" else split_of(word)
    if split is None:
        raise ValueError(f"{path}: its name must begin with train, val, test or t10k")
    try:
        images = parse_images(read_file(tree, index, MAX_BYTES))[0]
        labels = _parse_array(read_file(tree, label_file, MAX_BYTES))
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} or its labels cannot be read as idx: {error}") from error
    if labels.shape != (len(images),):
        raise ValueError(f"{path}: its labels must have shape ({len(images)},), got {labels.shape}")
    return ArrayFile(index, SPLITS.index(split), labels.astype(np.int64))


def _parse_array(content: bytes) -> np.ndarray:
    """The array of an idx file, which gzip may have compressed."""
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as file:
            content = read_up_to(file, MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it expands to more than {MAX_BYTES:,} bytes")
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise ValueError(f"an idx file of bytes must begin with 00 00 08 and 01 … 04, got {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content, ">u4", content[3], 4).tolist()) if len(content) >= start else (-1,)
    if len(content) - start != np.prod(shape, dtype=object):
        raise ValueError(f"an array of shape {shape} does not fit its {len(content):,} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
