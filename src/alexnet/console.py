"""Progress bars and tables in the terminal, by rich."""

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
        self.epochs, self.images, self.shown, self.waited_s = epochs, images, shown, 0.0
        self.progress = _progress(TextColumn("{task.fields[status]}"), shown)
        self.progress.add_task("epoch 1", total=epochs * images, status="")
        (self.task,) = self.progress.tasks

    def step(self, step) -> None:
        """Show a `training.loop.Step`."""
        self.waited_s += step.waited_s
        speed, waiting = self.task.speed or 0, self.waited_s / max(self.task.elapsed or 0, self.waited_s, 1e-9)
        self.progress.update(
            self.task.id,
            completed=(step.epoch - 1) * self.images + min(step.batch * self.images // step.batches, self.images),
            description=f"epoch {step.epoch}/{self.epochs}",
            status=f"loss {step.loss:.3f}  {speed:,.0f} images/s  waiting {waiting:.0%}",
        )

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


def _progress(status: ProgressColumn, shown: bool = True) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), status, TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
