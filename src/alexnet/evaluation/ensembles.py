"""Several networks together: the mean of their probabilities (section 6; `avg-valid.py` of the 2012 code)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .metrics import Metrics, top_k_credit
from .views import Evaluation

GRID = [step / 20 for step in range(21)]
"""Weights that the search tries: 0, 0.05 … 1."""
PASSES = 5
"""Of the search over all networks, at the most."""


@dataclass(frozen=True)
class Together:
    """Networks on the same images, each alone and all averaged."""

    each: tuple[Evaluation, ...]
    """With images and classes in the order of the first."""
    average: Evaluation
    weights: tuple[float, ...]
    """Of each network in the average."""
    searched_on: Evaluation | None = None
    """The average on the images that chose the weights, so that its errors are too low; None where all are equal."""


def together(evaluations: Sequence[Evaluation], validation: Sequence[Evaluation] | None = None) -> Together:
    """The average of networks that were evaluated on the same images.

    Args:
        evaluations: of each network, in any order of images and classes, which are matched by name.
        validation: of each network on other images, which choose the weights; where None, all weights are equal.

    Raises:
        ValueError: images or classes are not the same for all, or images choose the weights and are counted as well.
    """
    each = matched(evaluations)
    if validation is None:
        weights = (1.0,) * len(each)
        return Together(tuple(each), averaged(each, weights), weights)
    validation = matched(validation)
    if both := set(_names(each[0])) & set(_names(validation[0])):
        raise ValueError(
            f"{len(both):,} images, {min(both)} the first, would choose the weights and be counted as well; weights "
            f"are searched on val, so errors may be counted on test or train, or weights be equal"
        )
    weights = searched_weights(validation)
    return Together(tuple(each), averaged(each, weights), weights, averaged(validation, weights))


def matched(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """All evaluations with images and classes in the order of the first; of images of one name, in the order they have.

    Raises:
        ValueError: images, their classes or the names of classes are not the same for all.
    """
    first = evaluations[0]
    names, classes = _names(first), first.packed.classes
    places = np.argsort(np.argsort(names, kind="stable"), kind="stable")
    found = [first]
    for other in evaluations[1:]:
        if sorted(other.packed.classes) != sorted(classes):
            unlike = sorted(set(other.packed.classes) ^ set(classes))
            raise ValueError(
                f"the networks know different classes: {', '.join(unlike[:5])}{' …' if unlike[5:] else ''}"
            )
        theirs = _names(other)
        order = np.argsort(theirs, kind="stable")
        if len(theirs) != len(names) or not np.array_equal(theirs[order], np.sort(names)):
            unlike = sorted(set(theirs) ^ set(names))
            raise ValueError(
                f"the networks saw different images, {unlike[0] if unlike else 'some more often than once'} one of "
                f"them; name the data, or train them with one split seed"
            )
        order = torch.from_numpy(order[places])
        columns = torch.tensor([other.packed.classes.index(name) for name in classes])
        center, mean = (_reordered(metrics, order, columns) for metrics in (other.center, other.mean))
        if not torch.equal(center.labels, first.center.labels):
            raise ValueError("the same images have other classes for one network than for another")
        found.append(replace(first, center=center, mean=mean, views=other.views))
    return found


def averaged(evaluations: Sequence[Evaluation], weights: Sequence[float]) -> Evaluation:
    """The weighted mean of the probabilities of networks that are `matched`."""
    first = evaluations[0]
    center, mean = (
        Metrics(_sum([metrics.probabilities for metrics in each], weights) / sum(weights), each[0].labels)
        for each in zip(*((evaluation.center, evaluation.mean) for evaluation in evaluations), strict=True)
    )
    return replace(first, center=center, mean=mean, views=sum(evaluation.views for evaluation in evaluations))


def searched_weights(evaluations: Sequence[Evaluation]) -> tuple[float, ...]:
    """The coordinate search of 2012, on the probabilities by all views of networks that are `matched`.

    All weights begin at 0.5. Each in its turn tries 0, 0.05 … 1, and keeps what lowers the top-5 error, or with five
    classes or fewer the top-1 error; until a pass changes nothing, five passes at the most. Many tries at one set of
    images fit it by chance as well, so the error there is too low.
    """
    labels = evaluations[0].mean.labels
    probabilities = [evaluation.mean.probabilities for evaluation in evaluations]
    guesses = 5 if probabilities[0].shape[1] > 5 else 1
    weights = [0.5] * len(probabilities)
    best = right = top_k_credit(_sum(probabilities, weights), labels, guesses).sum()
    for _ in range(PASSES):
        for place, own in enumerate(probabilities):
            others = _sum(probabilities, [*weights[:place], 0.0, *weights[place + 1 :]])
            for value in GRID:
                credit = top_k_credit(others + value * own, labels, guesses).sum()
                if credit > best and any([*weights[:place], value, *weights[place + 1 :]]):
                    weights[place], best = value, credit
        if best == right:
            break
        right = best
    return tuple(weights)


def _sum(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return sum(weight * each for weight, each in zip(weights, probabilities, strict=True))


def _reordered(metrics: Metrics, order: Tensor, columns: Tensor) -> Metrics:
    """Of images in that order, with the classes of those indices."""
    places = torch.argsort(columns)
    return Metrics(metrics.probabilities[order][:, columns], places[metrics.labels[order]])


def _names(evaluation: Evaluation) -> np.ndarray:
    return np.array([evaluation.packed.names[int(number)] for number in evaluation.indices])
