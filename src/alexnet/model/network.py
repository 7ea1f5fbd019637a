"""Turns a declared architecture into a module, layer for layer.

A network is a plain sequence of named modules: conv1, norm1, pool1, relu1 … fc6, relu6, drop6, fc7, … fc8. The order
of the names is the order of the work, and the same name means the same thing in every variant.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..normalization import response_norm, spatial_norm
from ..specs import architecture as words
from ..specs.shapes import Placed, place
from .initialization import initialize

TORCHVISION_NAMES = {
    "features.0": "conv1",
    "features.1": "relu1",
    "features.2": "pool1",
    "features.3": "conv2",
    "features.4": "relu2",
    "features.5": "pool2",
    "features.6": "conv3",
    "features.7": "relu3",
    "features.8": "conv4",
    "features.9": "relu4",
    "features.10": "conv5",
    "features.11": "relu5",
    "features.12": "pool5",
    "classifier.0": "drop5",
    "classifier.1": "fc6",
    "classifier.2": "relu6",
    "classifier.3": "drop6",
    "classifier.4": "fc7",
    "classifier.5": "relu7",
    "classifier.6": "fc8",
}
"""torchvision's names of layers, and ours."""


class AlexNet(nn.Module):
    """A network of the family.

    `forward` takes (N, in_channels, input_size, input_size), in the units of its recipe, and gives class scores before
    the softmax, (N, num_classes). There a ReLU and the max pooling right after it change places: the largest value of a
    window stays the largest, so scores and gradients are the same, and there is a quarter to do. `features` follows the
    declared order.
    """

    def __init__(
        self,
        architecture: words.Architecture,
        num_classes: int | None = None,
        in_channels: int = 3,
        input_size: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.architecture = architecture
        self.num_classes = architecture.classes if num_classes is None else num_classes
        self.in_channels = in_channels
        self.input_size = architecture.input_size if input_size is None else input_size
        self.placed = place(architecture, self.num_classes, in_channels, self.input_size)
        with torch.device("meta"):  # the weights are drawn below, and not by the user's generator
            for step in self.placed:
                self.add_module(step.name, _module(step, architecture.activation))
        self.to_empty(device="cpu")
        initialize(self, seed)
        self._working_order = _working_order(self)
        self.to(memory_format=torch.channels_last)  # so that activations are, whatever the images are

    def train(self, mode: bool = True) -> AlexNet:
        """As for every module; but batch norm whose scale and shift are frozen keeps its means as they are, too."""
        super().train(mode)
        for module in self.children():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        for name in self._working_order:
            x = self._modules[name](x)
        return x

    def features(self, x: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Activations by layer, in the order of the work: conv1, …, relu1, pool1, … fc6, relu6, … fc8.

        Args:
            x: images, (N, in_channels, input_size, input_size).
            layers: those wanted, all where None; the work stops after the last of them. torchvision's names
                (`features.0`, `classifier.6`) are understood and returned as given.

        Raises:
            KeyError: the network has no layer of that name.
        """
        asked: dict[str, list[str]] = {}
        for name in self._modules if layers is None else layers:
            asked.setdefault(self._own_name(name), []).append(name)
        activations = {}
        for name, module in self._modules.items():
            if not asked:
                break
            x = module(x)
            activations |= dict.fromkeys(asked.pop(name, ()), x)
        return activations

    def _own_name(self, name: str) -> str:
        own = TORCHVISION_NAMES.get(name, name)
        if own not in self._modules:
            raise KeyError(f"{self.architecture.name} has no layer {name!r}, but {', '.join(self._modules)}")
        return own


def create(
    name: str, num_classes: int = 1000, in_channels: int = 3, input_size: int | None = None, seed: int = 0
) -> AlexNet:
    """A network by name, with the initial weights that its recipe asks for.

    Args:
        name: one of `alexnet.variants()`.
        input_size: side of the images, pixels; the variant's own where None.
        seed: of the initial weights, which are the same for the same seed on every machine.

    Raises:
        ValueError: no variant has that name, or the images are too small for a layer.
    """
    from ..specs.variants import variant

    return AlexNet(variant(name), num_classes, in_channels, input_size, seed)


class Convolution(nn.Conv2d):
    """Convolution whose size may be rounded up: windows over the right and lower edge read zeros (`layer.py`, 2012)."""

    def __init__(self, *args, round_up: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.round_up = round_up

    def forward(self, x: Tensor) -> Tensor:
        if self.round_up:
            kernel, stride, pad = self.kernel_size[0], self.stride[0], self.padding[0]
            bottom, right = (-(side + 2 * pad - kernel) % stride for side in x.shape[2:])
            x = F.pad(x, (0, right, 0, bottom))
        return super().forward(x)


class LocalConvolution(nn.Module):
    """Convolution with weights and biases of its own at every place, at stride 1.

    `weight` is (places, inputs · kernel², maps) and `bias` (places, maps); places run by rows, as in `unfold`.
    """

    def __init__(self, inputs: int, maps: int, kernel: int, pad: int, side: int):
        super().__init__()
        self.kernel, self.pad, self.side = kernel, pad, side
        self.weight = nn.Parameter(torch.empty(side * side, inputs * kernel**2, maps))
        self.bias = nn.Parameter(torch.empty(side * side, maps))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.pad).permute(2, 0, 1)  # (places, N, inputs · kernel²)
        y = torch.baddbmm(self.bias[:, None], patches, self.weight)  # (places, N, maps)
        return y.permute(1, 2, 0).unflatten(2, (self.side, self.side))


class ResponseNorm(nn.Module):
    def __init__(self, norm: words.Norm):
        super().__init__()
        self.norm = norm
        self.alpha = norm.alpha if norm.divided else norm.alpha * norm.size

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, self.norm.size, self.alpha, self.norm.beta, self.norm.k, self.norm.groups)

    def extra_repr(self) -> str:
        return str(self.norm)


class SpatialResponseNorm(nn.Module):
    def __init__(self, norm: words.SpatialNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return spatial_norm(x, self.norm.size, self.norm.alpha, self.norm.beta, self.norm.k)

    def extra_repr(self) -> str:
        return str(self.norm)


class PlainDropout(nn.Module):
    """Dropout as in 2012: units are silenced while training; afterwards all are multiplied by keep (section 4.2)."""

    def __init__(self, rate: float):
        super().__init__()
        self.keep = 1 - rate

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty_like(x).bernoulli_(self.keep) if self.training else x * self.keep

    def extra_repr(self) -> str:
        return f"keep={self.keep}"


def tensor_shapes(placed: Iterable[Placed]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by name, by arithmetic alone: nothing is allocated for what a file claims to hold."""
    shapes: dict[str, tuple[int, ...]] = {}
    for step in placed:
        match step.operation:
            case words.Conv(maps=maps, kernel=kernel, groups=groups):
                weight, bias = (maps, step.inputs[0] // groups, kernel, kernel), (maps,)
            case words.Local(maps=maps, kernel=kernel):
                places = step.outputs[1] * step.outputs[2]
                weight, bias = (places, step.inputs[0] * kernel**2, maps), (places, maps)
            case words.Linear():
                weight, bias = (step.outputs[0], step.inputs[0]), step.outputs
            case words.BatchNorm():
                weight = bias = (step.inputs[0],)
                shapes |= {f"{step.name}.running_{kind}": weight for kind in ("mean", "var")}
                shapes[f"{step.name}.num_batches_tracked"] = ()
            case _:
                continue
        shapes |= {f"{step.name}.weight": weight, f"{step.name}.bias": bias}
    return shapes


def plain_dropout(placed: Iterable[Placed]) -> dict[str, float]:
    """By layer with weights: what dropout as in 2012, before it, multiplies by after training; 1 without."""
    factors: dict[str, float] = {}
    keep = 1.0
    for step in placed:
        match step.operation:
            case words.Dropout(rescale=False):
                keep *= 1 - step.operation.rate
            case words.Conv() | words.Local() | words.Linear():
                factors[step.name], keep = keep, 1.0
    return factors


def _working_order(network: AlexNet) -> list[str]:
    order = list(network._modules)
    for at, (name, after) in enumerate(pairwise(order)):
        if isinstance(network._modules[name], nn.ReLU) and isinstance(network._modules[after], nn.MaxPool2d):
            order[at : at + 2] = after, name
    return order


def _module(step: Placed, activation: str) -> nn.Module:
    operation, inputs = step.operation, step.inputs[0]
    match operation:
        case words.Conv():
            return Convolution(
                inputs,
                operation.maps,
                operation.kernel,
                operation.stride,
                operation.pad,
                groups=operation.groups,
                round_up=operation.round_up,
            )
        case words.Local():
            return LocalConvolution(inputs, operation.maps, operation.kernel, operation.pad, step.outputs[1])
        case words.Linear():
            return nn.Linear(inputs, step.outputs[0])
        case words.Norm():
            return ResponseNorm(operation)
        case words.SpatialNorm():
            return SpatialResponseNorm(operation)
        case words.BatchNorm():
            return nn.BatchNorm2d(inputs)
        case words.Pool(kind="max"):
            return nn.MaxPool2d(operation.window, operation.stride, ceil_mode=operation.round_up)
        case words.Pool():
            return nn.AvgPool2d(operation.window, operation.stride, ceil_mode=operation.round_up)
        case words.AdaptivePool():
            return nn.AdaptiveAvgPool2d(operation.side)
        case words.Dropout(rescale=True):
            return nn.Dropout(operation.rate)
        case words.Dropout():
            return PlainDropout(operation.rate)
        case "relu":
            return {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]()
        case "flatten":
            return nn.Flatten()
    raise TypeError(f"{step.name}: no module is known for {operation}")
