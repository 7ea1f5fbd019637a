"""Which format a file has, by its first bytes; the name does not matter."""

import zipfile
from pathlib import Path

from . import caffe, huggingface, keras, npy, state_dict
from .weights_file import WeightsFile


def read_weights_file(path: Path) -> WeightsFile:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise ValueError("an empty file")
    if start.startswith(state_dict.LEGACY_MAGIC):
        return state_dict.read_torch(path)
    if start.startswith(b"PK"):
        return _read_archive(path)
    if start.startswith(keras.MAGIC):
        return keras.read(path)
    if start.startswith(npy.MAGIC):
        return npy.read(path)
    if start[8:9] == b"{":
        return huggingface.with_config(state_dict.read_safetensors(path), path.parent)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        raise ValueError("a pickle, which is refused because it could execute arbitrary code")
    if start.startswith(caffe.STARTS):
        return caffe.read(path)
    raise ValueError(
        "not a known format; it must be PyTorch's (.pth, .pt), safetensors, Caffe's .caffemodel, an .npy of layers, or "
        "Keras 3's (.weights.h5, .keras)"
    )


def _read_archive(path: Path) -> WeightsFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"a damaged archive: {error}") from error
    if keras.INSIDE in names:
        return keras.read(path)
    if any(name.endswith("data.pkl") for name in names):
        return state_dict.read_torch(path)
    raise ValueError("an archive, but not PyTorch's or Keras 3's")
