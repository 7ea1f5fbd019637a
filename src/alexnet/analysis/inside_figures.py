"""Pictures of what the layers of a network have learned; what they show is computed elsewhere in this room."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.labels.class_names import readable_class_name
from ..notebook import Figure
from .comparison import Comparison
from .explaining import Explanation
from .figures import probability_bars
from .patches import Patch, Patches
from .search import Neighbors
from .shift import Shift

PATCH, GAP, BETWEEN = 56, 2, 10
"""Side of a patch as it is drawn, white between patches, and between a block of patches and the next; pixels."""
UNITS_IN_A_ROW = 4
HEADING = 18
"""Height of the line above a unit, pixels."""
DPI = 100
OKABE_ITO = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"
"""Colors that the color-blind can tell apart (Okabe and Ito 2008)."""
MARKERS = "osv^D*X"
LINES = {"color": "#0072b2"}, {"color": "#d55e00", "linestyle": "--"}
"""Styles of two curves, told apart without color, too."""


def patches_figure(patches: Patches, title: str = "") -> Figure:
    """The strongest patches of each unit, left, and their deconvolutions, right (Zeiler and Fergus 2013, Figure 2)."""
    active = [(unit, each) for unit, each in zip(patches.units, patches.by_unit, strict=True) if each]
    columns = math.ceil(math.sqrt(max((len(each) for _, each in active), default=1)))
    block = columns * (PATCH + GAP)
    width, height = 2 * block + 2 * BETWEEN, block + HEADING + BETWEEN
    rows = math.ceil(len(active) / UNITS_IN_A_ROW) or 1
    canvas = np.full((rows * height, UNITS_IN_A_ROW * width, 3), 255, np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI + 0.6), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, canvas.shape[0] / DPI / figure.get_figheight()))
    axes.set_axis_off()
    for index, (unit, each) in enumerate(active):
        row, column = divmod(index, UNITS_IN_A_ROW)
        top, left = row * height + HEADING, column * width + BETWEEN
        for rank, patch in enumerate(each):
            y, x = top + rank // columns * (PATCH + GAP), left + rank % columns * (PATCH + GAP)
            canvas[y : y + PATCH, x : x + PATCH] = _drawn(patch, patch.pixels, patches.field)
            x += block + BETWEEN // 2
            canvas[y : y + PATCH, x : x + PATCH] = _drawn(patch, _as_gray(patch.deconvolution), patches.field)
        strongest = f"unit {unit}: activations up to {each[0].activation:.3g}"
        axes.text(left, top - 5, strongest, fontsize=8, va="bottom")
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    figure.suptitle(title or str(patches), fontsize=10, y=1 - 0.15 / figure.get_figheight(), parse_math=False)
    return figure


def explanations_figure(explanations: Sequence[Explanation]) -> Figure:
    """A row for each image: as the network saw it, what speaks for the class, and its five likeliest classes."""
    figure = Figure(figsize=(7, 2.3 * len(explanations)), layout="constrained")
    rows = figure.subplots(len(explanations), 3, squeeze=False, width_ratios=(1, 1.25, 1.2))
    for each, (picture, heat, bars) in zip(explanations, rows, strict=True):
        picture.imshow(each.pixels)
        picture.set_title(textwrap.shorten(each.image, 30, placeholder="…"), fontsize=8, parse_math=False)
        gray = each.pixels.mean(2)
        heat.imshow(gray, cmap="gray", vmin=-255, vmax=255)  # light, so that the colors are seen
        scale = np.abs(each.heat).max() or 1
        colors = {"cmap": "PuOr_r", "vmin": -scale, "vmax": scale} if each.heat.min() < 0 else {"cmap": "magma"}
        shown = heat.imshow(each.heat, alpha=0.75, **colors)
        figure.colorbar(shown, ax=heat, label=each.unit, shrink=0.9).ax.tick_params(labelsize=7)
        by = f"{each.method}, {each.layer}" if each.layer else each.method
        heat.set_title(f"{readable_class_name(each.classes[each.target])}, by {by}", fontsize=8, parse_math=False)
        best, names = each.probabilities.argsort()[::-1][:5], [*map(readable_class_name, each.classes)]
        probability_bars(bars, best.tolist(), each.probabilities[best].tolist(), each.target, names)
        bars.set_title("probability, 0 to 1", fontsize=8)
        for axes in (picture, heat):
            axes.set_axis_off()
    return figure


def neighbors_figure(results: Sequence[Neighbors], metric: str) -> Figure:
    """A contact sheet (Figure 4, right): a query in each row, then what is nearest, with its distance and class."""
    columns = 1 + max(len(each.nearest) for each in results)
    figure = Figure(figsize=(1.15 * columns, 1.5 * len(results) + 0.3), layout="constrained")
    for each, row in zip(results, figure.subplots(len(results), columns, squeeze=False), strict=True):
        labels = [textwrap.shorten(Path(each.query).stem or "query", 18, placeholder="…")]
        labels += [f"{readable_class_name(each.images.label(one.index))}\n{one.distance:.3g}" for one in each.nearest]
        shown = [each.pixels, *(each.images.packed.images[one.index] for one in each.nearest)]
        for axes, pixels, label in zip(row, shown, labels, strict=False):
            axes.imshow(pixels)
            axes.set_xlabel(label, fontsize=8, parse_math=False)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=axes is row[0], linewidth=2, edgecolor="black")
    figure.suptitle(f"query, and the nearest images by {metric} distance", fontsize=9)
    return figure


def shift_figure(shift: Shift) -> Figure:
    """Features and probabilities while images move, grow and turn (Zeiler and Fergus 2013, Figure 5)."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = figure.subplots(2, len(shift.curves), sharex="col", sharey="row")
    names = {"vertical shift": "Vertical shift (pixels)", "scale": "Scale (factor)", "rotation": "Rotation (degrees)"}
    for (kind, curve), (above, below) in zip(shift.curves.items(), grid.T, strict=True):
        amounts = curve.amounts * (shift.side if kind == "vertical shift" else 1)
        for (layer, distances), style in zip(curve.distances.items(), LINES, strict=False):
            above.plot(amounts, distances, label=layer, **style)
        below.plot(amounts, curve.probability, color="black")
        below.set(xlabel=names[kind], ylim=(0, 1))
        for axes in (above, below):
            axes.grid(alpha=0.3)
    grid[0, 0].set(ylabel="Distance of the features\n(of their norm)", ylim=(0, None))
    grid[1, 0].set_ylabel("Probability of\nthe true class")
    grid[0, 0].legend(fontsize=8)
    consistency = "" if shift.consistency is None else f"; consistency {shift.consistency:.1%}"
    figure.suptitle(f"means of {shift.images:,} images{consistency}", fontsize=10)
    return figure


