"""The part of a network that one process has, as a network: its weights, and the exchanges between its layers.

An `AlexNet` runs its modules in their order, whatever they are. So a local network is one whose divided layers are
smaller, and that has more modules, which exchange activations. Layers that are not divided are those of the whole
network themselves.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..model.layers import BATCH_NORMS, build_module
from ..model.network import AlexNet
from .group import Group
from .layers import GATHER, Position, WholeDropout, WholePlainDropout, halves, of_whole_batch, with_modules
from .placement import Division, Exchange, Placement


@dataclass
class Images:
    """The images that pass through a local network, of all processes, one process after the other."""

    sizes: Sequence[int] = ()
    """How many of them each process has."""
    rows: Sequence[int] = ()
    """Which of the whole batch they are."""

    def of_round(self, number: int, rounds: int, rank: int) -> slice:
        """Those of a process that are in one of several rounds: each of k rounds takes every k-th of all."""
        first = (number - sum(self.sizes[:rank])) % rounds
        return slice(first, self.sizes[rank], rounds)


def index_of(rows: Sequence[int]) -> slice | Tensor:
    """What selects these rows of a tensor, at best without a copy."""
    return slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else torch.tensor(rows)


class _Gathered(torch.autograd.Function):
    """What all processes have, one after the other along a dimension; backward, gradients of all are summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, dim: int, sizes: Sequence[int]) -> Tensor:
        ctx.how = group, dim, sizes
        return group.gather(x, dim, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        group, dim, sizes = ctx.how
        return group.scatter_sum(gradient, dim, sizes), None, None, None


class _Replicated(_Gathered):
    """The same where all processes compute the same of it: the gradient of each is that of all, so none is summed."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        group, dim, sizes = ctx.how
        return gradient.split(list(sizes), dim)[group.rank], None, None, None


class GatherChannels(nn.Module):
    """Gives a layer the channels, or units, that other processes have of its input; `scores`, of the output."""

    def __init__(self, exchange: Exchange, group: Group):
        super().__init__()
        self.sizes, self.group = exchange.parts, group
        self.function = _Gathered if exchange.backward else _Replicated

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, self.group, 1, self.sizes)


class AddNeighbors(nn.Module):
    """Adds a few channels of the other tower, behind the last or before the first one."""

    def __init__(self, exchange: Exchange, group: Group):
        super().__init__()
        self.parts, self.group = exchange.parts, group

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.parts  # the first tower passes on its last channels, the second its first ones
        is_first = self.group.rank == 0
        edge = x[:, x.shape[1] - before :] if is_first else x[:, :after]
        edges = _Gathered.apply(edge, self.group, 1, self.parts)
        return torch.cat([x, edges[:, before:]] if is_first else [edges[:, :before], x], 1)


class DropNeighbors(nn.Module):
    """Only the channels of this tower."""

    def __init__(self, first: int, channels: int):
        super().__init__()
        self.first, self.channels = first, channels

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(1, self.first, self.channels)


class _Slices(torch.autograd.Function):
    """The images of each round; backward, it waits for the gradients that are still on their way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slices: Sequence[slice], arriving: list[Callable[[], None]]) -> tuple[Tensor, ...]:
        ctx.how = slices, arriving, x.shape
        return tuple(x[each].clone() for each in slices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        slices, arriving, shape = ctx.how
        while arriving:
            arriving.pop()()
        gradient = gradients[0].new_empty(shape)
        for each, part in zip(slices, gradients, strict=True):
            gradient[each] = part
        return gradient, None, None


class _Arrived(torch.autograd.Function):
    """The images of all processes, whose gathering has started; backward, summing starts and is not waited for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wait: Callable[[], Tensor], group: Group, sizes: Sequence[int], arriving: list):
        ctx.how = group, sizes, arriving
        return wait()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        group, sizes, arriving = ctx.how
        own, wait = group.start_scatter_sum(gradient, 0, sizes)
        arriving.append(wait)
        return own, None, None, None, None


class HybridNetwork(AlexNet):
    """Convolutions for the images of this process, then its units of the fully connected layers for those of all.

    The features of the convolutions are passed on in as many rounds as there are processes: scheme (c) of Krizhevsky
    (2014), in which every process sends a part of its images in every round, as all-gather does. All rounds are on
    their way at once, so that those to come travel while one is computed, and gradients travel back likewise.
    """

    shards: "Shards"
    convolutions: AlexNet
    connected: list[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        """The scores of the images of all processes, one process after the other."""
        has_batch_norm = any(isinstance(module, BATCH_NORMS) for module in self.connected)
        rounds = 1 if has_batch_norm else self.shards.group.size  # its statistics are those of all images
        scores = torch.cat([*self.in_rounds(self.convolutions(x), rounds)])
        images = torch.arange(len(scores), device=scores.device)
        return scores[torch.cat([images[number::rounds] for number in range(rounds)]).argsort()]

    def in_rounds(self, features: Tensor, rounds: int) -> Iterator[Tensor]:
        """The scores of the images of each round."""
        images, group = self.shards.images, self.shards.group
        slices = [[images.of_round(number, rounds, rank) for rank in range(group.size)] for number in range(rounds)]
        sizes = [[len(range(*each.indices(each.stop))) for each in of_round] for of_round in slices]
        arriving: list[Callable[[], None]] = []
        own = _Slices.apply(features, [of_round[group.rank] for of_round in slices], arriving)
        starts = [group.start_gather(each.detach(), 0, size) for each, size in zip(own, sizes, strict=True)]
        for number, start in enumerate(starts):
            x = _Arrived.apply(own[number], start, group, sizes[number], arriving)
            self.shards.positions[1].rows = index_of(images.rows[number::rounds])
            for module in self.connected:
                x = module(x)
            yield x


class Shards:
    """A network divided over processes.

    Attributes:
        network: the whole network.
        local: the part of it that this process trains, under the same names. Layers that are not divided are shared
            by both.
        images: what passes through `local`; to be set before it runs.
        positions: where in the whole batch the images are that reach layers with all channels, and those that reach
            layers of which this process has a part.
    """

    def __init__(self, network: AlexNet, placement: Placement, group: Group):
        self.network, self.placement, self.group, self.images = network, placement, group, Images()
        self.positions = Position(), Position()
        self._parts = {
            f"{division.step.name}.{name}": part
            for division in placement.divisions
            if division.divided == "channels"
            for name, part in division.tensors.items()
        }
        self.local = self._local()

    def is_divided(self, name: str) -> bool:
        """Whether each process has a part of this parameter or buffer."""
        return self._parts.get(name) is not None

    def is_replicated(self, name: str) -> bool:
        """Whether the gradient of this parameter is to be summed over the processes."""
        return name not in self._parts

    def parts_of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's parts of tensors that belong to the parameters and buffers of these names."""
        return {name: self._own(name, tensor) for name, tensor in tensors.items()}

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The opposite: all of the tensors, from the parts of all processes."""
        return {
            name: self.group.gather(tensor, *self._parts[name]) if self.is_divided(name) else tensor
            for name, tensor in tensors.items()
        }

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        if not self.is_divided(name):
            return tensor
        axis, sizes = self._parts[name]
        return tensor.split(list(sizes), axis)[self.group.rank]

    def _local(self) -> AlexNet:
        modules: dict[str, nn.Module] = {}
        for division in self.placement.divisions:
            name, exchange = division.step.name, division.exchange
            kind = exchange and exchange.kind
            if kind == "channels":
                modules[f"{GATHER}{name}"] = GatherChannels(exchange, self.group)
            elif kind == "neighbors":
                modules[f"add_to_{name}"] = AddNeighbors(exchange, self.group)
            modules[name] = self._module(division)
            if kind == "neighbors":
                first = exchange.parts[0] if self.group.rank else 0
                modules[f"drop_from_{name}"] = DropNeighbors(first, division.gives[self.group.rank])
        modules[f"{GATHER}scores"] = GatherChannels(self.placement.scores, self.group)
        local = with_modules(self.network, modules)
        if self.placement.way == "hybrid":
            # Neither is registered: parameters have the names that they have in the whole network.
            local.__dict__["convolutions"], local.__dict__["connected"] = halves(local)
            local.__class__, local.shards = HybridNetwork, self
        return local

    def _module(self, division: Division) -> nn.Module:
        """What this process has of a layer."""
        module = self.network.get_submodule(division.step.name)
        if division.divided == "images":
            return of_whole_batch(module, self.positions[0], self.group)
        own = of_whole_batch(self._own_module(division, module), self.positions[1], Group())  # it has all images
        if isinstance(own, (WholeDropout, WholePlainDropout)):
            first = sum(division.gives[: self.group.rank])
            own.whole_shape = division.step.input_shape
            own.own = slice(first, first + division.gives[self.group.rank])
        return own

    def _own_module(self, division: Division, module: nn.Module) -> nn.Module:
        step = division.local(self.group.rank)
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # of layers without units
            has_none = step is None and isinstance(module, nn.Linear)
            own = nn.Linear(division.reads[self.group.rank], 0) if has_none else build_module(step or division.step)
        own.train(module.training)
        for tensors in (own._parameters, own._buffers):
            for name in tensors:
                entire = getattr(module, name)
                part = self._own(f"{division.step.name}.{name}", entire.detach()).clone()
                tensors[name] = nn.Parameter(part, entire.requires_grad) if tensors is own._parameters else part
        return own
