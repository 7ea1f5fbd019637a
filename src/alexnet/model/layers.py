"""The modules of the operations in `specs/operations.py`, one each.

`@module_for(Operation)` registers what makes the module: a class or function that takes the operation and the shape of
its input, without the batch dimension. Rows of a network get their initial weights from the architecture
(`initialize`); every other module initializes itself, as torch's own do.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from ..normalization import response_norm, spatial_norm
from ..specs import operations as ops
from ..specs.operations import Layer, Operation, Shape
from ..specs.shapes import Placed

torch.fx.wrap("response_norm")  # so that torch.fx records a call and does not look inside
torch.fx.wrap("spatial_norm")

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Factory = Callable[[Operation, Shape], nn.Module]
FACTORIES: dict[type[Operation], Factory] = {
    ops.Linear: lambda linear, input_shape: nn.Linear(*input_shape, linear.units),
    ops.Activation: lambda activation, _: {"relu": nn.ReLU, "tanh": nn.Tanh}[activation.kind](),
    ops.BatchNorm: lambda norm, shape: {3: nn.BatchNorm2d, 1: nn.BatchNorm1d}[len(shape)](shape[0], norm.eps),
    ops.AdaptivePool: lambda pool, _: nn.AdaptiveAvgPool2d(pool.side),
    ops.Dropout: lambda dropout, _: (nn.Dropout if dropout.rescale else PlainDropout)(dropout.rate),
    ops.Flatten: lambda *_: nn.Flatten(),
}
"""What makes the module of each operation: those of torch, and below, registered, those that torch lacks."""


def module_for(kind: type[Operation]) -> Callable[[Factory], Factory]:
    """Register the decorated class or function as what makes the module of an operation."""

    def register(factory: Factory) -> Factory:
        FACTORIES[kind] = factory
        return factory

    return register


def build_module(placed: Placed) -> nn.Module:
    """The module of one operation of a network.

    Raises:
        TypeError: none is registered for it.
    """
    factory = FACTORIES.get(type(placed.operation))
    if factory is None:
        raise TypeError(
            f"{placed.name}: no module is registered for {type(placed.operation).__name__}; decorate one with "
            f"@module_for({type(placed.operation).__name__})"
        )
    return factory(placed.operation, placed.input_shape)


@torch.no_grad()
def initialize(module: nn.Module, layer: Layer, fan_in: int, generator: torch.Generator) -> None:
    """Draw the weights of a row as it declares (section 5; `initW` and `initB` of the 2012 code)."""
    if layer.std == "torch":  # nn.Conv2d and nn.Linear: uniform within 1 / √fan-in, for weights and biases
        bound = 1 / math.sqrt(fan_in)
        module.weight.uniform_(-bound, bound, generator=generator)
        module.bias.uniform_(-bound, bound, generator=generator)
        return
    if others := dict(module.named_parameters()).keys() - {"weight", "bias"}:
        raise TypeError(f"{layer.name} must declare how to initialize {', '.join(sorted(others))}")
    std = math.sqrt(2 / fan_in) if layer.std == "he" else layer.std
    module.weight.normal_(0, std, generator=generator)
    module.bias.fill_(layer.bias)


@module_for(ops.Conv)
def convolution(conv: ops.Conv, input_shape: Shape) -> nn.Conv2d:
    """`nn.Conv2d` itself, whose exact type many tools ask for, unless something is rounded up."""
    is_rounded_up = conv.output_shape(input_shape) != replace(conv, round_up=False).output_shape(input_shape)
    kind = RoundedUpConv2d if is_rounded_up else nn.Conv2d
    return kind(input_shape[0], conv.channels, conv.kernel, conv.stride, conv.pad, groups=conv.groups)


class RoundedUpConv2d(nn.Conv2d):
    """Convolution whose output size is rounded up: windows over the right and bottom edge read zeros."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, pad = self.kernel_size[0], self.stride[0], self.padding[0]
        bottom, right = (-(x.shape[axis] + 2 * pad - kernel) % stride for axis in (2, 3))
        return super().forward(F.pad(x, (0, right, 0, bottom)))


@module_for(ops.Pool)
def _pooling(pool: ops.Pool, input_shape: Shape) -> nn.Module:
    size = pool.window, pool.stride, pool.pad
    if pool.kind == "max":
        return nn.MaxPool2d(*size, ceil_mode=pool.round_up)
    hangs_over = any((side + 2 * pool.pad - pool.window) % pool.stride for side in input_shape[1:])
    kind = RoundedUpAvgPool2d if pool.round_up and hangs_over else nn.AvgPool2d
    return kind(*size, ceil_mode=pool.round_up, count_include_pad=False)


class RoundedUpAvgPool2d(nn.AvgPool2d):
    """Average pooling whose last windows hang over the edge, and average what lies inside.

    Compilers see it without `ceil_mode`, for which inductor derives wrong gradients (torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        bottom, right = (self._overhang(side) for side in x.shape[-2:])
        edges, inside = (self.padding, right, self.padding, bottom), x.new_ones(1, *x.shape[-2:])
        means, fractions = (F.avg_pool2d(F.pad(each, edges), self.kernel_size, self.stride) for each in (x, inside))
        return means / fractions

    def _overhang(self, side: int) -> int:
        """How far the last window, which begins inside or in the padding before, reaches beyond one edge."""
        window, stride, pad = self.kernel_size, self.stride, self.padding
        last = min(-(-(side + 2 * pad - window) // stride), (side + pad - 1) // stride)
        return max(0, last * stride + window - side - pad)


@module_for(ops.Local)
class LocalConvolution(nn.Module):
    """Unshared convolution: weights and biases of its own at every position, at stride 1.

    `weight` is (positions, inputs · kernel², channels) and `bias` (positions, channels); positions run along rows, as
    in `unfold`.
    """

    def __init__(self, local: ops.Local, input_shape: Shape):
        super().__init__()
        self.kernel, self.pad = local.kernel, local.pad
        self.sides = local.output_shape(input_shape)[1:]
        for name, shape in local.parameter_shapes(input_shape).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel, padding=self.pad).permute(2, 0, 1)  # (positions, N, inputs · kernel²)
        y = torch.baddbmm(self.bias[:, None], patches, self.weight)  # (positions, N, channels)
        return y.permute(1, 2, 0).unflatten(2, self.sides)


@module_for(ops.Norm)
class ResponseNorm(nn.Module):
    """Local response normalization across channels (section 3.3)."""

    def __init__(self, norm: ops.Norm, input_shape: Shape):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return response_norm(x, norm.size, norm.divided_alpha, norm.beta, norm.k, norm.groups)

    def extra_repr(self) -> str:
        return str(self.norm)


@module_for(ops.SpatialNorm)
class SpatialResponseNorm(ResponseNorm):
    """Local response normalization over positions of one channel."""

    def forward(self, x: Tensor) -> Tensor:
        return spatial_norm(x, self.norm.size, self.norm.alpha, self.norm.beta, self.norm.k)


class PlainDropout(nn.Module):
    """Dropout as in 2012 (section 4.2): units are zeroed in training; otherwise all are multiplied by keep."""

    def __init__(self, rate: float):
        super().__init__()
        self.keep = 1 - rate

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty_like(x).bernoulli_(self.keep) if self.training else x * self.keep

    def extra_repr(self) -> str:
        return f"keep={self.keep}"