def comparison_figure(comparison: Comparison) -> Figure:
    """CKA and RSA by layer, a line for each pair of groups, with 95% confidence intervals over images."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    pairs = list(dict.fromkeys(each.groups for each in comparison.similarities))
    for index, groups in enumerate(pairs):
        own = [each for each in comparison.similarities if each.groups == groups]
        layers = [each.layer for each in own]
        name = f"{own[0].networks} ({own[0].pairs})"
        style = {"marker": MARKERS[index % len(MARKERS)], "linestyle": "--" if "untrained" in name else "-"}
        color = OKABE_ITO[index % len(OKABE_ITO)]
        for axes, values, errors in (
            (panels[0], [each.cka for each in own], [each.cka_error for each in own]),
            (panels[1], [each.rsa for each in own], [each.rsa_error for each in own]),
        ):
            axes.errorbar(layers, values, errors, label=name, color=color, capsize=2, markersize=4, **style)
    for axes, title in zip(panels, ("Debiased linear CKA", "Correlation of dissimilarities (RSA)"), strict=True):
        axes.set_title(title, fontsize=10)
        axes.tick_params(axis="x", rotation=60)
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="Similarity (1: the same)", ylim=(min(0, panels[0].get_ylim()[0]), 1.05))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, ncols=2, title="networks (pairs)")
    return figure


def _as_gray(signal: np.ndarray) -> np.ndarray:
    """A signal as pixels: its 0 as middle gray, and the 99th percentile of its size as black or white."""
    scale = np.percentile(np.abs(signal), 99) or np.abs(signal).max() or 1
    return (127.5 + 127.5 * (signal / scale).clip(-1, 1)).round().astype(np.uint8)


def _drawn(patch: Patch, pixels: np.ndarray, field: int) -> np.ndarray:
    """A patch at the scale of all, (PATCH, PATCH, 3); light where the border of the image cut its receptive field."""
    drawn = np.full((PATCH, PATCH, 3), 235, np.uint8)
    sides = [max(1, min(PATCH, round(PATCH * side / field))) for side in pixels.shape[:2]]
    how = Image.Resampling.LANCZOS if pixels.shape[0] > sides[0] else Image.Resampling.NEAREST
    image = Image.fromarray(pixels).resize(sides[::-1], how)
    starts = [PATCH - side if first == 0 else 0 for side, first in zip(sides, patch.window[:2], strict=True)]
    drawn[starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]] = image
    return drawn
