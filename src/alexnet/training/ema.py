"""A running mean of the weights, which is often better than any of them (Polyak and Juditsky 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightEMA:
    """mean ← d · mean + (1 − d) · weights after each step t, with d = min(decay, (1 + t) / (10 + t)).

    The mean begins at the initial weights. It reaches back over a tenth of the steps so far, until that is 1 / (1 −
    decay) of them; with `decay` from the start, the initial weights would spoil the mean of a short run. So does
    TensorFlow's ExponentialMovingAverage with num_updates. The numbers that batch norm keeps are averaged too, and
    counts copied. The network holds one of the two, weights or mean, and `aside` the other; at first the mean. With
    decay None there is no mean, and nothing is done.
    """

    def __init__(self, network: nn.Module, decay: float | None):
        self.network, self.decay = network, decay
        self.aside = {} if decay is None else {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._shows_mean = True

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights, which the network holds, into the mean; steps of a run count from 1."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = self.network.state_dict()
        counts = [name for name, tensor in weights.items() if not tensor.is_floating_point()]
        for name in counts:
            self.aside[name].copy_(weights.pop(name))
        torch._foreach_lerp_([self.aside[name] for name in weights], list(weights.values()), 1 - decay)

    def show_weights(self) -> None:
        if self._shows_mean:
            self._swap()

    def show_average(self) -> None:
        if not self._shows_mean:
            self._swap()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """The weights in the network, and the average afterwards."""
        self.show_weights()
        try:
            yield
        finally:
            self.show_average()

    @contextlib.contextmanager
    def average_shown(self) -> Iterator[None]:
        """The mean in the network, and afterwards what was there."""
        before = self._shows_mean
        self.show_average()
        yield
        if not before:
            self.show_weights()

    def load(self, aside: Mapping[str, Tensor]) -> None:
        """Take the weights from there; the mean is in the network."""
        for name, tensor in self.aside.items():
            tensor.copy_(aside[name])

    @torch.no_grad()
    def _swap(self) -> None:
        self._shows_mean = not self._shows_mean
        held = self.network.state_dict()
        for name, other in self.aside.items():
            kept = other.clone()
            other.copy_(held[name])
            held[name].copy_(kept)
