"""From a file of any framework to a network that is ready to predict: which format it is, which network, which layer.

A format is recognised by the file's first bytes, never by its name.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.labels.class_names import imagenet_class_names
from ..model.bundle import FILE, ModelBundle
from ..model.network import AlexNet, tensor_shapes
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture, Conv, Linear
from ..specs.recipes import recipe as find_recipe
from ..specs.shapes import place
from ..specs.variants import VARIANTS
from ..specs.variants import variant as find_variant
from . import caffe, huggingface, keras, npy, state_dict
from .layout import Found

CHANNELS = 3
"""Of images: red, green and blue."""
NAMING = "import_weights(…, variant=…), or alexnet import FILE --variant … --output FOLDER"
"""How one says which variant a file is of."""
WORDNET = re.compile(r"n[0-9]{8}")
"""Its numbers of nouns, which are the names of ImageNet's classes."""


@dataclass(frozen=True)
class Report:
    """What became of a file's tensors."""

    format: str
    variant: str
    loaded: tuple[str, ...]
    inputs: str
    """What images are made into before the network sees them, and how that is known."""
    skipped: tuple[str, ...] = ()
    """In the file, and not in the network."""
    new: tuple[str, ...] = ()
    """In the network, and not in the file: as they were initialized."""
    guessed: bool = False
    """Whether it is not known what images are made into."""

    def facts(self) -> dict[str, str]:
        """Name and value of each line of the report."""
        lists = {name: getattr(self, name) for name in ("loaded", "skipped", "new")}
        named = {name: ", ".join(values) or "nothing" for name, values in lists.items()}
        return {"format": self.format, "network": self.variant, **named, "images": self.inputs}


def import_weights(
    path: str | Path,
    variant: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    mean: str | Path | Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    strict: bool = True,
) -> tuple[ModelBundle, Report]:
    """A network with the weights of a file of torchvision, PyTorch, Caffe, TensorFlow (.npy), Keras or Hugging Face.

    Args:
        path: a file; or a folder with model.safetensors and perhaps config.json.
        variant: which network it is, where the file does not say and shapes fit several. Its widths may be others.
        classes: names in the order of the scores, or a file of them (`read_classes`); where None, the file's own; else
            ImageNet's where there are 1,000, and "0", "1" … elsewhere.
        mean: taken off the pixels of 0 … 255: a color, RGB, or a file with a mean image (.binaryproto, .npy).
        std: what pixels less the mean are divided by, RGB.
        input_size: side of the images that it sees, pixels; the file's or the variant's own where None.
        strict: whether every weight of the network must be in the file; otherwise the others stay new.

    Raises:
        ValueError: the file cannot be read, is of no format that is known, or does not fit; or it may be of several
            variants. The message says which.
        ImportError: a package that reads the format is not installed.
    """
    path = Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    if path.exists() and is_ours(path):
        if any(each is not None for each in (variant, classes, mean, std, input_size)):
            raise ValueError(f"{path} was saved by alexnet and says itself which network it is, and what it needs")
        bundle = ModelBundle.load(path)
        said = "as the file says"
        return bundle, Report("alexnet", bundle.network.architecture.name, tuple(bundle.network.state_dict()), said)
    asked = None if classes is None else _asked_classes(classes)
    try:
        found = read(path)
        architecture, tensors, skipped = _matched(found, variant)
        size = _side(architecture, tensors, input_size, found.input_size)
        last = f"{architecture.layers[-1].name}.weight"
        names = asked or found.classes or ()
        count = len(names) or len(tensors.get(last, ())) or architecture.classes
        expected = _shapes(architecture, count, CHANNELS, size)
        loaded = {name: tensor for name, tensor in tensors.items() if expected.get(name) == tuple(tensor.shape)}
        counts = ".num_batches_tracked"  # of batch norm, whose answers do not depend on it
        new = [name for name in expected if name not in loaded and not name.endswith(counts)]
        if strict and new:
            misfit = _misfit(new[0], expected, tensors)
            raise ValueError(
                f"{misfit} (new weights instead: import_weights(…, strict=False), alexnet import --partial)"
            )
        if not loaded:
            raise ValueError(f"no weight of {architecture.name} is in it")
        if broken := next((name for name, tensor in loaded.items() if not tensor.isfinite().all()), None):
            raise ValueError(f"{broken} has infinite numbers or NaN in it, with which nothing can be predicted")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    inputs, said, guessed = _preprocessing(architecture, found, size, mean, std)
    network = AlexNet(architecture, count, CHANNELS, size)
    network.load_state_dict(loaded, strict=False)
    skipped += [name for name in tensors if name not in loaded]
    skipped = (*found.skipped, *skipped)
    report = Report(found.format, architecture.name, tuple(loaded), said, skipped, tuple(new), guessed)
    return ModelBundle(network.eval(), inputs, names or _usual_names(count)), report


