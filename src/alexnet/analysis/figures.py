"""Pictures of a trained network, after the figures of the paper. All return a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import nn

from ..evaluation.metrics import Metrics

RIGHT, WRONG = "hotpink", "tab:blue"
"""Colors of the bars of the true class and of the others, as in Figure 4."""


def kernels_figure(network: nn.Module, columns: int = 16) -> Figure:
    """The kernels of the first convolution as colors (Figure 3), rows of 16, one scale for all.

    With other than three input channels, each kernel is shown by its mean over them.
    """
    weights = network.conv1.weight.detach().float().cpu().numpy().transpose(0, 2, 3, 1)  # (maps, k, k, channels)
    if weights.shape[-1] != 3:
        weights = weights.mean(-1, keepdims=True).repeat(3, -1)
    weights = (weights - weights.min()) / (np.ptp(weights) or 1)
    count, side = weights.shape[:2]
    rows = -(-count // columns)
    sheet = np.ones((rows * (side + 1) + 1, columns * (side + 1) + 1, 3))
    for number, kernel in enumerate(weights):
        top, left = (1 + place * (side + 1) for place in divmod(number, columns))
        sheet[top : top + side, left : left + side] = kernel
    width = 10
    figure = Figure(figsize=(width, width * sheet.shape[0] / sheet.shape[1] + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"{count} kernels of conv1, {side} × {side}")
    return figure


def confusion_figure(metrics: Metrics, classes: Sequence[str]) -> Figure:
    """Which classes are taken for which, in percent of each true class."""
    counts = metrics.confusion.numpy()
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    size = np.clip(1.5 + 0.45 * len(classes), 5, 20)
    figure = Figure(figsize=(size, size * 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="Answer", ylabel="Truth", title="Answers by true class (%)")
    if len(classes) <= 40:
        places = range(len(classes))
        axes.set_xticks(places, classes, rotation=90, parse_math=False)
        axes.set_yticks(places, classes, parse_math=False)
        for truth in places:
            for answer in places:
                if shares[truth, answer] >= 0.5:
                    color = "white" if shares[truth, answer] > 55 else "black"
                    axes.text(
                        answer, truth, f"{shares[truth, answer]:.0f}", ha="center", va="center", color=color, fontsize=8
                    )
    return figure


def predictions_figure(
    images: np.ndarray, metrics: Metrics, classes: Sequence[str], title: str = "", columns: int = 4
) -> Figure:
    """Images with their five likeliest classes as bars, the true class pink (Figure 4, left).

    Args:
        images: (N, side, side, 3), uint8, in the order of `metrics`.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.4 * rows + 0.4), layout="constrained")
    if title:
        figure.suptitle(title, parse_math=False)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.2, 1.1] * rows)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        probabilities, truth = metrics.probabilities[number].numpy(), int(metrics.labels[number])
        picture = figure.add_subplot(grid[2 * row, column])
        picture.imshow(image)
        picture.set_axis_off()
        picture.set_title(classes[truth], fontsize=10, fontweight="bold", parse_math=False)
        bars = figure.add_subplot(grid[2 * row + 1, column])
        best = probabilities.argsort()[::-1][:5]
        bars.barh(range(len(best)), probabilities[best], color=[RIGHT if label == truth else WRONG for label in best])
        for place, label in enumerate(best):
            bars.text(0.02, place, classes[label], va="center", fontsize=8, parse_math=False)
        bars.set_xlim(0, 1)
        bars.set_xticks([])
        bars.set_yticks([])
        bars.invert_yaxis()
    return figure


def layers_figure(lines: Sequence[dict]) -> Figure:
    """How far a step changes the weights of each layer, and which share of its units is dead, over the steps.

    Args:
        lines: of layers.jsonl.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    ratio, dead = figure.subplots(1, 2)
    names = list(lines[0]["layers"])
    steps = [line["step"] for line in lines]
    for number, name in enumerate(names):
        color = colormaps["viridis"](number / max(len(names) - 1, 1) * 0.9)
        for axes, what, scale in ((ratio, "ratio", 1), (dead, "dead", 100)):
            values = [line["layers"][name].get(what) for line in lines]
            if any(value is not None for value in values):
                shown = [np.nan if value is None else scale * value for value in values]
                axes.plot(steps, shown, color=color, marker="o", markersize=3, label=name)
    ratio.set(title="Update over weights", yscale="log")
    dead.set(title="Units that never answer (%)", ylim=(-2, 102))
    for axes in (ratio, dead):
        axes.set(xlabel="Step", xscale="log")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    return figure


def pick_examples(metrics: Metrics, count: int, seed: int = 0) -> np.ndarray:
    """Positions of images to show: drawn at random, one of each class in turn, so that none is left out by luck."""
    labels = metrics.labels.numpy()
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return shuffled[np.argsort(rank[shuffled], kind="stable")][:count]
