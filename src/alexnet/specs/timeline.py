"""The rates of a recipe over its epochs: as spans, for tables and figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from .recipe import Recipe
from .schedules import LearningRates

SPAN_HEAD = ("epochs", "weights", "biases", "layers of their own", "color shift")
_NEAR = 1e-6
"""Part of a run by which spans are looked at inside of their ends."""


@dataclass(frozen=True)
class Span:
    """Part of a run in which rates stay, or follow one curve."""

    first: float
    """Epoch at which it begins."""
    last: float
    at_first: LearningRates
    at_last: LearningRates


def spans(recipe: Recipe) -> list[Span]:
    """The run from its first epoch to its last.

    LearningRates that follow the validation error are those of a run in which all drops came, at equal distances.
    """
    recipe = replace(recipe, schedule=recipe.schedule.example())
    found: list[Span] = []
    for start, end in pairwise([0.0, *recipe.schedule.breakpoints(), 1.0]):
        at_first, at_last = recipe.learning_rates(start + _NEAR, []), recipe.learning_rates(end - _NEAR, [])
        if found and found[-1].at_first == at_first == at_last:
            found[-1] = replace(found[-1], last=end * recipe.epochs)
        else:
            found.append(Span(start * recipe.epochs, end * recipe.epochs, at_first, at_last))
    return found


def span_rows(recipe: Recipe) -> list[tuple[str, ...]]:
    """A row for each span, in the columns of SPAN_HEAD."""
    return [
        (
            f"{span.first:.4g} – {span.last:.4g}",
            _from_to(span.at_first.weights, span.at_last.weights),
            _from_to(span.at_first.biases, span.at_last.biases),
            "; ".join(f"{layer} {_own(span.at_first.of(layer))}" for layer in span.at_first.layers),
            ("on" if span.at_first.color_shift else "off") if recipe.color_shift else "none",
        )
        for span in spans(recipe)
    ]


def _from_to(first: float, last: float) -> str:
    said = [f"{rate:.3g}" for rate in (first, last)]
    return said[0] if said[0] == said[1] else " to ".join(said)


def _own(rates: tuple[float, float]) -> str:
    return f"{rates[0]:.3g}, {rates[1]:.3g}" if any(rates) else "frozen"
