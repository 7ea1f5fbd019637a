"""Top-1 and top-5 errors by the center crop and by all views, counted batch by batch (section 6)."""

import contextlib
import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ..compat import renamed_fields
from ..data.pack.reading import Pack
from ..data.source import SPLITS
from ..device import Precision
from ..files import NAMES, CsvWriter, atomic_write
from ..model.bundle import ModelBundle
from ..notebook import html_table
from ..parallel.group import Group
from .inference import Inference, Predicted, image_names
from .metrics import Metrics, confidence_interval

AFFORDABLE = 2**24
"""Probabilities up to which those of all images and classes are kept (64 MB)."""


@renamed_fields(mean="all_views", views="view_count")
@dataclass(frozen=True)
class Evaluation:
    """A network's metrics on a set of images."""

    center: Metrics
    """By the center crop."""
    all_views: Metrics | None
    """By the mean of the softmax over all views (ten-crop); None if only the center was evaluated."""
    view_count: int
    """Views per image: ten, or the five that are not flipped if the network was trained without flips."""
    packed: Pack
    indices: np.ndarray
    """Indices of the images in the pack, (N,), in the order of the metrics."""

    @property
    def split(self) -> str:
        """The split that the images belong to, "all images" if they belong to several."""
        splits = set(self.packed.splits[self.indices].tolist())
        return SPLITS[splits.pop()] if len(splits) == 1 else "all images"

    @cached_property
    def names(self) -> np.ndarray:
        """Names of the images, (N,)."""
        return image_names(self.packed, self.indices)

    def rows(self) -> list[dict[str, str]]:
        """A row of a table for the center crop and one for all views."""
        by_views = {"center crop": self.center, f"{self.view_count} views": self.all_views}
        return [{"": name, **metrics.in_percent()} for name, metrics in by_views.items() if metrics is not None]

    def in_words(self) -> str:
        """The top-1 error and how sure it is."""
        metrics, views = self.center, "the center crop"
        if self.all_views:
            metrics, views = self.all_views, f"{self.view_count} views"
        low, high = confidence_interval(1 - metrics.top1, len(metrics.labels))
        return (
            f"On {len(metrics.labels):,} images, the top-1 error with {views} is {1 - metrics.top1:.1%} "
            f"(95% confidence interval: {low:.1%} to {high:.1%})."
        )

    def __repr__(self) -> str:
        top1 = ", ".join(f"{row['top-1 accuracy']} with {row['']}" for row in self.rows())
        return f"Evaluation({self.packed.name}, {self.split}, {len(self.indices):,} images: top-1 accuracy {top1})"

    def _repr_html_(self) -> str:
        title = html.escape(f"{self.packed.name}, {self.split}: {len(self.indices):,} images")
        return f"<p>{title}</p>{html_table(self.rows())}"

    def summary(self) -> dict[str, dict[str, float]]:
        """The metrics by name, for JSON."""
        return {"center": self.center.summary(), "all_views": self.all_views.summary()}


def evaluate(
    bundle: ModelBundle,
    packed: Pack,
    indices: np.ndarray,
    all_views: bool = True,
    precision: Precision = "fp32",
    progress=None,
    group: Group | None = None,
    keep_probabilities: bool | None = None,
    csv: Path | None = None,
) -> Evaluation:
    """Evaluate a network once on every image of `indices`, in memory that hardly depends on the number of classes.

    Args:
        progress: wraps the iterable of batches; called with it and the number of images.
        group: the processes that share the work; all have the whole result, which is that of one process, bit by bit.
        keep_probabilities: whether to keep the probabilities of every image and class; None: if they are few.
        csv: file to write with these probabilities, over all views.

    Raises:
        ValueError: there are no images, or their stored size is not the network's.
    """
    inference, group = Inference(bundle, packed, indices, all_views, precision), group or Group()
    batches = inference.predicted(group)
    if progress:
        batches = progress(batches, len(inference.dealt(group.size)[group.rank]))
    ((center, mean),) = tallied(((batch,) for batch in batches), inference, group, keep_probabilities, csv)
    return Evaluation(center, mean, bundle.preprocessing.view_count, packed, indices)


def tallied(
    batches: Iterable[Sequence[Predicted]],
    inference: Inference,
    group: Group,
    keep_probabilities: bool | None = None,
    csv: Path | None = None,
) -> list[tuple[Metrics, Metrics | None]]:
    """Metrics by the center crop and by all views, of one or more sets of probabilities of the same images.

    Args:
        batches: for each batch of this process, its probabilities in each set.
        inference: the images, and how they are divided over processes.
        keep_probabilities, csv: as for `evaluate`; the file is of the last set.
    """
    keep = keep_probabilities
    if keep is None:
        keep = len(inference.indices) * len(inference.packed.classes) <= AFFORDABLE
    dealt = inference.dealt(group.size)
    # Small tensors that stayed from each batch would break up the memory that the next one needs.
    own: list[list[Metrics | None]] = []
    start, count = 0, len(dealt[group.rank])
    with _probability_table(csv, inference, group) if csv else contextlib.nullcontext() as append:
        for batch in batches:
            parts = [each.metrics(keep) for each in batch]
            own = own or [[views and views.room(count) for views in each] for each in parts]
            for metrics, part in zip(chain(*own), chain(*parts), strict=True):
                if metrics:
                    metrics.write(start, part)
            start += len(batch[0].labels)
            if append:
                append(batch[-1])
    sizes, order = [*map(len, dealt)], torch.from_numpy(np.argsort(np.concatenate(dealt)))

    def gathered(metrics: Metrics) -> Metrics:
        """Metrics of the images of all processes, in their order."""
        return metrics.changed(lambda rows: group.gather(rows, 0, sizes).cpu()[order])

    return [(gathered(center), all_views and gathered(all_views)) for center, all_views in own]


@contextlib.contextmanager
def _probability_table(path: Path, inference: Inference, group: Group) -> Iterator[Callable[[Predicted], None]]:
    """A function that all processes give their batches in turn, and that writes a row of CSV for each image: its name,
    its class, and the probability of every class. The file appears, complete, at the end."""
    packed, written = inference.packed, 0
    with contextlib.ExitStack() as stack:
        if group.is_first:
            temporary = stack.enter_context(atomic_write(path))
            writer = CsvWriter(stack.enter_context(temporary.open("w", newline="", **NAMES)))
            writer.writerow(("image", "class", *packed.classes))

        def append(batch: Predicted) -> None:
            nonlocal written
            rows = group.gather(batch.center if batch.all_views is None else batch.all_views)
            indices = inference.indices[written : written + len(rows)]
            written += len(rows)
            for index, row in zip(indices, rows.tolist(), strict=True) if group.is_first else ():
                names = packed.names[index], packed.classes[packed.labels[index]]
                writer.writerow((*names, *(f"{probability:.6g}" for probability in row)))

        yield append
