"""The `bvlc_alexnet.npy` that TensorFlow's users pass around: a pickled dict of lists of arrays inside an .npy file.

caffe-tensorflow wrote it, from Python 2: {"conv1": [weights, biases], …}, kernels (height, width, inputs, maps), for
images in BGR. A pickle is a program; `restricted_pickle` reads this one without running anything.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import torch

from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..restricted_pickle import PickledArray, load_arrays
from .caffe import MEAN_COLOR
from .layout import Found, Layers, channels_first, channels_last, in_pixels, layers_of, named_tensors, swap_colors

MAGIC = b"\x93NUMPY"
LIKELY = "caffe"


def read(path: Path) -> Found:
    """A dict of layers, each a list of weights and biases, or a dict of both.

    Raises:
        ValueError: it holds something else.
    """
    value = _contents(path)
    value = value.item() if isinstance(value, PickledArray) else value
    if not isinstance(value, dict):
        raise ValueError("an .npy file without a dict of layers")
    layers: Layers = {}
    skipped = []
    most_bytes = path.stat().st_size
    for name, entry in _decoded(value).items():
        entry = [*map(_decoded(entry).get, ("weights", "biases"))] if isinstance(entry, dict) else entry
        arrays = [each.to_numpy() for each in entry if isinstance(each, PickledArray)] if type(entry) is list else []
        most_bytes -= sum(array.nbytes for array in arrays)
        if most_bytes < 0:
            raise ValueError("an .npy file that repeats its arrays, which weights do not")
        if len(arrays) == 2 and arrays[0].ndim in (2, 4):
            layers[name] = arrays[0], arrays[1]
        else:
            skipped.append(name)
    ordered = {name: layers[name] for name in sorted(layers, key=_in_order)}  # Python 2 kept no order
    if not ordered or next(iter(ordered.values()))[0].ndim != 4:
        raise ValueError("an .npy that holds no dict of convolutions with weights and biases")
    return Found(
        "a dict of arrays, as of bvlc_alexnet.npy",
        named_tensors(swap_colors(channels_first(ordered))),
        tuple(skipped),
        likely=LIKELY,
        mean=torch.tensor(MEAN_COLOR).view(1, 1, 3),
    )


def write(bundle: ModelBundle, path: Path) -> None:
    """A dict of lists of arrays, for pictures in BGR with the mean taken off; numpy.load(allow_pickle=True).item()."""
    layers = channels_last(
        swap_colors(in_pixels(layers_of(bundle.network, "a dict of arrays"), bundle.preprocessing.std))
    )
    arrays = {name: [np.ascontiguousarray(each) for each in pair] for name, pair in layers.items()}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(arrays, dtype=object), allow_pickle=True)


def _in_order(name: str) -> tuple[int, list]:
    """Convolutions before fully connected layers, conv2 before conv10."""
    numbers = [int(each) for each in re.findall(r"\d+", name)]
    return (0 if name.startswith("conv") else 1), numbers


def _contents(path: Path):
    """What the pickle after the header of an .npy file describes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.seek(len(MAGIC))
        version = content.read(2)
        length = int.from_bytes(content.read(2 if version[:1] == b"\x01" else 4), "little")
        header = content.read(length)
        if re.search(rb"'descr':\s*'\|O", header) is None:
            raise ValueError("an .npy of plain numbers; weights are a dict of layers")
        try:
            return load_arrays(content)
        except ValueError as error:
            raise ValueError(f"an .npy file whose pickle is refused: {error}") from error


def _decoded(entries: dict) -> dict[str, object]:
    """The same under strings, which Python 2 wrote as bytes."""
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in entries.items()}
