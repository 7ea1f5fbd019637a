"""Which network the weights of a file belong to, and which tensor belongs to which layer."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model.network import TORCHVISION_NAMES, AlexNet
from ..specs.architecture import Architecture
from ..specs.names import listed
from ..specs.operations import BatchNorm, Dropout, Layer, Linear, Norm, Operation, SpatialNorm
from ..specs.shapes import infer_shapes, tensor_shapes
from ..specs.variants import VARIANTS
from ..specs.variants import variant as find_variant
from .described import CHANNELS
from .weights_file import WeightsFile

NAMING = "import_weights(…, variant=…), or alexnet import FILE --variant … --output FOLDER"
STATING = "to state it, give variant a name or an Architecture"
PARTIAL = "import_weights(…, strict=False), alexnet import --partial"
MOST_NAMES = 6  # in a message
COUNTERS = ".num_batches_tracked"
"""Ends the names of the counters of batch norm, on which predictions do not depend."""
KINDS = {
    "local": "local",
    "conv": "conv",
    "fc|linear|dense": "fc",
    "relu|act": "relu",
    "lrn|norm|bn": "norm",
    "pool": "pool",
}
"""What a module is, by a part of its name."""
WITHOUT_KIND = "drop|flatten|identity|softmax"
"""Names of modules whose place does not matter."""


@dataclass(frozen=True)
class Match:
    """The tensors of a file by what became of them, and what told the network."""

    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """In the file, but not in the network."""
    new: tuple[str, ...] = ()
    """In the network, but not in the file: initialized."""
    recognized: str = "by its description in the file"
    """What told which network it is."""
    guesses: tuple[str, ...] = ()
    """What about the network is a guess, and how to state it instead."""


def build_network(
    file: WeightsFile, variant: str | Architecture | None, num_classes: int, input_size: int | None, strict: bool
) -> tuple[AlexNet, Match]:
    """The network of a file with its weights, and how they were matched.

    Args:
        variant: the network or its name (default: what the file describes, else the variant that has the tensors'
            shapes).
        num_classes: number of classes; the file's if 0.
        input_size: side of the images, pixels (default: the file's if the tensors fit it, else the variant's).
        strict: whether every weight must be in the file, and every learned tensor of the file in the network.

    Raises:
        ValueError: the tensors fit no variant or several, or images of other than three channels; weights are missing
            or left over, have other shapes, or are infinite or NaN.
    """
    if not file.tensors:
        raise ValueError("it has no floating-point tensors")
    architecture, recognized, guesses = _find_architecture(file, variant)
    architecture, named, assumed = _adapted(architecture, file, isinstance(variant, Architecture))
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
    loaded = {name: tensor for name, tensor in tensors.items() if shapes.get(name) == tensor.shape}
    new = tuple(name for name in shapes if name not in loaded and not name.endswith(COUNTERS))
    unplaced = (*file.unread, *(name for name in named if name not in tensors))
    if strict:
        _check_complete(architecture, shapes, tensors or named, new, unplaced)
    if not loaded:
        raise ValueError(f"it has no weights of {architecture.name}")
    if broken := next((name for name, tensor in loaded.items() if not tensor.isfinite().all()), None):
        raise ValueError(f"{broken} has infinite values or NaN")
    network = AlexNet(architecture, *sizes)
    network.load_state_dict(loaded, strict=False)
    skipped = (*file.skipped, *unplaced, *(name for name in tensors if name not in loaded))
    return network, Match(tuple(loaded), skipped, new, recognized, (*guesses, *assumed))


def _check_complete(
    architecture: Architecture, shapes: dict, tensors: dict[str, Tensor], new: tuple[str, ...], unplaced: tuple
) -> None:
    """Raise ValueError for weights that are missing or left over."""
    if new:
        expected, actual = _sides(shapes[new[0]]), tensors.get(new[0])
        misfit = f"it has no {new[0]} ({expected}), but {listed([*tensors], MOST_NAMES)}"
        if actual is not None:
            misfit = f"{new[0]} must be {expected} for this network, got {_sides(actual.shape)}"
        raise ValueError(f"{misfit} (to initialize it instead: {PARTIAL})")
    if unplaced:
        raise ValueError(
            f"{architecture.name} has no place for {listed(unplaced, MOST_NAMES)}, so that it is probably another "
            f"network; {STATING} (to leave out what has no place: {PARTIAL})"
        )


def _find_architecture(
    file: WeightsFile, variant: str | Architecture | None
) -> tuple[Architecture, str, tuple[str, ...]]:
    """The network of a file, what told it, and what about it is a guess."""
    if variant is not None:
        return find_variant(variant), "as requested", ()
    if file.architecture:
        return file.architecture, "by its description in the file", file.guesses
    candidates = [each for each in VARIANTS.values() if _fits(each, file.tensors)]
    exact = [each for each in candidates if len(_batch_norms(each)) == len(_norms(file.tensors))]
    ordered = [each for each in exact or candidates if _stands_as_in(file, each)]
    own = [each for each in ordered if _is_own(file, each)]
    candidates = own or ordered or exact or candidates
    names = [each.name for each in candidates]
    if file.likely_variant and (not names or file.likely_variant in names):
        is_sure = file.likely_variant in names and file.recognized_by != WeightsFile.recognized_by
        guesses = () if is_sure else (_unseen(file.likely_variant),)
        return find_variant(file.likely_variant), f"by {file.recognized_by}", guesses
    if len(names) > 1:
        raise ValueError(f"its tensors fit {', '.join(names)}; name the variant: {NAMING}")
    if not names:
        raise ValueError(
            f"its tensors ({listed([*file.tensors], MOST_NAMES)}) match the shapes of no variant; if it is a variant "
            f"with other widths, name it: {NAMING}"
        )
    by = "the shapes of its tensors" + (" and the names of its modules" if ordered else "")
    return candidates[0], f"by {by}", () if own else (_unseen(names[0]),)


def _unseen(name: str) -> str:
    return (
        f"strides, padding, image size, order, pooling, normalization and dropout are those of {name}, because tensors "
        f"do not show them; {STATING}"
    )


def _adapted(
    architecture: Architecture, file: WeightsFile, is_given: bool
) -> tuple[Architecture, dict[str, Tensor], tuple[str, ...]]:
    """The network as the file has it, with inverted dropout and batch norm; its tensors under our names; guesses.

    Args:
        is_given: whether the caller declared the network, whose operations then stay as they are.
    """
    guesses: list[str] = []
    plain = [each for _, each in _operations(architecture) if isinstance(each, Dropout) and not each.rescale]
    if plain and not _is_own(file, architecture):  # dropout scales in training everywhere but in 2012
        if architecture.dropout in plain:
            architecture = replace(architecture, dropout=replace(architecture.dropout, rescale=True))
        architecture = _with_steps(architecture, lambda step: replace(step, rescale=True) if step in plain else step)
        has_our_names = {row.name for row in architecture.layers} <= {*_rows(file.tensors)}
        if file.is_state_dict and not file.modules and has_our_names and not _norms(file.tensors):
            guesses.append(
                "dropout scales in training, as PyTorch's does; a network of this package with the dropout of 2012 "
                "takes its own state dict by load_state_dict"
            )
    norms = _norms(file.tensors)
    lrn = _with_steps(architecture, lambda step: None if isinstance(step, (Norm, SpatialNorm)) else step)
    if not norms and not is_given and not _stands_as_in(file, architecture) and _stands_as_in(file, lrn):
        architecture = replace(lrn, name=f"{architecture.name} without LRN")
        guesses.append("there is no LRN, because the numbers of the layers leave no place for it")
    if norms and not _batch_norms(architecture) and not is_given:
        architecture = _with_batch_norm(lrn, file, norms)
        eps = f"eps {file.batch_norm_eps:g}, the default of its framework"
        names = listed(norms, MOST_NAMES)
        guesses.append(f"batch norm ({names}) stands where the names of the layers suggest, with {eps}")
    return architecture, _renamed(architecture, file.tensors), tuple(guesses)


def _is_own(file: WeightsFile, architecture: Architecture) -> bool:
    """Whether a file has the names of all modules of the network, as a state dict of this package has."""
    return {name for name, _ in _operations(architecture)} <= {*file.modules}


def _operations(architecture: Architecture) -> list[tuple[str, Operation]]:
    return [each for row in architecture.layers for each in architecture.operations(row)]


def _batch_norms(architecture: Architecture) -> list[str]:
    return [name for name, operation in _operations(architecture) if isinstance(operation, BatchNorm)]


def _with_steps(architecture: Architecture, change: Callable[[Operation], Operation | None]) -> Architecture:
    """The network with each operation that follows a layer as `change` returns it; None leaves it out."""

    def changed(row: Layer) -> Iterator[str | Operation]:
        for step in row.then:
            meaning = step if isinstance(step, Operation) else architecture.meaning(step)
            if new := meaning and change(meaning):
                yield step if new == meaning else new

    return replace(architecture, layers=tuple(replace(row, then=tuple(changed(row))) for row in architecture.layers))


def _with_batch_norm(architecture: Architecture, file: WeightsFile, norms: list[str]) -> Architecture:
    """The network with the batch norms of a file: each after the layer that it follows there, or shares a number with.

    In a Sequential, the numbers also tell what stands between the two: nothing, or ReLU, or ReLU and pooling.
    """
    rows = _rows(file.tensors)
    widths = {name: len(file.tensors[f"{name}.weight"]) for name in rows}
    sizes = {name: len(file.tensors[f"{name}.running_mean"]) for name in norms}
    owners: dict[str, str] = {}
    if file.order_is_known:
        layers = [*_layers(file.tensors)]
        before = {name: [each for each in layers[: layers.index(name)] if each in widths][-1:] for name in norms}
        alike = {name: [each for each in rows if _digits(each) == _digits(name)] for name in norms}
        for owned in (before, alike):
            owners = {owned[name][0]: name for name in norms if owned[name] and widths[owned[name][0]] == sizes[name]}
            if len(owners) == len(norms):
                break
    if len(owners) < len(norms) or len(rows) != len(architecture.layers):
        raise ValueError(
            f"it has batch norm ({listed(norms, MOST_NAMES)}), and does not say after which layers; {STATING} that has "
            "BatchNorm (of Keras, save the .keras, which says it)"
        )
    changes = {}
    for name, row in zip(rows, architecture.layers, strict=True):
        if name in owners:
            between = _between(name, owners[name]) or 0
            then = [*row.then[:between], BatchNorm(file.batch_norm_eps), *row.then[between:]]
            changes[row.name] = {"then": tuple(then)}
    return replace(architecture.with_layers(**changes), name=f"{architecture.name} with batch norm")


def _layers(tensors: Iterable[str]) -> dict[str, None]:
    """Names of layers, in their order."""
    return dict.fromkeys(name.rpartition(".")[0] for name in tensors)


def _rows(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the layers with a matrix or kernels."""
    return [name for name in _layers(tensors) if f"{name}.weight" in tensors and tensors[f"{name}.weight"].dim() > 1]


