"""Keras 3's files: `.weights.h5`, and `.keras`, an archive with such a file inside.

Weights lie under `layers/conv2d/vars/0`, `layers/conv2d_1/vars/0` …, numbered within a kind of layer, whatever the
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
from .layout import Found, Layers, channels_first, channels_last, layers_of, named_tensors

MAGIC = b"\x89HDF\r\n\x1a\n"
INSIDE = "model.weights.h5"


def read(path: Path) -> Found:
    """Raises:
    ValueError: it is damaged, refers to other files, or is no file of Keras 3's.
    ImportError: the package h5py is not installed.
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
    """A `.weights.h5` for a model of the same layers; `model.load_weights` reads it.

    The model sees what the network's own preprocessing gives, with channels last.
    """
    h5py = _h5py()
    counts = {4: 0, 2: 0}
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        for name, arrays in channels_last(layers_of(bundle.network, "Keras")).items():
            kind = arrays[0].ndim
            number, counts[kind] = counts[kind], counts[kind] + 1
            group = file.create_group(f"layers/{'conv2d' if kind == 4 else 'dense'}{f'_{number}' if number else ''}")
            group.attrs["name"] = name  # as Keras notes its layers' own names
            for place, array in enumerate(arrays):
                group.create_dataset(f"vars/{place}", data=np.ascontiguousarray(array))


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("files of Keras need the package h5py: pip install 'alexnet[keras]'") from None
    return h5py


def _unzipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        about = archive.getinfo(INSIDE)
        if about.file_size > path.stat().st_size:  # Keras stores, and does not compress
            raise ValueError(f"{INSIDE} inside would be larger than the archive")
        return archive.read(about)


def _read(file, most_bytes: int) -> Found:
    if "layers" not in file:
        raise ValueError("an HDF5 file without Keras 3's layers/; what Keras 2 wrote, Keras 3 can load and save anew")
    groups = _group(file, "layers")
    found, skipped = {}, [name for name in file if name not in ("layers", "vars")]
    for name in groups:
        own = _group(groups, name)
        places = _group(own, "vars") if "vars" in own else ()
        arrays = [_numbers(places, place, most_bytes) for place in sorted(places, key=int)]
        if [each.ndim for each in arrays] in ([4, 1], [2, 1]):
            found[name] = tuple(arrays)
        elif arrays:
            skipped.append(f"layers/{name}")
    layers: Layers = {name: found[name] for name in sorted(found, key=lambda name: _in_order(name, found[name]))}
    if not layers or next(iter(layers.values()))[0].ndim != 4:
        raise ValueError("an HDF5 file of Keras 3's without convolutions")
    return Found("Keras 3's weights", named_tensors(channels_first(layers)), tuple(skipped))


def _in_order(name: str, arrays: tuple[np.ndarray, ...]) -> tuple[bool, int]:
    """Convolutions before dense layers, conv2d before conv2d_1."""
    number = re.search(r"_(\d+)$", name)
    return arrays[0].ndim != 4, int(number[1]) if number else 0


def _group(parent, name: str):
    """A group inside a group: not a link, which may lead to another file."""
    h5py = _h5py()
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink) or not isinstance(parent[name], h5py.Group):
        raise ValueError(f"{parent.name}/{name} is no group of this HDF5 file")
    return parent[name]


def _numbers(group, name: str, most_bytes: int) -> np.ndarray:
    h5py = _h5py()
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
        raise ValueError(f"{group.name}/{name} is no array of this HDF5 file")
    dataset = group[name]
    if dataset.external or dataset.is_virtual or dataset.nbytes > most_bytes or dataset.dtype.kind != "f":
        raise ValueError(f"{dataset.name}, {dataset.shape} of {dataset.dtype}, is not an array of floats in this file")
    return dataset[()]
