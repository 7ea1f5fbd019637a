"""The rates of recipes over their epochs, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..specs.recipe import Recipe
from ..specs.schedules import NEW
from ..specs.timeline import spans

POINTS = 60
"""Along each span."""
STYLES = {
    "weights": {"color": "black", "linewidth": 1.8},
    "biases": {"color": "tab:blue", "linewidth": 1.4, "linestyle": (0, (5, 2))},
    "conv1": {"color": "tab:red", "linewidth": 1.8, "linestyle": (0, (2, 1))},
    "new layers": {"color": "tab:orange", "linewidth": 1.8, "linestyle": (0, (4, 1, 1, 1))},
    "color shift off": {"color": "tab:green", "linewidth": 1.4, "linestyle": ":"},
}
FROZEN = {"color": "tab:red", "alpha": 0.12, "linewidth": 0}


def rates_figure(recipes: Sequence[Recipe], columns: int = 4) -> Figure:
    """A panel for each recipe, in their order; those with the same rates share one. A matplotlib figure."""
    alike: list[list[Recipe]] = []
    for recipe in recipes:
        group = next((each for each in alike if _same_rates(each[0], recipe)), None)
        if group is None:
            alike.append([recipe])
        else:
            group.append(recipe)
    columns = min(columns, len(alike))
    rows = -(-len(alike) // columns)
    width, height = (3.6, 2.5) if len(alike) > 1 else (7.5, 4.5)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, group in zip(panels.ravel(), alike, strict=False):
        _draw(axes, group[0])
        follows = " (an example)" if group[0].schedule.example() != group[0].schedule else ""
        axes.set_title(", ".join(recipe.name for recipe in group) + follows, fontsize=11)
    for axes in panels.ravel()[len(alike) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("Learning rate")
    figure.supxlabel("Epoch", fontsize=10)
    keys = {name: Line2D([], [], **style) for name, style in STYLES.items()} | {"frozen layers": Patch(**FROZEN)}
    figure.legend(keys.values(), keys.keys(), loc="outside upper center", ncols=len(keys), frameon=False)
    return figure


def _same_rates(one: Recipe, other: Recipe) -> bool:
    return (one.schedule, one.epochs, one.lr_factor) == (other.schedule, other.epochs, other.lr_factor)


def _draw(axes: Axes, recipe: Recipe) -> None:
    """Weights; biases, conv1 and new layers where their rates are others; what is frozen; when the color shift ends."""
    recipe = replace(recipe, schedule=recipe.schedule.example())
    found = spans(recipe)
    inside = np.linspace(1e-6, 1 - 1e-6, POINTS)
    epochs = np.concatenate([span.first + (span.last - span.first) * inside for span in found])
    rates = [recipe.learning_rates(epoch / recipe.epochs, []) for epoch in epochs.tolist()]
    lines = {
        "weights": np.array([each.weights for each in rates]),
        "biases": np.array([each.biases for each in rates]),
        "conv1": np.array([each.of("conv1")[0] for each in rates]),
        "new layers": np.array([each.of(NEW)[0] for each in rates]),
    }
    for name, values in lines.items():
        apart = values != lines["weights"] if name != "weights" else np.ones(len(values), bool)
        if apart.any():
            axes.plot(epochs, np.where(apart & (values > 0), values, np.nan), **STYLES[name])
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.margins(x=0.02)
    color_off = next((span.first for span in found if not span.at_first.color_shift), None)
    if recipe.color_shift and color_off is not None:
        axes.axvline(color_off, **STYLES["color shift off"])
    frozen = {
        name: span.first for span in reversed(found) for name, own in span.at_first.layers.items() if not any(own)
    }
    if frozen:
        axes.axvspan(min(frozen.values()), recipe.epochs, **FROZEN)
        axes.text(0.97, 0.42, "\n".join(frozen), transform=axes.transAxes, ha="right", color="tab:red", fontsize=9)