def is_ours(path: Path) -> bool:
    """Whether `ModelBundle.load` reads a file, as it was written by this package; True also where there is none."""
    try:
        with safe_open(path, "pt") as file:
            return "alexnet" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return not path.exists()


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names of a file, in the order of the scores: one a line, or JSON.

    JSON may be a list of names, or an object of names by number or of numbers by name. Of "n01440764 tench, Tinca
    tinca" and of ["n01440764", "tench"] WordNet's number is the name, as it is the name of ImageNet's folders.

    Raises:
        ValueError: the file cannot be read, or holds something else; a name is there twice.
    """
    path = Path(path).expanduser()
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; classes may be a file of their names") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8, which class names may be: {error}") from None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = [line.strip() for line in content.splitlines() if line.strip()]
    names = [_class_name(each) for each in _in_order(value)]
    if not names or None in names:
        raise ValueError(
            f"{path} has no class names; it may have one a line, or be JSON: a list of names, names by number or "
            f"numbers by name"
        )
    return _distinct(names, str(path))


def _in_order(value) -> list:
    """What a file's JSON has for each class; nothing where that cannot be told."""
    if isinstance(value, dict) and all(type(number) is int for number in value.values()):
        return sorted(value, key=value.get) if len(set(value.values())) == len(value) else []
    if isinstance(value, dict):
        return [value[number] for number in sorted(value, key=int)] if all(map(str.isdecimal, value)) else []
    return value if isinstance(value, list) else []


def _class_name(given) -> str | None:
    """A name of a line, or of a list as Keras's ["n01440764", "tench"]; None where it is neither."""
    words = given.split() if isinstance(given, str) else given
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        return None
    if WORDNET.fullmatch(words[0]):
        return words[0]
    return given if isinstance(given, str) else words[-1]


def _distinct(names: Sequence[str], origin: str) -> tuple[str, ...]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{origin} has the class {twice[0]!r} twice; each may have a name of its own")
    return tuple(names)


def _asked_classes(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, (str, Path)):
        return read_classes(classes)
    if not len(classes) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes is {classes!r}; it may be names in the order of the scores, or a file of them")
    return _distinct(classes, "classes")


def _usual_names(count: int) -> tuple[str, ...]:
    """Of classes that no file names."""
    listed = imagenet_class_names()
    return tuple(listed) if count == len(listed) else tuple(map(str, range(count)))


def read(path: Path) -> Found:
    """What a file holds.

    Raises:
        ValueError: it is damaged, refused, or of no format that is known.
    """
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
        raise ValueError("a pickle, which may run anything when it is read; it is not")
    if start.startswith(caffe.STARTS):
        return caffe.read(path)
    raise ValueError(
        "of no format that is known; it may be PyTorch's (.pth, .pt), safetensors, Caffe's .caffemodel, an .npy of "
        "layers, or Keras 3's (.weights.h5, .keras)"
    )


def _read_archive(path: Path) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"a damaged archive: {error}") from error
    if keras.INSIDE in names:
        return keras.read(path)
    if any(name.endswith("data.pkl") for name in names):
        return state_dict.read_torch(path)
    raise ValueError("an archive, but neither PyTorch's nor Keras 3's")


def _matched(found: Found, name: str | None) -> tuple[Architecture, dict[str, Tensor], list[str]]:
    """The network that a file's tensors belong to, as wide as they are; the tensors by its names; and the others."""
    if name is not None:
        candidates = [find_variant(name)]
    elif found.architecture:
        candidates = [found.architecture]
    else:
        candidates = [each for each in VARIANTS.values() if _fits(each, found.tensors)]
        if found.likely and (not candidates or found.likely in [each.name for each in candidates]):
            candidates = [find_variant(found.likely)]
    if not found.tensors:
        raise ValueError("it holds no tensors of numbers, which weights are")
    if not candidates:
        raise ValueError(
            f"its tensors ({_listed(found.tensors)}) have the shapes of no variant; if it is one of other widths, name "
            f"that: {NAMING}"
        )
    if len(candidates) > 1:
        names = ", ".join(each.name for each in candidates)
        raise ValueError(f"its tensors fit {names}; say which it is: {NAMING}")
    architecture = candidates[0]
    if found.rescaled and architecture.dropout:
        architecture = replace(architecture, dropout=replace(architecture.dropout, rescale=True))
    tensors = _renamed(architecture, found.tensors)
    own = _shapes(architecture, architecture.classes, CHANNELS, architecture.input_size)
    skipped = [each for each in tensors if each not in own]
    tensors = {each: tensor for each, tensor in tensors.items() if each in own}
    if (channels := _channels(architecture, tensors)) != CHANNELS:
        first = architecture.layers[0].name
        raise ValueError(
            f"{first} reads images of {channels} color channels; here they have three, red, green and blue"
        )
    return _as_wide_as(architecture, tensors), tensors, skipped


