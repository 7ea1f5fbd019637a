"""Arrays in idx format, as MNIST's: images in …-images-idx3-ubyte, labels in …-labels-idx1-ubyte."""

import gzip
import io
import re
import zlib
from pathlib import PurePosixPath

import numpy as np

from ...specs.names import listed
from ..labels.split_names import split_of
from ..source import SPLITS, Source
from ..storage.trees import Tree, read_file
from .arrays import ArrayFile, array_source

IMAGE_FILE = re.compile(
    r"(?P<set>(?:.*?[-._])??)(?P<split>[^-._]*)[-._]?images?[-._]idx(?P<axes>[34])[-._]ubyte(\.gz)?"
)
MAX_BYTES = 1_000_000_000
"""Size of a file, decompressed; the largest of EMNIST has 547 million bytes."""


def idx_source(tree: Tree, only: str = "") -> Source | None:
    """Pairs of idx files; None if the tree has none. Classes are named by classes.txt, or by their indices.

    Args:
        only: name of a file of images; others of the same set belong to it.

    Raises:
        ValueError: the tree has several sets, and `only` names none of them.
    """
    sets: dict[str, dict[str, tuple[int, re.Match]]] = {}
    for index, path in enumerate(tree.files):
        if match := IMAGE_FILE.fullmatch(PurePosixPath(path).name):
            pairs = sets.setdefault(str(PurePosixPath(path).parent / match["set"]), {})
            pairs.setdefault(path.removesuffix(".gz"), (index, match))  # torchvision keeps the plain file beside it
    if not sets:
        return None
    if only:
        sets = {name: pairs for name, pairs in sets.items() if only.removesuffix(".gz") in pairs}
    if len(sets) > 1:
        names = listed([min(pairs) for pairs in sets.values()], 5)
        raise ValueError(f"{tree.name} has {len(sets)} sets of idx files; give the images of one of them: {names}")
    indices = {name: index for index, name in enumerate(tree.files)}
    files = [_array_file(tree, index, match, indices) for index, match in next(iter(sets.values())).values()]
    folder = PurePosixPath(next(iter(sets))).parent
    named = next((indices[path] for path in (str(folder / "classes.txt"), "classes.txt") if path in indices), None)
    classes = None
    if named is not None:
        lines = read_file(tree, named).decode("utf-8", "replace").split("\n")
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
    counterpart = match[0].replace("images", "labels").replace("image", "label").replace(f"idx{match['axes']}", "idx1")
    names = (counterpart, f"{counterpart}.gz", counterpart.removesuffix(".gz"))
    candidates = (str(PurePosixPath(tree.files[index]).with_name(name)) for name in names)
    label_file = next((indices[candidate] for candidate in candidates if candidate in indices), None)
    if label_file is None:
        raise ValueError(f"{path} has no labels: {counterpart} is missing")
    split = split_of(match["split"])
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
            content = bytearray()  # which grows in place, while every process holds one
            while block := file.read(1 << 20):
                content += block
                if len(content) > MAX_BYTES:
                    raise ValueError(f"it expands to more than {MAX_BYTES:,} bytes")
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise ValueError(f"an idx file of bytes must begin with 00 00 08 and 01 … 04, got {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content, ">u4", content[3], 4).tolist()) if len(content) >= start else (-1,)
    if len(content) - start != np.prod(shape, dtype=object):
        raise ValueError(f"an array of shape {shape} does not fit its {len(content):,} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
