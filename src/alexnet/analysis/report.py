"""A run as one page: report.html with its numbers and pictures inside, and the pictures as files beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.labels.class_names import readable_class_name
from ..data.pack.reading import describe_splits
from ..diagnosis.causes import Facts, diagnosed
from ..evaluation.evaluation import Evaluation
from ..evaluation.metrics import Metrics
from ..evaluation.tables import CLASS_HEADER, ERROR_HEADER, class_rows, error_rows
from ..model.bundle import ModelBundle
from ..runs.history import History
from .figures import confusion_figure, kernels_figure, layers_figure, pick_examples, predictions_figure

EXAMPLES = 16
"""Images on the page of predictions."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { font-weight: 600; line-height: 1.2 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse } th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
tr + tr { border-top: 1px solid #ddd } img { max-width: 100% }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } tr + tr { border-color: #444 }
  img { background: #fff } }
"""


def write_report(
    folder: Path,
    record: Mapping,
    history: History,
    bundle: ModelBundle,
    evaluation: Evaluation,
    layer_rows: Sequence[dict],
) -> Path:
    """Draw curves.png, predictions.png, confusion.png, kernels.png and layers.png, and put them into report.html.

    Args:
        folder: of the run.
        evaluation: by all views.

    Returns:
        The path of the page.
    """
    metrics, classes = evaluation.all_views, [*map(readable_class_name, bundle.classes)]
    shown = pick_examples(metrics, EXAMPLES)
    images = evaluation.packed.images[evaluation.indices[shown]]
    pictures = {
        "curves.png": ("Training", history.plot()),
        "predictions.png": (
            "Predictions",
            predictions_figure(images, Metrics(metrics.probabilities[shown], metrics.labels[shown]), classes),
        ),
        "confusion.png": ("Confusion", confusion_figure(metrics, classes)),
        "kernels.png": ("What the first layer sees", kernels_figure(bundle.network)),
    }
    lines = layer_rows
    if lines:
        pictures["layers.png"] = ("Inside while it learnt", layers_figure(lines))
    sections = []
    for name, (title, figure) in pictures.items():
        figure.savefig(folder / name, dpi=110)
        encoded = base64.b64encode((folder / name).read_bytes()).decode()
        sections.append(f'<h2>{title}</h2>\n<img alt="{title}" src="data:image/png;base64,{encoded}">')
    page = "\n".join(
        [
            f"<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n<title>{html.escape(folder.name)}</title>",
            f"<meta name='viewport' content='width=device-width'>\n<style>{STYLE}</style>",
            f"<h1>{html.escape(folder.name)}</h1>",
            table(list(_facts(record, evaluation).items())),
            "<h2>Errors</h2>",
            table(error_rows(evaluation), ERROR_HEADER),
            *(_diagnosis(history, lines)),
            *sections,
            "<h2>By class</h2>",
            table(class_rows(metrics, classes), CLASS_HEADER),
            "</html>\n",
        ]
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _diagnosis(history: History, lines: Sequence[dict]) -> list[str]:
    """A section, where something is wrong."""
    found = diagnosed(Facts(history, lines)) if lines else None
    return [f"<h2>It does not learn as it should</h2>\n<p>{html.escape(str(found))}</p>"] if found else []


def _facts(run: Mapping, evaluation: Evaluation) -> dict[str, str]:
    """What was trained on what, and how."""
    recipe = run["recipe"]
    return {
        "data": f"{run['data']}: {describe_splits(evaluation.packed)}",
        "network": run["variant"] + (f", from {run['pretrained']}" if run.get("pretrained") else ""),
        "recipe": f"{recipe['name']}: {recipe['epochs']} epochs of {recipe['batch_size']} a batch, seed {run['seed']}",
        "device": f"{run['device']}, {run['precision']}; " + ", ".join(f"{k} {v}" for k, v in run["versions"].items()),
        "weights": run["weights"],
        "errors on": f"{evaluation.split}, {len(evaluation.indices):,} images",
    }


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """An HTML table; numbers stand to the right."""

    def cell(value: str) -> str:
        kind = ' class="number"' if value[:1].isdigit() and value[-1:] in "0123456789%" else ""
        return f"<td{kind}>{html.escape(value)}</td>"

    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"] if head else []
    lines += ["<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"
