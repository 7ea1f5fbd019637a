"""One step of training: the gradient of a batch, at once or in parts, and the update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from numbers import Integral
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch
from ..device import Precision, autocast
from ..model.network import AlexNet
from ..preprocessing.mixing import Mix
from ..specs.architecture import Dropout
from ..specs.recipe import Recipe
from .optimizer import PaperSGD

MicroBatch = int | Literal["auto"] | None
"""How many images of a step are worked on at a time: so many, as many as fit into the memory, or all."""


def checked_micro_batch(asked: MicroBatch) -> MicroBatch:
    """What was asked for, as Python's int where it is a number.

    Raises:
        ValueError: it is below 1, no whole number, or another word.
    """
    if asked in (None, "auto"):
        return asked
    if not isinstance(asked, Integral) or isinstance(asked, bool) or asked < 1:
        raise ValueError(f"micro_batch is {asked!r}; it may be 1 or more, whole, or 'auto'")
    return int(asked)


class OutOfMemory(ValueError):
    """A step does not fit into the memory."""


def train_step(
    scores_of: Callable[[Tensor], Tensor],
    optimizer: PaperSGD,
    views: Tensor,
    batch: Batch,
    recipe: Recipe,
    precision: Precision,
    mix: Mix | None = None,
) -> tuple[float, int]:
    """One update; the mean loss of the batch, nats, and how many of it were right.

    Of images that are mixed, only their own class counts as right.

    Args:
        scores_of: the network in training mode, or what stands for it.
        views: of the images of the batch, (N, channels, side, side).
    """
    optimizer.zero_grad()
    found = add_gradient(scores_of, views, batch, recipe, precision, mix)
    return update(optimizer, recipe, found)


def add_gradient(
    scores_of: Callable[[Tensor], Tensor],
    views: Tensor,
    batch: Batch,
    recipe: Recipe,
    precision: Precision,
    mix: Mix | None = None,
    at_a_time: int | None = None,
) -> Tensor:
    """Add the gradient of the mean loss of a batch to what the parameters have; loss and number right, (2,), float32.

    Args:
        at_a_time: images worked on at once, all where None. The sum over the parts is the gradient of the whole, but
            for rounding.
    """
    count = len(views)
    views = mix.apply(views) if mix else views
    others = batch.labels[mix.partners] if mix else None
    found = torch.zeros(2, device=views.device)
    for first in range(0, count, at_a_time or count):
        part = slice(first, first + (at_a_time or count))
        with autocast(views.device, precision):
            scores = scores_of(views[part])
        scores, labels = scores.float(), batch.labels[part]
        loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
        if mix:
            other = F.cross_entropy(scores, others[part], label_smoothing=recipe.label_smoothing)
            loss = mix.weight * loss + (1 - mix.weight) * other
        loss = loss * (len(labels) / count)
        loss.backward()
        found += torch.stack([loss.detach(), (scores.detach().argmax(1) == labels).sum()])
    return found


def update(optimizer: PaperSGD, recipe: Recipe, found: Tensor) -> tuple[float, int]:
    """Move the weights along their gradient; what `add_gradient` found, as numbers."""
    if recipe.max_grad_norm is not None:
        parameters = [group["params"][0] for group in optimizer.param_groups]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
    optimizer.step()
    loss, right = found.tolist()  # one wait for the device
    return loss, round(right)


class MicroBatches:
    """Steps that are taken in parts where asked for, or where they do not fit into the memory otherwise.

    Gradients of parts add up to that of the whole batch, but for rounding. So that the size of the parts changes
    nothing else, dropout is drawn for the whole batch beforehand: on the processor these are the very draws of an
    undivided step, on a GPU others of the same kind. Batch norm takes its means over what it is given, so its networks
    cannot be split.

    Args:
        asked: images at a time.
        at_a_time: what "auto" came to in an earlier part of the run, where it did.
        say: is told once what fits.

    Raises:
        ValueError: the network has batch norm and is to be split, or `asked` is no MicroBatch.
    """

    def __init__(self, network: AlexNet, asked: MicroBatch, at_a_time: int | None, say: Callable[[str], object]):
        self.network, self.asked, self.say = network, checked_micro_batch(asked), say
        self.at_a_time = self.asked if isinstance(self.asked, int) else at_a_time
        self._given = 0  # images of the batch that the network was given so far
        self.has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in network.children())
        if isinstance(self.asked, int) and self.has_batch_norm:
            raise ValueError(
                f"{network.architecture.name} has batch norm, whose means are over the whole batch: in parts it would "
                f"be another network. Choose a smaller batch size instead of micro_batch"
            )

    def train_step(
        self,
        scores_of: Callable[[Tensor], Tensor],
        optimizer: PaperSGD,
        views: Tensor,
        batch: Batch,
        recipe: Recipe,
        precision: Precision,
        mix: Mix | None = None,
    ) -> tuple[float, int]:
        """As `train_step`.

        Raises:
            OutOfMemory: it does not fit, and may not be split; says what would fit.
        """
        with contextlib.nullcontext(scores_of) if self.asked is None else self._dropout_drawn(views) as scores_of:
            while True:
                optimizer.zero_grad()
                self._given = 0
                try:
                    found = add_gradient(scores_of, views, batch, recipe, precision, mix, self.at_a_time)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                # from here on, what did not fit is freed
                tried = min(self.at_a_time or len(views), len(views))
                fits = tried // 2
                while fits and not self._fits(fits, scores_of, optimizer, views, batch, recipe, precision):
                    fits //= 2
                self._split(tried, fits, views.device)
        return update(optimizer, recipe, found)

    def _fits(self, count: int, scores_of, optimizer, views, batch, recipe, precision) -> bool:
        """Whether so many images fit at a time; their gradient is of no use."""
        optimizer.zero_grad()
        self._given = 0
        if views.is_cuda:
            torch.cuda.empty_cache()
        try:
            add_gradient(scores_of, views[:count], replace(batch, labels=batch.labels[:count]), recipe, precision)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _split(self, tried: int, fits: int, device: torch.device) -> None:
        """Take so many images at a time from now on.

        Raises:
            OutOfMemory: not even one fits, or "auto" was not asked for.
        """
        what = f"{tried} images at a time do not fit into the memory of {device}"
        if not fits:
            raise OutOfMemory(f"{what}, nor does one; choose a smaller network or another device")
        if self.has_batch_norm:
            raise OutOfMemory(f"{what}; {fits} do: --batch-size {fits}, as batch norm cannot be split")
        if self.asked != "auto":
            raise OutOfMemory(
                f"{what}; {fits} do: --micro-batch {fits} or auto takes the same steps in such parts, "
                f"--batch-size {fits} makes them smaller"
            )
        self.at_a_time = fits
        self.say(f"{what}; each step is taken in parts of {fits}, with the same mathematics")

    @contextlib.contextmanager
    def _dropout_drawn(self, views: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        """The network with dropout drawn for all of `views`, which is then given part after part."""
        network = self.network
        modules = {step.name: step for step in network.placed if isinstance(step.operation, Dropout)}
        before = {name: network._modules[name] for name in modules}
        for name, step in modules.items():
            keep = 1 - step.operation.rate
            mask = torch.empty(len(views), *step.inputs, device=views.device).bernoulli_(keep)
            network._modules[name] = _Drawn(mask / keep if step.operation.rescale else mask)

        def scores_of(part: Tensor) -> Tensor:
            for name in modules:
                network._modules[name].rows = slice(self._given, self._given + len(part))
            self._given += len(part)
            return network(part)

        try:
            yield scores_of
        finally:
            network._modules.update(before)


class _Drawn(nn.Module):
    """Dropout that was drawn beforehand."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.mask, self.rows = mask, slice(None)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask[self.rows].to(x.dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    said = ("can't allocate memory", "not enough memory")  # by torch's allocator of the processor
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in said)
