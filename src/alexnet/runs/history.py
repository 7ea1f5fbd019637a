"""What a run writes about every epoch, and the curves drawn from it."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..specs.names import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMER_KEYS = {"rate": "lr", "highest_rate": "peak_lr", "right": "correct", "at_a_time": "micro_batch_size"}
FORMER_KEYS |= {"from": "pretrained", "from_sha256": "pretrained_sha256"}
"""Keys of rows, of `Progress` and of run.json in version 0.1, and today's."""


class History(Sequence):
    """The epochs of a run, oldest first, each a dict; `history["val_error"]` is the list of its values.

    Keys: epoch (from 1), steps (so far), train_loss (nats) and train_error (with dropout and augmentation on),
    val_loss, val_error, val_error_top5 (0 … 1), val_error_renamed (if each class were called what it is most often
    taken for), val_largest_answer (fraction of images in the most frequently predicted class), lr (learning rate of the
    weights at the end of the epoch), images_per_s, waiting (fraction of the time spent waiting for data), elapsed_s
    (training and validation of this epoch).
    """

    def __init__(self, epochs: Sequence[dict] = ()):
        self.epochs = list(epochs)

    def __len__(self) -> int:
        return len(self.epochs)

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, key: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, key):
        if key in FORMER_KEYS:
            warnings.warn(f"{key} is now called {FORMER_KEYS[key]}", FutureWarning, stacklevel=2)
            key = FORMER_KEYS[key]
        return [epoch.get(key) for epoch in self.epochs] if isinstance(key, str) else self.epochs[key]

    def __repr__(self) -> str:
        last = ", ".join(f"{key} {value:.3g}" for key, value in self._shown(-1).items()) if len(self) else "none"
        return f"History({counted(len(self), 'epoch')}, the last: {last})"

    def _repr_html_(self) -> str:
        from ..notebook import html_table

        rows = [self._shown(index) for index in range(len(self))]
        rows = rows if len(rows) <= 20 else [*rows[:5], dict.fromkeys(rows[0]), *rows[-14:]]
        cells = [["…" if value is None else f"{value:.4g}" for value in row.values()] for row in rows]
        return html_table(cells, list(rows[0]) if rows else ["no epochs"])

    def _shown(self, index: int) -> dict:
        """What a reader wants to know of an epoch."""
        names = "epoch", "train_loss", "train_error", "val_loss", "val_error", "lr"
        return {name: self.epochs[index][name] for name in names if name in self.epochs[index]}

    def plot(self, path: str | Path | None = None, columns: int = 2) -> "Figure":
        """Loss and error by epoch, training and validation; a figure, also written to `path`; notebooks show it."""
        from matplotlib.ticker import MaxNLocator

        from ..notebook import Figure

        figure = Figure(figsize=(5 * columns, 8 / columns), layout="constrained")
        loss, error = figure.subplots(2 // columns, columns)
        marker = "o" if len(self) < 3 else None
        for axes, key, name, scale in ((loss, "loss", "Loss (nats)", 1), (error, "error", "Top-1 error (%)", 100)):
            for split, label, color in (("train", "train", "black"), ("val", "validation", "tab:red")):
                values = [None if value is None else scale * value for value in self[f"{split}_{key}"]]
                if any(value is not None for value in values):
                    axes.plot(self["epoch"], values, color=color, marker=marker, label=label)
            axes.set(xlabel="Epoch", title=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0)
            axes.margins(y=0.05)
            axes.grid(alpha=0.3)
            axes.legend()
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def read_rows(path: Path, check: Callable[[object, str], None]) -> list[dict]:
    """A file of JSON lines as dicts; empty if there is no such file.

    Args:
        check: raises ValueError for what is no such row, given the row and its location in words.

    Raises:
        ValueError: a line is cut short, not JSON, or refused.
    """
    rows = []
    for line_number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        location = f"{path}, line {line_number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{location} is cut short or not JSON") from error
        rows.append(with_todays_keys(row) if isinstance(row, dict) else row)
        check(rows[-1], location)
    return rows


def check_row(row: object, location: str) -> None:
    """Refuse what is no row of history, as `check_keys` does."""
    check_keys(row, {"epoch": int, "steps": int, "train_loss": Real, "train_error": Real}, location)
    check_keys(row, dict.fromkeys(row, Real | None), location)


def check_keys(value: object, needed: Mapping[str, Any], location: str) -> None:
    """Raise ValueError, which begins with `location`, for what is not a dict with these keys and types of values."""
    if not isinstance(value, dict):
        raise ValueError(f"{location} must be an object with {', '.join(needed)}, got {str(value)[:40]}")
    if missing := [key for key in needed if key not in value]:
        raise ValueError(f"{location} has no {missing[0]!r}; it needs {', '.join(needed)}")
    if wrong := [key for key, kind in needed.items() if not isinstance(value[key], kind)]:
        raise ValueError(f"{location} has {value[wrong[0]]!r} for {wrong[0]!r}")


def with_todays_keys(row: dict) -> dict:
    return {FORMER_KEYS.get(key, key): value for key, value in row.items()}
