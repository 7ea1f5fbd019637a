"""A running mean of the weights, which is often better than any of them (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Averaging:
    """mean ← decay · mean + (1 − decay) · weights after each step, begun at the initial weights.

    The numbers that batch norm keeps are averaged too, and counts copied. The network holds one of the two, weights or
    mean, and `aside` the other; `swap` changes them over. With decay None there is no mean, and nothing is done.
    """

    def __init__(self, network: nn.Module, decay: float | None):
        self.network, self.decay = network, decay
        self.aside = {} if decay is None else {name: tensor.clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights, which the network holds, into the mean."""
        if self.decay is None:
            return
        weights = self.network.state_dict()
        counts = [name for name, tensor in weights.items() if not tensor.is_floating_point()]
        for name in counts:
            self.aside[name].copy_(weights.pop(name))
        torch._foreach_lerp_([self.aside[name] for name in weights], list(weights.values()), 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        held = self.network.state_dict()
        for name, other in self.aside.items():
            kept = other.clone()
            other.copy_(held[name])
            held[name].copy_(kept)

    def load(self, aside: Mapping[str, Tensor]) -> None:
        for name, tensor in self.aside.items():
            tensor.copy_(aside[name])
