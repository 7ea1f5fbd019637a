"""A trained network with everything that its use needs, and the one file that holds it.

The file is safetensors: the weights by name, `preprocessing.mean` and `preprocessing.std`, and in its header, as JSON,
the architecture and the class names. It is written under another name and then renamed, so that it is never half
written. The header also has a checksum of every tensor and of itself, which show a bit that flipped on the disk.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..data.pack.resizing import Squares
from ..device import Precision, torch_dtype
from ..files import atomic_write, check_regular_file
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import Architecture
from ..specs.names import not_one_of
from ..specs.shapes import infer_shapes, tensor_shapes
from ..specs.storage import from_json, to_json
from .network import AlexNet
from .quantization import FcPrecision, InferenceCopies

FORMAT = 1
FILE = "model.safetensors"


@dataclass
class ModelBundle:
    """A network, the preprocessing of its images, and the names of its classes."""

    network: AlexNet
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    fc_precision: FcPrecision = "same"
    """Precision of the fully connected layers in inference."""
    _copies: InferenceCopies = field(default_factory=InferenceCopies, init=False, repr=False, compare=False)
    _is_private: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.fc_precision not in get_args(FcPrecision):
            raise ValueError(not_one_of("fc_precision", self.fc_precision, get_args(FcPrecision)))
        self.network.image_range = self.preprocessing and self.preprocessing.image_range

    @contextmanager
    def for_inference(self, precision: Precision) -> Iterator[AlexNet]:
        """The network in evaluation mode, with weights in this precision; afterwards it is in the mode that it was in.

        What is given is a copy that shares modules, settings and hooks with the network, and weights where it can.
        """
        training = [module for module in self.network.modules() if module.training]
        for module in training:
            module.training = False
        try:
            network = self._copies.copy_of(self.network, torch_dtype(precision), self.fc_precision, self._is_private)
            if network is not self.network:
                network.image_range = None
            yield network
        finally:
            for module in training:
                module.training = True

    def set_private(self, is_private: bool) -> ModelBundle:
        """Say whether nobody else has the network, as when it is loaded: changed weights are then found faster."""
        self._is_private = is_private
        return self

    def to(self, device: torch.device | str) -> ModelBundle:
        """The bundle on another device; the network itself is moved."""
        return ModelBundle(self.network.to(device), self.preprocessing.to(device), self.classes, self.fc_precision)

    def save(
        self,
        path: Path,
        extra: Mapping[str, Tensor] | None = None,
        notes: Mapping | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a file, atomically.

        Args:
            extra: further tensors, under names with a dot that no parameter has (`velocity.conv1.weight`).
            notes: further facts, as JSON, under the header's "notes".
            weights: written instead of those of the network.

        Raises:
            ValueError: the network was altered, so that it would not be read back.
        """
        self.check_unaltered()
        tensors = self.tensors() | dict(weights or {}) | dict(extra or {})
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        header = {"alexnet": json.dumps(self.facts()), "notes": json.dumps(notes or {})}
        header["sums"] = json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()})
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, header | {"head": _header_checksum(header)})

    def check_unaltered(self) -> None:
        """Raise ValueError, with what to do, if the network is not what its architecture and classes declare."""
        network, change = self.network, self.network.alteration()
        name = network.architecture.name
        if change:
            computed = "torch.nn.utils.prune.remove or parametrize.remove_parametrizations keeps computed weights"
            remedy = f"Declare its layers as an Architecture (docs/networks.md), or keep its state_dict(); {computed}"
            raise ValueError(f"the network is not the {name} that a file would describe: {change}. {remedy}")
        if len(self.classes) != network.num_classes:
            raise ValueError(f"classes must name the {network.num_classes} scores of {name}, got {len(self.classes)}")

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> ModelBundle:
        """Read a file.

        Raises:
            ValueError: the file is damaged, of another version, or not one of this package.
        """
        with _open(path) as file:
            return cls.of(json.loads(file.header.get("alexnet", "{}")), file).to(device)

    def facts(self) -> dict:
        """Everything but tensors, as JSON."""
        network, preprocessing = self.network, self.preprocessing
        return {
            "format": FORMAT,
            "architecture": to_json(network.architecture),
            "in_channels": network.in_channels,
            "input_size": network.input_size,
            "classes": self.classes,
            "stored_size": preprocessing.stored_size,
            "crop_size": preprocessing.crop_size,
            "aligned": preprocessing.mean_follows_crop,
            "flip": preprocessing.flip,
        } | ({} if preprocessing.squares == Squares() else {"squares": vars(preprocessing.squares)})

    def tensors(self) -> dict[str, Tensor]:
        """The weights and the preprocessing, by name."""
        inputs = self.preprocessing
        return {**self.network.state_dict(), "preprocessing.mean": inputs.mean, "preprocessing.std": inputs.std}

    @classmethod
    def of(cls, facts: Mapping, tensors: Mapping[str, Tensor]) -> ModelBundle:
        """A bundle of its `facts` and tensors, of which there may be others."""
        if facts.get("format") != FORMAT:
            raise ValueError(f"not a network of format {FORMAT} saved by alexnet")
        architecture = from_json(facts["architecture"])
        if not isinstance(architecture, Architecture) or not isinstance(facts["classes"], (list, tuple)):
            raise ValueError("its header has no network with classes")
        settings = architecture, len(facts["classes"]), facts["in_channels"], facts["input_size"]
        shapes = tensor_shapes(infer_shapes(*settings))
        names = [*shapes, "preprocessing.mean", "preprocessing.std"]
        if missing := sorted(set(names) - set(tensors)):
            raise ValueError(f"{', '.join(missing)} of {settings[0].name} are missing")
        *weights, mean, std = (tensors[name] for name in names)
        if [tuple(weight.shape) for weight in weights] != list(shapes.values()):
            raise ValueError(f"it does not hold the weights of its architecture, {settings[0].name}")
        for name, weight in zip(shapes, weights, strict=True):
            if weight.is_floating_point() and weight.numel() and not all(each.isfinite() for each in weight.aminmax()):
                raise ValueError(f"{name} must be finite numbers, but has NaN or infinity")
        if not all(isinstance(name, str) for name in facts["classes"]):
            raise ValueError(f"classes must be names, got {str(facts['classes'])[:80]}")
        flip = facts["flip"] if "flip" in facts else facts.get("mirror")  # as in files of version 0.1
        sizes = facts["stored_size"], facts["crop_size"]
        squares = Squares(**facts.get("squares", {}))
        preprocessing = Preprocessing(*sizes, mean, std, facts["aligned"], flip, squares)
        network = AlexNet(*settings)
        network.load_state_dict(dict(zip(shapes, weights, strict=True)))
        return cls(network.eval(), preprocessing, tuple(facts["classes"]))


