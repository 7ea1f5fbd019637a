"""Where a run stands, and the files from which it goes on.

At every instant a whole checkpoint is on the disk, for each is written beside and then takes its name. The files of an
epoch are written in this order, and a run that goes on makes up for what was cut off in between:

1. LAST: weights, velocities, where the run stands, the lines of the journal; those before it become EARLIER.
2. BEST, where this epoch is the best so far: the same weights, so it can be made again from LAST.
3. The journal, whose lines LAST holds too, as it does those of layers.jsonl, which are written when they come up.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from safetensors import SafetensorError
from torch import Size, Tensor

from ..diagnosis.layers import write_layers
from ..files import PART_SUFFIX, fsync_folder
from ..model.bundle import ModelBundle, read_extra, read_notes
from ..training.ema import WeightEMA
from ..training.optimizer import PaperSGD
from .history import History, write_journal

LAST, BEST = "last.safetensors", "best.safetensors"
EARLIER = ("last-1.safetensors", "last-2.safetensors")
"""The checkpoints before LAST, newest first."""
NEXT = "next.safetensors"
"""A checkpoint that has not got its name yet."""
DAMAGED = ".damaged"
"""What is added to the name of a checkpoint that cannot be read."""
MINUTES = 10.0
"""Between checkpoints within an epoch, unless told otherwise."""


class NotSaved(OSError):
    """A checkpoint could not be written; the ones before it are as they were."""


@dataclass
class Progress:
    """Where a run stands; saved with the weights and velocities."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the epoch under way."""
    loss: float = 0.0
    """Summed over the images of the epoch under way."""
    right: int = 0
    seen: int = 0
    epochs: list[dict] = field(default_factory=list)
    """The journal so far."""
    layers: list[dict] = field(default_factory=list)
    """The lines of layers.jsonl so far."""
    diagnosed: bool = False
    """Whether it was said what the run suffers from."""
    at_a_time: int | None = None
    """Images of a step that were found to fit into the memory, where they had to be counted."""

    def next_epoch(self, row: dict) -> Progress:
        """After the epoch under way, whose line of the journal is given."""
        done = {"batch": 0, "loss": 0.0, "right": 0, "seen": 0}
        return replace(self, epoch=self.epoch + 1, epochs=[*self.epochs, row], **done)

    def count(self, loss: float, right: int, images: int) -> None:
        """One more batch, of that mean loss and so many right answers."""
        self.batch += 1
        self.loss += loss * images
        self.right += right
        self.seen += images

    @property
    def mean(self) -> float:
        """Loss of the epoch under way, nats."""
        return self.loss / self.seen

    @property
    def val_errors(self) -> list[float]:
        return [epoch["val_error"] for epoch in self.epochs if "val_error" in epoch]

    @property
    def best_epoch(self) -> int | None:
        """The first of lowest validation error, from 1."""
        validated = [epoch for epoch in self.epochs if "val_error" in epoch]
        return min(validated, key=lambda epoch: epoch["val_error"])["epoch"] if validated else None

    @property
    def has_just_become_best(self) -> bool:
        """Whether the weights of this moment are those of the best epoch."""
        return self.batch == 0 and self.best_epoch == self.epoch

    def __str__(self) -> str:
        if not (self.epoch or self.batch):
            return "from the beginning"
        return f"after epoch {self.epoch}" + (f" and {self.batch} steps" if self.batch else "")


