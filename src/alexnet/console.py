"""Progress bars and tables in the terminal, by rich."""

import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, markup=False, emoji=False)  # file and class names are printed verbatim
if not console.is_terminal:
    console.width = 120  # a file or a pipe has no width of its own


def progress_bar(title: str):
    """A function of an iterable and its total that passes the items on and shows a progress bar meanwhile.

    An item is a count or has `labels`, whose length is the count.
    """

    def show(items: Iterable, total: int) -> Iterator:
        with _progress(MofNCompleteColumn()) as progress:
            task = progress.add_task(title, total=total)
            for item in items:
                yield item
                progress.advance(task, item if isinstance(item, int) else len(item.labels))

    return show


class TrainingBar:
    """Progress of a training: loss, images per second, fraction of the time spent waiting for data, time left."""

    def __init__(self, epochs: int, images: int, shown: bool = True):
        self.epochs, self.images = epochs, images
        self.progress = _progress(TextColumn("{task.fields[status]}"), shown)
        self.shown = shown
        self.task = self.progress.add_task("epoch 1", total=epochs * images, status="")
        self.speed = _Speed()

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def step(self, step) -> None:
        """Show a `training.loop.Step`."""
        images_per_s, waiting = self.speed.update(step.images, step.waited_s)
        status = f"loss {step.loss:.3f}  {images_per_s:,.0f} images/s  waiting {waiting:.0%}"
        completed = (step.epoch - 1) * self.images + min(step.batch * self.images // step.batches, self.images)
        description = f"epoch {step.epoch}/{self.epochs}"
        self.progress.update(self.task, completed=completed, description=description, status=status)

    def epoch(self, row: dict) -> None:
        """Print a row of history."""
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
    """Print names and values in two columns."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, "bold"), Text(value))
    console.print(grid)


def print_table(rows: Sequence[Sequence[str]], header: Sequence[str], right: Sequence[int] = ()) -> None:
    """Print a table; `right` are the indices of right-aligned columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column in right else "left", no_wrap=column in right)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


class _Speed:
    """Moving averages of images per second and of the fraction of time spent waiting."""

    def __init__(self):
        self.images_per_s = self.waiting = 0.0
        self.last: float | None = None

    def update(self, images: int, waited_s: float) -> tuple[float, float]:
        now = time.perf_counter()
        if self.last is not None and now > self.last:
            decay = 0.9 if self.images_per_s else 0.0
            self.images_per_s = decay * self.images_per_s + (1 - decay) * images / (now - self.last)
            self.waiting = decay * self.waiting + (1 - decay) * min(1.0, waited_s / (now - self.last))
        self.last = now
        return self.images_per_s, self.waiting


def _progress(status: ProgressColumn, shown: bool = True) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), status, TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
