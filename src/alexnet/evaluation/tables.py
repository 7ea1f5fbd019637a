"""Evaluations as rows of a table and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from ..files import atomic_write
from .ensembles import EnsembleEvaluation
from .evaluation import Evaluation
from .metrics import Metrics

ENSEMBLE_HEADER = ("network", "weight", "top-1 error", "top-5 error", "loss")
CLASS_HEADER = ("class", "images", "correct", "most often confused with")


def ensemble_rows(ensemble: EnsembleEvaluation, names: Sequence[str]) -> list[list[str]]:
    """A row for each network alone and one for the average, with the columns of ENSEMBLE_HEADER."""
    weights = [f"{weight / sum(ensemble.weights):.3g}" for weight in ensemble.weights]
    metrics = [evaluation.all_views for evaluation in (*ensemble.members, ensemble.average)]
    return [
        [name, weight, f"{1 - m.top1:.1%}", f"{1 - m.top5:.1%}", f"{m.loss:.3f}"]
        for name, weight, m in zip([*names, "average"], [*weights, ""], metrics, strict=True)
    ]


def change_rows(evaluation: Evaluation, before: Evaluation, cause: str) -> list[list[str]]:
    """The changes of the numbers in `Evaluation.rows`; of errors and accuracies, in percentage points."""
    rows = []
    for views in ("center", "all_views"):
        after, reference = getattr(evaluation, views), getattr(before, views)
        top1, top5 = 100 * (after.top1 - reference.top1), 100 * (after.top5 - reference.top5)
        points = [f"{points + 0.0:+.1f}" for points in (-top1, -top5, top1, top5)]
        name = f"change with {cause}, {'center crop' if views == 'center' else 'all views'}"
        rows.append([name, *points, f"{after.loss - reference.loss:+.3f}"])
    return rows


def class_rows(metrics: Metrics, classes: Sequence[str]) -> list[list[str]]:
    """A row for each class, with the columns of CLASS_HEADER; the count follows the confused class in parentheses."""
    rows = []
    for label, counts in enumerate(metrics.confusion):
        images, correct = int(counts.sum()), int(counts[label])
        wrong = counts.clone()
        wrong[label] = 0
        confused = f"{classes[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else ""
        rows.append([classes[label], f"{images}", f"{correct / images:.1%}" if images else "", confused])
    return rows


def write_probabilities(path: Path, evaluation: Evaluation, classes: Sequence[str]) -> None:
    """Write CSV with a row per image: its name, its class, and the probability of every class over all views."""
    metrics = evaluation.all_views
    rows = zip(evaluation.indices, metrics.labels, metrics.probabilities.tolist(), strict=True)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", *classes))
        for index, label, row in rows:
            names = evaluation.packed.names[index], classes[label]
            writer.writerow((*names, *(f"{probability:.6g}" for probability in row)))
