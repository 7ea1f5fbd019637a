"""HDF5 files: Keras's `.weights.h5`, `.keras` (an archive with such a file inside) and `.h5`, and `.caffemodel.h5`.

In Keras 3, weights are under `layers/conv2d/vars/0`, `layers/conv2d_1/vars/0` …, numbered within a type of layer,
whatever the layers are called. In an `.h5` of Keras 1 to 3, attributes list the layers and their arrays by name. A
`.keras`, and an `.h5` of a whole model, also describe the model, as JSON. Needs the package `h5py`
(`pip install 'alexnet[keras]'`), not Keras.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from json import JSONDecodeError
from pathlib import Path

import numpy as np
import torch

from ..files import atomic_write
from ..model.bundle import ModelBundle
from .described import build
from .keras_config import Model
from .weights_file import (
    Layers,
    WeightsFile,
    channels_first,
    channels_last,
    in_pixel_units,
    layers_of,
    named_tensors,
    numbers_as_numbers,
    swap_colors,
)

MAGIC = b"\x89HDF\r\n\x1a\n"
INSIDE, CONFIG = "model.weights.h5", "config.json"
BATCH_NORM_EPS = 1e-3
"""Keras's default."""


class _Allowance:
    """How many bytes of arrays may still be read, so that a small file cannot hold one array very often."""

    def __init__(self, most_bytes: int):
        self.bytes_left = most_bytes

    def array(self, group, name: str) -> np.ndarray:
        """A dataset of numbers, which must be in this file and not be larger than what is left."""
        dataset = _member(group, name, "Dataset")
        is_inside = dataset.shape is not None and not dataset.external and not dataset.is_virtual
        if not is_inside or dataset.nbytes > self.bytes_left or dataset.dtype.kind not in "fiu":
            shape = f"{dataset.shape} of {dataset.dtype}"
            raise ValueError(f"{dataset.name}, {shape}, is not an array of numbers in this file")
        self.bytes_left -= dataset.nbytes
        return dataset[()]


def read(path: Path, input_size: int | None = None) -> WeightsFile:
    """Read any of these files, a model that says so for images of another size than its own."""
    h5py = _h5py()
    config = None
    with path.open("rb") as file:
        content = file
        if file.read(8) != MAGIC:
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(_unzipped(archive, INSIDE, path))
                config = _unzipped(archive, CONFIG, path) if CONFIG in archive.namelist() else None
        content.seek(0)
        try:
            with h5py.File(content, "r") as opened:
                return _read(opened, config, _Allowance(path.stat().st_size), input_size)
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


def _unzipped(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    if archive.getinfo(name).file_size > path.stat().st_size:  # Keras stores, and does not compress
        raise ValueError(f"{name} in it claims to be larger than the archive")
    return archive.read(name)


def _read(file, config: bytes | None, allowance: _Allowance, input_size: int | None) -> WeightsFile:
    if "layers" in file:
        if config is None or config.strip() == b"{}":
            return _keras_3_weights(file, allowance)
        return _described(config, lambda path, _, key: _keras_3_arrays(file, (*path, key), allowance), input_size)
    if "data" in file:
        return _caffe(file, allowance)
    root = _member(file, "model_weights", "Group") if "model_weights" in file else file
    if "layer_names" not in root.attrs:
        raise ValueError("an HDF5 file that is neither Keras's nor Caffe's")
    arrays = _named_arrays(root, allowance)
    if "model_config" in file.attrs:
        return _described(file.attrs["model_config"], lambda path, name, _: arrays.get(name, []), input_size)
    return _weights_file("Keras's .h5 of weights", arrays)


def _described(config: bytes | str, arrays, input_size: int | None) -> WeightsFile:
    """A model that its JSON describes."""
    try:
        parsed = json.loads(config)
        model = Model(arrays, shape=input_size and (3, input_size, input_size))
        model.read(parsed)
        side, name = model.side or 227, str(parsed["config"].get("name", "keras"))
        built = build("a Keras model", name, model.steps, side, "modern")
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, ArithmeticError, JSONDecodeError) as error:
        raise ValueError(f"a Keras model whose description cannot be understood: {error!r}") from error
    return replace(built, input_size=side, guesses=tuple(model.guesses))


def _keras_3_arrays(file, path: tuple[str, ...], allowance: _Allowance) -> list[np.ndarray]:
    """The arrays of a layer, of which a model may have none."""
    group = file
    for name in path:
        if "layers" not in group or name not in (layers := _member(group, "layers", "Group")):
            return []
        group = _member(layers, name, "Group")
    variables = _member(group, "vars", "Group") if "vars" in group else ()
    return [allowance.array(variables, index) for index in sorted(variables, key=int)]


