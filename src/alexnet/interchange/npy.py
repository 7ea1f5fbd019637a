"""The `bvlc_alexnet.npy` of TensorFlow users: a pickled dict of lists of arrays inside an .npy file.

caffe-tensorflow wrote it with Python 2: {"conv1": [weights, biases], …}, kernels (height, width, inputs, channels), for
BGR images. A pickle is a program; `restricted_pickle` reads this one without running anything.
"""

import mmap
from pathlib import Path

import numpy as np

from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..restricted_pickle import PickledArray, load_arrays
from .weights_file import Layers, WeightsFile, bgr_layers_of, channels_first, channels_last, named_tensors, swap_colors

MAGIC = b"\x93NUMPY"


def read(path: Path) -> WeightsFile:
    """Read a dict of layers, each a list of weights and biases or a dict of both."""
    value = _content(path)
    value = value.item() if isinstance(value, PickledArray) else value
    if not isinstance(value, dict):
        raise ValueError("an .npy file without a dict of layers")
    layers: Layers = {}
    skipped, unread, bytes_left = [], [], path.stat().st_size
    for name, entry in _decoded(value).items():
        entry = [*map(_decoded(entry).get, ("weights", "biases"))] if isinstance(entry, dict) else entry
        arrays = [each.to_numpy() for each in entry if isinstance(each, PickledArray)] if type(entry) is list else []
        bytes_left -= sum(array.nbytes for array in arrays)
        if bytes_left < 0:
            raise ValueError("an .npy file that repeats its arrays, as weights never do")
        if len(arrays) == 2 and arrays[0].ndim in (2, 4):
            layers[name] = arrays[0], arrays[1]
        else:
            (unread if arrays else skipped).append(name)
    if all(weight.ndim != 4 for weight, _ in layers.values()):
        raise ValueError("an .npy file without a dict of convolutions with weights and biases")
    tensors = named_tensors(swap_colors(channels_first(layers)))
    usual = {"likely_variant": "caffe", "recognized_by": "its format, mostly that of bvlc_alexnet"}
    return WeightsFile("a dict of arrays, as bvlc_alexnet.npy", tensors, tuple(skipped), tuple(unread), **usual)


def write(bundle: ModelBundle, path: Path) -> None:
    """Write a dict for BGR images minus the mean; `numpy.load(path, allow_pickle=True).item()` reads it."""
    layers = channels_last(bgr_layers_of(bundle, ".npy"))
    arrays = {name: [*map(np.ascontiguousarray, pair)] for name, pair in layers.items()}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(arrays, dtype=object), allow_pickle=True)


def _content(path: Path):
    """The value of the pickle that follows the header of an .npy file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            is_first = np.lib.format.read_magic(content) == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            dtype = read_header(content)[2]
        except Exception as error:  # numpy reads it as Python
            raise ValueError(f"an .npy file with a damaged header: {error}") from error
        if not dtype.hasobject:
            raise ValueError("an .npy file of plain numbers; weights must be a dict of layers")
        try:
            return load_arrays(content)
        except ValueError as error:
            raise ValueError(f"an .npy file whose pickle is refused: {error}") from error


def _decoded(entries: dict) -> dict[str, object]:
    """The same dict with strings as keys, which Python 2 wrote as bytes."""
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in entries.items()}
