"""Initial weights as the rows of an architecture declare them (section 5; `initW` and `initB` of the 2012 code)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..specs.operations import Layer
from ..specs.shapes import Placed


def initialize(network: nn.Module, placed: Iterable[Placed], seed: int) -> None:
    """Draw the weights of every row anew. The draws depend on the seed and the order of rows alone."""
    generator = torch.Generator().manual_seed(seed)
    for step in placed:
        if isinstance(step.operation, Layer):
            fan_in = step.operation.fan_in(step.input_shape)
            _initialize_layer(network.get_submodule(step.name), step.operation, fan_in, generator)


@torch.no_grad()
def _initialize_layer(module: nn.Module, layer: Layer, fan_in: int, generator: torch.Generator) -> None:
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
