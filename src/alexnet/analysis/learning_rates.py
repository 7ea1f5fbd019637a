"""The learning rates of recipes over their epochs, plotted."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..specs.recipe import Recipe
from ..specs.recipe_description import spans
from ..specs.schedules import NEW

POINTS = 60
"""Points per span."""
STYLES = {
    "weights": {"color": "black", "linewidth": 1.8},
    "biases": {"color": "tab:blue", "linewidth": 1.4, "linestyle": (0, (5, 2))},
    "conv1": {"color": "tab:red", "linewidth": 1.8, "linestyle": (0, (2, 1))},
    "new layers": {"color": "tab:orange", "linewidth": 1.8, "linestyle": (0, (4, 1, 1, 1))},
    "color shift off": {"color": "tab:green", "linewidth": 1.4, "linestyle": ":"},
}
FROZEN = {"color": "tab:red", "alpha": 0.12, "linewidth": 0}


def learning_rates_figure(recipes: Sequence[Recipe], columns: int = 4) -> Figure:
    """A panel for each recipe, in their order; recipes with the same learning rates share one."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        key = repr((recipe.schedule, recipe.epochs, recipe.lr_factor))
        groups.setdefault(key, []).append(recipe)
    columns = min(columns, len(groups))
    rows = math.ceil(len(groups) / columns)
    width, height = (3.6, 2.5) if len(groups) > 1 else (7.5, 4.5)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, group in zip(panels.ravel(), groups.values(), strict=False):
        _plot(axes, group[0])
        is_example = group[0].schedule.example() != group[0].schedule
        names = ", ".join(recipe.name for recipe in group)
        axes.set_title(names + (" (an example)" if is_example else ""), fontsize=11)
    for axes in panels.ravel()[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("Learning rate")
    figure.supxlabel("Epoch", fontsize=10)
    keys = {name: Line2D([], [], **style) for name, style in STYLES.items()} | {"frozen layers": Patch(**FROZEN)}
    figure.legend(keys.values(), keys.keys(), loc="outside upper center", ncols=len(keys), frameon=False)
    return figure


def _plot(axes: Axes, recipe: Recipe) -> None:
    """The weights; biases, conv1 and new layers where they differ; frozen layers; the end of the color shift."""
    recipe = replace(recipe, schedule=recipe.schedule.example())
    stretches = spans(recipe)
    inside = np.linspace(1e-6, 1 - 1e-6, POINTS)
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
            axes.plot(epochs, np.where(is_shown, values, np.nan), **STYLES[name])
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    color_shift_end = next((first for first, _, rates, _ in stretches if not rates.color_shift), None)
    if recipe.color_shift and color_shift_end is not None:
        axes.axvline(color_shift_end, **STYLES["color shift off"])
    frozen_from = {
        layer: first
        for first, _, rates, _ in reversed(stretches)
        for layer, lrs in rates.layers.items()
        if not any(lrs)
    }
    if frozen_from:
        axes.axvspan(min(frozen_from.values()), recipe.epochs, **FROZEN)
        axes.text(0.97, 0.42, "\n".join(frozen_from), transform=axes.transAxes, ha="right", color="tab:red", fontsize=9)
