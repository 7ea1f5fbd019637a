"""Networks as files of other frameworks, by the name of the format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..model.bundle import FILE, ModelBundle
from . import caffe, huggingface, keras, npy, programs, state_dict


@dataclass(frozen=True)
class Format:
    suffix: str
    """The file name's ending; empty for a folder."""
    write: Callable[..., object]
    files: tuple[str, ...] = ()
    """Names of the files in a folder."""


FORMATS = {
    "onnx": Format(".onnx", programs.write_onnx),
    "torch-export": Format(".pt2", programs.write_program),
    "torchvision": Format(".pth", state_dict.write_torchvision),
    "caffe": Format("", caffe.write, caffe.FILES),
    "npy": Format(".npy", npy.write),
    "keras": Format(".weights.h5", keras.write),
    "safetensors": Format(".safetensors", ModelBundle.save),
    "huggingface": Format("", huggingface.write, (FILE, huggingface.CONFIG)),
}
PROGRAMS = ("onnx", "torch-export")
"""Formats that hold the computation, with or without preprocessing."""


def export_weights(
    bundle: ModelBundle, path: str | Path, format: str, preprocessing: bool = False, source: str | Path | None = None
) -> Path:
    """Write a network for another framework.

    Args:
        path: a file; a folder for caffe and huggingface.
        format: one of FORMATS.
        preprocessing: for onnx and torch-export: whether to include the center crop and normalization. The input is
            then stored images, (N, stored_size, stored_size, 3), uint8, instead of preprocessed ones, (N, channels,
            side, side), float32.
        source: file or folder that the network was read from, which is never overwritten.

    Raises:
        ValueError: the format is unknown or cannot express the network; or the source would be overwritten.
        ImportError: a package that writes the format is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    path, form = Path(path).expanduser(), FORMATS[format]
    if preprocessing and format not in PROGRAMS:
        raise ValueError(f"preprocessing can only be included in {' and '.join(PROGRAMS)}, not in {format}")
    if format == "keras" and not path.name.endswith(form.suffix):
        raise ValueError(f"the name of a Keras file must end in {form.suffix}, got {path}")
    for file in [path / name for name in form.files] or [path]:
        if source is not None and _is_part_of(file, Path(source).expanduser()):
            raise ValueError(f"the network was read from {file}; export it under another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if format in PROGRAMS:
        form.write(bundle.network, path, bundle.preprocessing if preprocessing else None)
    else:
        form.write(bundle, path)
    return path


def _is_part_of(file: Path, source: Path) -> bool:
    """Whether a file is the source, or belongs to the weights and notes of the source's folder."""
    if not file.exists() or not source.exists():
        return False
    is_kept = file.suffix in (".safetensors", ".json") and source.is_dir()
    return file.samefile(source) or (is_kept and file.parent.samefile(source))
