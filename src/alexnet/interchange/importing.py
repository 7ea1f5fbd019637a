"""From a file of any framework to a network that is ready to predict."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.labels.class_names import imagenet_class_names
from ..model.bundle import FILE, ModelBundle
from ..model.network import AlexNet
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.recipes import recipe as find_recipe
from . import caffe, huggingface, keras, npy, programs, state_dict
from .class_files import read_classes
from .matching import Match, build_network
from .public_weights import are_public, local_weights
from .weights_file import MAX_TENSORS, WeightsFile, classes_path

OTHERS = {
    "a web page, as servers send instead of a file that needs a login or a confirmation": (b"<", b"\n<", b"\r\n<"),
    "a pointer of Git LFS (fetch the file itself: git lfs pull)": (b"version https://",),
    "packed by gzip (unpack it first)": (b"\x1f\x8b",),
    "a file of MATLAB": (b"MATLAB",),
    "a description of a Caffe network or solver, a .prototxt, whose weights are a .caffemodel": (
        *(b"name:", b"layer", b"input:", b"net:", b"#"),
    ),
}
"""What other files are, by their first bytes."""


@dataclass(frozen=True, kw_only=True)
class Report(Match):
    """What was done with the tensors of a file, and how images will be prepared."""

    format: str
    variant: str
    inputs: str
    """The preprocessing, and where it is from."""
    guessed: bool = False
    """Whether the preprocessing is a guess."""

    def facts(self) -> dict[str, str]:
        """Name and value of each line of the report."""
        named = {name: ", ".join(getattr(self, name)) or "nothing" for name in ("loaded", "skipped", "new")}
        facts = {"format": self.format, "network": f"{self.variant}, {self.recognized}"}
        guesses = {"guessed": "; ".join(self.guesses)} if self.guesses else {}
        return facts | guesses | named | {"images": self.inputs}


def import_weights(
    path: str | Path,
    variant: str | Architecture | None = None,
    classes: str | Path | Sequence[str] | None = None,
    mean: str | Path | Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    strict: bool = True,
) -> tuple[ModelBundle, Report]:
    """Load weights from torchvision, PyTorch, Caffe, TensorFlow (.npy), Keras or Hugging Face.

    Args:
        path: a file; a folder with model.safetensors and perhaps config.json; or what `local_weights` can download.
        variant: which network it is, by name or declared, if the file does not say and the shapes fit several. Widths
            may differ. Dropout is taken to scale in training, as it does elsewhere.
        classes: class names in the order of the scores, or a file with them (`read_classes`). Default: the file's, or
            those in NAME.classes.txt beside it; else ImageNet's if there are 1,000, else "0", "1", ….
        mean: subtracted from pixels of 0 to 255: a color, RGB, or a file with a mean image (.binaryproto, .npy).
        std: standard deviation, RGB, that pixels are divided by after that.
        input_size: side of the images that the network sees, pixels. Default: the file's, else the variant's.
        strict: whether every weight of the network must be in the file, and all of the file in the network; otherwise,
            missing ones are initialized, and others left out.

    Raises:
        ValueError: the file cannot be read, is of no known format, fits no variant or several. The message says which.
        ImportError: a package that reads the format is not installed.
    """
    path = local_weights(path)
    path = path / FILE if path.is_dir() else path
    if (bundle := _ours(path)) is not None:
        if any(argument is not None for argument in (variant, classes, mean, std, input_size)):
            raise ValueError(f"{path} was saved by alexnet and needs none of variant, classes, mean, std, input_size")
        names, name = tuple(bundle.network.state_dict()), bundle.network.architecture.name
        return bundle, Report(names, format="alexnet", variant=name, inputs="as in the file")
    class_names = () if classes is None else read_classes(classes)
    try:
        file = _read(path, input_size)
        if not (class_names or file.classes) and classes_path(path).is_file():
            class_names = read_classes(classes_path(path))
        class_names = class_names or file.classes or ()
        network, match = build_network(file, variant, len(class_names), input_size, strict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    is_public = are_public(path)
    preprocessing, inputs, guessed = _preprocessing(network, file, mean, std, is_public)
    matched = vars(match) | {"guesses": () if is_public else match.guesses}
    name = network.architecture.name
    report = Report(**matched, format=file.format, variant=name, inputs=inputs, guessed=guessed)
    imagenet, count = imagenet_class_names(), network.num_classes
    class_names = class_names or (imagenet if count == len(imagenet) else map(str, range(count)))
    return ModelBundle(network.eval(), preprocessing, tuple(class_names)), report


def _ours(path: Path) -> ModelBundle | None:
    """The bundle of a file that this package wrote; None for other files."""
    if not path.is_file():
        return ModelBundle.load(path)  # which says what must exist
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(programs.ONNX_START) and not start.endswith(b"{"):  # which safetensors have there
        try:
            return programs.read_onnx(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        with safe_open(path, "pt") as file:
            return ModelBundle.load(path) if "alexnet" in (file.metadata() or {}) else None
    except (SafetensorError, OSError):
        return None


def _read(path: Path, input_size: int | None) -> WeightsFile:
    """Read a file whose format its first bytes tell; its name does not matter.

    Args:
        input_size: of the images, where the format describes its network (default: as the file says).
    """
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise ValueError("an empty file")
    if start.startswith(state_dict.LEGACY_MAGIC):
        return state_dict.read_torch(path)
    if start.startswith(b"PK"):
        return _read_archive(path, input_size)
    if start.startswith(keras.MAGIC):
        return keras.read(path, input_size)
    if start.startswith(npy.MAGIC):
        return npy.read(path)
    if start[8:9] == b"{":
        return huggingface.with_config(state_dict.read_safetensors(path), path.parent)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        raise ValueError("a pickle, which is refused because it could execute arbitrary code")
    if start.startswith(caffe.STARTS):
        return caffe.read(path, input_size)
    if other := next((what for what, begin in OTHERS.items() if start.startswith(begin)), None):
        raise ValueError(f"{other}, and not weights themselves")
    raise ValueError(
        "not a known format; it must be PyTorch's (.pth, .pt), safetensors, Caffe's .caffemodel, an .npy of layers, or "
        "Keras 3's (.weights.h5, .keras)"
    )


def _read_archive(path: Path, input_size: int | None) -> WeightsFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"a damaged archive: {error}") from error
    if len(names) > 10 * MAX_TENSORS:
        raise ValueError(f"an archive with {len(names):,} parts; weights must have <= {10 * MAX_TENSORS:,}")
    if keras.INSIDE in names:
        return keras.read(path, input_size)
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise ValueError("a TorchScript program (torch.jit.save), which is not run; save its state_dict() instead")
    if any(name.endswith("data.pkl") for name in names):
        return state_dict.read_torch(path)
    if any(name.endswith("models/model.json") for name in names):
        raise ValueError("a program of torch.export, which is not read back; take the network that it was made from")
    raise ValueError(f"an archive, but not PyTorch's or Keras 3's: it holds {', '.join(names[:3])} …")


def _preprocessing(
    network: AlexNet,
    file: WeightsFile,
    mean: str | Path | Sequence[float] | None,
    std: Sequence[float] | None,
    is_public: bool,
) -> tuple[Preprocessing, str, bool]:
    """The preprocessing, in words with its source, and whether it is a guess.

    Args:
        is_public: whether these are the public weights of the network, whose preprocessing is known.
    """
    size, architecture = network.input_size, network.architecture
    spec = find_recipe(architecture.recipe).input
    pixel_std, guessed = file.std, False
    if isinstance(mean, (str, Path)):
        pixel_mean, source = caffe.read_mean(Path(mean).expanduser()), f"from {mean}"
    elif mean is not None:
        pixel_mean, source = _color("mean", mean), "as requested"
    elif file.mean is not None:
        pixel_mean, source = file.mean, f"as in {file.inputs_from}"
    else:
        is_fixed = isinstance(spec.mean, tuple)
        pixel_mean = torch.tensor(spec.mean if is_fixed else caffe.MEAN_COLOR)
        guessed = not is_public
        usual = f"usual for {architecture.name}" if is_fixed else "ImageNet's mean color"
        reason = file.mean_note or "to be sure, give mean and std"
        source = f"a guess ({usual}); {reason}" if guessed else "as published with these weights"
    if std is not None:
        pixel_std = _color("std", std)
    elif pixel_std is None:
        is_fixed = file.mean is None and isinstance(spec.std, tuple)
        pixel_std = torch.tensor(spec.std) if is_fixed else torch.ones(3)
    pixel_mean = pixel_mean if pixel_mean.dim() == 3 else pixel_mean.view(1, 1, 3)
    is_image = len(pixel_mean) > 1
    scaled = architecture if size == architecture.input_size else architecture.with_input(size)
    stored_size = len(pixel_mean) if is_image else max(size, file.stored_size or scaled.stored_size)
    if size > stored_size:
        raise ValueError(f"the mean image must be at least as large as the images ({size}), got {stored_size}")
    preprocessing = Preprocessing(stored_size, size, pixel_mean.float(), pixel_std.float(), mean_follows_crop=is_image)
    color, divisor = preprocessing.colors_in_words
    minus = f"a mean image of {stored_size} × {stored_size}" if is_image else f"({color})"
    return preprocessing, f"pixels minus {minus}, divided by ({divisor}), {source}", guessed


def _color(name: str, values: Sequence[float]) -> Tensor:
    color = torch.tensor([float(value) for value in values])
    if len(color) != 3 or not color.isfinite().all():
        raise ValueError(f"{name} must be three finite numbers (red, green, blue), got {color.tolist()}")
    return color
