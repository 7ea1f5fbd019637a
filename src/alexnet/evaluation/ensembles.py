"""Ensembles: the weighted mean of several networks' probabilities (section 6; `avg-valid.py` of the 2012 code)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..compat import renamed_fields
from ..specs.names import listed
from .evaluation import Evaluation
from .metrics import Metrics, top_k_credit

GRID = [step / 20 for step in range(21)]
"""Weights that the search tries: 0, 0.05 … 1."""


@renamed_fields(each="members", searched_on="weight_search")
@dataclass(frozen=True)
class EnsembleEvaluation:
    """Networks evaluated on the same images, each alone and all averaged."""

    members: tuple[Evaluation, ...]
    """Each network alone, with images and classes in the order of the first."""
    average: Evaluation
    weights: tuple[float, ...]
    """Weight of each network in the average."""
    weight_search: Evaluation | None = None
    """The average on the images that the weights were searched on, whose errors are therefore too low; None for equal
    weights."""


def evaluate_average(
    evaluations: Sequence[Evaluation], validation: Sequence[Evaluation] | None = None
) -> EnsembleEvaluation:
    """Evaluate the average of networks from their evaluations on the same images.

    Args:
        evaluations: one per network; images and classes may differ in order and are matched by name.
        validation: one per network, on other images, on which the weights are searched; None: equal weights.

    Raises:
        ValueError: images or classes differ between networks, or the weights would be searched on the images that are
            evaluated.
    """
    members = tuple(matched(evaluations))
    if validation is None:
        weights = (1.0,) * len(members)
        return EnsembleEvaluation(members, averaged(members, weights), weights)
    validation = matched(validation)
    if shared := set(members[0].names) & set(validation[0].names):
        raise ValueError(
            f"weights cannot be searched on images that are evaluated, such as {min(shared)} ({len(shared):,} images): "
            f"search on val and evaluate on test or train, or use equal weights"
        )
    weights = searched_weights(validation)
    return EnsembleEvaluation(members, averaged(members, weights), weights, averaged(validation, weights))


def matched(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations with images and classes in the order of the first; images of the same name keep their order.

    Raises:
        ValueError: images, their labels or the class names differ.
    """
    first = evaluations[0]
    names, classes = first.names, first.packed.classes
    ranks = np.argsort(np.argsort(names, kind="stable"), kind="stable")
    results = [first]
    for other in evaluations[1:]:
        if differing := sorted(set(other.packed.classes) ^ set(classes)):
            raise ValueError(f"the networks must have the same classes, but differ in {listed(differing, 5)}")
        order = np.argsort(other.names, kind="stable")
        if not np.array_equal(other.names[order], np.sort(names)):
            differing = sorted(set(other.names) ^ set(names)) or ["how often an image occurs"]
            raise ValueError(
                f"the networks must be evaluated on the same images, but differ in {differing[0]}; name the data, or "
                f"train them with the same split seed"
            )
        order = torch.from_numpy(order[ranks])
        columns = torch.tensor([other.packed.classes.index(name) for name in classes])
        new_labels = torch.argsort(columns)
        center, all_views = (
            Metrics(metrics.probabilities[order][:, columns], new_labels[metrics.labels[order]])
            for metrics in (other.center, other.all_views)
        )
        if not torch.equal(center.labels, first.center.labels):
            raise ValueError("the same images have different labels for different networks")
        results.append(replace(first, center=center, all_views=all_views, view_count=other.view_count))
    return results


def averaged(evaluations: Sequence[Evaluation], weights: Sequence[float]) -> Evaluation:
    """The weighted mean of the probabilities of networks whose evaluations are `matched`."""
    first = evaluations[0]
    center, all_views = (
        Metrics(_weighted_sum([metrics.probabilities for metrics in each], weights) / sum(weights), each[0].labels)
        for each in zip(*((evaluation.center, evaluation.all_views) for evaluation in evaluations), strict=True)
    )
    view_count = sum(evaluation.view_count for evaluation in evaluations)
    return replace(first, center=center, all_views=all_views, view_count=view_count)


def searched_weights(evaluations: Sequence[Evaluation]) -> tuple[float, ...]:
    """Weights by the coordinate search of 2012, on the probabilities over all views of `matched` evaluations.

    All weights start at 0.5. Each in turn tries 0, 0.05 … 1 and keeps what lowers the top-5 error (with at most five
    classes, the top-1 error), until a pass changes nothing or after five passes. So many trials on one set of images
    overfit it, so the error on these images is too low.
    """
    labels = evaluations[0].all_views.labels
    probabilities = [evaluation.all_views.probabilities for evaluation in evaluations]
    k = 5 if probabilities[0].shape[1] > 5 else 1
    weights = [0.5] * len(probabilities)
    best = before_pass = top_k_credit(_weighted_sum(probabilities, weights), labels, k).sum()
    for _ in range(5):
        for index, own in enumerate(probabilities):
            others = _weighted_sum(probabilities, [*weights[:index], 0.0, *weights[index + 1 :]])
            for value in GRID:
                credit = top_k_credit(others + value * own, labels, k).sum()
                if credit > best and any([*weights[:index], value, *weights[index + 1 :]]):
                    weights[index], best = value, credit
        if best == before_pass:
            break
        before_pass = best
    return tuple(weights)


def _weighted_sum(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return sum(weight * each for weight, each in zip(weights, probabilities, strict=True))
