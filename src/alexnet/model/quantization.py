"""Copies of a network with weights of fewer bits, for inference alone.

For one image, the time of the fully connected layers is that of reading their weights, 96% of all in 2012.
"""

from copy import copy, deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from .network import AlexNet

FcPrecision = Literal["same", "bf16", "int8"]


def quantized_copy(network: AlexNet, dtype: torch.dtype, fc_precision: FcPrecision = "same") -> AlexNet:
    """The network with weights of another type.

    Modules that need no copy are shared with the network: those without weights, and batch norm, which stays in
    float32. Hooks are shared, too: one added to the network or removed from it is added or removed here.
    """
    copied = copy(network)
    copied._modules = {name: _quantized(each, dtype, fc_precision) for name, each in network._modules.items()}
    return copied


def _quantized(module: nn.Module | None, dtype: torch.dtype, fc_precision: FcPrecision) -> nn.Module | None:
    if module is None or isinstance(module, nn.BatchNorm2d) or not [*module.parameters(), *module.buffers()]:
        return module
    hooks = [item for each in module.modules() for item in each.__dict__.items() if "_hooks" in item[0]]
    if type(module) is nn.Linear and fc_precision != "same":
        quantized = {"bf16": Bf16Linear, "int8": Int8Linear}[fc_precision](module)
        quantized.__dict__ |= dict(hooks)
        return quantized.eval()
    return deepcopy(module, {id(value): value for _, value in hooks}).to(dtype)


class Bf16Linear(nn.Module):
    """Weights and products in bfloat16, sums in float32."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = (each.detach().bfloat16() for each in (linear.weight, linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.bfloat16(), self.weight, self.bias).to(x.dtype)


class Int8Linear(nn.Module):
    """Integers of −127 … 127 times a scale per output (weights) and per image (inputs); sums are exact."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.scale = _to_int8(linear.weight.detach().float())
        self.bias = linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = _to_int8(x.float())
        if x.is_cuda and len(x) <= 16:  # the GPU's product needs at least 17 rows
            rows = nn.functional.pad(rows, (0, 0, 0, 17 - len(x)))
        y = torch._int_mm(rows, self.weight.t())[: len(x)] * (scale * self.scale.t()) + self.bias
        return y.to(x.dtype)


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as int8, and its scale, (rows, 1)."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round().to(torch.int8), scale
