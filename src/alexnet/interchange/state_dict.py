"""Files of tensors by name: PyTorch's `.pth` and `.pt`, safetensors, and torchvision's names for the layers.

A `.pth` is a pickle, and a pickle is a program; it is read by `torch.load(weights_only=True)`, which runs nothing and
refuses whatever is more than tensors.
"""

from __future__ import annotations

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
from .layout import Found, layers_of, work_of

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began its files before 1.6, among them torchvision's alexnet-owt-4df8aa71.pth."""
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "state_dict.")
"""What wrappers put before names: DataParallel, torch.compile, and people."""
PLACES = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Where a checkpoint keeps the weights among other things."""


def read_torch(path: Path) -> Found:
    """A file of torch.save.

    Raises:
        ValueError: it is damaged, or holds more than tensors.
    """
    try:
        value = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged or hostile file makes the reader raise
        asked = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        said, *_ = str(error).split("Weights only load failed")[0].split("\n")  # what follows is advice to run it
        why = f"it asks for {asked[1]}" if asked else said or type(error).__name__
        raise ValueError(
            f"a file of torch.save that is refused, as it is damaged or holds more than tensors, and a pickle may run "
            f"anything; save model.state_dict() instead ({why})"
        ) from error
    aside: list[str] = []
    while isinstance(value, Mapping) and (inside := next((place for place in PLACES if place in value), None)):
        if not isinstance(value[inside], Mapping):
            break
        aside += [str(name) for name in value if name != inside]
        value = value[inside]
    if not isinstance(value, Mapping):
        raise ValueError(f"a file of torch.save that holds a {type(value).__name__}; it may be a dict of tensors")
    return _named("PyTorch's state dict", value, aside)


def read_safetensors(path: Path) -> Found:
    """Such a file keeps no order: layers are taken by the numbers in their names, b9 before b10.

    Raises:
        ValueError: it is damaged.
    """
    try:
        values = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it cannot be read as safetensors: {error}") from error
    return _named("safetensors", {name: values[name] for name in sorted(values, key=_by_numbers)}, [])


def write_torchvision(bundle: ModelBundle, path: Path) -> None:
    """A state dict that torchvision's `alexnet` loads.

    It sees what its own preprocessing gives if the network was trained with the recipe `torchvision`.

    Raises:
        ValueError: the network is another one than torchvision's.
    """
    architecture, theirs = bundle.network.architecture, variant("torchvision")
    if work_of(architecture) != work_of(theirs):
        raise ValueError(f"{architecture.name} does other work than torchvision's alexnet, so it cannot be one")
    names = {ours: name for name, ours in TORCHVISION_NAMES.items()}
    rows = {row.name: own.name for row, own in zip(architecture.layers, theirs.layers, strict=True)}
    state = {}
    for name, (weight, bias) in layers_of(bundle.network, "torchvision").items():
        module = names[rows[name]]
        state |= {f"{module}.weight": torch.tensor(weight), f"{module}.bias": torch.tensor(bias)}
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def _named(format: str, values: Mapping, skipped: list[str]) -> Found:
    """Tensors under our names, where theirs are torchvision's or ours with something before them.

    Raises:
        ValueError: two would have one name.
    """
    tensors: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    likely = None
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.dim():
            skipped.append(str(name))
            continue
        own = _without_prefixes(str(name))
        module, _, kind = own.rpartition(".")
        if module in TORCHVISION_NAMES:
            own, likely = f"{TORCHVISION_NAMES[module]}.{kind}", "torchvision"
        if own in tensors:
            raise ValueError(f"both {theirs[own]} and {name} in it would be {own}; leave one of them out")
        tensors[own], theirs[own] = value.float(), str(name)
    format = "torchvision's alexnet" if likely else format
    return Found(format, tensors, tuple(skipped), likely=likely, rescaled=False)


def _by_numbers(name: str) -> list[str | int]:
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]


def _without_prefixes(name: str) -> str:
    while prefix := next((each for each in PREFIXES if name.startswith(each)), None):
        name = name.removeprefix(prefix)
    return name
