"""Keras 3's files: `.weights.h5`, and `.keras`, an archive with such a file inside.

Weights are under `layers/conv2d/vars/0`, `layers/conv2d_1/vars/0` …, numbered within a type of layer, whatever the
layers are called. Needs the package `h5py` (`pip install 'alexnet[keras]'`), not Keras.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np

from ..files import atomic_write
from ..model.bundle import ModelBundle
from .layout import Layers, channels_first, channels_last, layers_of, named_tensors
from .weights_file import WeightsFile

MAGIC = b"\x89HDF\r\n\x1a\n"
INSIDE = "model.weights.h5"


def read(path: Path) -> WeightsFile:
    """Read either kind of file.

    Raises:
        ValueError: it is damaged, refers to other files, or is not Keras 3's.
        ImportError: h5py is not installed.
    """
    h5py = _h5py()
    with path.open("rb") as file:
        content = file if file.read(8) == MAGIC else io.BytesIO(_unzipped(path))
        content.seek(0)
        try:
            with h5py.File(content, "r") as opened:
                return _read(opened, path.stat().st_size)
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"an HDF5 file that cannot be read: {error}") from error


def write(bundle: ModelBundle, path: Path) -> None:
    """Write a `.weights.h5` that `model.load_weights` loads into a model of the same layers.

    The model takes images preprocessed as for the network, channels last.
    """
    h5py = _h5py()
    counts = {"conv2d": 0, "dense": 0}
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        for name, arrays in channels_last(layers_of(bundle.network, "Keras")).items():
            type_name = "conv2d" if arrays[0].ndim == 4 else "dense"
            index, counts[type_name] = counts[type_name], counts[type_name] + 1
            group = file.create_group(f"layers/{type_name}{f'_{index}' if index else ''}")
            group.attrs["name"] = name
            for index, array in enumerate(arrays):
                group.create_dataset(f"vars/{index}", data=np.ascontiguousarray(array))


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("files of Keras need the package h5py: pip install 'alexnet[keras]'") from None
    return h5py


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(INSIDE)
        if member.file_size > path.stat().st_size:  # Keras stores, and does not compress
            raise ValueError(f"{INSIDE} in it claims to be larger than the archive")
        return archive.read(member)


def _read(file, most_bytes: int) -> WeightsFile:
    if "layers" not in file:
        raise ValueError("an HDF5 file without Keras 3's layers/; load a file of Keras 2 in Keras 3 and save it again")
    groups = _group(file, "layers")
    weights, skipped = {}, [name for name in file if name not in ("layers", "vars")]
    for name in groups:
        layer = _group(groups, name)
        variables = _group(layer, "vars") if "vars" in layer else ()
        arrays = [_array(variables, index, most_bytes) for index in sorted(variables, key=int)]
        if [array.ndim for array in arrays] in ([4, 1], [2, 1]):
            weights[name] = tuple(arrays)
        elif arrays:
            skipped.append(f"layers/{name}")
    layers: Layers = {name: weights[name] for name in sorted(weights, key=lambda name: _order(name, weights[name]))}
    if not layers or next(iter(layers.values()))[0].ndim != 4:
        raise ValueError("a Keras 3 file without convolutions")
    return WeightsFile("Keras 3's weights", named_tensors(channels_first(layers)), tuple(skipped))


def _order(name: str, arrays: tuple[np.ndarray, ...]) -> tuple[bool, int]:
    """Sort key: convolutions before dense layers, conv2d before conv2d_1."""
    index = re.search(r"_(\d+)$", name)
    return arrays[0].ndim != 4, int(index[1]) if index else 0


def _group(parent, name: str):
    """A group in a group, which must not be a link, as that could lead to another file."""
    h5py = _h5py()
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink) or not isinstance(parent[name], h5py.Group):
        raise ValueError(f"{parent.name}/{name} is not a group of this HDF5 file")
    return parent[name]


def _array(group, name: str, most_bytes: int) -> np.ndarray:
    h5py = _h5py()
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
        raise ValueError(f"{group.name}/{name} is not an array of this HDF5 file")
    dataset = group[name]
    if dataset.external or dataset.is_virtual or dataset.nbytes > most_bytes or dataset.dtype.kind != "f":
        raise ValueError(f"{dataset.name}, {dataset.shape} of {dataset.dtype}, is not an array of floats in this file")
    return dataset[()]
