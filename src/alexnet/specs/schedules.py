"""Learning-rate schedules, as data.

A schedule is written in the epochs of the run that it comes from and is stretched to the epochs of the run at hand. A
new schedule is one more subclass of `Schedule`; a recipe uses it, and nothing else needs to know it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..compat import renamed_fields

NEW = "new"
"""Key of `LearningRates.layers` for the layers that were not copied from the pretrained network."""
WARMUP_FLOOR = 1e-3  # a learning rate of 0 would waste the first step
EPSILON = 1e-9  # fractions of a run are not exact


@renamed_fields(color="color_shift")
@dataclass(frozen=True)
class LearningRates:
    """Learning rates at one moment, and whether the color shift is on."""

    weights: float
    biases: float
    layers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By layer, for those with learning rates of their own: that of the weights, that of the biases."""
    color_shift: bool = True
    """Whether the color shift, if the recipe has one, is still on."""

    def of(self, layer: str) -> tuple[float, float]:
        """Learning rates of a layer: weights, biases."""
        return self.layers.get(layer, (self.weights, self.biases))


@dataclass(frozen=True)
class Segment:
    """Constant learning rates until an epoch."""

    until: float
    """Epoch at which the segment ends."""
    rates: LearningRates


class Schedule(ABC):
    """How the learning rates change over a run."""

    @abstractmethod
    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        """Learning rates when this fraction of the run is done, after epochs with these validation errors."""

    @abstractmethod
    def description(self) -> str:
        """The schedule in one line."""

    def breakpoints(self) -> list[float]:
        """Fractions of the run, between 0 and 1, at which the learning rate jumps or its curve has a kink."""
        return []

    def example(self) -> "Schedule":
        """A schedule with the learning rates of a possible run, for tables and figures."""
        return self


@renamed_fields(stages="segments")
@dataclass(frozen=True)
class Piecewise(Schedule):
    """Piecewise constant learning rates, as set by hand in 2012."""

    segments: tuple[Segment, ...]

    def __post_init__(self):
        ends = [segment.until for segment in self.segments]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0:
            raise ValueError(f"segments must end at increasing epochs > 0, got {ends}")

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        epoch = fraction_done * self.segments[-1].until
        return next((each.rates for each in self.segments if epoch < each.until - EPSILON), self.segments[-1].rates)

    def breakpoints(self) -> list[float]:
        return [segment.until / self.segments[-1].until for segment in self.segments[:-1]]

    def description(self) -> str:
        return f"{len(self.segments)} segments, set by hand"


@renamed_fields(drops="max_drops", start="initial_lr")
@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """The learning rate is multiplied by `factor` when the validation error stops improving (section 5).

    Like `torch.optim.lr_scheduler.ReduceLROnPlateau`, but with a limited number of drops.
    """

    initial_lr: float = 0.01
    factor: float = 0.1
    max_drops: int = 3
    patience: int = 5
    """Epochs without a lower error before the learning rate drops; the paper gives no number."""

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        drops, best, epochs_waited = 0, math.inf, 0
        for error in val_errors:
            epochs_waited = 0 if error < best else epochs_waited + 1
            best = min(best, error)
            if epochs_waited >= self.patience and drops < self.max_drops:
                drops, epochs_waited = drops + 1, 0
        lr = self.initial_lr * self.factor**drops
        return LearningRates(lr, lr)

    def description(self) -> str:
        return (
            f"from {self.initial_lr:g}, times {self.factor:g} after {self.patience} epochs without a lower validation "
            f"error, at most {self.max_drops} times; shown with drops at equal intervals"
        )

    def example(self) -> Piecewise:
        """A run in which all drops happened, at equal intervals."""
        lrs = [self.initial_lr * self.factor**drops for drops in range(self.max_drops + 1)]
        return Piecewise(tuple(Segment(epoch, LearningRates(lr, lr)) for epoch, lr in enumerate(lrs, 1)))


