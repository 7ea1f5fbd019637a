"""One training step: the gradient of a batch, at once or accumulated over micro-batches, and the update."""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..device import Precision, autocast, is_out_of_memory, return_freed_memory
from ..model.layers import BATCH_NORMS
from ..model.network import are_watched
from ..parallel.strategy import DataParallel
from ..preprocessing.augmentation import Mix
from ..specs.recipe import Recipe
from ..specs.settings import MicroBatch, option
from .optimizer import PaperSGD


class OutOfMemory(ValueError):
    """A step does not fit into memory."""


class MicroBatches:
    """Takes training steps, by gradient accumulation where a batch is split into micro-batches.

    The gradients of the micro-batches add up to that of the entire batch, up to rounding. So that their size changes
    nothing else, dropout masks are then drawn for the entire batch: on the CPU they are the masks of an undivided step,
    on a GPU others of the same distribution. Batch norm takes its statistics over the images that it is given, so a
    network that has it cannot be split.

    Args:
        strategy: its module is in training mode at each step.
        micro_batch: images per micro-batch, on each process; "auto" takes as many as fit into memory, None the entire
            batch.
        class_weights: factors on the losses of images by their class, (classes,); the mean loss is over all images
            alike, so that micro-batches still add up.

    Attributes:
        micro_batch_size: images per micro-batch, None if batches are not split. A resumed run sets what "auto" found.
        notice: what the user should know of the last step, such as the size that "auto" found; usually None.

    Raises:
        ValueError: a size of micro-batches is given for a network with batch norm.
    """

    def __init__(
        self,
        strategy: DataParallel,
        optimizer: PaperSGD,
        recipe: Recipe,
        precision: Precision,
        micro_batch: MicroBatch = None,
        class_weights: Tensor | None = None,
    ):
        self.strategy, self.optimizer, self.recipe, self.precision = strategy, optimizer, recipe, precision
        self.micro_batch, self.class_weights = micro_batch, class_weights
        self.micro_batch_size = None if micro_batch in (None, "auto") else int(micro_batch)
        self.notice: str | None = None
        self._forward: Callable[[Tensor], Tensor] | None = None
        network = strategy.network
        self._has_batch_norm = any(isinstance(module, BATCH_NORMS) for module in network.modules())
        if self.micro_batch_size and self._has_batch_norm:
            raise ValueError(
                f"{network.architecture.name} has batch norm, whose statistics are those of the entire batch, so "
                f"batches cannot be split. Choose a smaller batch size instead of micro_batch"
            )

    def forget_graphs(self) -> None:
        """Capture CUDA graphs anew at the next step: they know the weights by their addresses."""
        self._forward = None

    def step(self, views: Tensor, batch: Batch, mix: Mix | None = None) -> tuple[float, int]:
        """Update the weights once.

        Args:
            views: the images of the batch that are read as the network sees them, (K, channels, side, side).

        Returns:
            The mean loss of the batch, nats, and how many of its images were classified correctly; for mixed images,
            only their own class counts.

        Raises:
            OutOfMemory: the step does not fit into memory, and cannot be split; the message says what would fit.
        """
        self.notice, strategy = None, self.strategy
        largest = strategy.largest_part(len(batch.labels))
        size = fitting = min(self.micro_batch_size or largest, largest)
        if self._forward is None:
            self._forward = _graphed(strategy, views, self.precision)
        strategy.begin_step(len(batch.labels))
        while (statistics := self._tried(views, batch, mix, fitting, fitting == size)) is None:
            torch.cuda.empty_cache()
            return_freed_memory()
            if strategy.exchanges:
                raise OutOfMemory(f"{self._problem(views, size)}; use a smaller batch, or more processes")
            fitting //= 2
            if not fitting:
                problem = f"{views.device} is out of memory: not even one image fits"
                raise OutOfMemory(f"{problem}; use another network or device")
        if fitting < size:
            self._split(views, size, fitting)
        strategy.sum_gradients()
        self._clip()
        self.optimizer.step()
        loss, correct = strategy.total(statistics).tolist()  # one wait for the device
        return loss, round(correct)

    def _clip(self) -> None:
        if self.recipe.max_grad_norm is not None:
            parameters = [group["params"][0] for group in self.optimizer.param_groups]
            self.strategy.clip_gradients(parameters, self.recipe.max_grad_norm)

    def _tried(self, views: Tensor, batch: Batch, mix: Mix | None, size: int, is_first: bool) -> Tensor | None:
        """The statistics of the batch, and its gradient, in micro-batches; None if they do not fit on all processes."""
        statistics = None
        try:
            statistics = self._gradient(views, batch, mix, size, is_first)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only outside of `except` is what did not fit freed.
        return statistics if self.strategy.all_fit(statistics is not None) else None

    def _gradient(self, views: Tensor, batch: Batch, mix: Mix | None, size: int, is_first: bool) -> Tensor:
        """Accumulate the gradient of the mean loss over micro-batches; the loss and the number correct, (2,)."""
        self.optimizer.zero_grad()
        labels, count = batch.labels, len(batch.labels)
        if mix:
            views = mix.apply(views, self.strategy.rows(count), batch.read)
        statistics = torch.zeros(2, device=views.device)
        for images, scored in self.strategy.passes(count, size, is_first):
            with autocast(views.device, self.precision):
                scores = self._forward(views[images])
            loss, correct = self._judged(scores, labels, scored, mix)
            loss.backward()
            statistics += torch.stack([loss.detach(), correct])
        return statistics

    def _judged(self, scores: Tensor, labels: Tensor, rows: slice | Tensor, mix: Mix | None) -> tuple[Tensor, Tensor]:
        """What some images of a batch, whose scores are given, add to its mean loss, and how many are correct."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = self._loss(scores, labels[rows])
        if mix:
            loss = mix.weight * loss + (1 - mix.weight) * self._loss(scores, labels[mix.partners[rows]])
        return loss * (len(scores) / len(labels)), (scores.detach().argmax(1) == labels[rows]).sum()

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        if not len(labels):  # there are fewer images than processes
            return scores.sum()
        if self.class_weights is None:
            return F.cross_entropy(scores, labels, label_smoothing=smoothing)
        # With reduction="mean", torch would divide by the weights of these labels.
        weights = self.class_weights.to(scores.dtype)
        loss = F.cross_entropy(scores, labels, weights, reduction="sum", label_smoothing=smoothing)
        return loss / len(labels)

    def _split(self, views: Tensor, tried: int, fitting: int) -> None:
        """From now on, split batches into micro-batches of the size that fits, if they may be split."""
        problem = self._problem(views, tried)
        if self._has_batch_norm:
            raise OutOfMemory(
                f"{problem}, but {fitting} do: use {option('batch_size', fitting)}, as batch norm cannot be split"
            )
        if self.micro_batch != "auto":
            raise OutOfMemory(
                f"{problem}, but {fitting} do: use {option('micro_batch', fitting)} or auto for the same steps in "
                f"micro-batches, or {option('batch_size', fitting)} for smaller steps"
            )
        self.micro_batch_size = fitting
        self.notice = f"{problem}; batches are split into micro-batches of {fitting}, for the same steps up to rounding"

    def _problem(self, views: Tensor, tried: int) -> str:
        return f"{views.device} is out of memory: {tried} images at a time do not fit"


def _graphed(strategy: DataParallel, views: Tensor, precision: Precision) -> Callable[[Tensor], Tensor]:
    """The module's forward pass in training; with ALEXNET_CUDA_GRAPH=1, two CUDA graphs for it and its backward pass.

    They launch once instead of once per kernel. The network itself stays for evaluation, for the last batch of an
    epoch, which is smaller, and for hooks, which graphs do not call; where batches are divided, there are no graphs.
    """
    network = strategy.module
    if network is not strategy.network or not views.is_cuda or os.environ.get("ALEXNET_CUDA_GRAPH") != "1":
        return network
    captured = nn.Sequential(network).train()  # torch replaces its `forward`, and leaves that of the network
    # Autocast's cache would keep using the weights as they were cast while capturing.
    casts = torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    with casts, torch.random.fork_rng([views.device]):  # capturing draws dropout masks
        torch.cuda.make_graphed_callables(captured, (torch.empty_like(views),))

    def forward(batch: Tensor) -> Tensor:
        replayable = batch.shape == views.shape and not are_watched(network.modules())
        return captured(batch) if replayable else network(batch)

    return forward
