"""Fully connected layers with smaller weights, for prediction alone: they hold 96% of the weights of 2012.

For one image, the time of these layers is that of reading their weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .network import AlexNet

FcPrecision = Literal["same", "bf16", "int8"]


def with_fc_precision(network: AlexNet, fc_precision: FcPrecision) -> AlexNet:
    """The network, with its fully connected layers replaced in place unless they are to stay the "same"."""
    if fc_precision != "same":
        made = {"bf16": Bf16Linear, "int8": Int8Linear}[fc_precision]
        for name, module in list(network.named_children()):
            if isinstance(module, nn.Linear):
                network.add_module(name, made(module))
    return network


class Bf16Linear(nn.Module):
    """Weights and products in bfloat16, sums in float32."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = (each.detach().bfloat16() for each in (linear.weight, linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.bfloat16(), self.weight, self.bias).to(x.dtype)


class Int8Linear(nn.Module):
    """Whole numbers of −127 … 127 times a scale for each output (weights) and each image (inputs); sums are exact."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.scale = _whole(linear.weight.detach().float())
        self.bias = linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = _whole(x.float())
        if x.is_cuda and len(x) <= 16:  # fewer rows than its units take at once
            rows = nn.functional.pad(rows, (0, 0, 0, 17 - len(x)))
        y = torch._int_mm(rows, self.weight.t())[: len(x)] * (scale * self.scale.t()) + self.bias
        return y.to(x.dtype)


def _whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as int8, and what to multiply it by, (rows, 1)."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round().to(torch.int8), scale