@renamed_fields(biases="bias_lrs", factor="final_div_factor", start="initial_lr")
@dataclass(frozen=True)
class DiscretizedExponential(Schedule):
    """An exponential decay in a few equal steps (`lr.cu` of the 2012 code)."""

    initial_lr: float
    levels: int
    final_div_factor: float
    """The last learning rate is initial_lr / final_div_factor."""
    bias_lrs: tuple[float, float]
    """Learning rates of the biases in the first and the second half of the run."""
    jumps: bool = False
    """In the second half of each level but the first, go back up to the geometric mean of this level and the one before
    ("jumpy"); only after a fifth of the run and before nine tenths."""

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels must be >= 2, got {self.levels}")

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        level = min(int(fraction_done * self.levels + EPSILON), self.levels - 1)
        in_second_half = fraction_done * self.levels >= level + 0.5 - EPSILON
        jumps = self.jumps and level and in_second_half and 0.2 < fraction_done < 0.9 - EPSILON
        exponent = (level - 0.5 if jumps else float(level)) / (self.levels - 1)
        return LearningRates(self.initial_lr * self.final_div_factor**-exponent, self.bias_lrs[fraction_done >= 0.5])

    def breakpoints(self) -> list[float]:
        halves = [half / (2 * self.levels) for half in range(1, 2 * self.levels)]
        return sorted({*halves, 0.2, 0.5, 0.9} if self.jumps else {*halves[1::2], 0.5})

    def description(self) -> str:
        jumps = ", with jumps back up to the geometric mean of two neighboring levels" if self.jumps else ""
        final_lr = self.initial_lr / self.final_div_factor
        return f"{self.levels} equal levels from {self.initial_lr:g} to {final_lr:g}{jumps}"


@renamed_fields(biases="bias_lr_factor", every="interval", start="initial_lr")
@dataclass(frozen=True)
class StepDecay(Schedule):
    """The learning rate is multiplied by `factor` at equal intervals, like `torch.optim.lr_scheduler.StepLR`."""

    initial_lr: float
    interval: float
    """Fraction of the run between two drops."""
    factor: float = 0.1
    bias_lr_factor: float = 1.0
    """Learning rate of the biases, as a multiple of that of the weights."""

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        lr = self.initial_lr * self.factor ** int(fraction_done / self.interval + EPSILON)
        return LearningRates(lr, lr * self.bias_lr_factor)

    def breakpoints(self) -> list[float]:
        return [drop * self.interval for drop in range(1, math.ceil(1 / self.interval - EPSILON))]

    def description(self) -> str:
        if self.interval >= 1:
            return f"constant {self.initial_lr:g}"
        return f"from {self.initial_lr:g}, times {self.factor:g} after every {self.interval:.0%} of the run"


@dataclass(frozen=True)
class MultiStepDecay(Schedule):
    """The learning rate is multiplied by `factor` at given epochs, like `torch.optim.lr_scheduler.MultiStepLR`."""

    initial_lr: float
    milestones: tuple[float, ...]
    """Epochs at which the learning rate drops."""
    epochs: float
    """Length of the run in whose epochs they are given."""
    factor: float = 0.1
    bias_lr_factor: float = 1.0
    """Learning rate of the biases, as a multiple of that of the weights."""

    def __post_init__(self):
        inside = [0, *self.milestones, self.epochs]
        if not self.milestones or inside != sorted(set(inside)):
            listed = " ".join(f"{epoch:g}" for epoch in self.milestones)
            raise ValueError(f"milestones must be increasing epochs > 0 and < {self.epochs:g}, got {listed}")

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        epoch = fraction_done * self.epochs + EPSILON
        lr = self.initial_lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        return LearningRates(lr, lr * self.bias_lr_factor)

    def breakpoints(self) -> list[float]:
        return [milestone / self.epochs for milestone in self.milestones]

    def description(self) -> str:
        listed = ", ".join(f"{milestone:g}" for milestone in self.milestones)
        return f"from {self.initial_lr:g}, times {self.factor:g} after epochs {listed} of {self.epochs:g}"


@renamed_fields(biases="bias_lr_factor", peak="peak_lr", warm="warmup")
@dataclass(frozen=True)
class LinearWarmupDecay(Schedule):
    """Linear warmup to the peak, then linear decay to almost zero."""

    peak_lr: float
    warmup: float = 0.1
    """Fraction of the run."""
    bias_lr_factor: float = 1.0
    """Learning rate of the biases, as a multiple of that of the weights."""
    new_layers_lr_factor: float = 1.0
    """In fine-tuning, learning rates of the layers that were not copied, as a multiple of those of the others."""

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        in_warmup = fraction_done < self.warmup
        height = fraction_done / self.warmup if in_warmup else (1 - fraction_done) / (1 - self.warmup)
        lr = self.peak_lr * max(height, WARMUP_FLOOR)
        new = lr * self.new_layers_lr_factor
        layers = {} if new == lr else {NEW: (new, new * self.bias_lr_factor)}
        return LearningRates(lr, lr * self.bias_lr_factor, layers)

    def breakpoints(self) -> list[float]:
        return [self.warmup]

    def description(self) -> str:
        new = f" ({self.peak_lr * self.new_layers_lr_factor:g} in new layers)" if self.new_layers_lr_factor != 1 else ""
        return f"linear warmup to {self.peak_lr:g}{new} over the first {self.warmup:.0%}, then linear decay to zero"


