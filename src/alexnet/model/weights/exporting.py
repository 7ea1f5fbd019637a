"""Networks as files of other frameworks, by the name of the format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..export import write_onnx, write_program
from ..trained import Trained
from . import caffe, huggingface, keras, npy, state_dict


@dataclass(frozen=True)
class Format:
    suffix: str
    """Of the file's name; a folder's has none."""
    write: Callable[..., object]


FORMATS = {
    "onnx": Format(".onnx", write_onnx),
    "torch-export": Format(".pt2", write_program),
    "torchvision": Format(".pth", state_dict.write_torchvision),
    "caffe": Format("", caffe.write),
    "npy": Format(".npy", npy.write),
    "keras": Format(".weights.h5", keras.write),
    "safetensors": Format(".safetensors", lambda trained, path: trained.save(path)),
    "huggingface": Format("", huggingface.write),
}


def export_weights(trained: Trained, path: str | Path, format: str, preprocessing: bool = False) -> Path:
    """Write a network for another framework.

    Args:
        path: a file; for caffe and huggingface a folder.
        format: one of FORMATS.
        preprocessing: for onnx and torch-export: whether what is written takes stored images, (N, stored_size,
            stored_size, 3), uint8, and looks at their center, instead of (N, channels, side, side) in its own units.

    Raises:
        ValueError: there is no such format, or it cannot say what the network does.
        ImportError: a package that writes the format is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; it may be one of {', '.join(FORMATS)}")
    path, programs = Path(path).expanduser(), ("onnx", "torch-export")
    if preprocessing and format not in programs:
        raise ValueError(f"preprocessing goes into onnx and torch-export, not into {format}")
    if format == "keras" and not path.name.endswith(FORMATS[format].suffix):
        raise ValueError(f"{path}: Keras loads weights from names that end in {FORMATS[format].suffix} alone")
    path.parent.mkdir(parents=True, exist_ok=True)
    if format in programs:
        FORMATS[format].write(trained.network, path, trained.inputs if preprocessing else None)
    else:
        FORMATS[format].write(trained, path)
    return path