def _norms(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name in _layers(tensors) if f"{name}.running_mean" in tensors and f"{name}.running_var" in tensors]


def _digits(name: str) -> str:
    return "".join(re.findall("[0-9]+", name)[-1:])


def _between(first: str, second: str) -> int | None:
    """How many modules stand between two of a Sequential, by their numbers; None if they are not of one."""
    (parent, _, start), (other, _, end) = first.rpartition("."), second.rpartition(".")
    is_known = parent == other and start.isdecimal() and end.isdecimal() and int(start) < int(end) < 1000
    return int(end) - int(start) - 1 if is_known else None


def _stands_as_in(file: WeightsFile, architecture: Architecture) -> bool:
    """Whether the modules of a file, or the numbers of its convolutions, are those of an architecture.

    True only if the file tells. Batch norms do not count.
    """
    if kinds := _kinds_of_modules(file.modules):
        return kinds == _kinds_of_modules(tuple(name for name, _ in _operations(architecture)))
    rows, norms = _rows(file.tensors), _norms(file.tensors)
    if len(rows) != len(architecture.layers):
        return False
    counts = []
    for name, following, row in zip(rows, rows[1:], architecture.layers, strict=False):
        between = _between(name, following)
        if between is not None and row.takes == "maps":
            own = sum(not isinstance(each, BatchNorm) for _, each in architecture.operations(row)[1:])
            others = sum(_between(name, norm) is not None and _between(norm, following) is not None for norm in norms)
            counts.append(between - others == own)
    return bool(counts) and all(counts)


