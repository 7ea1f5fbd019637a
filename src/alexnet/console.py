"""Progress bars and tables in the terminal, by rich."""

import contextlib
import math
import signal
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .specs.names import counted, printable
from .specs.settings import option


class _Console(Console):
    """Prints names of files and classes verbatim, but for what could steer the terminal."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)

    def on_broken_pipe(self) -> None:
        """Stop a training as Ctrl-C does, and everything else by BrokenPipeError; rich would end the process."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()  # what comes after goes nowhere
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise BrokenPipeError
        print("alexnet: standard output was closed", file=sys.stderr)
        signal.raise_signal(signal.SIGINT)


console = _Console()
if not (console.is_terminal or console.is_jupyter):
    console.width = 80  # a file or a pipe has no width of its own


def progress_bar(title: str):
    """A function of an iterable and its total that passes the items on and shows a progress bar meanwhile.

    An item is a count or has `labels`, whose length is the count.
    """

    def show(items: Iterable, total: int) -> Iterator:
        with _progress(MofNCompleteColumn()) as progress:
            task = progress.add_task(title, total=total)
            for item in items:
                yield item
                progress.update(task, advance=item if isinstance(item, int) else len(item.labels))

    return show


MAX_ERROR = 4000
"""Characters of an error message that are printed."""
ESTIMATE_AFTER_S, LONG_S, SHOWN_EPOCHS = 5.0, 900.0, 50
"""After how many seconds a line says how long the training takes, from how many on it says how to shorten it, and how
many epochs print a line, at most."""
EPOCH = "{:>9} {:>8} {:>7} {:>6} {:>9} {:>9} {:>9} {:>8}"
"""Columns of the line that an epoch prints."""


