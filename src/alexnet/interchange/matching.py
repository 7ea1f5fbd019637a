"""Which network the weights of a file belong to, and which tensor belongs to which layer."""

from dataclasses import fields, replace

from torch import Tensor

from ..model.network import AlexNet
from ..specs.architecture import Architecture
from ..specs.operations import Dropout
from ..specs.shapes import infer_shapes, tensor_shapes
from ..specs.variants import VARIANTS
from ..specs.variants import variant as find_variant
from .weights_file import WeightsFile

CHANNELS = 3  # red, green and blue
NAMING = "import_weights(…, variant=…), or alexnet import FILE --variant … --output FOLDER"
IGNORED = ("name", "suffix", "then", "std", "bias", "channels", "units")
"""Fields of operations that are names, widths and initialization, and not what is computed."""


def build_network(
    file: WeightsFile, variant: str | None, num_classes: int, input_size: int | None, strict: bool
) -> tuple[AlexNet, dict[str, tuple[str, ...]]]:
    """The network of a file with its weights, and the names of the tensors that are "loaded", "skipped" and "new".

    Args:
        variant: its name (default: what the file describes, else the variant that has the tensors' shapes).
        num_classes: number of classes; the file's if 0.
        input_size: side of the images, pixels (default: the file's if the tensors fit it, else the variant's).
        strict: whether every weight must be in the file.

    Raises:
        ValueError: the tensors fit no variant or several, or images of other than three channels; weights are missing,
            have other shapes, or are infinite or NaN.
    """
    if not file.tensors:
        raise ValueError("it has no floating-point tensors")
    architecture = _find_architecture(file, variant)
    if file.inverted_dropout and architecture.dropout:
        architecture = replace(architecture, dropout=replace(architecture.dropout, rescale=True))
    named = _renamed(architecture, file.tensors)
    shapes = _shapes(architecture)
    tensors = {name: tensor for name, tensor in named.items() if name in shapes}
    if (channels := _channels(architecture, tensors)) != CHANNELS:
        raise ValueError(f"{architecture.layers[0].name} must have 3 input channels (RGB), got {channels}")
    architecture = _as_wide_as(architecture, tensors)
    if input_size is None and file.input_size and _fits_images_of(file.input_size, architecture, tensors):
        input_size = file.input_size
    last = tensors.get(f"{architecture.layers[-1].name}.weight", ())
    sizes = num_classes or len(last) or architecture.classes, CHANNELS, input_size
    shapes = _shapes(architecture, *sizes)
    loaded = {name: tensor for name, tensor in tensors.items() if shapes.get(name) == tuple(tensor.shape)}
    counters = ".num_batches_tracked"  # of batch norm, which predictions do not depend on
    new = tuple(name for name in shapes if name not in loaded and not name.endswith(counters))
    if strict and new:
        expected, actual = " × ".join(map(str, shapes[new[0]])), tensors.get(new[0])
        misfit = f"it has no {new[0]} ({expected}), but {_listed(tensors)}"
        if actual is not None:
            misfit = f"{new[0]} must be {expected} for this network, got {' × '.join(map(str, actual.shape))}"
        advice = "to initialize it instead: import_weights(…, strict=False), alexnet import --partial"
        raise ValueError(f"{misfit} ({advice})")
    if not loaded:
        raise ValueError(f"it has no weights of {architecture.name}")
    if broken := next((name for name, tensor in loaded.items() if not tensor.isfinite().all()), None):
        raise ValueError(f"{broken} has infinite values or NaN")
    network = AlexNet(architecture, *sizes)
    network.load_state_dict(loaded, strict=False)
    skipped = (*(name for name in named if name not in tensors), *(name for name in tensors if name not in loaded))
    return network, {"loaded": tuple(loaded), "skipped": skipped, "new": new}


def computation(architecture: Architecture) -> list[tuple]:
    """What a trained network computes, operation by operation; networks of equal computation can exchange weights."""
    return [
        (type(operation), [getattr(operation, each.name) for each in fields(operation) if each.name not in IGNORED])
        for row in architecture.layers
        for _, operation in architecture.operations(row)
        if not isinstance(operation, Dropout)
    ]


def _find_architecture(file: WeightsFile, name: str | None) -> Architecture:
    if name is not None:
        return find_variant(name)
    if file.architecture:
        return file.architecture
    candidates = [each.name for each in VARIANTS.values() if _fits(each, file.tensors)]
    if file.likely_variant and (not candidates or file.likely_variant in candidates):
        candidates = [file.likely_variant]
    if len(candidates) > 1:
        raise ValueError(f"its tensors fit {', '.join(candidates)}; name the variant: {NAMING}")
    if not candidates:
        raise ValueError(
            f"its tensors ({_listed(file.tensors)}) match the shapes of no variant; if it is a variant with other "
            f"widths, name it: {NAMING}"
        )
    return find_variant(candidates[0])


def _renamed(architecture: Architecture, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the network's names; in the order of the layers if the file has other names."""
    rows = [row.name for row in architecture.layers]
    layers = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    if set(rows) <= set(layers) or len(rows) != len(layers):
        return tensors
    names = dict(zip(layers, rows, strict=True))
    split = {tuple(name.rpartition(".")): tensor for name, tensor in tensors.items()}
    return {f"{names.get(layer, layer)}.{kind}": tensor for (layer, _, kind), tensor in split.items()}


def _fits(architecture: Architecture, tensors: dict[str, Tensor]) -> bool:
    """Whether the tensors have the variant's own shapes, but for the number of classes and of color channels."""
    tensors = _renamed(architecture, tensors)
    last = tensors.get(f"{architecture.layers[-1].name}.weight")
    if last is None or not len(last):
        return False
    shapes = _shapes(architecture, len(last), _channels(architecture, tensors))
    return all(name in tensors and tuple(tensors[name].shape) == shape for name, shape in shapes.items())


def _as_wide_as(architecture: Architecture, tensors: dict[str, Tensor]) -> Architecture:
    """The network with the channels, groups and units of the tensors."""
    changes, channels = {}, CHANNELS
    for row in architecture.layers:
        weight = tensors.get(f"{row.name}.weight")
        if weight is not None and weight.dim() == 4 and min(weight.shape) > 0 and hasattr(row, "groups"):
            changes[row.name] = {"channels": len(weight), "groups": max(1, channels // weight.shape[1])}
        elif weight is not None and getattr(row, "units", None) is not None:
            changes[row.name] = {"units": len(weight)}
        channels = changes.get(row.name, {}).get("channels", getattr(row, "channels", channels))
    return architecture.with_layers(**changes)


def _fits_images_of(size: int, architecture: Architecture, tensors: dict[str, Tensor]) -> bool:
    """Whether the tensors have the shapes of the network for images of this size, but for the classes."""
    if size > 4096:
        return False
    shapes = _shapes(architecture, 1, CHANNELS, size)
    return all(shapes[name][1:] == tensor.shape[1:] for name, tensor in tensors.items())


def _channels(architecture: Architecture, tensors: dict[str, Tensor]) -> int:
    """Number of color channels that the first layer reads."""
    first = tensors.get(f"{architecture.layers[0].name}.weight")
    return first.shape[1] if first is not None and first.dim() == 4 else CHANNELS


def _shapes(architecture: Architecture, *sizes: int | None) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(infer_shapes(architecture, *sizes))


def _listed(tensors: dict[str, Tensor]) -> str:
    return ", ".join([*list(tensors)[:6], *(["…"] if len(tensors) > 6 else [])])
