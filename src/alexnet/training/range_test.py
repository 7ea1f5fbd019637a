"""A learning-rate range test (Smith 2017): the loss of each step while the learning rate grows from step to step."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from ..data.batches import Batch, epoch_order
from ..data.progress import Track
from ..specs.schedules import SCHEDULES
from .loop import Training

SMOOTHING, DIVERGED, FELL, FIRST = 0.9, 4.0, 0.98, 10
"""The smoothed loss is an exponential moving average; above this multiple of its lowest value the test ends; below this
fraction of the mean of so many first losses, which come before anything is learned, it fell."""


@dataclass(frozen=True)
class RangeTest:
    """The losses of a range test; `suggestion` is a tenth of the learning rate at which the smoothed loss is lowest."""

    lrs: list[float]
    """Learning rate of the weights at each step."""
    losses: list[float]
    """Loss of each step, nats."""
    smoothed: list[float]
    """The losses, smoothed by an exponential moving average."""

    @property
    def suggestion(self) -> float | None:
        """A peak learning rate to train with; None where the loss did not fall."""
        first = min(FIRST, len(self.smoothed) - 1)  # before, one lucky batch is the whole average
        lowest = min(range(first, len(self.smoothed)), key=self.smoothed.__getitem__, default=0)
        fell = bool(self.smoothed) and self.smoothed[lowest] < FELL * fmean(self.losses[:FIRST])
        return self.lrs[lowest] / 10 if fell else None

    def __str__(self) -> str:
        if self.suggestion is None:
            return "no suggestion: the loss did not fall at any learning rate; take more steps"
        return f"suggested learning rate: {self.suggestion:.2g}, a tenth of that at which the smoothed loss is lowest"

    def plot(self, path: str | Path | None = None):
        """Loss by learning rate, and the suggestion; a matplotlib figure, also written to `path`."""
        from ..notebook import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses, color="silver", label="each step")
        axes.plot(self.lrs, self.smoothed, color="black", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="tab:red", linestyle=":", label=f"suggested: {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="Learning rate", ylabel="Loss (nats)", ylim=(0, 2 * self.smoothed[0]))
        axes.grid(alpha=0.3)
        axes.legend()
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def range_test(training: Training, steps: int, track: Track | None = None) -> RangeTest:
    """Train while the learning rate grows from 1/1000 to 100 times the peak of the recipe, or until the smoothed loss
    is four times as high as it was at best. The network changes."""
    recipe = training.plan.recipe
    peak_lr = recipe.peak_lr()
    recipe = replace(recipe, schedule=SCHEDULES["constant"](1.0, recipe.bias_lr_factor, 0.1))
    result, average, lowest, counts = RangeTest([], [], []), 0.0, math.inf, [1] * steps
    training.train()
    with training.channels_last(), training.ema.showing(average=False), closing(_batches(training)) as batches:
        for step, _ in enumerate(track(counts, steps) if track else counts):
            batch = next(batches)
            lr = peak_lr * 10 ** (5 * step / max(steps - 1, 1) - 3)
            loss, correct, _ = training.take_step(batch, replace(recipe, lr_factor=lr).learning_rates(0, []))
            training.progress.count(loss, correct, len(batch.labels))
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smoothed = average / (1 - SMOOTHING ** (step + 1))
            lowest = min(lowest, smoothed)
            if not smoothed <= DIVERGED * lowest:  # or not a number
                break
            for values, value in ((result.lrs, lr), (result.losses, loss), (result.smoothed, smoothed)):
                values.append(value)
    return result


def _batches(training: Training) -> Iterator[Batch]:
    """Batches of one epoch after another."""
    pack, recipe = training.plan.packed, training.plan.recipe
    while True:
        order = epoch_order(pack.indices("train"), training.seed, training.progress.epoch, recipe.shuffle)
        with closing(training.read(order)) as reader:
            yield from reader
        training.progress = training.progress.next_epoch({})
