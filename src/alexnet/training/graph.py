"""Forward and backward of a step as two CUDA graphs: one launch each instead of one for every kernel.

Off unless ALEXNET_CUDA_GRAPH=1 asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..device import Precision
from ..model.network import AlexNet


def graphed(network: AlexNet, views: Tensor, precision: Precision) -> Callable[[Tensor], Tensor]:
    """What gives the scores of a batch in training: the network, or its graph for batches shaped like `views`.

    The network stays as it is, for evaluation and for the last batch of an epoch, which is shorter.
    """
    if not views.is_cuda or os.environ.get("ALEXNET_CUDA_GRAPH") != "1":
        return network
    captured = _Captured(network).train()
    casts = torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    # without autocast's cache, as weights cast while capturing would stay as they were then; capturing draws dropout
    with casts, torch.random.fork_rng([views.device]):
        torch.cuda.make_graphed_callables(captured, (torch.empty_like(views),))
    return lambda batch: captured(batch) if batch.shape == views.shape else network(batch)


class _Captured(nn.Module):
    """A shell around the network, whose `forward` torch replaces."""

    def __init__(self, network: AlexNet):
        super().__init__()
        self.network = network

    def forward(self, views: Tensor) -> Tensor:
        return self.network(views)