@renamed_fields(along="shape", biases="bias_lr_factor", factor="final_div_factor", start="peak_lr", warm="warmup")
@dataclass(frozen=True)
class SmoothDecay(Schedule):
    """Decay along a curve, after an optional linear warmup.

    The linear and the exponential curve are those of `lr.cu` of the 2012 code; the cosine is that of SGDR (Loshchilov
    and Hutter 2017) without restarts, `torch.optim.lr_scheduler.CosineAnnealingLR`.
    """

    peak_lr: float
    final_div_factor: float
    """The last learning rate is peak_lr / final_div_factor."""
    shape: Literal["linear", "exponential", "cosine"]
    bias_lr_factor: float = 1.0
    """Learning rate of the biases, as a multiple of that of the weights."""
    warmup: float = 0.0
    """Fraction of the run."""

    def __post_init__(self):
        if self.shape not in ("linear", "exponential", "cosine"):
            raise ValueError(f"shape must be linear, exponential or cosine, got {self.shape!r}")

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        if fraction_done < self.warmup:
            lr = self.peak_lr * max(fraction_done / self.warmup, WARMUP_FLOOR)
        else:
            lr = self._decayed((fraction_done - self.warmup) / (1 - self.warmup))
        return LearningRates(lr, lr * self.bias_lr_factor)

    def _decayed(self, fraction: float) -> float:
        final_lr = self.peak_lr / self.final_div_factor
        if self.shape == "linear":
            return self.peak_lr * (1 - fraction) + final_lr * fraction
        if self.shape == "exponential":
            return self.peak_lr * self.final_div_factor**-fraction
        return final_lr + (self.peak_lr - final_lr) * (1 + math.cos(math.pi * fraction)) / 2

    def breakpoints(self) -> list[float]:
        return [self.warmup] if self.warmup else []

    def description(self) -> str:
        warmup = f"linear warmup over the first {self.warmup:.0%}, then " if self.warmup else ""
        return f"{warmup}{self.shape} decay from {self.peak_lr:g} to {self.peak_lr / self.final_div_factor:g}"


@renamed_fields(color_until="color_shift_until")
@dataclass(frozen=True)
class LateChanges(Schedule):
    """Another schedule, during which layers are frozen and the color shift is turned off, as was done by hand."""

    schedule: DiscretizedExponential | SmoothDecay
    epochs: float
    """Length of the run in whose epochs the next two are given."""
    color_shift_until: float
    """Epoch."""
    frozen_from: Mapping[str, float]
    """By layer: the epoch from which neither its weights nor its biases move."""

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        epoch = fraction_done * self.epochs + EPSILON
        frozen = {layer: (0.0, 0.0) for layer, start in self.frozen_from.items() if epoch >= start}
        rates = self.schedule.learning_rates(fraction_done, val_errors)
        return replace(rates, layers=frozen, color_shift=epoch < self.color_shift_until)

    def breakpoints(self) -> list[float]:
        epochs = (self.color_shift_until, *self.frozen_from.values())
        return sorted({*self.schedule.breakpoints(), *(epoch / self.epochs for epoch in epochs)})

    def description(self) -> str:
        changes = {"color shift off": self.color_shift_until}
        changes |= {f"{layer} frozen": epoch for layer, epoch in self.frozen_from.items()}
        listed = ", ".join(f"{change} from epoch {epoch:g}" for change, epoch in changes.items())
        return f"{self.schedule.description()}; {listed} of {self.epochs:g}"


SCHEDULES: dict[str, Callable[[float, float, float], Schedule]] = {
    "constant": lambda lr, biases, gamma: StepDecay(lr, interval=1.0, bias_lr_factor=biases),
    "step": lambda lr, biases, gamma: StepDecay(lr, interval=1 / 3, factor=gamma, bias_lr_factor=biases),
    "plateau": lambda lr, biases, gamma: ReduceOnPlateau(lr, factor=gamma),
    "linear": lambda lr, biases, gamma: SmoothDecay(lr, 1000, "linear", bias_lr_factor=biases),
    "exponential": lambda lr, biases, gamma: SmoothDecay(lr, 1000, "exponential", bias_lr_factor=biases),
    "cosine": lambda lr, biases, gamma: SmoothDecay(lr, 1000, "cosine", bias_lr_factor=biases),
    "warmup-linear": lambda lr, biases, gamma: LinearWarmupDecay(lr, bias_lr_factor=biases),
}
"""Schedules that a setting names, made from the peak learning rate, the bias_lr_factor and the factor of a drop."""
