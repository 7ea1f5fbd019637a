"""Evaluations as rows of a table."""

from collections.abc import Sequence

from .ensembles import EnsembleEvaluation
from .evaluation import Evaluation
from .metrics import Metrics


def ensemble_rows(ensemble: EnsembleEvaluation, names: Sequence[str]) -> list[dict[str, str]]:
    """A row of a table for each network alone and one for the average."""
    weights = [f"{weight / sum(ensemble.weights):.3g}" for weight in ensemble.weights]
    metrics = [evaluation.all_views for evaluation in (*ensemble.members, ensemble.average)]
    return [
        {"network": name, "weight": weight}
        | {column: text for column, text in each.in_percent().items() if "accuracy" not in column}
        for name, weight, each in zip([*names, "average"], [*weights, ""], metrics, strict=True)
    ]


def change_rows(evaluation: Evaluation, before: Evaluation, cause: str) -> list[dict[str, str]]:
    """The changes of the numbers in `Evaluation.rows`; of errors and accuracies, in percentage points."""
    rows = []
    for views in ("center", "all_views"):
        after, reference = getattr(evaluation, views), getattr(before, views)
        top1, top5 = 100 * (after.top1 - reference.top1), 100 * (after.top5 - reference.top5)
        points = {"top-1 error": -top1, "top-5 error": -top5, "top-1 accuracy": top1, "top-5 accuracy": top5}
        change = {name: f"{points[name] + 0.0:+.1f}" for name in after.in_percent() if name in points}
        name = f"change with {cause}, {'center crop' if views == 'center' else 'all views'}"
        rows.append({"": name, **change, "loss": f"{after.loss - reference.loss:+.3f}"})
    return rows


def class_rows(metrics: Metrics, classes: Sequence[str]) -> list[dict[str, str]]:
    """A row of a table for each class; the count follows the confused class in parentheses."""
    rows = []
    predicted: dict[int, dict[int, int]] = {}
    for label, prediction, count in zip(*(each.tolist() for each in metrics.cells), strict=True):
        predicted.setdefault(label, {})[prediction] = count
    for label in range(len(classes)):
        counts = predicted.get(label, {})
        images, correct = sum(counts.values()), counts.pop(label, 0)
        most = max(counts, key=counts.get, default=None)
        confused = "" if most is None else f"{classes[most]} ({counts[most]})"
        percent = f"{correct / images:.1%}" if images else ""
        row = {"class": classes[label], "images": f"{images}", "correct": percent, "most often confused with": confused}
        rows.append(row)
    return rows