class TrainingBar:
    """Progress of a training: loss, images per second, fraction of the time spent waiting for data, time left."""

    def __init__(self, epochs: int, images: int, shown: bool = True):
        self.epochs, self.images, self.shown, self.waited_s = epochs, images, shown, 0.0
        self.has_header = False
        self.started: tuple[float, int] | None = None  # when, and images until then; never again once it was told
        self.progress = _progress(TextColumn("{task.fields[status]}"), shown)
        self.progress.add_task("epoch 1", total=epochs * images, status="")
        (self.task,) = self.progress.tasks

    def step(self, step) -> None:
        """Show a `training.loop.Step`."""
        self.waited_s += step.waited_s
        completed = (step.epoch - 1) * self.images + min(step.batch * self.images // step.batches, self.images)
        self._estimate(completed)
        speed, waiting = self.task.speed or 0, self.waited_s / max(self.task.elapsed or 0, self.waited_s, 1e-9)
        self.progress.update(
            self.task.id,
            completed=completed,
            description=f"epoch {step.epoch}/{self.epochs}",
            status=f"loss {_loss(step.loss)}  {speed:,.0f} images/s  waiting {waiting:.0%}",
        )

    def _estimate(self, completed: int) -> None:
        """Print once, from the first seconds, how long the training takes."""
        now = time.monotonic()
        self.started = self.started or (now, completed)
        started, before = self.started
        if now - started >= ESTIMATE_AFTER_S and completed > before:
            self.started = math.inf, 0
            speed = (completed - before) / (now - started)
            left_s = (self.epochs * self.images - completed) / speed
            if self.shown:
                fewer = f"; {option('epochs')} sets a lower number of epochs" if left_s > LONG_S else ""
                console.print(f"about {duration(left_s)} left, at {speed:,.0f} images/s{fewer}")

    def epoch(self, row: dict) -> None:
        """Print a row of history, the first one below the names of the columns; of many epochs, some and the last."""
        if not self.shown or (row["epoch"] % math.ceil(self.epochs / SHOWN_EPOCHS) and row["epoch"] != self.epochs):
            return
        if not self.has_header:
            self.has_header = True
            console.print(EPOCH.format("epoch", "lr", "loss", "error", "val loss", "val error", "images/s", "left"))
        validation = ("", "")
        if "val_error" in row:
            validation = _loss(row["val_loss"]), f"{row['val_error']:.1%}"
        left_s = row["elapsed_s"] * (self.epochs - row["epoch"])
        train = f"{row['lr']:.2g}", _loss(row["train_loss"]), f"{row['train_error']:.1%}"
        speed = f"{row['images_per_s']:,.0f}", str(timedelta(seconds=round(left_s)))
        console.print(EPOCH.format(f"{row['epoch']}/{self.epochs}", *train, *validation, *speed))


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if loss < 1000 else f"{loss:.2g}"


def duration(seconds: float) -> str:
    """A duration in words, in the unit that suits it."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 1.5 * size:
            return counted(round(seconds / size), unit)
    return counted(round(seconds), "second")


def print_error(text: str) -> None:
    """Print text to standard error, wrapped in a terminal; in a file, where one searches, it stays as it is."""
    if len(text) > MAX_ERROR:  # it repeats what a file says
        text = f"{text[: MAX_ERROR // 2]} … {text[-MAX_ERROR // 2 :]}"
    errors = _Console(stderr=True)
    if errors.is_terminal:
        print_text(text, to=errors)
    else:
        print(printable(text), file=sys.stderr)


def print_text(text: str, style: str | None = None, to: Console = console) -> None:
    """Print text, wrapped between words with a hanging indent; a long word, such as a path, stays whole."""
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        options = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        wrapped = textwrap.wrap(line, to.width, **options)
        to.print("\n".join(wrapped), style=style, soft_wrap=True)


def print_facts(facts: dict[str, str]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, facts)) + 2
    options = {"subsequent_indent": " " * width, "break_long_words": False, "break_on_hyphens": False}
    for name, value in facts.items():
        lines = textwrap.wrap(f"{name:<{width}}{value}", console.width, **options)
        text = Text(printable("\n".join(lines)))
        text.stylize("bold", 0, len(name))
        console.print(text, soft_wrap=True)


def print_table(
    rows: Sequence[Sequence[str] | Mapping[str, str]], header: Sequence[str] = (), right: Sequence[int] | None = None
) -> None:
    """Print a table; rows may be mappings from the columns' names.

    Args:
        right: indices of right-aligned columns, whose names have a line per word; by default all but the first.
    """
    if rows and isinstance(rows[0], Mapping):
        rows, header = [list(row.values()) for row in rows], list(rows[0])
    right = range(1, len(header)) if right is None else right
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, name in enumerate(header):
        justify, shown = ("right", name.replace(" ", "\n")) if column in right else ("left", name)
        table.add_column(Text(printable(shown)), justify=justify, no_wrap=column in right)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


class _NotebookProgress(Progress):
    """A bar of HTML in the output of a notebook's cell: rich's own needs ipywidgets."""

    output = html = None
    shown_at = 0.0

    def start(self) -> None:
        from IPython.display import HTML, display

        self.html, self.output = HTML, display(HTML(""), display_id=True)

    def stop(self) -> None:
        self.output.update(self.html(""))

    def refresh(self) -> None:
        if self.output is None:  # not started
            return
        (task,) = self.tasks
        total = "" if task.total is None else f"/{task.total:,.0f}"
        status = task.fields.get("status") or f"{task.completed:,.0f}{total}"
        left = "" if task.time_remaining is None else f"{timedelta(seconds=round(task.time_remaining))} left"
        bar = "<progress></progress>"
        if task.total is not None:
            bar = f"<progress value='{task.completed}' max='{task.total}'></progress>"
        self.output.update(self.html(f"{task.description} {bar} {status} {left}"))

    def update(self, *task, **changes) -> None:
        super().update(*task, **changes)
        if (now := time.monotonic()) > self.shown_at + 0.2:
            self.shown_at = now
            self.refresh()


def _progress(status: ProgressColumn, shown: bool = True) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), status, TimeRemainingColumn()
    kind = _NotebookProgress if shown and console.is_jupyter else Progress
    is_shown = shown and (console.is_terminal or console.is_jupyter)
    return kind(*columns, console=console, transient=True, disable=not is_shown)
