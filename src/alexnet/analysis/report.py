"""The report of a run: report.html, one page with all numbers and figures in it, and the figures as files beside it."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.labels.class_names import readable_class_name
from ..data.pack.reading import describe_splits
from ..diagnosis.causes import Facts, diagnosed
from ..evaluation.evaluation import ERROR_HEADER, Evaluation
from ..evaluation.metrics import Metrics
from ..evaluation.tables import CLASS_HEADER, class_rows
from ..model.bundle import ModelBundle
from ..notebook import Figure, html_table
from ..runs.history import History
from .figures import confusion_figure, kernels_figure, layers_figure, pick_examples, predictions_figure

EXAMPLES = 16
"""Images in the figure of predictions."""

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
    """Write report.html and its figures: curves.png, predictions.png, confusion.png, kernels.png, layers.png.

    Args:
        folder: the run's.
        record: what the run says of itself: data, network, recipe, device, versions.
        evaluation: on the reported split, by all views.
        layer_rows: layer statistics; layers.png is left out if there are none.

    Returns:
        The path of the page.
    """
    metrics, classes = evaluation.all_views, [*map(readable_class_name, bundle.classes)]
    figures = {
        "curves.png": ("Training curves", history.plot()),
        "predictions.png": ("Predictions", _examples_figure(evaluation, classes)),
        "confusion.png": ("Confusion matrix", confusion_figure(metrics, classes)),
        "kernels.png": ("Kernels of the first layer", kernels_figure(bundle.network)),
    }
    if layer_rows:
        figures["layers.png"] = ("Layer statistics during training", layers_figure(layer_rows))
    title = html.escape(folder.name)
    page = [
        f"<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n<title>{title}</title>",
        f"<meta name='viewport' content='width=device-width'>\n<style>{STYLE}</style>",
        f"<h1>{title}</h1>",
        html_table(list(_facts(record, evaluation).items())),
        "<h2>Errors</h2>",
        html_table(evaluation.rows(), ERROR_HEADER),
        *_diagnosis(history, layer_rows),
        *(_saved(folder / name, heading, figure) for name, (heading, figure) in figures.items()),
        "<h2>Errors by class</h2>",
        html_table(class_rows(metrics, classes), CLASS_HEADER),
        "</html>\n",
    ]
    path = folder / "report.html"
    path.write_text("\n".join(page), encoding="utf-8")
    return path


def _examples_figure(evaluation: Evaluation, classes: Sequence[str]) -> Figure:
    metrics = evaluation.all_views
    examples = pick_examples(metrics, EXAMPLES)
    images = evaluation.packed.images[evaluation.indices[examples]]
    return predictions_figure(images, Metrics(metrics.probabilities[examples], metrics.labels[examples]), classes)


def _saved(path: Path, heading: str, figure: Figure) -> str:
    """Save a figure; its section of the page."""
    figure.savefig(path, dpi=110)
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{heading}</h2>\n<img alt="{heading}" src="data:image/png;base64,{encoded}">'


def _diagnosis(history: History, layer_rows: Sequence[dict]) -> list[str]:
    """A section on what is wrong, if anything is."""
    diagnosis = diagnosed(Facts(history, layer_rows)) if layer_rows else None
    return [f"<h2>Diagnosis</h2>\n<p>{html.escape(str(diagnosis))}</p>"] if diagnosis else []


def _facts(record: Mapping, evaluation: Evaluation) -> dict[str, str]:
    """What was trained on what, and how."""
    recipe, versions = record["recipe"], ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    pretrained = f", fine-tuned from {record['pretrained']}" if record.get("pretrained") else ""
    return {
        "data": f"{record['data']}: {describe_splits(evaluation.packed)}",
        "network": record["variant"] + pretrained,
        "recipe": f"{recipe['name']}: {recipe['epochs']} epochs, batch size {recipe['batch_size']}",
        "seed": f"{record['seed']}",
        "device": f"{record['device']}, {record['precision']}; {versions}",
        "weights": record["weights"],
        "errors on": f"{evaluation.split}, {len(evaluation.indices):,} images",
    }
