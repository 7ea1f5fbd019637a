"""Top-1 and top-5 errors (section 6), with ties counted as in the 2012 code, and other metrics."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def top_k_credit(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Credit for each label in the top k, (N,), float64, 0 … 1.

    Classes that tie for the last ranks share them equally (`layer_kernels.cu` of the 2012 code).

    Args:
        scores: (N, classes).
        labels: (N,), int64.
        k: 1 or more; if it exceeds the number of classes, every label gets full credit.
    """
    own = scores.gather(1, labels[:, None])
    ranks_left = k - (scores > own).sum(1)
    tied = (scores == own).sum(1)  # 0 for scores that are not finite: no credit
    return torch.where(tied > 0, ranks_left.double() / tied.clamp(min=1), 0.0).clamp(0, 1)


def confidence_interval(fraction: float, count: int) -> tuple[float, float]:
    """Wilson's interval (1927) of 95% for the true fraction, where one was counted among `count`."""
    z = 1.96
    center = (fraction + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of images, each counted once."""

    probabilities: Tensor
    """(N, classes), float32; rows sum to 1."""
    labels: Tensor
    """(N,), int64."""

    @cached_property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        own = self.probabilities.gather(1, self.labels[:, None]).double()
        return -own.clamp(min=1e-38).log().mean().item()

    @cached_property
    def top1(self) -> float:
        """Top-1 accuracy, 0 … 1."""
        return top_k_credit(self.probabilities, self.labels, 1).mean().item()

    @cached_property
    def top5(self) -> float:
        """Top-5 accuracy, 0 … 1."""
        return top_k_credit(self.probabilities, self.labels, 5).mean().item()

    @cached_property
    def confusion(self) -> Tensor:
        """Confusion matrix, (classes, classes), int64: images of a class (row) predicted as a class (column)."""
        classes = self.probabilities.shape[1]
        cells = self.labels * classes + self.probabilities.argmax(1)
        return torch.bincount(cells, minlength=classes**2).view(classes, classes)

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """Class, predicted class and count of each cell of the confusion matrix that is not 0, by row and column: with
        thousands of classes, hardly any."""
        classes = self.probabilities.shape[1]
        cells, counts = (self.labels * classes + self.probabilities.argmax(1)).unique(return_counts=True)
        return cells // classes, cells % classes, counts

    @cached_property
    def most_predicted_fraction(self) -> float:
        """Fraction of the images predicted as the class that is predicted most often."""
        return (self.probabilities.argmax(1).bincount().max() / len(self.labels)).item()

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
        if self.probabilities.shape[1] <= 5:
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
