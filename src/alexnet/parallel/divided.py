"""Strategies that divide layers over the processes, by a placement: the two towers of 2012, the hybrid of 2014."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from ..model.network import AlexNet
from .group import Group
from .parts import parts
from .placement import Placement, Way, placement_of
from .reduce import GradientSum
from .shards import HybridNetwork, Shards, index_of
from .strategy import DataParallel


def strategy_of(
    way: Way, network: AlexNet, group: Group, splits_batches: bool = False, waits: bool = False, compress: bool = False
) -> DataParallel:
    """How the processes of a group train a network; arguments and attributes as for `DataParallel`.

    Raises:
        ValueError: the network cannot be divided in this way over as many processes.
    """
    if way == "towers" or (way == "hybrid" and group.size > 1):
        sizes = network.num_classes, network.in_channels, network.input_size
        return Divided(network, group, placement_of(network.architecture, way, group.size, *sizes), compress)
    return DataParallel(network, group, splits_batches, waits, compress)


class Divided(DataParallel):
    """Every process has a part of all layers, or of the fully connected ones.

    Args:
        placement: what lies on which process.
    """

    exchanges = True

    def __init__(self, network: AlexNet, group: Group, placement: Placement, compress: bool = False):
        self.network, self.group, self.placement, self.waits = network, group, placement, False
        self.shards = Shards(network, placement, group)
        self.module = self.shards.local
        named = dict(self.module.named_parameters())
        self.divided = {id(parameter) for name, parameter in named.items() if self.shards.is_divided(name)}
        replicated = [parameter for parameter in named.values() if id(parameter) not in self.divided]
        self.gradients = GradientSum(replicated, group, compress)

    def _parts(self, batch_size: int) -> list[slice]:
        """By process: the images that it reads."""
        is_divided = self.placement.way == "hybrid"
        return parts(batch_size, self.group.size) if is_divided else [slice(0, batch_size)] * self.group.size

    def rows(self, batch_size: int) -> slice:
        return self._parts(batch_size)[self.group.rank]

    def largest_part(self, batch_size: int) -> int:
        return self._parts(batch_size)[0].stop

    def begin_step(self, batch_size: int) -> None:
        for position in self.shards.positions:
            position.begin(batch_size)

    def passes(self, batch_size: int, size: int, is_final: bool = True) -> Iterator[tuple[slice, slice | Tensor]]:
        read = [range(batch_size)[part] for part in self._parts(batch_size)]
        starts = range(0, self.largest_part(batch_size), size)
        for start in starts:
            passing = [rows[start : start + size] for rows in read]
            own, images = passing[self.group.rank], self.shards.images
            images.sizes, images.rows = [len(rows) for rows in passing], own
            if self.placement.way == "hybrid":
                images.rows = range(batch_size) if len(starts) == 1 else [*chain(*passing)]
            scored = index_of(images.rows)
            self.shards.positions[0].rows, self.shards.positions[1].rows = index_of(own), scored
            if start == starts[-1] and is_final:
                self.gradients.arm()
            yield slice(start, start + size), scored

    def convolved(self, views: Tensor, batch_size: int) -> Tensor:
        next(self.passes(batch_size, batch_size, is_final=False))
        is_hybrid = isinstance(self.module, HybridNetwork)
        return (self.module.convolutions if is_hybrid else self.halves[0])(views)

    def in_rounds(self, features: Tensor, batch_size: int, rounds: int) -> Iterator[tuple[slice, Tensor]]:
        if isinstance(self.module, HybridNetwork):
            for number, scores in enumerate(self.module.in_rounds(features, rounds)):
                yield slice(number, batch_size, rounds), scores
            return
        for number in range(rounds):
            rows = self.shards.positions[1].rows = slice(number, batch_size, rounds)
            x = features[rows]
            for module in self.halves[1]:
                x = module(x)
            yield rows, x

    def total(self, statistics: Tensor) -> Tensor:
        return statistics  # every process has the scores of all images

    def clip_gradients(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        norms = torch.stack([parameter.grad.norm() for parameter in trained])
        is_divided = torch.tensor([id(parameter) in self.divided for parameter in trained], device=norms.device)
        squares = self.group.all_reduce(norms[is_divided].square().sum()) + norms[~is_divided].square().sum()
        torch.nn.utils.clip_grads_with_norm_(trained, max_norm, squares.sqrt())

    def total_norms(self, parameter: Tensor, norms: Tensor) -> Tensor:
        return self.group.all_reduce(norms.square()).sqrt() if id(parameter) in self.divided else norms

    def first_views(self, views: Tensor, batch_size: int, count: int) -> Tensor:
        return super().first_views(views, batch_size, count) if self.placement.way == "hybrid" else views[:count]

    @torch.no_grad()
    def publish(self) -> None:
        state = self.network.state_dict()
        for name, tensor in self.gathered(self.module.state_dict()).items():
            if not self.shards.is_replicated(name):
                state[name].copy_(tensor)

    def gathered(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.shards.gathered(tensors)

    def parts_of(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.shards.parts_of(tensors)
