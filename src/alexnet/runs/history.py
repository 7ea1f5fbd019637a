"""What a run wrote down: a line of JSON for every epoch, and the curves drawn from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

from ..files import atomic_write

FILE = "metrics.jsonl"
NEEDED = {"epoch": int, "steps": int, "train_loss": Real, "train_error": Real}
"""What every line has, whichever splits there are."""


class History(Sequence):
    """The epochs of a run, oldest first, each a dict; `history["val_error"]` is one number of each epoch.

    Keys: epoch (from 1), steps (so far), train_loss (nats) and train_error (with dropout and augmentation on),
    val_loss, val_error, val_error_top5 (0 … 1), val_error_renamed (were classes called what they are most often taken
    for), val_largest_answer (share of the most frequent one), rate (of weights, at the end of the epoch), images_per_s,
    waiting (share of the time spent waiting for data), elapsed_s (training and validation of this epoch).
    """

    def __init__(self, epochs: Sequence[dict] = ()):
        self.epochs = list(epochs)

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, key):
        return [epoch.get(key) for epoch in self.epochs] if isinstance(key, str) else self.epochs[key]

    def plot(self, path: str | Path | None = None):
        """Loss and error over the epochs, training and validation; a matplotlib figure, also written to `path`."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        loss, error = figure.subplots(1, 2)
        epochs = self["epoch"]
        marker = "o" if len(epochs) < 3 else None
        for axes, key, name in ((loss, "loss", "Loss (nats)"), (error, "error", "Top-1 error (%)")):
            scale = 100 if key == "error" else 1
            for split, color in (("train", "black"), ("val", "tab:red")):
                values = [None if value is None else scale * value for value in self[f"{split}_{key}"]]
                if any(value is not None for value in values):
                    axes.plot(epochs, values, color=color, marker=marker, label={"val": "validation"}.get(split, split))
            axes.set(xlabel="Epoch", title=name)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend()
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def read_journal(folder: Path) -> History:
    """The lines so far, none where nothing was written yet.

    Raises:
        ValueError: one is damaged.
    """
    return History(read_lines(folder / FILE, NEEDED))


def read_lines(path: Path, needed: Mapping[str, type]) -> list[dict]:
    """A file of JSON lines as dicts; none where there is no such file.

    Args:
        needed: what each line has, and of what type.

    Raises:
        ValueError: a line is cut short, no JSON, or has not what is needed.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is cut short or no JSON") from error
        check_keys(row, needed, where)
        rows.append(row)
    return rows


def check_keys(value: object, needed: Mapping[str, type], where: str) -> None:
    """Refuse what is no dict with such keys and values of such types.

    Args:
        where: it stands, in words.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object with {', '.join(needed)}")
    if missing := [key for key in needed if key not in value]:
        raise ValueError(f"{where} has no {missing[0]!r}; it needs {', '.join(needed)}")
    if wrong := [key for key, kind in needed.items() if not isinstance(value[key], kind)]:
        raise ValueError(f"{where} has {value[wrong[0]]!r} for {wrong[0]!r}")


def write_journal(folder: Path, history: History) -> None:
    """Write all lines anew, whole or not at all: a resumed run thus never has an epoch twice."""
    with atomic_write(folder / FILE) as temporary:
        temporary.write_text("".join(json.dumps(epoch) + "\n" for epoch in history))
