"""A network with all that its use needs, preprocessing and class names, and the one file that holds them.

The file is safetensors: the weights by name, `preprocessing.mean` and `preprocessing.std`, and in its header, as JSON,
the architecture and the class names. A file is written beside and renamed, so that there is never half a one. The
header also holds a checksum of every tensor and of itself, so that a bit that flipped on the disk is found.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..device import Precision, torch_dtype
from ..files import atomic_write
from ..preprocessing.preprocessing import Preprocessing
from ..specs.shapes import infer_shapes, tensor_shapes
from ..specs.storage import from_json, to_json
from .network import AlexNet
from .quantization import FcPrecision, with_fc_precision

Found = TypeVar("Found")
FORMAT = 1
FILE = "model.safetensors"


@dataclass
class ModelBundle:
    """What predicts: a network, what brings images into its units, and the names of its classes."""

    network: AlexNet
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    fc_precision: FcPrecision = "same"
    """What the fully connected layers multiply in when it predicts."""
    _copy: tuple[tuple, AlexNet] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.fc_precision not in get_args(FcPrecision):
            raise ValueError(f"fc_precision is {self.fc_precision!r}; it may be {', '.join(get_args(FcPrecision))}")

    def for_inference(self, precision: Precision) -> AlexNet:
        """The network in evaluation mode, with weights of the type that it is to multiply in.

        A copy in another type is kept until the weights change, so that they are not cast anew for each image. Batch
        norm keeps its numbers in float32, as it does in training.
        """
        self.network.eval()
        if precision == "fp32" and self.fc_precision == "same":
            return self.network
        state = precision, self.fc_precision, *((id(p), p._version) for p in self.network.parameters())
        if self._copy is None or self._copy[0] != state:
            copy = with_fc_precision(deepcopy(self.network), self.fc_precision)
            for module in copy.children():
                if not isinstance(module, torch.nn.BatchNorm2d):
                    module.to(torch_dtype(precision))
            self._copy = state, copy
        return self._copy[1]

    def to(self, device: torch.device | str) -> ModelBundle:
        return ModelBundle(self.network.to(device), self.preprocessing.to(device), self.classes, self.fc_precision)

    def save(self, path: Path, extra: Mapping[str, Tensor] | None = None, notes: Mapping | None = None) -> None:
        """Write a file, whole or not at all.

        Args:
            extra: further tensors, under names with a dot that are no parameter's (`velocity.conv1.weight`).
            notes: further facts, as JSON, under the header's "notes".
        """
        network = self.network
        about = {
            "format": FORMAT,
            "architecture": to_json(network.architecture),
            "in_channels": network.in_channels,
            "input_size": network.input_size,
            "classes": self.classes,
            "stored_size": self.preprocessing.stored_size,
            "crop_size": self.preprocessing.crop_size,
            "aligned": self.preprocessing.mean_follows_crop,
            "flip": self.preprocessing.flip,
        }
        tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
        tensors |= {"preprocessing.mean": self.preprocessing.mean, "preprocessing.std": self.preprocessing.std}
        tensors |= {name: tensor.detach().contiguous() for name, tensor in (extra or {}).items()}
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        head = {"alexnet": json.dumps(about), "notes": json.dumps(notes or {})}
        head["sums"] = json.dumps({name: _sum(tensor) for name, tensor in tensors.items()})
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, head | {"head": _head_sum(head)})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> ModelBundle:
        """Read a file.

        Raises:
            ValueError: the file is damaged, of another version, or not one of ours.
        """
        return _read(path, cls._of).to(device)

    @classmethod
    def _of(cls, file: _File) -> ModelBundle:
        about = json.loads(file.head.get("alexnet", "{}"))
        if about.get("format") != FORMAT:
            raise ValueError(f"it is not a network of format {FORMAT} saved by alexnet")
        architecture, whole = from_json(about["architecture"]), (about["in_channels"], about["input_size"])
        shapes = tensor_shapes(infer_shapes(architecture, len(about["classes"]), *whole))
        names = {*shapes, "preprocessing.mean", "preprocessing.std"}
        if missing := sorted(names - set(file.names)):
            raise ValueError(f"it lacks {', '.join(missing)} of {architecture.name}")
        if any(file.shape(name) != shape for name, shape in shapes.items()):
            raise ValueError(f"it does not hold the weights of its architecture, {architecture.name}")
        tensors = {name: file.tensor(name) for name in names}
        network = AlexNet(architecture, len(about["classes"]), *whole)
        sizes = about["stored_size"], about["crop_size"]
        mean, std = tensors.pop("preprocessing.mean"), tensors.pop("preprocessing.std")
        inputs = Preprocessing(*sizes, mean, std, about["aligned"], about.get("flip", about.get("mirror")))
        network.load_state_dict(tensors)
        return cls(network.eval(), inputs, tuple(about["classes"]))


def read_notes(path: Path) -> dict:
    """The notes that a file was saved with.

    Raises:
        ValueError: as for `ModelBundle.load`.
    """
    return _read(path, lambda file: json.loads(file.head.get("notes", "{}")))


def read_extra(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with `prefix`, without it.

    Raises:
        ValueError: as for `ModelBundle.load`.
    """
    return _read(path, lambda file: {n[len(prefix) :]: file.tensor(n) for n in file.names if n.startswith(prefix)})


class _File:
    """An open file; whatever is read from it is held to its sum. Files of the time before sums have none."""

    def __init__(self, opened):
        self.opened, self.names = opened, list(opened.keys())
        self.head = dict(opened.metadata() or {})
        if self.head.pop("head", None) != (_head_sum(self.head) if "sums" in self.head else None):
            raise ValueError("it is damaged: its header has another sum than when it was written")
        self.sums = json.loads(self.head.get("sums", "{}"))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.opened.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        tensor = self.opened.get_tensor(name)
        if self.sums and self.sums.get(name) != _sum(tensor):
            raise ValueError(f"it is damaged: {name} has another sum than when it was written")
        return tensor


def _sum(tensor: Tensor) -> int:
    """Of type, shape and bytes."""
    kind = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), kind)


def _head_sum(head: Mapping[str, str]) -> str:
    return str(zlib.crc32(json.dumps(head, sort_keys=True).encode()))


def _read(path: Path, what: Callable[[_File], Found]) -> Found:
    """What is wanted of a file.

    Raises:
        ValueError: it is not there, not ours or damaged; the message names it.
    """
    try:
        with safe_open(path, "pt") as opened:
            return what(_File(opened))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; a trained network is a folder with {FILE} or such a file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} says of itself what is not understood: {error!r}") from error
