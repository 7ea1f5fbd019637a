"""Initial weights as the rows of an architecture declare them (section 5; `initW` and `initB` of the 2012 code)."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..specs.architecture import Layer


def initialize(network: nn.Module, seed: int) -> None:
    """Draw every weight anew. The draws depend on the seed and the order of layers alone.

    `network` has an `architecture`, whose rows name its modules.
    """
    generator = torch.Generator().manual_seed(seed)
    for row in network.architecture.layers:
        _initialize_layer(network.get_submodule(row.name), row, generator)
    for module in network.children():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # scale 1, shift 0; running mean 0 and variance 1


@torch.no_grad()
def _initialize_layer(module: nn.Module, row: Layer, generator: torch.Generator) -> None:
    inputs = module.weight[0].numel() if module.weight.dim() != 3 else module.weight.shape[1]  # unshared: (P, I, M)
    if row.std == "torch":  # nn.Conv2d and nn.Linear: uniform up to 1 / √inputs, for weights and biases
        bound = 1 / math.sqrt(inputs)
        module.weight.uniform_(-bound, bound, generator=generator)
        module.bias.uniform_(-bound, bound, generator=generator)
        return
    std = math.sqrt(2 / inputs) if row.std == "he" else row.std
    module.weight.normal_(0, std, generator=generator)
    module.bias.fill_(row.bias)
