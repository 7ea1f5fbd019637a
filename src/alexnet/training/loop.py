"""Section 5: training, as a generator of steps and epochs."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..data.batches import Batch, epoch_order, read_batches
from ..device import Precision, torch_dtype
from ..evaluation.evaluation import evaluate
from ..parallel.divided import strategy_of
from ..parallel.group import Group
from ..parallel.placement import Way
from ..preprocessing.augmentation import augmented, draw_mix, images_to_read, training_views
from ..specs.names import counted
from ..specs.schedules import LearningRates
from ..specs.settings import MicroBatch
from .optimizer import PaperSGD, WeightEMA, optimizer_of
from .plan import Plan
from .step import MicroBatches
from .variable_batch import VariableBatch


@dataclass
class Progress:
    """How far a training is; saved with the weights."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches finished in the current epoch."""
    loss: float = 0.0
    """Summed over the images of the current epoch, nats."""
    correct: int = 0
    """Correct predictions in the current epoch."""
    seen: int = 0
    """Images of the current epoch trained on."""
    epochs: list[dict] = field(default_factory=list)
    """A row of history for every finished epoch."""
    layers: list[dict] = field(default_factory=list)
    """Rows of layer statistics."""
    diagnosed: bool = False
    """Whether the user was told what is wrong with the run."""
    micro_batch_size: int | None = None
    """Images per forward and backward pass that were found to fit in memory."""

    def next_epoch(self, row: dict) -> Self:
        """Progress at the end of the current epoch, whose row of history is given."""
        started = {"batch": 0, "loss": 0.0, "correct": 0, "seen": 0}
        return replace(self, epoch=self.epoch + 1, epochs=[*self.epochs, row], **started)

    def count(self, loss: float, correct: int, images: int) -> None:
        """Add a batch with this mean loss and this many correct predictions."""
        self.batch += 1
        self.loss += loss * images
        self.correct += correct
        self.seen += images

    @property
    def mean_loss(self) -> float:
        """Mean loss of the current epoch so far, nats."""
        return self.loss / self.seen

    @property
    def val_errors(self) -> list[float]:
        return [row["val_error"] for row in self.epochs if "val_error" in row]

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with the lowest validation error, from 1."""
        validated = [(row["val_error"], row["epoch"]) for row in self.epochs if "val_error" in row]
        return min(validated)[1] if validated else None

    def is_stalled(self, patience: int | None) -> bool:
        """Whether the last so many epochs were no better than the best one."""
        return patience is not None and self.best_epoch is not None and self.epoch - self.best_epoch >= patience

    @property
    def is_best(self) -> bool:
        """Whether the weights of this moment are those of the best epoch."""
        return self.batch == 0 and self.best_epoch == self.epoch

    def __str__(self) -> str:
        if not (self.epoch or self.batch):
            return "at the beginning"
        return f"after epoch {self.epoch}" + (f" and {counted(self.batch, 'step')}" if self.batch else "")


class Training:
    """A plan under way: everything that changes while a network is trained.

    Args:
        seed: seed of the initial weights, order, crops and dropout.
        micro_batch: images per forward and backward pass; the whole batch if None, as many as fit in memory if "auto".
        augment: a user's own augmentation of stored images, before all others.
        group: the processes that train together.
        way: how they divide the work.
        compress: whether they send gradients as bf16.

    Raises:
        ValueError: a network with batch norm cannot be trained in micro-batches, nor one whose fully connected layers
            have a batch size of their own; or it cannot be divided.
    """

    def __init__(
        self,
        plan: Plan,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        micro_batch: MicroBatch = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        group: Group | None = None,
        way: Way = "data",
        compress: bool = False,
    ):
        self.augment = augment
        self.plan, self.seed, self.device, self.precision = plan, seed, torch.device(device), precision
        self.bundle = plan.bundle(seed).to(self.device)
        self.network = self.bundle.network
        for layer, factor in plan.recipe.lr_scale.items():
            self.network.get_submodule(layer).requires_grad_(factor > 0)
        has_rounds = plan.recipe.fc_batch_size is not None
        splits, waits = micro_batch is not None or has_rounds, micro_batch == "auto"
        self.strategy = strategy_of(way, self.network, group or Group.current(), splits, waits, compress)
        self.optimizer: PaperSGD = optimizer_of(self.strategy.module, plan.recipe)
        self.optimizer.total_norms = self.strategy.total_norms
        self.ema = WeightEMA(self.strategy.module, plan.recipe.ema_decay)
        weights = plan.class_weights and torch.tensor(plan.class_weights, dtype=torch.float32, device=self.device)
        stepper = VariableBatch if has_rounds else MicroBatches
        self.stepper = stepper(self.strategy, self.optimizer, plan.recipe, precision, micro_batch, weights)
        self.batches_per_epoch = math.ceil(plan.training_images / plan.recipe.batch_size)
        self.progress = Progress()

    @contextmanager
    def channels_last(self) -> Iterator[None]:
        """Within this context, weights and all that is kept for each are channels last, in which a step is fastest.

        Before and after, they are contiguous, as other tools expect.
        """
        self._lay_out(torch.channels_last)
        try:
            yield
        finally:
            self._lay_out(torch.contiguous_format)

    def _lay_out(self, layout: torch.memory_format) -> None:
        self.strategy.module.to(memory_format=layout)
        self.stepper.forget_graphs()
        for kept in (self.ema.hidden, *self.optimizer.state.values()):
            for name, tensor in kept.items():
                kept[name] = tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor

    def train(self) -> None:
        """Put the network into training mode."""
        self.network.train()
        self.strategy.module.train()

    def read(self, order: np.ndarray) -> Iterator[Batch]:
        """The batches of an epoch that are still to come, each with the images that this process needs."""
        recipe, epoch, start = self.plan.recipe, self.progress.epoch, self.progress.batch

        def choose(indices: np.ndarray) -> np.ndarray:
            return images_to_read(indices, self.strategy.rows(len(indices)), recipe, self.seed, epoch)

        return read_batches(self.plan.packed, order, recipe.batch_size, self.device, start, choose)

    def load(
        self, weights: Mapping[str, Tensor], velocities: Mapping[str, Tensor], not_averaged: Mapping[str, Tensor]
    ) -> None:
        """Load the state of the whole network, of which this process takes its parts; `weights` are the average."""
        self.network.load_state_dict(weights)
        self.strategy.module.load_state_dict(self.strategy.parts_of(weights))
        self.optimizer.load_velocities(self.strategy.parts_of(velocities))
        self.ema.load(self.strategy.parts_of(not_averaged))

    def synchronize(self, *state: Mapping[str, Tensor]) -> None:
        """Bring all processes to the state of process 0, which alone has loaded one: what it gave to `load`, or
        nothing."""
        group = self.strategy.group
        progress, size, count = group.broadcast((self.progress, self.stepper.micro_batch_size, len(state)))
        received = [group.broadcast_tensors(state[index] if state else None) for index in range(count)]
        if not group.is_first:
            self.progress, self.stepper.micro_batch_size = progress, size
            if received:
                self.load(*received)

    def learning_rates(self, batch: int) -> LearningRates:
        """Those of a batch of the current epoch, from 0."""
        fraction_done = (self.progress.epoch + batch / self.batches_per_epoch) / self.plan.recipe.epochs
        return self.plan.recipe.learning_rates(fraction_done, self.progress.val_errors)

    def take_step(self, batch: Batch, lrs: LearningRates) -> tuple[float, int, Tensor]:
        """Augment a batch, at the position of `progress`, and update the weights once.

        Returns:
            The mean loss, nats; how many images were classified correctly; what the network saw on this process, (K,
            channels, side, side).
        """
        recipe, epoch, seed = self.plan.recipe, self.progress.epoch, self.seed
        self.optimizer.set_learning_rates(lrs)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(step_seed(seed, epoch, self.progress.batch))  # for dropout
            if self.augment:
                batch = replace(batch, images=augmented(batch.images, self.augment))
            draws = seed, epoch, lrs.color_shift, torch_dtype(self.precision)
            views = training_views(batch, recipe, self.bundle.preprocessing, self.plan.statistics, *draws)
            mix = draw_mix(batch, self.plan.architecture.input_size, recipe, seed, epoch)
            return *self.stepper.step(views, batch, mix), views


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
    views: Tensor = field(repr=False)
    """What the network saw on this process, (K, channels, side, side)."""
    notice: str | None
    """What the user should know, such as a micro-batch size that was found to fit."""

    @property
    def step(self) -> int:
        """The step within the run, from 1."""
        return (self.epoch - 1) * self.batches + self.batch


@dataclass(frozen=True)
class Epoch:
    """An epoch ended and was validated; `row` is its row of history (`History` has the keys)."""

    row: dict


def train(training: Training) -> Iterator[Step | Epoch]:
    """Train on the train split, from `training.progress` to the last epoch, validating after every epoch; with
    `patience`, to the last of so many epochs without a lower validation error.

    The network changes in place. Between steps it holds the weights; after an epoch, and when the generator ends or is
    closed, their EMA where the recipe asks for one. That is also what is validated.

    Raises:
        OutOfMemory: a step does not fit into memory, and may not be split.
    """
    plan, recipe, seed = training.plan, training.plan.recipe, training.seed
    train_indices = plan.packed.indices("train")
    while training.progress.epoch < recipe.epochs and not training.progress.is_stalled(recipe.patience):
        progress, started, total_waited_s = training.progress, time.perf_counter(), 0.0
        seen_before = progress.seen  # by an interrupted run
        order = epoch_order(train_indices, seed, progress.epoch, recipe.shuffle)
        training.train()
        reader = training.read(order)
        with training.channels_last(), training.ema.showing(average=False), closing(reader):
            for batch, waited_s in _timed(reader):
                total_waited_s += waited_s
                lrs = training.learning_rates(progress.batch)
                loss, correct, views = training.take_step(batch, lrs)
                training.ema.update(progress.epoch * training.batches_per_epoch + progress.batch + 1)
                progress.count(loss, correct, len(batch.labels))
                progress.micro_batch_size = training.stepper.micro_batch_size
                position = progress.epoch + 1, progress.batch, training.batches_per_epoch
                shown = loss, progress.mean_loss, len(batch.labels), waited_s, lrs.weights
                yield Step(*position, *shown, views, training.stepper.notice)
        training.strategy.publish()
        row = {"epoch": progress.epoch + 1, "steps": (progress.epoch + 1) * training.batches_per_epoch}
        row |= {"train_loss": progress.mean_loss, "train_error": 1 - progress.correct / progress.seen}
        row["lr"] = training.learning_rates(training.batches_per_epoch - 1).weights
        elapsed_s = time.perf_counter() - started
        row |= {"images_per_s": (progress.seen - seen_before) / elapsed_s, "waiting": total_waited_s / elapsed_s}
        row |= _validate(training)
        training.progress = progress.next_epoch(row | {"elapsed_s": time.perf_counter() - started})
        yield Epoch(training.progress.epochs[-1])
    training.network.eval()


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """The seed of torch's generator at a step, so that a resumed run draws the same dropout."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {batch}".encode()).digest()[:6], "little")


def _validate(training: Training) -> dict:
    """The part of a row of history on the val split, by the center crop; empty without one."""
    pack = training.plan.packed
    indices = pack.indices("val")
    if not len(indices):
        return {}
    how = {"all_views": False, "precision": training.precision, "group": training.strategy.group}
    metrics = evaluate(training.bundle, pack, indices, keep_probabilities=False, **how).center
    return {
        "val_loss": metrics.loss,
        "val_error": 1 - metrics.top1,
        "val_error_top5": 1 - metrics.top5,
        "val_error_renamed": 1 - metrics.top1_relabeled,
        "val_largest_answer": metrics.most_predicted_fraction,
    }


def _timed(reader: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Batches, each with the seconds waited for it."""
    asked = time.perf_counter()
    for batch in reader:
        yield batch, time.perf_counter() - asked
        asked = time.perf_counter()
