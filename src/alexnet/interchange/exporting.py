"""Networks as files of other frameworks, by the name of the format."""

from pathlib import Path
from typing import Protocol

from ..files import atomic_write
from ..model.bundle import FILE, ModelBundle
from ..specs.names import not_one_of
from . import caffe, huggingface, keras, npy, programs, state_dict
from .weights_file import classes_path

FORMATS = {
    "onnx": (programs.write_onnx, ".onnx"),
    "torch-export": (programs.write_program, ".pt2"),
    "torchvision": (state_dict.write_torchvision, ".pth"),
    "caffe": (caffe.write, ""),
    "npy": (npy.write, ".npy"),
    "keras": (keras.write, ".weights.h5"),
    "safetensors": (ModelBundle.save, ".safetensors"),
    "huggingface": (huggingface.write, ""),
}
"""How each format is written, and the ending of a file's name; empty for a folder."""
PROGRAMS = ("onnx", "torch-export")
"""Formats that hold the computation, with or without preprocessing."""

NAMELESS = ("torchvision", "caffe", "npy", "keras")
"""Formats that cannot hold class names, which stand beside the weights, in `classes_path`."""


class HasBundle(Protocol):
    """What has a bundle, as a trained `Classifier` does."""

    @property
    def bundle(self) -> ModelBundle | None: ...


def export_weights(
    bundle: ModelBundle | HasBundle,
    path: str | Path,
    format: str,
    preprocessing: bool = False,
    source: str | Path | None = None,
) -> Path:
    """Write a network for another framework, with its class names inside or beside it.

    Args:
        bundle: of a trained `Classifier`, or the classifier.
        path: a file; a folder for caffe and huggingface.
        format: one of FORMATS.
        preprocessing: for onnx and torch-export: whether to include the center crop and normalization. The input is
            then stored images, (N, stored_size, stored_size, 3), uint8, instead of preprocessed ones, (N, channels,
            side, side), float32; an ONNX file then also has the output `probabilities`.
        source: file or folder that the network was read from, which is never overwritten.

    Raises:
        ValueError: the format is unknown or cannot express the network; or the source would be overwritten.
        ImportError: a package that writes the format is not installed.
    """
    if format not in FORMATS:
        raise ValueError(not_one_of("format", format, FORMATS))
    bundle = bundle if isinstance(bundle, ModelBundle) else bundle.bundle
    if bundle is None:
        raise ValueError("the classifier must be trained before it is exported")
    path, (write, suffix) = Path(path).expanduser(), FORMATS[format]
    if preprocessing and format not in PROGRAMS:
        raise ValueError(f"preprocessing can only be included in {' and '.join(PROGRAMS)}, not in {format}")
    if format == "keras" and not path.name.endswith(suffix):
        raise ValueError(f"the name of a Keras file must end in {suffix}, got {path}")
    if source is not None:
        source = Path(source).expanduser()
        read = [source, *source.glob("*.safetensors"), *source.glob("*.json")]
        for file in [path] if suffix else [path / name for name in (FILE, huggingface.CONFIG, *caffe.FILES)]:
            if file.exists() and any(each.is_file() and file.samefile(each) for each in read):
                raise ValueError(f"the network was read from {file}; export it under another name")
    if format not in PROGRAMS:  # a program is what the modules say; a file of weights needs their architecture
        bundle.check_unaltered()
    path.parent.mkdir(parents=True, exist_ok=True)
    write(bundle, path, *([preprocessing] if format in PROGRAMS else []))
    if format in NAMELESS:
        weights = path if suffix else path / caffe.FILES[0]
        with atomic_write(classes_path(weights)) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in bundle.classes), encoding="utf-8")
    return path
