"""Ensembles: the weighted mean of several networks' probabilities (section 6; `avg-valid.py` of the 2012 code)."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..compat import renamed_fields
from ..parallel.group import Group
from ..specs.names import first_positions, listed
from .evaluation import Evaluation, tallied
from .inference import Inference, Predicted
from .metrics import top_k_credit

GRID = [step / 20 for step in range(21)]
"""Weights that the search tries: 0, 0.05 … 1."""
MAX_BYTES = 2**28
"""Probabilities that the search keeps in memory; more are in a temporary file."""


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
    networks: Sequence[Inference],
    validation: Sequence[Inference] | None = None,
    progress=None,
    group: Group | None = None,
    keep_probabilities: bool | None = None,
    csv: Path | None = None,
) -> EnsembleEvaluation:
    """Evaluate networks on the same images, batch by batch, each alone and their average.

    Args:
        networks: images and classes may differ in order and are matched by name.
        validation: the same networks, on other images, on which the weights are searched; None: equal weights.
        progress, group, keep_probabilities, csv: as for `evaluate`; the file is of the average.

    Raises:
        ValueError: images or classes differ between networks, or the weights would be searched on the images that are
            evaluated.
    """
    networks, group, weights, searched_on = matched(networks), group or Group(), (1.0,) * len(networks), None
    if validation is not None:
        validation = matched(validation)
        if shared := set(networks[0].names) & set(validation[0].names):
            raise ValueError(
                f"weights cannot be searched on images that are evaluated, such as {min(shared)} ({len(shared):,} "
                f"images): search on val and evaluate on test or train, or use equal weights"
            )
        with tempfile.SpooledTemporaryFile(MAX_BYTES) as file:
            stored = _Stored(file, together(validation, group, progress))
            weights = searched_weights(stored, group)
            means = ([averaged(batch, weights)] for batch in stored)
            (searched_on,) = _evaluations(means, validation, group, keep_probabilities)
    batches = ((*batch, averaged(batch, weights)) for batch in together(networks, group, progress))
    *members, average = _evaluations(batches, networks, group, keep_probabilities, csv)
    return EnsembleEvaluation(tuple(members), average, weights, searched_on)


def matched(networks: Sequence[Inference]) -> list[Inference]:
    """The networks with images and classes in the order of the first; images of the same name keep their order.

    Raises:
        ValueError: images, their labels or the class names differ.
    """
    first = networks[0]
    names, classes = first.names, first.packed.classes
    ranks = np.argsort(np.argsort(names, kind="stable"), kind="stable")
    results = [first]
    for other in networks[1:]:
        if differing := sorted(set(other.packed.classes) ^ set(classes)):
            raise ValueError(f"the networks must have the same classes, but differ in {listed(differing, 5)}")
        order = np.argsort(other.names, kind="stable")
        if not np.array_equal(other.names[order], np.sort(names)):
            differing = sorted(set(other.names) ^ set(names)) or ["how often an image occurs"]
            raise ValueError(
                f"the networks must be evaluated on the same images, but differ in {differing[0]}; name the data, or "
                f"train them with the same split seed"
            )
        column_of = first_positions(other.packed.classes)
        columns = np.array([column_of[name] for name in classes])
        packed = replace(other.packed, classes=classes, labels=np.argsort(columns)[other.packed.labels])
        indices = other.indices[order[ranks]]
        if not np.array_equal(packed.labels[indices], first.packed.labels[first.indices]):
            raise ValueError("the same images have different labels for different networks")
        results.append(replace(other, packed=packed, indices=indices, columns=torch.from_numpy(columns)))
    return results


def together(networks: Sequence[Inference], group: Group, progress=None) -> Iterator[tuple[Predicted, ...]]:
    """The batches of this process, each by all networks."""
    first, *others = (network.predicted(group) for network in networks)
    if progress:
        first = progress(first, len(networks[0].dealt(group.size)[group.rank]))
    return zip(first, *others, strict=True)


def averaged(batch: Sequence[Predicted], weights: Sequence[float]) -> Predicted:
    """The weighted mean of the probabilities of several networks for the same images."""
    center, all_views = (
        _weighted_sum(each, weights) / sum(weights)
        for each in ([one.center for one in batch], [one.all_views for one in batch])
    )
    return Predicted(batch[0].labels, center, all_views)


def searched_weights(batches: Iterable[Sequence[Predicted]], group: Group) -> tuple[float, ...]:
    """Weights by the coordinate search of 2012, on the probabilities over all views.

    All weights start at 0.5. Each in turn tries 0, 0.05 … 1 and keeps what lowers the top-5 error (with at most five
    classes, the top-1 error), until a pass changes nothing or after five passes. So many trials on one set of images
    overfit it, so the error on these images is too low.

    Args:
        batches: of this process, by all networks; they are gone through many times.
    """

    def credits(index: int, weights: Sequence[float], values: Sequence[float]) -> list[float]:
        """Credit of all images together, with each of the values as the weight of a network."""
        sums: Tensor | float = 0.0
        for batch in batches:
            others = _weighted_sum([each.all_views for each in batch], [*weights[:index], 0.0, *weights[index + 1 :]])
            k, own = 5 if others.shape[1] > 5 else 1, batch[index].all_views
            sums += torch.stack([top_k_credit(others + value * own, batch[0].labels, k).sum() for value in values])
        return group.all_reduce(sums).tolist()

    weights = [0.5] * len(next(iter(batches)))
    (best,) = before_pass = credits(0, weights, weights[:1])
    for _ in range(5):
        for index in range(len(weights)):
            for value, credit in zip(GRID, credits(index, weights, GRID), strict=True):
                if credit > best and any([*weights[:index], value, *weights[index + 1 :]]):
                    weights[index], best = value, credit
        if [best] == before_pass:
            break
        before_pass = [best]
    return tuple(weights)


class _Stored:
    """Batches by all networks that can be gone through many times, from a file."""

    def __init__(self, file: IO[bytes], batches: Iterable[Sequence[Predicted]]):
        self.file, self.sizes = file, []
        for batch in batches:
            self.sizes.append(len(batch))
            self.device = batch[0].labels.device
            for tensor in (tensor for each in batch for tensor in vars(each.to("cpu")).values()):
                np.save(file, tensor.numpy())

    def __iter__(self) -> Iterator[list[Predicted]]:
        self.file.seek(0)
        for size in self.sizes:
            yield [
                Predicted(*(torch.from_numpy(np.load(self.file)).to(self.device) for _ in range(3)))
                for _ in range(size)
            ]


def _evaluations(
    batches: Iterable[Sequence[Predicted]],
    networks: Sequence[Inference],
    group: Group,
    keep_probabilities: bool | None,
    csv: Path | None = None,
) -> list[Evaluation]:
    """Evaluations of the networks, if the batches have them, and of their average, which stands last."""
    first, counts = networks[0], [network.bundle.preprocessing.view_count for network in networks]
    metrics = tallied(batches, first, group, keep_probabilities, csv)
    counts = [*counts, sum(counts)][-len(metrics) :]
    return [Evaluation(*each, count, first.packed, first.indices) for each, count in zip(metrics, counts, strict=True)]


def _weighted_sum(probabilities: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return sum(weight * each for weight, each in zip(weights, probabilities, strict=True))
