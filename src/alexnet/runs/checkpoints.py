"""Checkpoints: the files from which a run resumes.

At every instant there is a complete checkpoint on the disk, since each is written beside the others and then renamed.
They are written in this order, and a resumed run completes what was cut off in between:

1. LAST: weights, velocities, progress, and the rows of history; the files before it become EARLIER.
2. BEST, if an epoch since the checkpoint before was the best so far.

The history and the layer statistics, whose rows LAST holds too, are written as they come.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from ..files import fsync_folder, remove_abandoned
from ..model.bundle import ModelBundle, read_extra, read_notes
from ..specs.checks import check_fields
from ..specs.settings import option
from ..training.loop import Progress, Training
from .history import check_row, with_todays_keys
from .run import BEST, EARLIER, LAST, Run

NEXT = "next.safetensors"
"""A checkpoint that has not got its name yet."""
EPOCH_S = 60.0
"""Seconds between checkpoints at the ends of epochs: on small data sets, epochs are shorter than a checkpoint takes."""
VELOCITY, NOT_AVERAGED = "velocity.", "not_averaged."
"""Prefixes of the tensors of a checkpoint: the optimizer's velocities, and the weights that an EMA is taken of."""


class NotSaved(OSError):
    """A checkpoint could not be written; the ones before it are unchanged."""