def read_notes(path: Path) -> dict:
    """The notes that a file was saved with; ValueError as for `ModelBundle.load`."""
    with _open(path) as file:
        return json.loads(file.header.get("notes", "{}"))


def read_extra(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with `prefix`, under the rest of their names; ValueError as above."""
    with _open(path) as file:
        return {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}


class _File(Mapping):
    """The tensors of an open file, each compared with its checksum when it is read; the oldest files have none."""

    def __init__(self, opened):
        self.opened, self.header = opened, dict(opened.metadata() or {})
        checksum = self.header.pop("head", None)
        if checksum != (_header_checksum(self.header) if "sums" in self.header else None):
            raise ValueError("it is damaged: the checksum of its header is wrong")
        self.checksums = json.loads(self.header.get("sums", "{}"))

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.opened.get_tensor(name)
        if self.checksums and self.checksums.get(name) != _checksum(tensor):
            raise ValueError(f"it is damaged: the checksum of {name} is wrong")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.opened.keys())

    def __len__(self) -> int:
        return len(self.opened.keys())


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of type, shape and bytes."""
    kind = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), kind)


def _header_checksum(header: Mapping[str, str]) -> str:
    return str(zlib.crc32(json.dumps(header, sort_keys=True).encode()))


@contextmanager
def _open(path: Path) -> Iterator[_File]:
    """An open file. Whatever is wrong with it, or with what is read from it, is a ValueError that names it."""
    try:
        check_regular_file(path)
        with safe_open(path, "pt") as opened:
            yield _File(opened)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; a trained network is a folder with {FILE}, or such a file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: its header cannot be understood: {error!r}") from error
