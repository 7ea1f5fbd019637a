"""CIFAR-10 and CIFAR-100 as published: the python and the binary version, as an archive or unpacked.

The python version consists of pickles, which are programs; `restricted_pickle` reads them without running anything.
"""

import io
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ...restricted_pickle import PickledArray, load_arrays
from ..source import TEST, TRAIN, Source
from ..storage.trees import Tree, read_file
from .arrays import ArrayFile, ArrayParser, array_source

MAX_BYTES = 500_000_000
"""Size of one file; the largest of CIFAR-100 has 155 million bytes."""
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
FILES = {
    ("binary", 10): ([f"{name}.bin" for name in BATCHES], "test_batch.bin", "batches.meta.txt"),
    ("binary", 100): (["train.bin"], "test.bin", "fine_label_names.txt"),
    ("python", 10): (BATCHES, "test_batch", "batches.meta"),
    ("python", 100): (["train"], "test", "meta"),
}
"""By version and number of classes: training files, test file, and file of class names."""


def cifar_source(tree: Tree) -> Source | None:
    """CIFAR-10, or CIFAR-100 with its 100 fine classes; None if the tree is neither."""
    indices = {PurePosixPath(name).name: index for index, name in enumerate(tree.files)}
    for (version, classes), (training, test, meta) in FILES.items():
        if not indices.keys() >= {training[0], test} or (version == "python" and meta not in indices):
            continue
        parse = parse_pickle if version == "python" else partial(parse_binary, label_bytes=1 if classes == 10 else 2)
        files = [_array_file(tree, indices.get(name), name, TRAIN, parse, classes) for name in training]
        files.append(_array_file(tree, indices[test], test, TEST, parse, classes))
        names = _class_names(tree, indices.get(meta), version, classes)
        return array_source(tree, f"CIFAR-{classes}, {version} version", parse, files, names)
    return None


def parse_binary(content: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of labels (CIFAR-100 has the coarse class before the fine one) and 3 × 32 × 32 pixel values."""
    size = label_bytes + 3072
    if not content or len(content) % size:
        raise ValueError(f"its size must be a multiple of {size:,} bytes, got {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return _images(records[:, label_bytes:]), records[:, label_bytes - 1].astype(np.int64)


def parse_pickle(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A batch of the python version."""
    batch = load_arrays(io.BytesIO(content))
    data, labels = batch[b"data"], batch.get(b"fine_labels", batch.get(b"labels"))
    if not (isinstance(labels, list) and all(isinstance(label, int) for label in labels)):
        raise ValueError("its labels must be a list of integers")
    rows = data.to_numpy() if isinstance(data, PickledArray) else None
    if rows is None or rows.dtype != np.uint8 or rows.shape != (len(labels), 3072):
        raise ValueError("its data must be an array of (images, 3072), uint8, with as many labels")
    return _images(rows), np.array(labels, np.int64)


def _array_file(tree: Tree, index: int | None, name: str, split: int, parse: ArrayParser, classes: int) -> ArrayFile:
    if index is None:
        raise ValueError(f"{tree.name} lacks {name} of CIFAR-{classes}")
    try:
        return ArrayFile(index, split, parse(read_file(tree, index, MAX_BYTES))[1])
    except Exception as error:  # a damaged pickle may lack anything
        raise ValueError(f"{tree.name}/{name} cannot be read as a file of CIFAR-{classes}: {error}") from error


def _images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # (N, 32, 32, 3)


def _class_names(tree: Tree, index: int | None, version: str, classes: int) -> list[str]:
    if index is None:
        return [str(label) for label in range(classes)]
    content, path = read_file(tree, index, MAX_BYTES), f"{tree.name}/{tree.files[index]}"
    try:
        meta = load_arrays(io.BytesIO(content)) if version == "python" else {b"label_names": content.split()}
        names = [name.decode() for name in meta.get(b"fine_label_names", meta.get(b"label_names"))]
    except Exception as error:  # a damaged pickle may lack anything
        raise ValueError(f"{path} has no names of classes: {error}") from error
    if not len(set(names)) == len(names) == classes:
        raise ValueError(f"{path} must name {classes} classes, got {len(set(names))}")
    return names