def _renamed(architecture: Architecture, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the network's names: as they are where its names are among them, or else layer by layer in order."""
    rows = [row.name for row in architecture.layers]
    layers = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    if set(rows) <= set(layers) or len(rows) != len(layers):
        return tensors
    names = dict(zip(layers, rows, strict=True))
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{kind}"] = tensor
    return renamed


def _fits(architecture: Architecture, tensors: dict[str, Tensor]) -> bool:
    """Whether the tensors have the variant's own shapes, but for the number of classes and of color channels."""
    tensors = _renamed(architecture, tensors)
    last = tensors.get(f"{architecture.layers[-1].name}.weight")
    if last is None or not len(last):
        return False
    expected = _shapes(architecture, len(last), _channels(architecture, tensors), architecture.input_size)
    return all(name in tensors and tuple(tensors[name].shape) == shape for name, shape in expected.items())


def _as_wide_as(architecture: Architecture, tensors: dict[str, Tensor]) -> Architecture:
    """The network with the maps, groups and units that the tensors have."""
    changes: dict[str, dict] = {}
    maps = CHANNELS
    for row in architecture.layers:
        weight = tensors.get(f"{row.name}.weight")
        if isinstance(row, Conv) and weight is not None and weight.dim() == 4 and min(weight.shape) > 0:
            changes[row.name] = {"maps": weight.shape[0], "groups": max(1, maps // weight.shape[1])}
        elif isinstance(row, Linear) and row.units is not None and weight is not None:
            changes[row.name] = {"units": len(weight)}
        maps = changes.get(row.name, {}).get("maps", getattr(row, "maps", maps))
    return architecture.with_layers(**changes)


def _channels(architecture: Architecture, tensors: dict[str, Tensor]) -> int:
    """Color channels, as the first layer reads them."""
    first = tensors.get(f"{architecture.layers[0].name}.weight")
    return first.shape[1] if first is not None and first.dim() == 4 else CHANNELS


def _shapes(architecture: Architecture, classes: int, channels: int, size: int) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(place(architecture, classes, channels, size))


def _side(architecture: Architecture, tensors: dict[str, Tensor], asked: int | None, said: int | None) -> int:
    """The side of the images: as asked, or as the file says if its weights fit, or the network's own."""
    if asked is not None:
        return asked
    if said is not None and said <= 4096:
        expected = _shapes(architecture, 1, CHANNELS, said)
        if all(expected[name][1:] == tensors[name].shape[1:] for name in expected if name in tensors):
            return said
    return architecture.input_size


def _misfit(name: str, expected: dict[str, tuple], tensors: dict[str, Tensor]) -> str:
    """Why a weight is not taken from the file."""
    wanted = " × ".join(map(str, expected[name]))
    if name not in tensors:
        return f"it has no {name} ({wanted}); it has {_listed(tensors)}"
    return f"{name} is {' × '.join(map(str, tensors[name].shape))} in it, and {wanted} in the network"


def _listed(tensors: dict[str, Tensor]) -> str:
    return ", ".join([*list(tensors)[:6], *(["…"] if len(tensors) > 6 else [])]) or "none"


def _preprocessing(
    architecture: Architecture,
    found: Found,
    size: int,
    mean: str | Path | Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[Preprocessing, str, bool]:
    """What images are made into, how that is known, and whether it is a guess.

    It is as asked, as the file or its format says, or assumed.
    """
    spec = find_recipe(architecture.recipe).input
    colors, scale, origin = found.mean, found.std, "as the file or its format has it"
    if colors is None and isinstance(spec.mean, tuple):
        colors, origin = torch.tensor(spec.mean).view(1, 1, 3), f"as the recipe {architecture.recipe} has it"
        scale = torch.tensor(spec.std) if scale is None and isinstance(spec.std, tuple) else scale
    elif colors is None:
        colors, origin = torch.tensor(caffe.MEAN_COLOR).view(1, 1, 3), "which is a guess; say mean and std"
    guessed = mean is None and found.mean is None and not isinstance(spec.mean, tuple)
    if mean is not None:
        is_file = isinstance(mean, (str, Path))
        colors = caffe.read_mean(Path(mean).expanduser()) if is_file else _color("mean", mean).view(1, 1, 3)
        origin = f"by {mean}" if is_file else "as asked"
    if std is not None:
        scale = _color("std", std)
    scale = torch.ones(3) if scale is None else scale
    if not (scale > 0).all():
        raise ValueError(f"std is {scale.tolist()}; it may be above 0")
    is_image = len(colors) > 1
    stored = len(colors) if is_image else max(size, architecture.stored_size)
    if size > stored:
        raise ValueError(f"the mean image of {stored} × {stored} is smaller than the images of {size} × {size} it sees")
    taken = f"a mean image of {stored} × {stored}" if is_image else f"({_numbers(colors.flatten())})"
    said = f"pixels less {taken}, divided by ({_numbers(scale)}), {origin}"
    return Preprocessing(stored, size, colors.float(), scale.float(), mean_follows_crop=is_image), said, guessed


def _color(name: str, given: Sequence[float]) -> Tensor:
    if len(given) != 3:
        raise ValueError(f"{name} has {len(given)} numbers; it may have three, of red, green and blue")
    color = torch.tensor([float(each) for each in given])
    if not color.isfinite().all():
        raise ValueError(f"{name} is {color.tolist()}; it may be three finite numbers")
    return color


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())
