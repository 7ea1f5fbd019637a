"""Figures, many after those of the paper; a new one is a function here that returns a `Figure`."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ..data.batches import Batch
from ..data.pack.statistics import compute_statistics
from ..evaluation.metrics import Metrics
from ..model.network import AlexNet
from ..notebook import Figure
from ..preprocessing.augmentation import training_views
from ..preprocessing.preprocessing import Preprocessing
from ..specs.recipe import Recipe
from ..specs.recipe_description import spans
from ..specs.schedules import NEW
from ..specs.shapes import count_towers

WIDTH = 6.0
"""Inches, so that text of 8 to 10 points can be read where a figure is as wide as a phone."""
TRUE_CLASS, OTHER_CLASS = "hotpink", "#8fbbe0"  # light, as names in black stand on both
"""Colors of the bars in Figure 4."""
KERNEL_COLUMNS, PREDICTION_COLUMNS, SCHEDULE_COLUMNS = 16, 3, 4
"""Kernels, images and schedules in a row."""
MAX_LABELED, MAX_DRAWN = 40, 200
"""Classes up to which a confusion matrix is labeled, and up to which it is drawn whole."""
STYLES = {
    "weights": {"color": "black", "linewidth": 1.8},
    "biases": {"color": "tab:blue", "linewidth": 1.4, "linestyle": (0, (5, 2))},
    "conv1": {"color": "tab:red", "linewidth": 1.8, "linestyle": (0, (2, 1))},
    "new layers": {"color": "tab:orange", "linewidth": 1.8, "linestyle": (0, (4, 1, 1, 1))},
    "color shift off": {"color": "tab:green", "linewidth": 1.4, "linestyle": ":"},
}
FROZEN = {"color": "tab:red", "alpha": 0.12, "linewidth": 0}


def colorfulness(network: AlexNet) -> list[float]:
    """By tower, the fraction of the kernels of conv1 that is color: the mean of Σ (w − gray)² / Σ w², where gray is
    what the three channels have in common. 0 for black and white, 2/3 for kernels drawn at random, at most 1.

    In 2012, one tower was "largely color-agnostic" and the other "largely color-specific" (section 6.1).
    """
    weights = network.conv1.weight.detach().double().cpu()  # (N, 3, side, side)
    squares, color = (each.square().flatten(1).sum(1) for each in (weights, weights - weights.mean(1, keepdim=True)))
    return [part.mean().item() for part in (color / squares.clamp_min(1e-30)).chunk(count_towers(network.placed))]


def kernels_figure(network: AlexNet) -> Figure:
    """The kernels of the first convolution as colors (Figure 3), on one scale for all; a block for each tower.

    If there are not three input channels, a kernel is shown as its mean over them.
    """
    weights = network.conv1.weight.detach().float().cpu().numpy().transpose(0, 2, 3, 1)  # (N, side, side, channels)
    if weights.shape[-1] != 3:
        weights = weights.mean(-1, keepdims=True).repeat(3, -1)
    weights = (weights - weights.min()) / (np.ptp(weights) or 1)
    count, side = weights.shape[:2]
    towers = count_towers(network.placed)
    blocks = [_tiled(block) for block in np.split(weights, towers)]
    height = sum(map(len, blocks)) / blocks[0].shape[1] * WIDTH
    figure = Figure(figsize=(WIDTH, height + 0.35 * (towers + 1)), layout="constrained")
    figure.suptitle(f"{count} kernels of conv1, {side} × {side}", fontsize=12)
    for index, (axes, block) in enumerate(zip(np.atleast_1d(figure.subplots(towers)), blocks, strict=True)):
        axes.imshow(block, interpolation="nearest")
        axes.set_axis_off()
        if towers > 1:
            axes.set_title(f"tower {'ab'[index]}, colorfulness {colorfulness(network)[index]:.2f}", fontsize=10)
    return figure


def _tiled(images: np.ndarray) -> np.ndarray:
    """Images of 0 … 1, (N, side, side, 3), in rows with white lines between them."""
    (count, side), columns = images.shape[:2], KERNEL_COLUMNS
    grid = np.ones((math.ceil(count / columns) * (side + 1) + 1, columns * (side + 1) + 1, 3))
    for index, image in enumerate(images):
        top, left = (1 + position * (side + 1) for position in divmod(index, columns))
        grid[top : top + side, left : left + side] = image
    return grid


def images_figure(rows: Mapping[str, np.ndarray], labels: Sequence[str] = (), title: str = "") -> Figure:
    """Rows of images, each with its name above.

    Args:
        rows: by name, uint8 images, (N, side, side, 3).
        labels: texts below the images, row by row.
    """
    columns = max(map(len, rows.values()))
    height = WIDTH / columns + (0.25 if any(rows) else 0) + (0.2 if labels else 0)
    figure = Figure(figsize=(WIDTH, len(rows) * height + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    texts = iter(labels)
    for grid, (name, images) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        grid[0].set_title(name, fontsize=10, loc="left", parse_math=False).set_in_layout(False)
        for axes, image in itertools.zip_longest(grid, images):
            axes.set_axis_off()
            if image is not None:
                axes.imshow(image)
                at = {"ha": "center", "va": "top", "fontsize": 10, "transform": axes.transAxes}
                axes.text(0.5, -0.04, next(texts, ""), parse_math=False, **at)
    return figure


def views_figure(image: np.ndarray, preprocessing: Preprocessing, labels: Sequence[str] = ()) -> Figure:
    """The ten views of an image whose predictions are averaged (section 4.1), and where they are cut from it.

    Args:
        image: stored, (stored_size, stored_size, 3), uint8.
        labels: a text for each view, such as what the network takes it for.

    Raises:
        ValueError: crops are as large as the image, so that all are the same.
    """
    if not preprocessing.margin:
        raise ValueError(f"there is one view only: crops are as large as the stored image, {len(image)} × {len(image)}")
    size, far, center = preprocessing.crop_size, preprocessing.margin, preprocessing.margin // 2
    corners = {"top left": (0, 0), "top right": (0, far), "center": (center, center)}
    corners |= {"bottom left": (far, 0), "bottom right": (far, far)}
    crops = np.stack([image[top : top + size, left : left + size] for top, left in corners.values()])
    rows = [crops, crops[:, :, ::-1]][: preprocessing.view_count // 5]
    figure = Figure(figsize=(9, 1.55 * len(rows) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(rows), 7)
    axes = figure.add_subplot(grid[:, :2])
    axes.imshow(image)
    axes.set_axis_off()
    axes.set_title(f"image, {len(image)} × {len(image)}", fontsize=10)
    for (top, left), color in zip(corners.values(), colormaps["tab10"].colors, strict=False):
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor=color, linewidth=2))
    for row, crops in enumerate(rows):
        for column, (name, crop) in enumerate(zip(corners, crops, strict=True)):
            axes = figure.add_subplot(grid[row, 2 + column])
            axes.imshow(crop)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(edgecolor=colormaps["tab10"].colors[column], linewidth=2)
            axes.set_title(f"{name}, flipped" if row else name, fontsize=8)
            if labels:
                axes.set_xlabel(labels[5 * row + column], fontsize=8, parse_math=False)
    return figure


def augmentation_figure(image: np.ndarray, recipe: Recipe, preprocessing: Preprocessing) -> Figure:
    """One image as a network sees it in six epochs (section 4.1): its crops and flips, the color shift, and both.

    Args:
        image: stored, (stored_size, stored_size, 3), uint8; the color shift follows its own colors.

    Raises:
        ValueError: the recipe leaves images as they are.
    """
    statistics = compute_statistics(image[None], np.arange(1))
    recipe = replace(recipe, crop_group=1)
    middle = replace(preprocessing, stored_size=preprocessing.crop_size, mean=preprocessing.center_crop.mean)
    margin = preprocessing.margin // 2
    center = image[margin : margin + middle.crop_size, margin : margin + middle.crop_size]
    rows = {}
    if preprocessing.margin or recipe.crop_scale or recipe.flip:
        rows["crops and flips"] = preprocessing, image, replace(recipe, color_shift=None)
    if recipe.color_shift:
        rows["color shift"] = middle, center, replace(recipe, crop_scale=None, flip=False)
    if len(rows) == 2:
        rows["both"] = preprocessing, image, recipe
    if not rows:
        raise ValueError(f"the recipe {recipe.name} leaves images as they are: it neither crops nor flips them")
    shown = {}
    for name, (used, pixels, chosen) in rows.items():
        batch = Batch(torch.from_numpy(np.repeat(pixels[None], 6, 0)), torch.zeros(6), np.arange(6), 0)
        shown[name] = as_pixels(training_views(batch, chosen, used, statistics, 0, 0), used, chosen)
    return images_figure(shown, title=f"augmentation of the recipe {recipe.name}")


def as_pixels(views: Tensor, preprocessing: Preprocessing, recipe: Recipe) -> np.ndarray:
    """Views as pixels again, (N, side, side, 3), uint8: what `training_views` did to the colors for the network's sake
    undone, but not the color shift."""
    shift = recipe.color_shift
    divisor = 1 + shift.std if shift and shift.divide else 1.0
    pixels = views.float().permute(0, 2, 3, 1) * preprocessing.std * divisor + preprocessing.center_crop.mean
    return pixels.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def confusion_figure(metrics: Metrics, classes: Sequence[str]) -> Figure:
    """The confusion matrix, in percent of each true class; of many classes, those that are most often confused."""
    shown, title = np.arange(len(classes)), "Predictions by true class (%)"
    if len(classes) > MAX_DRAWN:
        shown = most_confused(metrics, MAX_LABELED)
        title += f", the {len(shown)} classes confused most often"
    labels, predictions, counts = (each.numpy() for each in metrics.cells)
    position = np.full(len(classes), -1)
    position[shown] = np.arange(len(shown))
    drawn = (position[labels] >= 0) & (position[predictions] >= 0)
    percent = np.zeros((len(shown), len(shown)))
    percent[position[labels[drawn]], position[predictions[drawn]]] = 100 * counts[drawn]
    percent /= np.bincount(metrics.labels, minlength=len(classes))[shown, None].clip(1)
    classes = [classes[label] for label in shown]
    size = np.clip(1.5 + 0.45 * len(classes), 5, 20)
    figure = Figure(figsize=(size, size * 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="Predicted class", ylabel="True class", title=title)
    if len(classes) <= MAX_LABELED:
        axes.set_xticks(range(len(classes)), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
        for row, column in zip(*np.nonzero(percent >= 0.5), strict=True):
            value = percent[row, column]
            color = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8)
    return figure


def most_confused(metrics: Metrics, count: int) -> np.ndarray:
    """The classes in the pairs that are most often confused, in either direction; neighbors are such a pair, (count,).
    Where fewer are confused, others follow."""
    labels, predictions, counts = (each.numpy() for each in metrics.cells)
    wrong = labels != predictions
    pairs, indices = np.unique(np.sort([labels[wrong], predictions[wrong]], axis=0), axis=1, return_inverse=True)
    totals = np.bincount(indices.ravel(), counts[wrong], pairs.shape[1])
    in_order = [*pairs[:, np.argsort(-totals, kind="stable")].T.ravel().tolist(), *range(count)]
    return np.array([*dict.fromkeys(in_order)][:count])


def predictions_figure(images: np.ndarray, metrics: Metrics, classes: Sequence[str]) -> Figure:
    """Images with their five most probable classes as bars, the true class in pink (Figure 4, left).

    Args:
        images: (N, side, side, 3), uint8, in the order of `metrics`.
    """
    columns = PREDICTION_COLUMNS
    rows, side = math.ceil(len(images) / columns), WIDTH / columns
    figure = Figure(figsize=(WIDTH, 1.65 * side * rows + 0.4), layout="constrained")
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2, 1.2] * rows)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        label = int(metrics.labels[index])
        picture = figure.add_subplot(grid[2 * row, column])
        picture.imshow(image)
        picture.set_axis_off()
        picture.set_title(classes[label], fontsize=10, fontweight="bold", parse_math=False)
        top = metrics.top_classes[index].tolist(), metrics.top_probabilities[index].tolist()
        probability_bars(figure.add_subplot(grid[2 * row + 1, column]), *top, label, classes)
    return figure


def probability_bars(
    axes: Axes, top5: list[int], probabilities: list[float], label: int, classes: Sequence[str]
) -> None:
    colors = [TRUE_CLASS if predicted == label else OTHER_CLASS for predicted in top5]
    axes.barh(range(len(top5)), probabilities, color=colors)
    for rank, predicted in enumerate(top5):
        axes.text(0.02, rank, classes[predicted], va="center", fontsize=9, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.invert_yaxis()


def layers_figure(rows: Sequence[dict]) -> Figure:
    """The relative size of updates and the fraction of dead units in each layer, over the steps.

    Args:
        rows: layer statistics of a run, at least one.
    """
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    update_axes, dead_axes = figure.subplots(2)
    layers = list(rows[0]["layers"])
    steps = [row["step"] for row in rows]
    for index, layer in enumerate(layers):
        color = colormaps["viridis"](index / max(len(layers) - 1, 1) * 0.9)
        for axes, key, scale in ((update_axes, "ratio", 1), (dead_axes, "dead", 100)):
            values = [row["layers"][layer].get(key) for row in rows]
            if any(value is not None for value in values):
                scaled = [np.nan if value is None else scale * value for value in values]
                axes.plot(steps, scaled, color=color, marker="o", markersize=3, label=layer)
    update_axes.set(title="Norm of the update / norm of the weights", yscale="log")
    dead_axes.set(title="Dead units (%)", ylim=(-2, 102))
    for axes in (update_axes, dead_axes):
        axes.set(xlabel="Step", xscale="log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def pick_examples(metrics: Metrics, count: int) -> np.ndarray:
    """Random indices of images to show, one of each class in turn, so that no class is missing by chance, (count,)."""
    labels = metrics.labels.numpy()
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    rank = np.empty(len(labels), int)  # among the images of its class
    rank[by_class] = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return shuffled[np.argsort(rank[shuffled], kind="stable")][:count]


def learning_rates_figure(recipes: Sequence[Recipe]) -> Figure:
    """Learning rates by epoch, a panel for each recipe, in their order; recipes with the same share one."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        key = repr((recipe.schedule, recipe.epochs, recipe.lr_factor))
        groups.setdefault(key, []).append(recipe)
    columns = min(SCHEDULE_COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    width, height = (3.6, 2.5) if len(groups) > 1 else (7.5, 4.5)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, group in zip(panels.ravel(), groups.values(), strict=False):
        _plot_learning_rates(axes, group[0])
        is_example = group[0].schedule.example() != group[0].schedule
        names = ", ".join(recipe.name for recipe in group)
        axes.set_title(names + (" (an example)" if is_example else ""), fontsize=11)
    for axes in panels.ravel()[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("Learning rate")
    figure.supxlabel("Epoch", fontsize=10)
    keys = {name: Line2D([], [], **style) for name, style in STYLES.items()} | {"frozen layers": Patch(**FROZEN)}
    drawn = {name for axes in figure.axes for name in axes.get_legend_handles_labels()[1]}
    keys = {name: key for name, key in keys.items() if name in drawn}
    figure.legend(keys.values(), keys.keys(), loc="outside upper center", ncols=3 if columns == 1 else 6, frameon=False)
    return figure


def _plot_learning_rates(axes: Axes, recipe: Recipe) -> None:
    """The weights; biases, conv1 and new layers where they differ; frozen layers; the end of the color shift."""
    recipe = replace(recipe, schedule=recipe.schedule.example())
    stretches = spans(recipe)
    inside = np.linspace(1e-6, 1 - 1e-6, 60)
    epochs = np.concatenate([first + (last - first) * inside for first, last, *_ in stretches])
    rates = [recipe.learning_rates(epoch / recipe.epochs, []) for epoch in epochs.tolist()]
    lines = {
        "weights": np.array([each.weights for each in rates]),
        "biases": np.array([each.biases for each in rates]),
        "conv1": np.array([each.of("conv1")[0] for each in rates]),
        "new layers": np.array([each.of(NEW)[0] for each in rates]),
    }
    for name, values in lines.items():
        is_shown = values > 0 if name == "weights" else (values > 0) & (values != lines["weights"])
        if is_shown.any():
            axes.plot(epochs, np.where(is_shown, values, np.nan), label=name, **STYLES[name])
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    color_shift_end = next((first for first, _, rates, _ in stretches if not rates.color_shift), None)
    if recipe.color_shift and color_shift_end is not None:
        axes.axvline(color_shift_end, label="color shift off", **STYLES["color shift off"])
    frozen_from = {
        layer: first
        for first, _, rates, _ in reversed(stretches)
        for layer, lrs in rates.layers.items()
        if not any(lrs)
    }
    if frozen_from:
        axes.axvspan(min(frozen_from.values()), recipe.epochs, label="frozen layers", **FROZEN)
        axes.text(0.97, 0.42, "\n".join(frozen_from), transform=axes.transAxes, ha="right", color="tab:red", fontsize=9)


def worst_errors(metrics: Metrics, count: int) -> np.ndarray:
    """Indices of the images whose wrong class got the highest probabilities, the highest first."""
    is_wrong = metrics.predictions != metrics.labels
    order = torch.where(is_wrong, metrics.top_probabilities[:, 0], -1.0).argsort(descending=True, stable=True)
    return order[: min(count, int(is_wrong.sum()))].numpy()
