"""Section 5: training, as a generator of steps and epochs."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.batches import Batch, epoch_order, read_batches
from ..device import Precision, torch_dtype
from ..evaluation.views import evaluate
from ..model.bundle import ModelBundle
from ..preprocessing.augmentation import training_views
from ..preprocessing.mixing import drawn_mix
from ..specs.schedules import LearningRates
from ..specs.settings import MicroBatch
from .ema import WeightEMA
from .graph import graphed
from .optimizer import PaperSGD, paper_optimizer
from .plan import Plan
from .progress import Progress
from .step import MicroBatches


class Training:
    """Everything that changes while a network is trained."""

    def __init__(self, bundle: ModelBundle, plan: Plan):
        self.bundle = bundle
        self.optimizer: PaperSGD = paper_optimizer(bundle.network, plan.recipe)
        self.ema = WeightEMA(bundle.network, plan.recipe.ema_decay)
        self.progress = Progress()


@dataclass(frozen=True)
class Step:
    """A step was taken."""

    epoch: int
    """The current epoch, from 1."""
    batch: int
    """The step within the epoch, from 1."""
    batches: int
    """Steps per epoch."""
    step_loss: float
    """Loss of this step, nats."""
    loss: float
    """Mean loss of the epoch so far, nats."""
    images: int
    """Images in this step."""
    waited_s: float
    """Seconds spent waiting for the data of this step."""
    lr: float
    """Learning rate of the weights."""
    views: Tensor
    """What the network saw, (N, channels, side, side)."""
    notice: str | None
    """What the user should know, such as a micro-batch size that was found to fit."""

    @property
    def step(self) -> int:
        """The step within the run, from 1."""
        return (self.epoch - 1) * self.batches + self.batch


@dataclass(frozen=True)
class Epoch:
    """An epoch ended and was validated."""

    row: dict
    """Its row of history; see `History` for the keys."""


def train(
    training: Training,
    plan: Plan,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
    micro_batch: MicroBatch = None,
) -> Iterator[Step | Epoch]:
    """Train on the train split from `training.progress` to the last epoch, validating after every epoch.

    The network changes in place. Between steps it holds the weights; after an epoch, and when the generator ends or is
    closed, their EMA where the recipe asks for one. That is also what is validated.

    Raises:
        ValueError: a network with batch norm cannot be trained in micro-batches; before the first event.
        OutOfMemory: a step does not fit into memory, and may not be split.
    """
    recipe, size = plan.recipe, training.progress.micro_batch_size
    stepper = _Stepper(training.bundle.network, training.optimizer, recipe, precision, micro_batch, size)
    return _events(training, plan, stepper, seed, precision)


def _events(
    training: Training, plan: Plan, stepper: _Stepper, seed: int, precision: Precision
) -> Iterator[Step | Epoch]:
    network, recipe, pack = training.bundle.network, plan.recipe, plan.packed
    device, dtype = next(network.parameters()).device, torch_dtype(precision)
    train_indices = pack.indices("train")
    batches_per_epoch = math.ceil(len(train_indices) / recipe.batch_size)
    while training.progress.epoch < recipe.epochs:
        progress, clock = training.progress, _Clock(training.progress.seen)
        order = epoch_order(train_indices, seed, progress.epoch, recipe.shuffle)
        network.train()
        reader = read_batches(pack, order, recipe.batch_size, device, progress.batch)
        with training.ema.training(), closing(reader):
            for batch, waited_s in clock.timed(reader):
                lrs = _learning_rates(plan, progress, batches_per_epoch, progress.batch)
                training.optimizer.set_learning_rates(lrs)
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(step_seed(seed, progress.epoch, progress.batch))  # for dropout
                    draws = seed, progress.epoch, lrs.color_shift, dtype
                    views = training_views(batch, recipe, training.bundle.preprocessing, plan.statistics, *draws)
                    mix = drawn_mix(batch, plan.architecture.input_size, recipe, seed, progress.epoch)
                    loss, correct = stepper.step(views, batch, mix)
                training.ema.update(progress.epoch * batches_per_epoch + progress.batch + 1)
                progress.count(loss, correct, len(batch.labels))
                progress.micro_batch_size = stepper.micro_batch_size
                position = progress.epoch + 1, progress.batch, batches_per_epoch
                shown = loss, progress.mean_loss, len(batch.labels), waited_s, lrs.weights
                yield Step(*position, *shown, views, stepper.notice)
        row = {"epoch": progress.epoch + 1, "steps": (progress.epoch + 1) * batches_per_epoch}
        row |= {"train_loss": progress.mean_loss, "train_error": 1 - progress.correct / progress.seen}
        row["lr"] = _learning_rates(plan, progress, batches_per_epoch, batches_per_epoch - 1).weights
        row |= clock.speed(progress.seen) | _validate(training.bundle, plan, precision)
        training.progress = progress.next_epoch(row | {"elapsed_s": clock.elapsed_s})
        yield Epoch(training.progress.epochs[-1])
    network.eval()


class _Stepper:
    """Takes steps, in micro-batches where asked for."""

    def __init__(self, network, optimizer, recipe, precision, micro_batch: MicroBatch, size: int | None):
        self.network, self.arguments, self.is_whole = network, (recipe, precision), micro_batch is None
        self.optimizer, self.notice, self.scores_of = optimizer, None, None
        self.micro_batches = MicroBatches(network, micro_batch, size, self._notify)

    @property
    def micro_batch_size(self) -> int | None:
        return self.micro_batches.at_a_time

    def step(self, views: Tensor, batch: Batch, mix) -> tuple[float, int]:
        self.notice = None
        recipe, precision = self.arguments
        if self.scores_of is None:
            self.scores_of = graphed(self.network, views, precision) if self.is_whole else self.network
        return self.micro_batches.train_step(self.scores_of, self.optimizer, views, batch, recipe, precision, mix)

    def _notify(self, notice: str) -> None:
        self.notice = notice


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """The seed of torch's generator at a step, so that a resumed run draws the same dropout."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {batch}".encode()).digest()[:6], "little")


