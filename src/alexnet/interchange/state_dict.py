"""State dicts: PyTorch's `.pth` and `.pt`, safetensors, and torchvision's names of layers.

A `.pth` is a pickle, and a pickle is a program. `torch.load(weights_only=True)` reads it without running anything and
refuses all but tensors.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..model.network import TORCHVISION_NAMES
from ..specs.variants import variant
from .matching import computation
from .weights_file import WeightsFile, layers_of, named_tensors

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files of torch.save before 1.6, among them torchvision's alexnet-owt-4df8aa71.pth."""
PREFIXES = r"^((module|_orig_mod|model|network|net|backbone|state_dict)\.)+"
"""Prefixes that wrappers add to names: DataParallel, torch.compile and others."""
CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Where a checkpoint has the weights among other things."""


def read_torch(path: Path) -> WeightsFile:
    """Read a file of torch.save."""
    try:
        value = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        requested = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        message, *_ = str(error).split("Weights only load failed")[0].split("\n")  # the rest advises to run the pickle
        reason = f"it asks for {requested[1]}" if requested else message or type(error).__name__
        raise ValueError(
            f"a torch.save file that is damaged or holds more than tensors, which is refused because a pickle could "
            f"execute arbitrary code; save model.state_dict() instead ({reason})"
        ) from error
    skipped: list[str] = []
    while isinstance(value, Mapping) and (key := next((key for key in CHECKPOINT_KEYS if key in value), None)):
        if not isinstance(value[key], Mapping):
            break
        skipped += [str(name) for name in value if name != key]
        value = value[key]
    if not isinstance(value, Mapping):
        raise ValueError(f"a torch.save file must hold a dict of tensors, got a {type(value).__name__}")
    return _weights_file("PyTorch state dict", value, skipped)


def read_safetensors(path: Path) -> WeightsFile:
    """Read safetensors, which keep no order: layers are sorted by the numbers in their names, b9 before b10."""
    try:
        values = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it cannot be read as safetensors: {error}") from error
    return _weights_file("safetensors", {name: values[name] for name in sorted(values, key=_numbers_as_numbers)}, [])


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


def _weights_file(format: str, values: Mapping, skipped: list[str]) -> WeightsFile:
    """The tensors without prefixes, and under our names if theirs are torchvision's."""
    tensors: dict[str, Tensor] = {}
    original_names: dict[str, str] = {}
    likely_variant = None
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
            skipped.append(str(name))
            continue
        short = re.sub(PREFIXES, "", str(name))
        module, _, kind = short.rpartition(".")
        if module in TORCHVISION_NAMES:
            short = f"{TORCHVISION_NAMES[module]}.{kind}"
            format, likely_variant = "torchvision's alexnet", "torchvision"
        if short in tensors:
            raise ValueError(f"both {original_names[short]} and {name} in it would be {short}; remove one of them")
        tensors[short], original_names[short] = value.float(), str(name)
    return WeightsFile(format, tensors, tuple(skipped), likely_variant=likely_variant, inverted_dropout=False)


def _numbers_as_numbers(name: str) -> list[str | int]:
    return [int(piece) if index % 2 else piece for index, piece in enumerate(re.split(r"([0-9]+)", name))]