def _kinds_of_modules(modules: tuple[str, ...]) -> list[str]:
    """What each module of a file is, if all their names tell; dropout and what has no name are left out."""
    names = [name.rpartition(".")[2].lower() for name in modules]
    kinds = [
        next((kind for pattern, kind in KINDS.items() if re.search(pattern, name)), None)
        for name in names
        if not re.search(WITHOUT_KIND, name)
    ]
    return [] if None in kinds else kinds


def _renamed(architecture: Architecture, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the network's names; in the order of the layers if the file has other names.

    A layer without biases gets zeros, a batch norm without scale and shift ones and zeros.
    """
    rows, norms = _rows(tensors), _norms(tensors)
    names = {name: TORCHVISION_NAMES[name] for name in rows if {*rows} <= TORCHVISION_NAMES.keys()}
    for theirs, ours in ((rows, [row.name for row in architecture.layers]), (norms, _batch_norms(architecture))):
        if not {*ours} <= {*theirs} and len(ours) == len(theirs) and names.keys().isdisjoint(theirs):
            names |= dict(zip(theirs, ours, strict=True))
    split = {tuple(name.rpartition(".")): tensor for name, tensor in tensors.items()}
    named = {f"{names.get(layer, layer)}.{kind}": tensor for (layer, _, kind), tensor in split.items()}
    has_bias = any(f"{name}.bias" in tensors for name in rows)
    for name, operation in _operations(architecture):
        weight = named.get(f"{name}.weight")
        if isinstance(operation, Linear) and weight is not None and weight.dim() == 4:
            named[f"{name}.weight"] = weight.flatten(1)
        if isinstance(operation, BatchNorm) and f"{name}.running_mean" in named:
            size = named[f"{name}.running_mean"].shape
            named |= {f"{name}.weight": named.get(f"{name}.weight", torch.ones(size))}
            named |= {f"{name}.bias": named.get(f"{name}.bias", torch.zeros(size))}
        elif isinstance(operation, Layer) and weight is not None and weight.dim() > 1 and (norms or not has_bias):
            named |= {f"{name}.bias": named.get(f"{name}.bias", torch.zeros(len(weight)))}
    return named


def _fits(architecture: Architecture, tensors: dict[str, Tensor]) -> bool:
    """Whether the layers have the variant's own shapes, but for the number of classes and of color channels."""
    tensors = _renamed(architecture, tensors)
    last = tensors.get(f"{architecture.layers[-1].name}.weight")
    if last is None or not len(last) or len(_rows(tensors)) != len(architecture.layers):
        return False
    shapes = _shapes(architecture, len(last), _channels(architecture, tensors))
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(COUNTERS)}
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


def _sides(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))
