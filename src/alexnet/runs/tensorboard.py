"""The history of a run as TensorBoard events, if tensorboard is installed."""

from collections.abc import Iterable

from .run import TENSORBOARD, Run


class TensorBoard:
    """Writes each epoch as scalars over the number of steps; does nothing without a run or without tensorboard.

    Args:
        epochs: rows of the epochs before an interruption; what that attempt wrote is replaced by them.
    """

    def __init__(self, run: Run | None, epochs: Iterable[dict] = ()):
        self.writer = None
        if run is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(run.folder / TENSORBOARD), purge_step=0)
        for row in epochs:
            self.epoch(row)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def epoch(self, row: dict) -> None:
        if self.writer is None:
            return
        for key, value in row.items():
            if key not in ("epoch", "steps"):
                split, _, name = key.partition("_")
                tag = f"{name}/{split}" if split in ("train", "val") else key  # both curves of a loss in one plot
                self.writer.add_scalar(tag, value, row["steps"])
        self.writer.flush()
