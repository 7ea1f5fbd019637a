"""Networks as files of other frameworks, by the name of the format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..model.bundle import FILE, ModelBundle
from . import caffe, huggingface, keras, npy, state_dict
from .programs import write_onnx, write_program


@dataclass(frozen=True)
class Format:
    suffix: str
    """Of the file's name; a folder's has none."""
    write: Callable[..., object]
    inside: tuple[str, ...] = ()
    """Names of files in a folder."""


FORMATS = {
    "onnx": Format(".onnx", write_onnx),
    "torch-export": Format(".pt2", write_program),
    "torchvision": Format(".pth", state_dict.write_torchvision),
    "caffe": Format("", caffe.write, ("network.caffemodel", "deploy.prototxt", "mean.binaryproto")),
    "npy": Format(".npy", npy.write),
    "keras": Format(".weights.h5", keras.write),
    "safetensors": Format(".safetensors", lambda bundle, path: bundle.save(path)),
    "huggingface": Format("", huggingface.write, (FILE, huggingface.CONFIG)),
}


def export_weights(
    bundle: ModelBundle,
    path: str | Path,
    format: str,
    preprocessing: bool = False,
    source: str | Path | None = None,
) -> Path:
    """Write a network for another framework.

    Args:
        path: a file; for caffe and huggingface a folder.
        format: one of FORMATS.
        preprocessing: for onnx and torch-export: whether what is written takes stored images, (N, stored_size,
            stored_size, 3), uint8, and looks at their center, instead of (N, channels, side, side) in its own units.
        source: file or folder that the network was read from, which is not written over.

    Raises:
        ValueError: there is no such format, or it cannot say what the network does; or a file would be written over
            the one that was read.
        ImportError: a package that writes the format is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; it may be one of {', '.join(FORMATS)}")
    path, programs = Path(path).expanduser(), ("onnx", "torch-export")
    if preprocessing and format not in programs:
        raise ValueError(f"preprocessing goes into onnx and torch-export, not into {format}")
    if format == "keras" and not path.name.endswith(FORMATS[format].suffix):
        raise ValueError(f"{path}: Keras loads weights from names that end in {FORMATS[format].suffix} alone")
    for file in [path / name for name in FORMATS[format].inside] or [path]:
        if source is not None and _is_of(file, Path(source).expanduser()):
            raise ValueError(f"{file} is what the network was read from; export it under another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if format in programs:
        FORMATS[format].write(bundle.network, path, bundle.preprocessing if preprocessing else None)
    else:
        FORMATS[format].write(bundle, path)
    return path


def _is_of(file: Path, source: Path) -> bool:
    """Whether a file is the source itself, or is among the weights and notes of the source's folder."""
    if not file.exists() or not source.exists():
        return False
    is_kept = file.suffix in (".safetensors", ".json") and source.is_dir()
    return file.samefile(source) or (is_kept and file.parent.samefile(source))
