"""CIFAR-10 and CIFAR-100 as their makers publish them: the python and the binary version, packed or unpacked.

The python version consists of pickles, which are programs; `restricted_pickle` reads them without running anything.
"""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import numpy as np

from ...restricted_pickle import PickledArray, load_arrays
from ..source import TEST, TRAIN, Source
from ..storage.trees import Tree, read_file
from .arrays import Part, array_source

MOST_BYTES = 500_000_000
"""Of one file; the largest of CIFAR-100 has 155 million."""
TRAINING = [f"data_batch_{number}" for number in range(1, 6)]
FILES = {
    "binary": {10: ([f"{name}.bin" for name in TRAINING], "test_batch.bin", "batches.meta.txt")}
    | {100: (["train.bin"], "test.bin", "fine_label_names.txt")},
    "python": {10: (TRAINING, "test_batch", "batches.meta"), 100: (["train"], "test", "meta")},
}
"""By version and number of classes: files to train on, to test on, and of names."""


def cifar_source(tree: Tree, split_seed: int = 0) -> Source | None:
    """CIFAR-10 or CIFAR-100, with the 100 fine classes; None where the tree is neither.

    Raises:
        ValueError: a file of it is damaged or missing.
    """
    numbers = (
        {PurePosixPath(name).name: number for number, name in enumerate(tree.files)} if len(tree.files) < 1000 else {}
    )
    for version, kinds in FILES.items():
        for classes, (training, test, names) in kinds.items():
            if not numbers.keys() >= {training[0], test} or (version == "python" and names not in numbers):
                continue
            read = {"python": read_pickle, "binary": {10: read_binary, 100: read_binary_100}[classes]}[version]
            parts = []
            for file, split in [(file, TRAIN) for file in training] + [(test, TEST)]:
                if file not in numbers:
                    raise ValueError(f"{tree.name} lacks {file} of CIFAR-{classes}")
                try:
                    labels = read(read_file(tree, numbers[file], MOST_BYTES))[1]
                except Exception as error:  # whatever a damaged file makes the unpickler raise
                    raise ValueError(f"{tree.name}/{file} is no file of CIFAR-{classes}: {error}") from error
                parts.append(Part(numbers[file], split, labels))
            named = _names(tree, numbers.get(names), version, classes)
            return array_source(tree, f"CIFAR-{classes}, {version} version", read, parts, named, split_seed)
    return None


def read_binary(content: bytes, before: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Records of `before` labels, the last of them the class, and 3 × 32 × 32 values."""
    size = before + 3072
    if not content or len(content) % size:
        raise ValueError(f"it has {len(content):,} bytes; they may be a multiple of {size:,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return _images(records[:, before:]), records[:, before - 1].astype(np.int64)


def read_binary_100(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """As `read_binary`, with the coarse class before the fine one."""
    return read_binary(content, before=2)


def read_pickle(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A batch of the python version."""
    batch = load_arrays(io.BytesIO(content))
    data, labels = batch[b"data"], batch.get(b"fine_labels", batch.get(b"labels"))
    if not (isinstance(labels, list) and all(isinstance(label, int) for label in labels)):
        raise ValueError("its labels are no list of whole numbers")
    rows = data.to_numpy() if isinstance(data, PickledArray) else None
    if rows is None or rows.dtype != np.uint8 or rows.shape != (len(labels), 3072):
        raise ValueError("its data is no array of (images, 3072), uint8, with as many labels")
    return _images(rows), np.array(labels, np.int64)


def _images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _names(tree: Tree, number: int | None, version: str, classes: int) -> list[str]:
    if number is None:
        return [str(label) for label in range(classes)]
    content = read_file(tree, number, MOST_BYTES)
    try:
        if version == "binary":
            names = content.decode().split()
        else:
            meta = load_arrays(io.BytesIO(content))
            names = [name.decode() for name in meta.get(b"fine_label_names", meta.get(b"label_names"))]
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        raise ValueError(f"{tree.name}/{tree.files[number]} holds no names of classes: {error}") from error
    if not len(set(names)) == len(names) == classes:
        raise ValueError(f"{tree.name}/{tree.files[number]} names {len(set(names))} classes; it may name {classes}")
    return names