def _learning_rates(plan: Plan, progress: Progress, batches_per_epoch: int, batch: int) -> LearningRates:
    fraction_done = (progress.epoch + batch / batches_per_epoch) / plan.recipe.epochs
    return plan.recipe.learning_rates(fraction_done, progress.val_errors)


def _validate(bundle: ModelBundle, plan: Plan, precision: Precision) -> dict:
    """The part of a row of history on the val split, by the center crop; empty without one."""
    indices = plan.packed.indices("val")
    if not len(indices):
        return {}
    metrics = evaluate(bundle, plan.packed, indices, all_views=False, precision=precision).center
    return {
        "val_loss": metrics.loss,
        "val_error": 1 - metrics.top1,
        "val_error_top5": 1 - metrics.top5,
        "val_error_renamed": 1 - metrics.top1_renamed,
        "val_largest_answer": metrics.largest_answer,
    }


class _Clock:
    """Times an epoch, and the part of it spent waiting for data.

    Args:
        seen: images of the epoch trained on before, by an interrupted run.
    """

    def __init__(self, seen: int):
        self.started, self.waited_s, self.seen = time.perf_counter(), 0.0, seen

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def timed(self, reader: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
        """Batches, each with the seconds waited for it."""
        asked = time.perf_counter()
        for batch in reader:
            waited_s = time.perf_counter() - asked
            self.waited_s += waited_s
            yield batch, waited_s
            asked = time.perf_counter()

    def speed(self, seen: int) -> dict[str, float]:
        elapsed_s = self.elapsed_s
        return {"images_per_s": (seen - self.seen) / elapsed_s, "waiting": self.waited_s / elapsed_s}
