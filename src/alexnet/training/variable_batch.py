"""The variable batch size of Krizhevsky (2014): several steps of the fully connected layers in one of the others."""

from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch
from ..device import autocast
from ..preprocessing.augmentation import Mix
from .step import MicroBatches, OutOfMemory, is_out_of_memory


class VariableBatch(MicroBatches):
    """Takes training steps in which the fully connected layers are updated several times.

    A batch passes the convolutions once. Then it is taken in rounds, each with every k-th of its images: from
    their scores follow a step of the fully connected layers, and the gradient of their features, by the weights before
    it. These together give the step of the convolutions. Gradients are clipped in each of the steps by themselves.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        if self.micro_batch is not None:
            raise ValueError(f"micro_batch must be None with fc_batch_size, got {self.micro_batch}")

    def step(self, views: Tensor, batch: Batch, mix: Mix | None = None) -> tuple[float, int]:
        self.notice, count = None, len(batch.labels)
        self.strategy.begin_step(count)
        if mix:
            views = mix.apply(views, self.strategy.rows(count), batch.read)
        try:
            statistics = self._take(views, batch.labels, mix)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"{self._problem(views, len(views))}; use a smaller batch, or more processes") from error
        loss, correct = self.strategy.total(statistics).tolist()
        return loss, round(correct)

    def _take(self, views: Tensor, labels: Tensor, mix: Mix | None) -> Tensor:
        """Update all layers; the loss and the number correct, (2,)."""
        strategy, count = self.strategy, len(labels)
        rounds = -(-count // self.recipe.fc_batch_size)
        self.optimizer.zero_grad()
        with autocast(views.device, self.precision):
            features = strategy.convolved(views, count)
        received = features.detach().requires_grad_(features.requires_grad)
        statistics = torch.zeros(2, device=views.device)
        scored = strategy.in_rounds(received, count, rounds)
        for number in range(rounds):
            with autocast(views.device, self.precision):
                rows, scores = next(scored)
            loss, correct = self._judged(scores, labels, rows, mix)
            loss.backward()
            statistics += torch.stack([loss.detach(), correct])
            images = len(range(number, count, rounds))
            self._update(count / images)  # a mean over the images of the round, not of the batch
            self.optimizer.zero_grad()
        if features.requires_grad:
            features.backward(received.grad)
            self._update()
        return statistics

    def _update(self, factor: float = 1.0) -> None:
        """Update the parameters that have a gradient, by this multiple of it."""
        self.strategy.sum_gradients()
        parameters = [group["params"][0] for group in self.optimizer.param_groups]
        if gradients := [each.grad for each in parameters if each.grad is not None]:
            torch._foreach_mul_(gradients, factor)
        self._clip()
        self.optimizer.step()
