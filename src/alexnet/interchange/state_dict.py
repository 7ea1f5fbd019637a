"""State dicts: PyTorch's `.pth` and `.pt`, safetensors, and torchvision's names of layers.

A `.pth` is a pickle, and a pickle is a program. `torch.load(weights_only=True)` reads it without running anything and
refuses all but tensors.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..model.network import TORCHVISION_NAMES
from ..specs.variants import variant
from .described import computation
from .weights_file import MAX_TENSORS, WeightsFile, in_pixel_units, layers_of, named_tensors, numbers_as_numbers

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files of torch.save before 1.6, among them torchvision's alexnet-owt-4df8aa71.pth."""
WRAPPERS = r"^((module|_orig_mod|model|network|net|backbone|encoder|alexnet|attacker|state_dict)\.)+"
"""What wrappers put before names: DataParallel, torch.compile, Lightning, robustness and others."""
INSIDE = r"(?<=\.)(module|_orig_mod)\."
"""What DataParallel and torch.compile put into names, where only a part of a network is wrapped."""
FIRST = ("features.0.weight", "conv1.weight")
"""Usual names of the first weights; whatever stands before them stands before the others, too."""
CHECKPOINT_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params"),
    *("net_state_dict", "module", "alexnet", "encoder", "backbone"),
)
"""Where a checkpoint has the weights among other things."""
NOT_WEIGHTS = "optim|sched|scaler|amp|hyper|callback|loop|args|config"
"""What stands in the names of other things that hold tensors."""
COLORS = r"^(?:new_|pixel_|image_|input_|norm_|_)?(mean|std)$"
"""Names of what a network subtracts from its images and divides them by, as that of robustness does."""
REMEDIES = {
    "sparse": "tensor.to_dense()",
    "quantized": "tensor.dequantize()",
    "expanded or empty": "tensor.clone()",
}
TORCHVISION_LAYERS = {name for name in TORCHVISION_NAMES.values() if name.startswith(("conv", "fc"))}
NUMBERS = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}),
]
"""What stands in pickles for numbers of NumPy, such as the best accuracy; they build numbers and run nothing."""
MAX_DEPTH = 6
"""Dicts within dicts that are searched for weights; a pickle may hold a dict within itself."""


def read_torch(path: Path) -> WeightsFile:
    """Read a file of torch.save."""
    try:
        with torch.serialization.safe_globals(NUMBERS):
            value = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        requested = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        message, *_ = str(error).split("Weights only load failed")[0].split("\n")  # the rest advises to run the pickle
        reason = f"it asks for {requested[1]}" if requested else message or type(error).__name__
        raise ValueError(
            f"a torch.save file that is damaged or holds more than tensors, which is refused because a pickle could "
            f"execute arbitrary code; save model.state_dict() instead ({reason})"
        ) from error
    if not isinstance(value, Mapping):
        raise ValueError(f"a torch.save file must hold a dict of tensors, got a {type(value).__name__}")
    return _weights_file("PyTorch state dict", *_state_dict(value))


def read_safetensors(path: Path) -> WeightsFile:
    """Read safetensors, which keep no order: convolutions come first, then layers by their numbers, b9 before b10."""
    try:
        values = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it cannot be read as safetensors: {error}") from error
    return _weights_file("safetensors", _sorted(values), [])


def write_torchvision(bundle: ModelBundle, path: Path) -> None:
    """Write a state dict for torchvision's `alexnet`; the preprocessing is that of the network's recipe."""
    architecture, torchvision = bundle.network.architecture, variant("torchvision")
    if computation(architecture) != computation(torchvision):
        raise ValueError(f"the network must be torchvision's alexnet, got {architecture.name}")
    modules = {name: module for module, name in TORCHVISION_NAMES.items()}
    layers = layers_of(bundle.network, "torchvision").values()
    names = (modules[row.name] for row in torchvision.layers)
    state = named_tensors(dict(zip(names, layers, strict=True)))
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def _state_dict(value: Mapping) -> tuple[Mapping, list[str]]:
    """The dict of weights in a checkpoint, and the names of what stands beside it."""
    skipped: list[str] = []
    for _ in range(MAX_DEPTH):
        holders = [key for key, each in value.items() if not re.search(NOT_WEIGHTS, str(key)) and _holds_weights(each)]
        keys = [key for key in CHECKPOINT_KEYS if key in holders] or holders
        if any(isinstance(value[key], Tensor) for key in holders) or not holders:
            break
        layers = [value[key] for key in holders]
        if keys is holders and all(set(map(str, each)) <= {"weight", "bias"} for each in layers):  # a dict per layer
            value = {f"{key}.{kind}": tensor for key in holders for kind, tensor in value[key].items()}
            break
        if keys is holders and len(holders) > 1:
            raise ValueError(
                f"it has weights under {', '.join(map(repr, holders))}; save one of them: "
                f"torch.save(checkpoint[{holders[0]!r}], …)"
            )
        skipped += [str(key) for key in value if key != keys[0]]
        value = value[keys[0]]
    return value, skipped


