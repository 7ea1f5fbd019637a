"""Exponential moving average (EMA) of the weights, often better than the weights (Polyak and Juditsky 1992)."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightEMA:
    """average ← d · average + (1 − d) · weights after each step t, with d = min(decay, (1 + t) / (10 + t)).

    The average starts from the initial weights; with `decay` in the first steps, too, they would spoil the average of a
    short run. TensorFlow's ExponentialMovingAverage does the same with `num_updates`. The running statistics of batch
    norm are averaged too, its counters are copied.

    The network holds either the weights or the average, at first the average, and `hidden` the other of the two. With
    decay None there is no average, and nothing is done.
    """

    def __init__(self, network: nn.Module, decay: float | None):
        self.network, self.decay = network, decay
        self.hidden = {} if decay is None else {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._shows_average = True

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights, which the network holds.

        Args:
            step: the step within the run, from 1.
        """
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = self.network.state_dict()
        for name in [name for name, tensor in weights.items() if not tensor.is_floating_point()]:
            self.hidden[name].copy_(weights.pop(name))
        torch._foreach_lerp_([self.hidden[name] for name in weights], list(weights.values()), 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights, while the network holds the average."""
        for name, tensor in self.hidden.items():
            tensor.copy_(weights[name])

    @contextlib.contextmanager
    def showing(self, average: bool) -> Iterator[None]:
        """The network holds the average, or the weights, within this context, and after it what it held before."""
        showed_average = self._shows_average
        self._show(average)
        try:
            yield
        finally:
            self._show(showed_average)

    @torch.no_grad()
    def _show(self, average: bool) -> None:
        if average == self._shows_average:
            return
        self._shows_average, shown = average, self.network.state_dict()
        for name, hidden in self.hidden.items():
            kept = hidden.clone()
            hidden.copy_(shown[name])
            shown[name].copy_(kept)
