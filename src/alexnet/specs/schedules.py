"""Learning rates over a run, as data.

Schedules are written in the epochs of the run that they come from and stretch to the epochs of the run at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """Learning rates at one moment."""

    weights: float
    biases: float
    layers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Rates of the weights and biases of layers that have their own."""
    color: bool = True
    """Whether the color shift, where the recipe has one, is still on."""

    def of(self, layer: str) -> tuple[float, float]:
        return self.layers.get(layer, (self.weights, self.biases))


@dataclass(frozen=True)
class Stage:
    until: float
    """Epoch at which it ends."""
    rates: Rates


@dataclass(frozen=True)
class Stages:
    """A schedule made by hand: constant rates until an epoch, then others."""

    stages: tuple[Stage, ...]

    def __post_init__(self):
        ends = [stage.until for stage in self.stages]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0:
            raise ValueError(f"stages end at epochs {ends}; they may end later one after another")

    def rates(self, progress: float, errors: list[float]) -> Rates:
        epoch = progress * self.stages[-1].until
        return next((stage.rates for stage in self.stages if epoch < stage.until - 1e-9), self.stages[-1].rates)


@dataclass(frozen=True)
class Plateau:
    """Section 5: all rates are divided by ten when the validation error stops improving, three times at the most."""

    start: float = 0.01
    factor: float = 0.1
    drops: int = 3
    patience: int = 5
    """Epochs without a lower error after which the rate drops; the paper gives no number."""

    def rates(self, progress: float, errors: list[float]) -> Rates:
        drops, best, waited = 0, float("inf"), 0
        for error in errors:
            waited = 0 if error < best else waited + 1
            best = min(best, error)
            if waited >= self.patience and drops < self.drops:
                drops, waited = drops + 1, 0
        rate = self.start * self.factor**drops
        return Rates(rate, rate)


@dataclass(frozen=True)
class Levels:
    """Equal stages whose rates fall by equal factors (`lr.cu` of the 2012 code: discretised exponential)."""

    start: float
    levels: int
    factor: float
    """First rate over last."""
    biases: tuple[float, float]
    """In the first half of the run, and in the second."""

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}; it may be 2 or more")

    def rates(self, progress: float, errors: list[float]) -> Rates:
        level = min(int(progress * self.levels + 1e-9), self.levels - 1)
        weights = self.start * self.factor ** (-level / (self.levels - 1))
        return Rates(weights, self.biases[progress >= 0.5])


@dataclass(frozen=True)
class Drops:
    """The rate falls by one factor at even distances; the biases' rate is a multiple of it."""

    start: float
    every: float
    """Part of the run."""
    factor: float = 0.1
    biases: float = 1.0

    def rates(self, progress: float, errors: list[float]) -> Rates:
        rate = self.start * self.factor ** int(progress / self.every + 1e-9)
        return Rates(rate, rate * self.biases)


@dataclass(frozen=True)
class WarmThenLinear:
    """The rate rises from zero to its peak, then falls in a straight line to zero."""

    peak: float
    warm: float = 0.1
    """Part of the run in which it rises."""
    biases: float = 1.0

    def rates(self, progress: float, errors: list[float]) -> Rates:
        share = progress / self.warm if progress < self.warm else (1 - progress) / (1 - self.warm)
        rate = self.peak * max(share, 1e-3)
        return Rates(rate, rate * self.biases)


Schedule = Stages | Plateau | Levels | Drops | WarmThenLinear
