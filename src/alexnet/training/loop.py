"""Section 5: training, in one function."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.batches import Batch, epoch_order, read_batches
from ..device import Precision, torch_dtype
from ..diagnosis.causes import Facts, Watch, diagnosed
from ..evaluation.views import evaluate
from ..model.bundle import ModelBundle
from ..preprocessing.augmentation import training_views
from ..preprocessing.mixing import drawn_mix
from ..runs.checkpoints import MINUTES, Checkpoints, Progress
from ..runs.history import History
from ..specs.schedules import LearningRates
from .ema import WeightEMA
from .graph import graphed
from .interrupt import CtrlC, Interrupted
from .optimizer import paper_optimizer
from .plan import Plan
from .step import MicroBatch, MicroBatches


class Diverged(ValueError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Report:
    """How training looks at one step, for a progress bar."""

    epoch: int
    batch: int
    batches: int
    step_loss: float
    """Of this step, nats."""
    loss: float
    """Mean over the epoch so far, nats."""
    images: int
    """Just trained on."""
    waited_s: float
    """For data, before this step."""


def train(
    bundle: ModelBundle,
    plan: Plan,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
    run: Path | None = None,
    resume: bool = False,
    minutes: float = MINUTES,
    micro_batch: MicroBatch = None,
    say: Callable[[str], object] = lambda words: None,
    on_start: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[Report], None] = lambda report: None,
    on_epoch: Callable[[dict], None] = lambda row: None,
) -> History:
    """Train a network on the train split of a plan's images, validating after every epoch.

    The network is changed in place and ends as the last epoch left it; where the recipe averages weights, as their
    mean, which is also what is validated and saved.

    Args:
        run: folder for the checkpoints and the journal; none are kept where None.
        resume: go on from the newest checkpoint. The result is that of a run that was never interrupted.
        minutes: between checkpoints within an epoch; there is one after each epoch in any case.
        micro_batch: images of a step worked on at a time; "auto" takes as many as fit into the memory.
        say: is told what the user should know.
        on_start, on_step, on_epoch: called with where the run begins or goes on; after each step with a Report; after
            each epoch with its line of the journal.

    Raises:
        Diverged: the loss is not finite.
        Interrupted: on Ctrl-C, after the step under way is done and a checkpoint is saved.
        NotSaved: a checkpoint cannot be written.
        OutOfMemory: a step does not fit into the memory, and may not be split.
        ValueError: there are checkpoints, and none can be gone on from.
    """
    network = bundle.network
    device = next(network.parameters()).device
    packed, recipe = plan.packed, plan.recipe
    optimizer = paper_optimizer(network, recipe)
    averaging = WeightEMA(network, recipe.ema_decay)
    checkpoints = Checkpoints(run, bundle, optimizer, averaging, minutes, say)
    progress = checkpoints.restore(recipe.batch_size) if resume and run else Progress()
    micro_batches = MicroBatches(network, micro_batch, progress.at_a_time, say)
    watch = Watch(network, optimizer, plan, precision, run, say)
    on_start(progress)
    training, validation = packed.indices("train"), packed.indices("val")
    per_epoch = math.ceil(len(training) / recipe.batch_size)
    scores_of = None

    def rates_at(batch: int) -> LearningRates:
        return recipe.learning_rates((progress.epoch + batch / per_epoch) / recipe.epochs, progress.val_errors)

    with CtrlC() as ctrl_c, torch.random.fork_rng([device] if device.type == "cuda" else []):
        while progress.epoch < recipe.epochs:
            started, waited, already = time.perf_counter(), 0.0, progress.seen
            order = epoch_order(training, seed, progress.epoch, recipe.shuffle)
            network.train()
            averaging.show_weights()
            with closing(read_batches(packed, order, recipe.batch_size, device, progress.batch)) as read:
                for batch, wait in _timed(read):
                    rates = rates_at(progress.batch)
                    optimizer.set_learning_rates(rates)
                    torch.manual_seed(step_seed(seed, progress.epoch, progress.batch))  # dropout's draws
                    drawn = seed, progress.epoch, rates.color_shift, torch_dtype(precision)
                    views = training_views(batch, recipe, bundle.preprocessing, plan.found, *drawn)
                    mix = drawn_mix(batch, bundle.preprocessing.crop_size, recipe, seed, progress.epoch)
                    scores_of = scores_of or (graphed(network, views, precision) if micro_batch is None else network)
                    loss, right = micro_batches.train_step(scores_of, optimizer, views, batch, recipe, precision, mix)
                    averaging.update(progress.epoch * per_epoch + progress.batch + 1)
                    progress.count(loss, right, len(batch.labels))
                    progress.at_a_time = micro_batches.at_a_time
                    watch.after_step(progress, loss, rates.weights, views)
                    _check_finite(loss, f"in epoch {progress.epoch + 1}, step {progress.batch}", rates, progress)
                    waited += wait
                    here = progress.epoch + 1, progress.batch, per_epoch
                    on_step(Report(*here, loss, progress.mean, len(batch.labels), wait))
                    if ctrl_c.pressed or checkpoints.is_due():
                        checkpoints.save(progress)
                    if ctrl_c.pressed:
                        averaging.show_average()
                        raise Interrupted
            averaging.show_average()
            trained_s = time.perf_counter() - started
            row = {
                "epoch": progress.epoch + 1,
                "steps": (progress.epoch + 1) * per_epoch,
                "train_loss": progress.mean,
                "train_error": 1 - progress.right / progress.seen,
                "rate": rates_at(per_epoch - 1).weights,
                "images_per_s": (progress.seen - already) / trained_s,
                "waiting": waited / trained_s,
            }
            if len(validation):
                metrics = evaluate(bundle, packed, validation, all_views=False, precision=precision).center
                where = f"after epoch {progress.epoch + 1}, on val"
                _check_finite(metrics.loss, where, rates_at(per_epoch - 1), progress)
                row |= {"val_loss": metrics.loss, "val_error": 1 - metrics.top1, "val_error_top5": 1 - metrics.top5}
                row |= {"val_error_renamed": 1 - metrics.top1_renamed, "val_largest_answer": metrics.largest_answer}
            row["elapsed_s"] = time.perf_counter() - started
            progress = progress.next_epoch(row)
            watch.after_epoch(progress)
            checkpoints.save(progress)
            on_epoch(row)
            if ctrl_c.pressed:
                raise Interrupted
    network.eval()
    return History(progress.epochs)


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """What torch's generator starts from at a step, so that a resumed run draws the same dropout."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {batch}".encode()).digest()[:6], "little")


def _check_finite(loss: float, where: str, rates: LearningRates, progress: Progress) -> None:
    if not math.isfinite(loss):
        found = diagnosed(Facts(progress.epochs, progress.layers))
        why = f"\n{found}" if found else ""
        raise Diverged(f"the loss became {loss} {where}, at a rate of {rates.weights:g}{why}")


def _timed(read: Iterable[Batch]) -> Iterable[tuple[Batch, float]]:
    """Batches, each with the seconds waited for it."""
    started = time.perf_counter()
    for batch in read:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()
