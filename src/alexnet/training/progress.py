"""How far a training is; saved with the weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..data.source import counted


@dataclass
class Progress:
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

    def next_epoch(self, row: dict) -> Progress:
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
