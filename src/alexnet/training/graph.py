"""Forward and backward pass of a step as two CUDA graphs: one launch each instead of one per kernel.

Off unless the environment variable ALEXNET_CUDA_GRAPH is 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..device import Precision
from ..model.network import are_watched


def graphed(network: nn.Module, views: Tensor, precision: Precision) -> Callable[[Tensor], Tensor]:
    """The network's forward pass in training: the network itself, or a CUDA graph for batches of the shape of `views`.

    The network is left as it is, for evaluation, for the last batch of an epoch, which is smaller, and for hooks.
    """
    if not views.is_cuda or os.environ.get("ALEXNET_CUDA_GRAPH") != "1":
        return network
    captured = _Captured(network).train()
    # Autocast's cache would keep using the weights as they were cast while capturing.
    casts = torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    with casts, torch.random.fork_rng([views.device]):  # capturing draws dropout masks
        torch.cuda.make_graphed_callables(captured, (torch.empty_like(views),))

    def forward(batch: Tensor) -> Tensor:
        replayable = batch.shape == views.shape and not are_watched(network.modules())  # a graph calls no hooks
        return captured(batch) if replayable else network(batch)

    return forward


class _Captured(nn.Module):
    """A wrapper around the network, whose `forward` torch replaces."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, views: Tensor) -> Tensor:
        return self.network(views)