def _keras_3_weights(file, allowance: _Allowance) -> WeightsFile:
    """Weights without a description: by the types of layers, each in its order."""
    names = sorted(_member(file, "layers", "Group"), key=numbers_as_numbers)
    skipped = tuple(name for name in file if name not in ("layers", "vars"))
    nested = [name for name in names if "layers" in _member(file["layers"], name, "Group")]
    if nested:
        raise ValueError(f"its layers are inside {nested[0]}, a model in the model; save the .keras, which says more")
    arrays = {name: _keras_3_arrays(file, (name,), allowance) for name in names}
    return _weights_file("Keras 3's weights", arrays, skipped, is_sorted=False)


def _named_arrays(root, allowance: _Allowance) -> dict[str, list[np.ndarray]]:
    """The arrays of each layer of a Keras 2 file, in the order of its attributes."""
    arrays: dict[str, list[np.ndarray]] = {}
    for layer in map(_text, root.attrs["layer_names"]):
        group = _member(root, layer, "Group")
        arrays.setdefault(layer, [])
        for path in map(_text, group.attrs.get("weight_names", ())):
            *parents, name = path.split("/")
            parent = group
            for each in parents:
                parent = _member(parent, each, "Group")
            arrays.setdefault(parents[-1] if parents else layer, []).append(allowance.array(parent, name))
    return arrays


def _weights_file(
    format: str, arrays: Mapping[str, list[np.ndarray]], skipped: tuple[str, ...] = (), is_sorted: bool = True
) -> WeightsFile:
    """Weights without a description of their model.

    Args:
        is_sorted: whether the layers are in the order of the model.
    """
    layers: Layers = {}
    norms: dict[str, torch.Tensor] = {}
    colors: dict[str, torch.Tensor] = {}
    unread: list[str] = []
    for name, each in arrays.items():
        dimensions = [array.ndim for array in each]
        if dimensions in ([4, 1], [2, 1], [4], [2]):
            layers[name] = each[0], each[1] if len(each) > 1 else np.zeros(each[0].shape[-1], np.float32)
        elif dimensions == [1, 1, 1, 1]:
            names = [f"{name}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
            norms |= dict(zip(names, map(torch.from_numpy, map(np.float32, each)), strict=True))
        elif dimensions == [1, 1, 0] and each[0].size == each[1].size == 3:  # Normalization: mean, variance, count
            mean, variance = (torch.from_numpy(np.float32(array)) for array in each[:2])
            colors = {"mean": mean, "std": variance.sqrt()}
        elif each:
            unread.append(name)
    if all(weight.ndim != 4 for weight, _ in layers.values()):
        raise ValueError("a Keras file without convolution layers")
    tensors = named_tensors(channels_first(layers, is_sorted)) | norms
    if is_sorted:
        order = list(arrays)
        tensors = dict(sorted(tensors.items(), key=lambda item: order.index(item[0].rpartition(".")[0])))
    return WeightsFile(
        format,
        tensors,
        skipped,
        tuple(unread),
        modules=tuple(arrays) if is_sorted else (),
        order_is_known=is_sorted,
        batch_norm_eps=BATCH_NORM_EPS,
        **in_pixel_units(colors),
    )


def _caffe(file, allowance: _Allowance) -> WeightsFile:
    """Caffe's `.caffemodel.h5`, which has weights and no description."""
    layers: Layers = {}
    unread: list[str] = []
    data = _member(file, "data", "Group")
    for name in sorted(data, key=numbers_as_numbers):
        group = _member(data, name, "Group")
        blobs = [allowance.array(group, index) for index in sorted(group)]
        if [blob.ndim for blob in blobs] in ([4, 1], [2, 1]):
            layers[name] = blobs[0], blobs[1]
        elif blobs:
            unread.append(name)
    layers = dict(sorted(layers.items(), key=lambda item: item[1][0].ndim != 4))
    if not layers:
        raise ValueError("an HDF5 file of Caffe without layers that have weights")
    return WeightsFile("Caffe's caffemodel.h5", named_tensors(swap_colors(layers)), (), tuple(unread))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _member(parent, name: str, kind: str):
    """A group or dataset in a group, which must not be a link, as that could lead to another file."""
    h5py = _h5py()
    is_linked = not isinstance(parent.get(name, getlink=True), h5py.HardLink)
    if is_linked or not isinstance(parent[name], getattr(h5py, kind)):
        description = {"Group": "a group", "Dataset": "an array"}[kind]
        raise ValueError(f"{parent.name}/{name} is not {description} of this HDF5 file")
    return parent[name]