def _holds_weights(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether this is a tensor of at least two dimensions, or a dict with one somewhere."""
    if isinstance(value, Tensor):
        return value.dim() > 1 and value.is_floating_point()
    return depth > 0 and isinstance(value, Mapping) and any(_holds_weights(each, depth - 1) for each in value.values())


def _weights_file(format: str, values: Mapping, skipped: list[str]) -> WeightsFile:
    """The tensors under names without what wrappers put before them, and what the file says about its images."""
    given = {str(name): value for name, value in values.items() if isinstance(value, Tensor)}
    if len(given) > 10 * MAX_TENSORS:  # those of an optimizer are among them
        raise ValueError(f"it must have <= {10 * MAX_TENSORS:,} tensors, got {len(given):,}")
    skipped += [str(name) for name, value in values.items() if not isinstance(value, Tensor)]
    short = _shortener(given)
    tensors: dict[str, Tensor] = {}
    colors: dict[str, Tensor] = {}
    original_names: dict[str, str] = {}
    for name, value in given.items():
        _check_ordinary(name, value)
        kind = re.match(COLORS, name.rpartition(".")[2])
        if not value.is_floating_point() or not value.dim():
            skipped.append(name)
        elif kind and value.numel() == 3:
            colors[kind[1]] = value.float().flatten()
        elif (own := short(name)) not in tensors:
            tensors[own], original_names[own] = value.float(), name
        elif not torch.equal(tensors[own], value.float()):
            raise ValueError(f"both {original_names[own]} and {name} in it would be {own}; remove one of them")
    weighted = {name.rpartition(".")[0] for name, tensor in tensors.items() if tensor.dim() > 1 or "running_" in name}
    is_torchvision = bool(weighted) and {*map(TORCHVISION_NAMES.get, weighted)} <= TORCHVISION_LAYERS
    if is_torchvision:
        format = "torchvision's alexnet"
    modules = list(map(str, getattr(values, "_metadata", None) or ()))
    leaves = [name for name in modules if not any(other.startswith(f"{name}.") for other in modules)]
    return WeightsFile(
        format,
        tensors,
        tuple(skipped),
        likely_variant="torchvision" if is_torchvision else None,
        recognized_by="torchvision's names of layers" if is_torchvision else WeightsFile.recognized_by,
        modules=tuple(short(name) for name in leaves if name),
        is_state_dict=True,
        **in_pixel_units(colors),
    )


def _shortener(names: Iterable[str]) -> Callable[[str], str]:
    """What removes the prefixes from names."""
    stripped = [re.sub(WRAPPERS, "", re.sub(INSIDE, "", name)) for name in names]
    before = {name.removesuffix(first) for name in stripped for first in FIRST if f".{name}".endswith(f".{first}")}
    if not before:
        parts = zip(*(name.split(".")[:-2] for name in stripped), strict=False)
        before = {"".join(f"{part[0]}." for part in takewhile(lambda part: len({*part}) == 1, parts))}

    def short(name: str) -> str:
        name = re.sub(WRAPPERS, "", re.sub(INSIDE, "", name))
        return name.removeprefix(max((each for each in before if name.startswith(each)), key=len, default=""))

    return short


def _check_ordinary(name: str, tensor: Tensor) -> None:
    kind = "quantized" if tensor.is_quantized else "sparse" if tensor.layout != torch.strided else None
    if kind is None and (tensor.is_meta or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()):
        kind = "expanded or empty"
    if kind:
        raise ValueError(f"{name} is a tensor of a special kind ({kind}); save an ordinary one, as by {REMEDIES[kind]}")


def _sorted(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks with convolutions first, then all by the numbers in their names."""

    def block(name: str) -> str:
        layer = name.rpartition(".")[0]
        return layer.rpartition(".")[0] or layer

    convolutional = {block(name) for name, tensor in values.items() if tensor.dim() > 2}
    connected = {block(name) for name, tensor in values.items() if tensor.dim() == 2} - convolutional
    return dict(sorted(values.items(), key=lambda item: (block(item[0]) in connected, numbers_as_numbers(item[0]))))
