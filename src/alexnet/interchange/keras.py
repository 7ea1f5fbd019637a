"""Keras 3's files: `.weights.h5`, and `.keras`, an archive with such a file inside.

Weights are under `layers/conv2d/vars/0`, `layers/conv2d_1/vars/0` …, numbered within a type of layer, whatever the
layers are called. Needs the package `h5py` (`pip install 'alexnet[keras]'`), not Keras.
"""

import io
import zipfile
from pathlib import Path

import numpy as np

from ..files import atomic_write
from ..model.bundle import ModelBundle
from .weights_file import Layers, WeightsFile, channels_first, channels_last, layers_of, named_tensors

MAGIC = b"\x89HDF\r\n\x1a\n"
INSIDE = "model.weights.h5"


def read(path: Path) -> WeightsFile:
    """Read either kind of file."""
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
            layer = "conv2d" if arrays[0].ndim == 4 else "dense"
            group = file.create_group(f"layers/{layer}{f'_{counts[layer]}' if counts[layer] else ''}")
            group.attrs["name"] = name
            for index, array in enumerate(arrays):
                group.create_dataset(f"vars/{index}", data=np.ascontiguousarray(array))
            counts[layer] += 1


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("Keras files need the package h5py: pip install 'alexnet[keras]'") from None
    return h5py


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(INSIDE).file_size > path.stat().st_size:  # Keras stores, and does not compress
            raise ValueError(f"{INSIDE} in it claims to be larger than the archive")
        return archive.read(INSIDE)


def _read(file, most_bytes: int) -> WeightsFile:
    if "layers" not in file:
        raise ValueError("an HDF5 file without Keras 3's layers/; load a file of Keras 2 in Keras 3 and save it again")
    groups = _member(file, "layers", "Group")
    layers: Layers = {}
    skipped = [name for name in file if name not in ("layers", "vars")]
    for name in groups:
        layer = _member(groups, name, "Group")
        variables = _member(layer, "vars", "Group") if "vars" in layer else ()
        arrays = [_array(variables, index, most_bytes) for index in sorted(variables, key=int)]
        if [array.ndim for array in arrays] in ([4, 1], [2, 1]):
            layers[name] = arrays[0], arrays[1]
        elif arrays:
            skipped.append(f"layers/{name}")
    if all(weight.ndim != 4 for weight, _ in layers.values()):
        raise ValueError("a Keras 3 file without convolution layers")
    return WeightsFile("Keras 3's weights", named_tensors(channels_first(layers)), tuple(skipped))


def _member(parent, name: str, kind: str):
    """A group or dataset in a group, which must not be a link, as that could lead to another file."""
    h5py = _h5py()
    is_linked = not isinstance(parent.get(name, getlink=True), h5py.HardLink)
    if is_linked or not isinstance(parent[name], getattr(h5py, kind)):
        description = {"Group": "a group", "Dataset": "an array"}[kind]
        raise ValueError(f"{parent.name}/{name} is not {description} of this HDF5 file")
    return parent[name]


def _array(group, name: str, most_bytes: int) -> np.ndarray:
    dataset = _member(group, name, "Dataset")
    if dataset.external or dataset.is_virtual or dataset.nbytes > most_bytes or dataset.dtype.kind != "f":
        raise ValueError(f"{dataset.name}, {dataset.shape} of {dataset.dtype}, is not an array of floats in this file")
    return dataset[()]