class Checkpoints:
    """Writes and reads them, for one run.

    Args:
        run: its folder; nothing is written where None.
        minutes: between checkpoints within an epoch.
        say: is told which checkpoint is damaged.
    """

    def __init__(
        self,
        run: Path | None,
        bundle: ModelBundle,
        optimizer: PaperSGD,
        averaging: WeightEMA,
        minutes: float = MINUTES,
        say: Callable[[str], object] = lambda words: None,
    ):
        self.run, self.minutes, self.say = run, minutes, say
        self.bundle, self.optimizer, self.averaging = bundle, optimizer, averaging
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        return self.run is not None and time.monotonic() - self._saved >= 60 * self.minutes

    def save(self, progress: Progress) -> None:
        """Write LAST and, after an epoch, what else belongs to it.

        Raises:
            NotSaved: the disk is full, or the folder cannot be written to.
        """
        if self.run is None:
            return
        with self._writing(progress):
            self._save_last(progress)
            if progress.batch == 0:
                self._save_what_follows(progress)
        self._saved = time.monotonic()

    def restore(self, batch_size: int) -> Progress:
        """Bring network, velocities and mean of the weights to where the newest whole checkpoint has them.

        Checkpoints that cannot be read are set aside. Where BEST is gone, so are those before the one that can make it
        again; if none can, the best of the epochs to come is kept. Where there are no checkpoints at all, nothing was
        saved yet, and the run begins anew.

        Raises:
            ValueError: none is whole, or they are of another network.
            NotSaved: what a kill has cut off cannot be written.
        """
        assert self.run is not None
        for abandoned in (*self.run.glob(f"*{PART_SUFFIX}"), self.run / NEXT):
            abandoned.unlink(missing_ok=True)
        there = [self.run / name for name in (LAST, *EARLIER) if (self.run / name).exists()]
        reasons: list[str] = []
        for needs_best in (True, False):
            lost, reasons = reasons, []
            for path in there:
                try:
                    progress = self._read(path, needs_best)
                except _Unusable as reason:
                    reasons.append(str(reason))
                    continue
                progress.batch = math.ceil(progress.seen / batch_size)  # batches may have another size now
                damaged = there[: len(reasons)]
                if not needs_best:
                    reasons += [f"{lost[len(reasons)]}, and nothing can make it again: the best from now on is kept"]
                    damaged += [self.run / BEST] * (self.run / BEST).exists()
                if reasons:
                    self.say(f"{'; '.join(reasons)}. Going on from {path.name}, {progress}")
                with self._writing(progress):
                    for each in damaged:
                        os.replace(each, each.with_name(each.name + DAMAGED))
                    self._save_what_follows(progress)
                    write_layers(self.run, progress.layers)
                return progress
        if reasons:
            raise ValueError(
                f"{self.run} has no checkpoint to go on from: {'; '.join(reasons)}. Remove them to begin anew"
            )
        return Progress()

    @contextlib.contextmanager
    def _writing(self, progress: Progress) -> Iterator[None]:
        """Make a failure to write one that says what is left.

        Raises:
            NotSaved: it failed.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            whole = next((f"; {name} is whole" for name in (LAST, *EARLIER) if (self.run / name).exists()), "")
            raise NotSaved(
                f"{self.run}: the checkpoint {progress} could not be written ({error}){whole}. "
                f"Once it can be, go on with --resume"
            ) from error

    def _save_last(self, progress: Progress) -> None:
        extra = {f"velocity.{name}": velocity for name, velocity in self.optimizer.velocities().items()}
        with self.averaging.average_shown():
            extra |= {f"not_averaged.{name}": weights for name, weights in self.averaging.aside.items()}
            self.bundle.save(self.run / NEXT, extra=extra, notes={"progress": vars(progress)})
        for older, newer in pairwise((*reversed(EARLIER), LAST, NEXT)):
            if (self.run / newer).exists():
                os.replace(self.run / newer, self.run / older)
        fsync_folder(self.run)

    def _save_what_follows(self, progress: Progress) -> None:
        """BEST and the journal, after LAST of the end of an epoch."""
        if progress.has_just_become_best:
            self.bundle.save(self.run / BEST, notes={"epoch": progress.epoch})
        write_journal(self.run, History(progress.epochs))

    def _read(self, path: Path, needs_best: bool) -> Progress:
        """Restore from one file; all of it is read, and held to its sums, before anything changes.

        Raises:
            _Unusable: it is damaged; or, where BEST is needed, that is, and only an earlier one can make it again.
            ValueError: it is of another network.
        """
        try:
            saved = ModelBundle.load(path)
            velocities, aside = read_extra(path, "velocity."), read_extra(path, "not_averaged.")
            progress = Progress(**read_notes(path)["progress"])
        except (ValueError, KeyError, TypeError) as error:
            raise _Unusable(str(error)) from error
        if needs_best and progress.best_epoch and not progress.has_just_become_best:
            try:
                ModelBundle.load(self.run / BEST)
            except ValueError as error:
                raise _Unusable(f"{error}, and {path.name} is from after epoch {progress.best_epoch}") from error
        weights = saved.network.state_dict()
        if saved.classes != self.bundle.classes or _shapes(weights) != _shapes(self.bundle.network.state_dict()):
            raise ValueError(f"{path} is of another network or other classes, so this run cannot go on from it")
        self.bundle.network.load_state_dict(weights)
        self.optimizer.load_velocities(velocities)
        self.averaging.load(aside or weights)
        return progress


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


class _Unusable(Exception):
    """Why a checkpoint cannot be gone on from."""
