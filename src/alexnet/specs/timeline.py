"""The learning rates of a recipe over its epochs, as spans for tables and figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from .recipe import Recipe
from .schedules import LearningRates

SPAN_HEAD = ("epochs", "learning rate", "of biases", "by layer (weights, biases)", "color shift")
_MARGIN = 1e-6
"""Fraction of the run: the ends of a span are looked at this far inside of it."""


@dataclass(frozen=True)
class Span:
    """A stretch of a run in which the learning rates are constant or follow one curve."""

    first: float
    """Epoch at which it begins."""
    last: float
    """Epoch at which it ends."""
    at_first: LearningRates
    at_last: LearningRates


def spans(recipe: Recipe) -> list[Span]:
    """The run from its first epoch to its last; if it depends on the validation error, an example."""
    recipe = replace(recipe, schedule=recipe.schedule.example())
    result: list[Span] = []
    for start, end in pairwise([0.0, *recipe.schedule.breakpoints(), 1.0]):
        at_first, at_last = recipe.learning_rates(start + _MARGIN, []), recipe.learning_rates(end - _MARGIN, [])
        if result and result[-1].at_first == at_first == at_last:
            result[-1] = replace(result[-1], last=end * recipe.epochs)
        else:
            result.append(Span(start * recipe.epochs, end * recipe.epochs, at_first, at_last))
    return result


def span_rows(recipe: Recipe) -> list[tuple[str, ...]]:
    """A row for each span, in the columns of SPAN_HEAD."""
    return [
        (
            f"{span.first:.4g} – {span.last:.4g}",
            _from_to(span.at_first.weights, span.at_last.weights),
            _from_to(span.at_first.biases, span.at_last.biases),
            "; ".join(f"{layer} {_of_layer(span.at_first.of(layer))}" for layer in span.at_first.layers),
            ("on" if span.at_first.color_shift else "off") if recipe.color_shift else "none",
        )
        for span in spans(recipe)
    ]


def _from_to(first: float, last: float) -> str:
    texts = dict.fromkeys(f"{lr:.3g}" for lr in (first, last))
    return " to ".join(texts)


def _of_layer(lrs: tuple[float, float]) -> str:
    weights, biases = lrs
    return f"{weights:.3g}, {biases:.3g}" if any(lrs) else "frozen"
