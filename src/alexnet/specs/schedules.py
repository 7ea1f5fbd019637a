"""Learning rates over a run, as data.

Schedules are written in the epochs of the run that they come from and stretch to the epochs of the run at hand. Each
kind has two methods: `rates` at a moment (what part of the run is done, 0 … 1, and the validation errors so far), and
`changes`, the moments strictly between 0 and 1 at which rates leap or their curve bends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

NEW = "new"
"""In `Rates.layers`: those of the layers that a network that goes on from another one does not have from it."""


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

    def changes(self) -> list[float]:
        return [stage.until / self.stages[-1].until for stage in self.stages[:-1]]


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

    def changes(self) -> list[float]:
        return []  # nobody knows them beforehand

    def example(self) -> Stages:
        """The rates of a run whose error stopped falling so that all drops came, at equal distances."""
        rates = [self.start * self.factor**drops for drops in range(self.drops + 1)]
        return Stages(tuple(Stage(number, Rates(rate, rate)) for number, rate in enumerate(rates, 1)))


@dataclass(frozen=True)
class Levels:
    """Equal stages whose rates fall by equal factors (`lr.cu` of the 2012 code: discretised exponential)."""

    start: float
    levels: int
    factor: float
    """First rate over last."""
    biases: tuple[float, float]
    """In the first half of the run, and in the second."""
    jumps: bool = False
    """Whether the second half of each level but the first goes back up, to the geometric mean of this rate and the one
    before ("jumpy"); only after a fifth of the run and before nine tenths."""

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}; it may be 2 or more")

    def rates(self, progress: float, errors: list[float]) -> Rates:
        level = min(int(progress * self.levels + 1e-9), self.levels - 1)
        height = float(level)
        if self.jumps and level and progress * self.levels >= level + 0.5 - 1e-9 and 0.2 < progress < 0.9 - 1e-9:
            height -= 0.5
        weights = self.start * self.factor ** (-height / (self.levels - 1))
        return Rates(weights, self.biases[progress >= 0.5])

    def changes(self) -> list[float]:
        halves = [half / (2 * self.levels) for half in range(1, 2 * self.levels)]
        return sorted({*halves, 0.2, 0.5, 0.9} if self.jumps else {*halves[1::2], 0.5})


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

    def changes(self) -> list[float]:
        return [drop * self.every for drop in range(1, math.ceil(1 / self.every - 1e-9))]


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

    def changes(self) -> list[float]:
        return [self.warm]


@dataclass(frozen=True)
class Fall:
    """The rate falls along a curve: a straight line or an exponential (`lr.cu` of the 2012 code), or half a cosine
    (Loshchilov and Hutter 2017); where told, after a rise from zero."""

    start: float
    factor: float
    """First rate over last."""
    along: Literal["line", "exponential", "cosine"]
    biases: float = 1.0
    """Rate of the biases over that of the weights."""
    warm: float = 0.0
    """Part of the run in which it rises to `start`."""

    def rates(self, progress: float, errors: list[float]) -> Rates:
        if progress < self.warm:
            rate = self.start * max(progress / self.warm, 1e-3)
        else:
            rate = self._falling((progress - self.warm) / (1 - self.warm))
        return Rates(rate, rate * self.biases)

    def _falling(self, done: float) -> float:
        last = self.start / self.factor
        match self.along:
            case "line":
                return self.start * (1 - done) + last * done
            case "exponential":
                return self.start * self.factor**-done
            case "cosine":
                return last + (self.start - last) * (1 + math.cos(math.pi * done)) / 2
        raise ValueError(f"along is {self.along!r}; it may be 'line', 'exponential' or 'cosine'")

    def changes(self) -> list[float]:
        return [self.warm] if self.warm else []


@dataclass(frozen=True)
class Switched:
    """Another schedule, in whose course layers are frozen and the color shift is switched off, as was done by hand."""

    schedule: Levels | Fall
    epochs: float
    """Of the run in whose epochs the next two are given."""
    color_until: float
    frozen_from: Mapping[str, float]
    """By layer: from then on neither its weights nor its biases move."""

    def rates(self, progress: float, errors: list[float]) -> Rates:
        epoch = progress * self.epochs + 1e-9
        frozen = {layer: (0.0, 0.0) for layer, start in self.frozen_from.items() if epoch >= start}
        return replace(self.schedule.rates(progress, errors), layers=frozen, color=epoch < self.color_until)

    def changes(self) -> list[float]:
        moments = (self.color_until, *self.frozen_from.values())
        return sorted({*self.schedule.changes(), *(moment / self.epochs for moment in moments)})


Schedule = Stages | Plateau | Levels | Drops | WarmThenLinear | Fall | Switched
