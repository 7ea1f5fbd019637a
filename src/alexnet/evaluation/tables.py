"""An evaluation as rows to print, and as a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ..files import atomic_write
from .ensembles import Together
from .metrics import Metrics
from .views import Evaluation

ERROR_HEAD = ("", "top-1 error", "top-5 error", "top-1 accuracy", "top-5 accuracy", "loss")
TOGETHER_HEAD = ("network", "weight", "top-1 error", "top-5 error", "loss")
CLASS_HEAD = ("class", "images", "right", "most often taken for")


def error_rows(evaluation: Evaluation) -> list[list[str]]:
    """A row for each way of viewing, in the columns of ERROR_HEAD."""
    views = {"one view, the center": evaluation.center, f"{evaluation.views} views": evaluation.mean}
    return [
        [name, f"{1 - m.top1:.1%}", f"{1 - m.top5:.1%}", f"{m.top1:.1%}", f"{m.top5:.1%}", f"{m.loss:.3f}"]
        for name, m in views.items()
        if m is not None
    ]


def together_rows(found: Together, names: Sequence[str]) -> list[list[str]]:
    """A row for each network alone, and one for all, in the columns of TOGETHER_HEAD."""
    shares = [f"{weight / sum(found.weights):.3g}" for weight in found.weights]
    rows = zip([*names, "average"], [*shares, ""], [*found.each, found.average], strict=True)
    return [
        [name, share, f"{1 - each.mean.top1:.1%}", f"{1 - each.mean.top5:.1%}", f"{each.mean.loss:.3f}"]
        for name, share, each in rows
    ]


def change_rows(evaluation: Evaluation, before: Evaluation, why: str) -> list[list[str]]:
    """By how much each number of `error_rows` is more or less than it was, errors and accuracies in percent points."""
    rows = []
    for view, now, was in (
        ("the center", evaluation.center, before.center),
        ("all views", evaluation.mean, before.mean),
    ):
        top1, top5 = 100 * (now.top1 - was.top1), 100 * (now.top5 - was.top5)
        points = [f"{points + 0.0:+.1f}" for points in (-top1, -top5, top1, top5)]
        rows.append([f"changed by {why}, {view}", *points, f"{now.loss - was.loss:+.3f}"])
    return rows


def class_rows(metrics: Metrics, classes: Sequence[str]) -> list[list[str]]:
    """A row for each class, in the columns of CLASS_HEAD; behind a rival stands how often it was the answer."""
    rows = []
    for label, counts in enumerate(metrics.confusion):
        total, right = int(counts.sum()), int(counts[label])
        wrong = counts.clone()
        wrong[label] = 0
        rival = f"{classes[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else ""
        rows.append([classes[label], f"{total}", f"{right / total:.1%}" if total else "", rival])
    return rows


def write_probabilities(path: Path, evaluation: Evaluation, classes: Sequence[str]) -> None:
    """A line of CSV for every image: its name, its class, and the probability of every class by all views."""
    metrics = evaluation.mean
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", *classes))
        for number, label, row in zip(evaluation.indices, metrics.labels, metrics.probabilities.tolist(), strict=True):
            writer.writerow((evaluation.packed.names[number], classes[label], *(f"{share:.6g}" for share in row)))
