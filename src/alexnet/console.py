"""What a person sees while the work goes on: progress bars and tables, by rich."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, markup=False, emoji=False)  # names of files and classes are printed as they are
if not console.is_terminal:
    console.width = 120  # a file or a pipe has no width of its own


def counting(title: str):
    """A function that shows a bar while an iterable is used up; it is given the iterable and the total.

    The items are counts, or have `labels` to be counted.
    """

    def show(items: Iterable, total: int) -> Iterator:
        with _bar() as progress:
            task = progress.add_task(title, total=total)
            for item in items:
                yield item
                progress.advance(task, item if isinstance(item, int) else len(item.labels))

    return show


class TrainingBar:
    """A bar for a run: loss, images a second, share of the time spent waiting for data, time left."""

    def __init__(self, epochs: int, images: int, shown: bool = True):
        self.epochs, self.images = epochs, images
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self.shown = shown
        self.task = self.progress.add_task("epoch 1", total=epochs * images, status="")
        self.clock = _Clock()

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def step(self, report) -> None:
        """Show a `training.loop.Report`."""
        speed, waiting = self.clock.tick(report.images, report.waited_s)
        status = f"loss {report.loss:.3f}  {speed:,.0f} images/s  waiting {waiting:.0%}"
        done = (report.epoch - 1) * self.images + min(report.batch * self.images // report.batches, self.images)
        self.progress.update(
            self.task, completed=done, description=f"epoch {report.epoch}/{self.epochs}", status=status
        )

    def epoch(self, row: dict) -> None:
        """Print one line of the journal."""
        if not self.shown:
            return
        validation = ""
        if "val_error" in row:
            validation = f"  validation: loss {row['val_loss']:.3f}, top-1 error {row['val_error']:6.1%}"
        width = len(str(self.epochs))
        console.print(
            f"epoch {row['epoch']:>{width}}/{self.epochs}  lr {row['lr']:.2g}  loss {row['train_loss']:.3f}, "
            f"error {row['train_error']:6.1%}{validation}  {row['images_per_s']:,.0f} images/s",
            soft_wrap=True,
        )


def print_facts(facts: dict[str, str]) -> None:
    """Two columns: name and value."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, "bold"), Text(value))
    console.print(grid)


def print_table(rows: Sequence[Sequence[str]], head: Sequence[str], right: Sequence[int] = ()) -> None:
    """A table; the columns in `right` stand to the right."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(head):
        drawn.add_column(name, justify="right" if place in right else "left", no_wrap=place in right)
    for row in rows:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


class _Clock:
    """Images a second and share of waiting, over the last steps."""

    def __init__(self):
        self.speed = self.waiting = 0.0
        self.last: float | None = None

    def tick(self, images: int, waited_s: float) -> tuple[float, float]:
        now = time.perf_counter()
        if self.last is not None and now > self.last:
            keep = 0.9 if self.speed else 0.0
            self.speed = keep * self.speed + (1 - keep) * images / (now - self.last)
            self.waiting = keep * self.waiting + (1 - keep) * min(1.0, waited_s / (now - self.last))
        self.last = now
        return self.speed, self.waiting


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