class Checkpoints:
    """Writes and restores the checkpoints of one run, by time; without a run, only remembers the best weights."""

    def __init__(self, run: Run | None, training: Training, minutes: float):
        self.run, self.training, self.minutes = run, training, minutes
        self.best: dict[str, Tensor] = {}
        """The weights of the best epoch, unless BEST holds them."""
        self.restored: tuple[Mapping[str, Tensor], ...] = ()
        """The state of the training that was restored, as it was given to `Training.load`."""
        self._saved_at = time.monotonic()

    def epoch(self) -> None:
        """After an epoch, remember its weights if they are the best, and write the history.

        Raises:
            NotSaved: as for `save`.
        """
        if self.training.progress.is_best:
            self.best = {name: tensor.clone() for name, tensor in self.training.network.state_dict().items()}
        if self.run:
            with self._writing():
                self.run.write_history(self.training.progress.epochs)

    def is_due(self) -> bool:
        """Whether there is a run and enough time has passed; at the end of an epoch, less is enough."""
        if self.run is None:
            return False
        wait = 60 * self.minutes
        return time.monotonic() - self._saved_at >= (wait if self.training.progress.batch else min(wait, EPOCH_S))

    def save(self) -> None:
        """Write LAST and, if it is not there yet, BEST. All processes take part, and the first one writes.

        Raises:
            NotSaved: the disk is full, or the folder cannot be written to.
        """
        training, gathered = self.training, self.training.strategy.gathered
        velocities = gathered(training.optimizer.velocities())
        with training.ema.showing(average=True):
            training.strategy.publish()
            extra = {f"{VELOCITY}{name}": velocity for name, velocity in velocities.items()}
            extra |= {f"{NOT_AVERAGED}{name}": weights for name, weights in gathered(training.ema.hidden).items()}
            if self.run is None:
                return
            with self._writing():
                self._save_last(extra)
        with self._writing():
            self._save_best()
        self._saved_at = time.monotonic()

    def restore(self, notify: Callable[[str], object]) -> None:
        """Bring the training to the state of the newest checkpoint that can be read; without any, it starts anew.
        The user is told which.

        Damaged checkpoints are set aside. If BEST is lost, so are the checkpoints after the one that can restore it; if
        none can, the best of the epochs to come is kept.

        Raises:
            ValueError: no checkpoint can be read, or they are of another network.
            NotSaved: what an interruption cut off cannot be written.
        """
        remove_abandoned(self.run.folder)
        (self.run.folder / NEXT).unlink(missing_ok=True)
        paths, best = self.run.checkpoints(), self.run.folder / BEST
        reasons: list[str] = []
        for needs_best in (True, False):
            lost, reasons = reasons, []
            for path in paths:
                try:
                    progress = self._read(path, needs_best)
                except _Unusable as reason:
                    reasons.append(str(reason))
                    continue
                damaged = paths[: len(reasons)]
                if not needs_best:
                    reasons += [
                        f"{lost[len(reasons)]}, and no checkpoint can restore it: the best of later epochs is kept"
                    ]
                    damaged += [best] * best.exists()
                if reasons:
                    notify(f"{'; '.join(reasons)}. Resuming from {path.name}, {progress}")
                with self._writing():
                    for each in damaged:
                        os.replace(each, f"{each}.damaged")
                    if progress.is_best:
                        self.best = self.training.network.state_dict()
                        self._save_best()
                    self.run.write_history(progress.epochs)
                    self.run.write_layer_rows(progress.layers)
                started = progress.epoch or progress.batch
                return notify(f"resuming {progress}" if started else "no checkpoint yet, starting over")
        if reasons:
            raise ValueError(
                f"{self.run} has no checkpoint to resume from: {'; '.join(reasons)}. Remove them to start over"
            )
        notify("no checkpoint yet, starting over")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a failure to write into a NotSaved, which says what is left."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            intact = next((f"; {path.name} is intact" for path in self.run.checkpoints()), "")
            raise NotSaved(
                f"{self.run}: the checkpoint {self.training.progress} could not be written ({error}){intact}. "
                f"Fix that, then resume with {option('resume', True)}"
            ) from error

    def _save_last(self, extra: dict[str, Tensor]) -> None:
        folder = self.run.folder
        self.training.bundle.save(folder / NEXT, extra=extra, notes={"progress": vars(self.training.progress)})
        for older, newer in pairwise((*reversed(EARLIER), LAST, NEXT)):
            if (folder / newer).exists():
                os.replace(folder / newer, folder / older)
        fsync_folder(folder)

    def _save_best(self) -> None:
        if self.best:
            notes = {"epoch": self.training.progress.best_epoch}
            self.training.bundle.save(self.run.folder / BEST, notes=notes, weights=self.best)
            self.best = {}

    def _read(self, path: Path, needs_best: bool) -> Progress:
        """Restore from one file; all of it is read and verified before anything changes.

        Raises:
            _Unusable: it is damaged; or BEST is needed and damaged, and only an earlier checkpoint can restore it.
            ValueError: it is of another network.
        """
        training, best = self.training, self.run.folder / BEST
        try:
            saved = ModelBundle.load(path)
            velocities, not_averaged = read_extra(path, VELOCITY), read_extra(path, NOT_AVERAGED)
            notes = read_notes(path)
            if "progress" not in notes:
                raise ValueError(f"{path.name} holds weights alone")
            notes = with_todays_keys(notes["progress"])
            rows = {name: [with_todays_keys(row) for row in notes[name]] for name in ("epochs", "layers")}
            progress = Progress(**notes | rows)
            check_fields(progress, {}, f"the progress in {path.name}")
            for row in progress.epochs:
                check_row(row, f"the history in {path.name}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _Unusable(str(error)) from error
        if needs_best and progress.best_epoch and not progress.is_best:
            try:
                ModelBundle.load(best)
                if read_notes(best).get("epoch", progress.best_epoch) < progress.best_epoch:
                    raise ValueError(f"{best} is from before epoch {progress.best_epoch}")
            except ValueError as error:
                raise _Unusable(f"{error}, and {path.name} is from after epoch {progress.best_epoch}") from error
        weights = saved.network.state_dict()
        theirs, ours = (
            {name: tensor.shape for name, tensor in tensors.items()}
            for tensors in (weights, training.network.state_dict())
        )
        if theirs != ours or saved.classes != training.bundle.classes:
            raise ValueError(f"{path} is of another network or other classes, so this run cannot resume from it")
        self.restored = weights, velocities, not_averaged or weights
        training.load(*self.restored)
        progress.batch = math.ceil(progress.seen / training.plan.recipe.batch_size)  # which may have changed
        training.progress = progress
        if training.stepper.micro_batch_size is None:
            training.stepper.micro_batch_size = progress.micro_batch_size
        return progress


class _Unusable(Exception):
    """Why a run cannot resume from a checkpoint."""
