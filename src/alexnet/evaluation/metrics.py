"""Errors as the paper counts them (section 6), ties as the 2012 code counts them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def top_k_credit(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """How far each label is among the k best, (N,), float64, 0 … 1.

    Where classes tie at the boundary, the places left are shared among them (`layer_kernels.cu` of the 2012 code).

    Args:
        scores: (N, classes).
        labels: (N,), int64.
        k: 1 or more; beyond the number of classes every label counts.
    """
    own = scores.gather(1, labels[:, None])
    places_left = k - (scores > own).sum(1)
    tied = (scores == own).sum(1)  # none where the scores are not finite, which is no credit
    return torch.where(tied > 0, places_left.double() / tied.clamp(min=1), 0.0).clamp(0, 1)


@dataclass(frozen=True)
class Metrics:
    """Of a set of images, each counted once."""

    probabilities: Tensor
    """(N, classes), float32, each row adding up to 1."""
    labels: Tensor
    """(N,), int64."""

    @cached_property
    def loss(self) -> float:
        """Mean negative logarithm of the probability of the right class, nats."""
        own = self.probabilities.gather(1, self.labels[:, None]).double()
        return -own.clamp(min=1e-38).log().mean().item()

    @cached_property
    def top1(self) -> float:
        """Share of images whose best class is the right one."""
        return top_k_credit(self.probabilities, self.labels, 1).mean().item()

    @cached_property
    def top5(self) -> float:
        """Share of images whose five best classes have the right one among them."""
        return top_k_credit(self.probabilities, self.labels, 5).mean().item()

    @cached_property
    def confusion(self) -> Tensor:
        """How many images of each class (rows) were taken for each class (columns), int64."""
        classes = self.probabilities.shape[1]
        pairs = self.labels * classes + self.probabilities.argmax(1)
        return torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    @cached_property
    def largest_answer(self) -> float:
        """Share of the images that get the most frequent answer."""
        return (self.confusion.sum(0).max() / len(self.labels)).item()

    @cached_property
    def top1_renamed(self) -> float:
        """Share that would be right if the classes were called what they are most often taken for, each name once.

        Names are given away in the order of how often they fit.
        """
        truths, answers = self.confusion.nonzero(as_tuple=True)
        counts = self.confusion[truths, answers]
        order = counts.argsort(descending=True, stable=True)
        right, named, taken = 0, set(), set()
        for truth, answer, count in zip(*(each[order].tolist() for each in (truths, answers, counts)), strict=True):
            if truth not in named and answer not in taken:
                named.add(truth)
                taken.add(answer)
                right += count
        return right / len(self.labels)

    def summary(self) -> dict[str, float]:
        return {
            "images": len(self.labels),
            "loss": self.loss,
            "top1_accuracy": self.top1,
            "top5_accuracy": self.top5,
            "top1_error": 1 - self.top1,
            "top5_error": 1 - self.top5,
        }
