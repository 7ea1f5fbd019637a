"""The journal as TensorBoard events, where tensorboard is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = "tensorboard"
LEFT_OUT = ("epoch", "steps")


class Events:
    """Writes each line of the journal as scalars over the number of steps; does nothing where it cannot.

    Args:
        run: folder of the run; nothing is written where None, nor before `go_on`.
    """

    def __init__(self, run: Path | None):
        self.run, self.writer = run, None

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error) -> None:
        if self.writer is not None:
            self.writer.close()

    def go_on(self, epochs: Sequence[dict]) -> None:
        """Begin with the lines of the epochs before an interruption; what that attempt wrote disappears."""
        if self.run is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(self.run / FOLDER), purge_step=0)
        for row in epochs:
            self.epoch(row)

    def epoch(self, row: dict) -> None:
        if self.writer is None:
            return
        for key, value in row.items():
            if key not in LEFT_OUT:
                split, _, name = key.partition("_")
                tag = f"{name}/{split}" if split in ("train", "val") else key  # both curves of a loss in one picture
                self.writer.add_scalar(tag, value, row["steps"])
        self.writer.flush()
