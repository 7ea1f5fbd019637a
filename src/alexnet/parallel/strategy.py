"""What the training loop sees of the processes: the same whether there is one or many, and however they divide the
work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from .group import Group
from .layers import Position, WholeBatch, halves
from .parts import part_sizes, parts
from .reduce import GradientSum


class DataParallel:
    """Every process has the whole network and a part of each batch; gradients are summed. One process is a special
    case, in which nothing is sent.

    Args:
        network: the whole network, on this process's device.
        splits_batches: whether batches may be split into micro-batches; dropout masks are then drawn for whole batches.
        waits: whether gradients are summed only when all passes of a step are known to have fit in memory.
        compress: whether gradients are sent as bf16.

    Attributes:
        module: what is trained here; names of its parameters are those of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        group: Group,
        splits_batches: bool = False,
        waits: bool = False,
        compress: bool = False,
    ):
        self.network, self.group, self.waits = network, group, waits
        self.position = Position()
        divides = splits_batches or group.size > 1
        self.module = WholeBatch.of(network, self.position, group) if divides else network
        self.gradients = GradientSum(list(self.module.parameters()), group, compress)

    @property
    def exchanges(self) -> bool:
        """Whether the processes need one another during a pass, so that none can repeat it alone."""
        return self.group.size > 1 and any(hasattr(each, "running_mean") for each in self.module.modules())

    def rows(self, batch_size: int) -> slice:
        """The images of a whole batch that this process reads."""
        return self.group.part(batch_size)

    def largest_part(self, batch_size: int) -> int:
        """Images of a whole batch that a process reads, at most."""
        return max(part_sizes(batch_size, self.group.size))

    def begin_step(self, batch_size: int) -> None:
        self.position.begin(batch_size)

    def passes(self, batch_size: int, size: int, is_final: bool = True) -> Iterator[tuple[slice, slice]]:
        """Forward and backward passes over at most `size` images a process, as many on all processes.

        Args:
            is_final: whether gradients are summed over the processes during the last one.

        Yields:
            The images of a pass among those that this process reads, and among the whole batch those whose scores come
            out.
        """
        own = self.rows(batch_size)
        starts = range(0, self.largest_part(batch_size), size)
        for start in starts:
            rows = slice(*(min(own.start + start + offset, own.stop) for offset in (0, size)))
            self.position.rows = rows
            if start == starts[-1] and is_final and not self.waits:
                self.gradients.arm()
            yield slice(start, start + size), rows

    def convolved(self, views: Tensor, batch_size: int) -> Tensor:
        """What the first fully connected layer reads of the images that this process reads."""
        self.position.rows = self.rows(batch_size)
        return self.halves[0](views)

    def in_rounds(self, features: Tensor, batch_size: int, rounds: int) -> Iterator[tuple[slice, Tensor]]:
        """The scores of a batch by its fully connected layers, in k rounds, each with every k-th image.

        Args:
            features: what `convolved` returned.

        Yields:
            The images of the whole batch whose scores come out, and these.
        """
        own = self.rows(batch_size)
        for number in range(rounds):
            first = (number - own.start) % rounds
            self.position.rows, x = slice(own.start + first, own.stop, rounds), features[first::rounds]
            for module in self.halves[1]:
                x = module(x)
            yield self.position.rows, x

    @cached_property
    def halves(self) -> tuple[nn.Module, list[nn.Module]]:
        """`module` up to its first fully connected layer, and from there on."""
        return halves(self.module)

    def all_fit(self, fits: bool) -> bool:
        """Whether the passes of a step fit in the memory of every process."""
        return not self.agree(not fits)[0] if self.waits else fits

    def sum_gradients(self) -> None:
        """Complete the gradients of the parameters of `module`, of those that have one."""
        self.gradients.finish()

    def total(self, statistics: Tensor) -> Tensor:
        """Statistics of the scores of this process, summed to those of the whole batch."""
        return self.group.all_reduce(statistics)

    def clip_gradients(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        """Scale all gradients down if their common norm is larger than `max_norm`."""
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def total_norms(self, parameter: Tensor, norms: Tensor) -> Tensor:
        """Norms over this process's part of a parameter, made those over all of it."""
        return norms

    def first_views(self, views: Tensor, batch_size: int, count: int) -> Tensor:
        """The first `count` images of the whole batch, on every process.

        Args:
            views: those of this process, (N, channels, side, side).
        """
        sizes = [min(part.stop, count) - min(part.start, count) for part in parts(batch_size, self.group.size)]
        return self.group.gather(views[: sizes[self.group.rank]], sizes=sizes)

    def agree(self, *wishes: bool) -> list[bool]:
        """Which of some wishes any process has."""
        own = torch.tensor(wishes, dtype=torch.float32, device=self.group.device)
        return [count > 0 for count in self.group.all_reduce(own).tolist()]

    def publish(self) -> None:
        """Bring the weights of all processes into `network`."""

    def gathered(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of the whole network, of this process's parts of them, by name."""
        return tensors

    def parts_of(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """This process's parts of the tensors of the whole network."""
        return tensors
