"""The report of a run: report.html, one page with all numbers and figures in it, and the figures as files beside it."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import style

from ..data.batches import epoch_order, read_batches
from ..data.labels.class_names import readable_class_name
from ..data.pack.reading import describe_splits
from ..diagnosis.causes import Facts, diagnosed
from ..diagnosis.layers import SAMPLE
from ..evaluation.evaluation import Evaluation
from ..evaluation.metrics import Metrics
from ..evaluation.tables import class_rows
from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..notebook import Figure, html_table
from ..preprocessing.augmentation import augmented, draw_mix, training_views
from ..runs.history import History
from ..specs.names import printable
from ..specs.operations import Dropout
from ..specs.shapes import count_towers
from ..training.loop import Training
from .figures import (
    MAX_DRAWN,
    as_pixels,
    confusion_figure,
    images_figure,
    kernels_figure,
    layers_figure,
    pick_examples,
    predictions_figure,
    worst_errors,
)

UNCHANGED = "as they are"
SHOWN, SHOWN_CLASSES, LONGEST = 12, 20, 18
"""Images in a figure of images; classes whose errors are shown without a click; characters of a name in figures."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 1rem auto 4rem; padding: 0 1rem; color: #222 }
h1, h2 { font-weight: 600; line-height: 1.2; overflow-wrap: anywhere } h2 { margin-top: 2.5rem }
table { border-collapse: collapse } th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
.facts td { overflow-wrap: anywhere } .facts td:first-child { white-space: nowrap; color: #666 }
.scroll { overflow-x: auto } .scroll table { white-space: nowrap }
.scroll .number { text-align: right; font-variant-numeric: tabular-nums } tr + tr { border-top: 1px solid #ddd }
summary { margin: 1rem 0 .5rem; cursor: pointer }
figure { margin: 1rem 0 } img { width: 40rem; max-width: 100%; height: auto } figcaption { color: #555 }
pre { white-space: pre-wrap; font: inherit }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } tr + tr { border-color: #444 }
  figcaption, .facts td:first-child { color: #aaa } img { background: #fff } }
"""
SECTIONS = {
    "curves.png": "Training curves|Loss and top-1 error of each epoch. Black: the training images{harder}. "
    "Red: the validation images, as they are.",
    "predictions.png": "Predictions|Images that were not trained on, drawn at random from each class in turn. Above: "
    "the true class. Below: the five most probable classes; a longer bar is a higher probability. Pink is the true "
    "class, blue any other; without pink, the true class is not among the five, or its probability is nearly 0.",
    "errors.png": "The worst errors|The wrong predictions with the highest probabilities, highest first: look here "
    "for wrong labels, and for classes that look alike.",
    "confusion.png": "Confusion matrix|A row for each true class, a column for each predicted class, in percent of "
    "the images of the true class. Correct predictions are on the diagonal.{confused}",
    "batch.png": "What the network saw in training|The images of its first training step: {augmentation}.",
    "kernels.png": "Kernels of the first layer|What the first layer looks for: its weights as colors, on one scale. "
    "Edges and spots of color have been learned; what looks like noise has hardly changed since the start; plain gray "
    "beside a few strong kernels comes from a training that went wrong.{towers}",
    "layers.png": "Layers during training|Above: how much a step changes the weights of a layer, relative to their "
    f"size; about a thousandth is usual. Below: dead units, whose output is 0 for each of {SAMPLE} images. A dead unit "
    "passes nothing on and does not learn; a few are usual, a layer of them is not.",
}
"""By file, in the order of the page: heading and caption."""


@style.context("default")  # whatever the user's matplotlibrc asks for, which may need LaTeX
def write_report(
    folder: Path, record: Mapping, training: Training, bundle: ModelBundle, evaluation: Evaluation
) -> Path:
    """Write report.html and its figures, which are named in SECTIONS.

    Args:
        folder: the run's.
        record: what the run says of itself: data, network, recipe, device, versions.
        training: the finished one; layers.png is left out if it has no layer statistics.
        bundle: the network with the chosen weights.
        evaluation: on the reported split, by all views.

    Returns:
        The path of the page.
    """
    metrics, classes = evaluation.all_views, [*map(readable_class_name, bundle.classes)]
    named = [_short(name) for name in classes]
    if len({*named}) < len(named):
        named = classes
    history, layer_rows = History(training.progress.epochs), training.progress.layers
    figures = {
        "curves.png": history.plot(columns=1),
        "predictions.png": _images(evaluation, pick_examples(metrics, SHOWN), named),
        "batch.png": _batch_figure(training, named),
        "kernels.png": kernels_figure(bundle.network),
        "confusion.png": confusion_figure(metrics, named),
    }
    if len(worst := worst_errors(metrics, SHOWN)):
        figures["errors.png"] = _images(evaluation, worst, named)
    if layer_rows:
        figures["layers.png"] = layers_figure(layer_rows)
    diagnosis = diagnosed(Facts(history, layer_rows)) if layer_rows else None
    words = {"augmentation": _augmentation_in_words(training), "harder": "", "towers": "", "confused": ""}
    if len(classes) > MAX_DRAWN:
        words["confused"] = f" Of {len(classes):,} classes, only those are shown that are confused most often."
    changes = ["augmented"] * (words["augmentation"] != UNCHANGED)
    changes += ["with dropout"] * any(isinstance(step.operation, Dropout) for step in bundle.network.placed)
    if changes:
        words["harder"] = f", {' and '.join(changes)}, which makes them harder"
    if count_towers(bundle.network.placed) == 2:
        words["towers"] = " The two blocks belong to the two towers, which see the same image but hardly each other."
    title = html.escape(folder.name)
    page = [
        f"<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n<title>{title}</title>",
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>\n<style>{STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<div class='facts'>{html_table(list(_facts(record, evaluation).items()))}</div>",
        f"<h2>Errors</h2>\n<div class='scroll'>{html_table(evaluation.rows())}</div>",
        f"<p>{html.escape(evaluation.in_words())} {html.escape(_chance(training, metrics, classes))}</p>",
        f"<details{' open' if len(classes) <= SHOWN_CLASSES else ''}><summary>Errors by class</summary>\n"
        f"<div class='scroll'>{html_table(class_rows(metrics, classes))}</div></details>",
        *([f"<h2>Diagnosis</h2>\n<pre>{html.escape(str(diagnosis))}</pre>"] if diagnosis else []),
        *(
            _section(folder / name, figures[name], *SECTIONS[name].format(**words).split("|"))
            for name in sorted(figures, key=list(SECTIONS).index)
        ),
        "</html>\n",
    ]
    path = folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(printable("\n".join(page)), encoding="utf-8")
    return path


def _short(name: str) -> str:
    """The name of a class where there is little room: without its WordNet ID, and at most LONGEST characters."""
    name = re.sub(r" \(n\d{8}\)$", "", name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _chance(training: Training, metrics: Metrics, classes: Sequence[str]) -> str:
    """The error without a network, to compare with."""
    packed = training.plan.packed
    largest = int(np.bincount(packed.labels[packed.indices("train")]).argmax())
    error = (metrics.labels != largest).float().mean().item()
    return f"For comparison: always predicting {classes[largest]}, the largest class, has an error of {error:.1%}."


def _images(evaluation: Evaluation, chosen: np.ndarray, classes: Sequence[str]) -> Figure:
    images = evaluation.packed.images[evaluation.indices[chosen]]
    return predictions_figure(images, evaluation.all_views.changed(lambda rows: rows[chosen]), classes)


def _batch_figure(training: Training, classes: Sequence[str]) -> Figure:
    """The first images of the first step, as the network saw them."""
    plan, seed, preprocessing = training.plan, training.seed, training.bundle.preprocessing
    order = epoch_order(plan.packed.indices("train"), seed, 0, plan.recipe.shuffle)[:SHOWN]
    (batch,) = read_batches(plan.packed, order, SHOWN, training.device)
    if training.augment:
        batch = replace(batch, images=augmented(batch.images, training.augment))
    views = training_views(batch, plan.recipe, preprocessing, plan.statistics, seed, 0)
    if mix := draw_mix(batch, preprocessing.crop_size, plan.recipe, seed, 0):
        views = mix.apply(views)
    pixels = as_pixels(views, preprocessing, plan.recipe)
    rows = {" " * start: pixels[start : start + 4] for start in range(0, len(pixels), 4)}
    return images_figure(rows, [classes[label] for label in batch.labels])


def _augmentation_in_words(training: Training) -> str:
    recipe = training.plan.recipe
    changes = {
        "cropped": training.bundle.preprocessing.margin > 0,
        "resized": recipe.crop_scale,
        "half of them flipped": recipe.flip,
        "with shifted colors": recipe.color_shift,
        "mixed with one another": recipe.mixup or recipe.cutmix,
    }
    return ", ".join(words for words, is_on in changes.items() if is_on) or UNCHANGED


def _section(path: Path, figure: Figure, heading: str, caption: str) -> str:
    """Save a figure; its section of the page."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=160)
    encoded = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{heading}" src="data:image/png;base64,{encoded}">'
    return f"<h2>{heading}</h2>\n<figure>{image}\n<figcaption>{html.escape(caption)}</figcaption></figure>"


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
        **({"warnings": "; ".join(record["warnings"])} if record.get("warnings") else {}),
    }
