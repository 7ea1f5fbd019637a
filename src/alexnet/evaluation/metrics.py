"""Top-1 and top-5 errors (section 6), with ties counted as in the 2012 code, and other metrics."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

TOP = 5
"""Most probable classes of an image that are kept."""


def top_k_credit(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Credit for each label in the top k, (N,), float64, 0 … 1.

    Classes that tie for the last ranks share them equally (`layer_kernels.cu` of the 2012 code).

    Args:
        scores: (N, classes).
        labels: (N,), int64.
        k: 1 or more; if it exceeds the number of classes, every label gets full credit.
    """
    return _credit(*_higher_and_tied(scores, labels), k)


def _higher_and_tied(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many classes have a higher score than the label, and how many have the same, itself included, (N,) each."""
    own = scores.gather(1, labels[:, None])
    return (scores > own).sum(1), (scores == own).sum(1)


def _credit(higher: Tensor, tied: Tensor, k: int) -> Tensor:
    # none is tied with a score that is not finite: no credit
    return torch.where(tied > 0, (k - higher).double() / tied.clamp(min=1), 0.0).clamp(0, 1)


def _top_classes(probabilities: Tensor, k: int) -> Tensor:
    """The most probable classes, (N, k), most probable first, ties in the order of the classes."""
    classes = probabilities.shape[1]
    # Floats that are not negative are ordered as their bits are. Below these, the lower class has the higher number.
    keys = (probabilities.view(torch.int32).long() << 32) + torch.arange(classes, 0, -1, device=probabilities.device)
    return classes - (keys.topk(k).values & 0xFFFFFFFF)


def confidence_interval(fraction: float, count: int) -> tuple[float, float]:
    """Wilson's interval (1927) of 95% for the true fraction, where one was counted among `count`."""
    z = 1.96
    center = (fraction + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of images, each counted once, from what is kept of the probabilities of each image."""

    labels: Tensor
    """(N,), int64."""
    num_classes: int
    own: Tensor
    """Probability of the true class, (N,), float32."""
    higher: Tensor
    """Number of classes that are more probable than the true one, (N,), int64."""
    tied: Tensor
    """Number of classes that are as probable as the true one, which is one of them, (N,), int64."""
    top_classes: Tensor
    """The five most probable classes, (N, 5) or (N, classes), int64; most probable first, ties in their order."""
    top_probabilities: Tensor
    """Their probabilities, float32."""
    kept_probabilities: Tensor | None = None
    """Those of all classes, (N, classes), float32, if they are kept."""

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, keep: bool = True) -> Self:
        """The metrics of images with these probabilities.

        Args:
            probabilities: (N, classes); rows sum to 1.
            labels: (N,), int64.
            keep: whether to keep the probabilities of all classes, too.
        """
        probabilities, classes = probabilities.float(), probabilities.shape[1]
        own, ranks = probabilities.gather(1, labels[:, None])[:, 0], _higher_and_tied(probabilities, labels)
        top = _top_classes(probabilities, min(TOP, classes))
        return cls(labels, classes, own, *ranks, top, probabilities.gather(1, top), probabilities if keep else None)

    def room(self, count: int) -> Self:
        """Memory for the metrics of `count` images."""
        return self.changed(lambda rows: rows.new_empty(count, *rows.shape[1:]))

    def write(self, start: int, part: Self) -> None:
        """Replace the images from `start` on by those of a part."""
        for name, column in vars(part).items():
            if isinstance(column, Tensor):
                getattr(self, name)[start : start + len(column)] = column

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Those with every tensor of a row per image changed, such as `metrics.changed(lambda rows: rows[:10])`."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: change(each) for name, each in columns.items() if isinstance(each, Tensor)})

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of all classes, (N, classes), float32; rows sum to 1.

        Raises:
            ValueError: they were not kept.
        """
        if self.kept_probabilities is None:
            size = f"{len(self.labels):,} images and {self.num_classes:,} classes"
            raise ValueError(f"the probabilities of {size} were not kept; evaluate with keep_probabilities=True")
        return self.kept_probabilities

    @property
    def predictions(self) -> Tensor:
        """The most probable class, (N,), int64."""
        return self.top_classes[:, 0]

    @cached_property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return -self.own.double().clamp(min=1e-38).log().mean().item()

    def accuracy(self, k: int) -> float:
        """Top-k accuracy, 0 … 1."""
        return _credit(self.higher, self.tied, k).mean().item()

    @cached_property
    def top1(self) -> float:
        """Top-1 accuracy, 0 … 1."""
        return self.accuracy(1)

    @cached_property
    def top5(self) -> float:
        """Top-5 accuracy, 0 … 1."""
        return self.accuracy(5)

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """Class, predicted class and count of each cell of the confusion matrix that is not 0, by row and column: with
        thousands of classes, hardly any."""
        cells, counts = (self.labels * self.num_classes + self.predictions).unique(return_counts=True)
        return cells // self.num_classes, cells % self.num_classes, counts

    @property
    def confusion(self) -> Tensor:
        """Confusion matrix, (classes, classes), int64: images of a class (row) predicted as a class (column). For many
        classes, take `cells` instead."""
        matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        labels, predictions, counts = self.cells
        matrix[labels, predictions] = counts
        return matrix

    @cached_property
    def most_predicted_fraction(self) -> float:
        """Fraction of the images predicted as the class that is predicted most often."""
        return (self.predictions.bincount().max() / len(self.labels)).item()

    @cached_property
    def top1_relabeled(self) -> float:
        """Top-1 accuracy if each class were matched with the class that it is most often predicted as.

        Classes are matched one to one, greedily from the largest cell of the confusion matrix.
        """
        classes, predictions, counts = self.cells
        order = counts.argsort(descending=True, stable=True)
        correct, matched, used = 0, set(), set()
        cells = zip(*(each[order].tolist() for each in (classes, predictions, counts)), strict=True)
        for label, prediction, count in cells:
            if label not in matched and prediction not in used:
                matched.add(label)
                used.add(prediction)
                correct += count
        return correct / len(self.labels)

    def in_percent(self) -> dict[str, str]:
        """Errors, accuracies and loss by name, as text; top-5 only of more than five classes."""
        by_guesses = {"top-1": self.top1, "top-5": self.top5}
        if self.num_classes <= 5:
            del by_guesses["top-5"]
        errors = {f"{name} error": f"{1 - accuracy:.1%}" for name, accuracy in by_guesses.items()}
        accuracies = {f"{name} accuracy": f"{accuracy:.1%}" for name, accuracy in by_guesses.items()}
        return {**errors, **accuracies, "loss": f"{self.loss:.3f}"}

    def __repr__(self) -> str:
        return f"Metrics({len(self.labels):,} images, top-1 accuracy {self.top1:.1%}, top-5 accuracy {self.top5:.1%})"

    def summary(self) -> dict[str, float]:
        """Image count, loss, accuracies and errors by name, for JSON."""
        return {
            "images": len(self.labels),
            "loss": self.loss,
            "top1_accuracy": self.top1,
            "top5_accuracy": self.top5,
            "top1_error": 1 - self.top1,
            "top5_error": 1 - self.top5,
        }
