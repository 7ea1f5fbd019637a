"""Layers that depend on the whole batch, in a process, or a pass, that has a part of it: dropout and batch norm."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..model.layers import BATCH_NORMS, PlainDropout
from ..model.network import AlexNet
from ..specs.operations import Linear
from .group import Group


@dataclass
class Position:
    """Where in the whole batch the images of the current pass are."""

    batch_size: int = 0
    """Images of the whole batch, over all processes."""
    rows: slice = field(default_factory=lambda: slice(None))
    """Those of this pass."""
    masks: dict[int, Tensor] = field(default_factory=dict)
    """Dropout masks of the whole batch, by module; drawn once a step."""

    def begin(self, batch_size: int) -> None:
        """A new step."""
        self.batch_size = batch_size
        self.masks.clear()


class WholeBatch:
    """A network in which dropout and batch norm are those of the whole batch.

    It shares parameters, buffers and hooks with the network that it is made of.
    """

    @staticmethod
    def of(network: nn.Module, position: Position, group: Group) -> nn.Module:
        modules = network._modules.items()
        return with_modules(network, {name: of_whole_batch(each, position, group) for name, each in modules})


def of_whole_batch(module: nn.Module, position: Position, group: Group) -> nn.Module:
    """A layer, or one in its stead that shares its tensors and depends on the whole batch in the right way."""
    kinds = {nn.Dropout: WholeDropout, PlainDropout: WholePlainDropout}
    if group.size > 1:
        kinds |= dict.fromkeys(BATCH_NORMS, WholeBatchNorm)
    if type(module) not in kinds:
        return module
    # A `forward` of its own would count as being watched, and cost the network its fast layouts.
    shared = copy.copy(module)
    shared.__class__ = kinds[type(module)]
    shared.position, shared.group = position, group
    return shared


def with_modules(network: AlexNet, modules: Mapping[str, nn.Module]) -> AlexNet:
    """A network that runs other modules."""
    other = copy.copy(network)
    other._modules = dict(modules)
    return other


def halves(network: AlexNet) -> tuple[AlexNet, list[nn.Module]]:
    """A network up to its first fully connected layer, and the modules from there on.

    Raises:
        ValueError: it has no fully connected layer.
    """
    names = [*network._modules]
    first = next((step.name for step in network.placed if isinstance(step.operation, Linear)), None)
    if first is None:
        raise ValueError(f"{network.architecture.name} must have a fully connected layer")
    cut = names.index(f"{GATHER}{first}" if f"{GATHER}{first}" in names else first)
    named = [*network._modules.items()]
    return with_modules(network, dict(named[:cut])), [module for _, module in named[cut:]]


GATHER = "gather_"
"""Begins the name of a module that exchanges what the layer of that name reads."""


class WholeDropout(nn.Dropout):
    """Dropout with a mask for the whole batch, of which each pass uses its rows: the masks of an undivided step on the
    CPU, others of the same distribution on a GPU."""

    position: Position
    rescales = True
    whole_shape: tuple[int, ...] | None = None
    """Shape of its input, without the batch, where this process has only the channels, or units, `own` of it."""
    own = slice(None)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        masks, keep = self.position.masks, self.keep_probability
        if id(self) not in masks:
            shape = self.whole_shape or x.shape[1:]
            mask = torch.empty(self.position.batch_size, *shape, device=x.device).bernoulli_(keep)[:, self.own]
            masks[id(self)] = mask / keep if self.rescales else mask
        return x * masks[id(self)][self.position.rows].to(x.dtype)

    @property
    def keep_probability(self) -> float:
        return 1 - self.p


class WholePlainDropout(PlainDropout):
    """The same for the dropout of 2012."""

    position: Position
    rescales = False
    whole_shape: tuple[int, ...] | None = None
    own = slice(None)
    keep_probability = property(lambda self: self.keep)

    def forward(self, x: Tensor) -> Tensor:
        return WholeDropout.forward(self, x) if self.training else super().forward(x)


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of the whole batch, over all processes."""

    group: Group

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            kind = nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d
            return kind.forward(self, x)
        mean, variance, count = whole_statistics(x, self.group)
        if count == 1:
            raise ValueError(f"batch norm needs more than one value per channel in training, got {tuple(x.shape)}")
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), momentum)
        inverse_std = (variance + self.eps).rsqrt()
        return _Normalize.apply(x, self.weight, self.bias, mean, inverse_std, count, self.group)

    def _check_input_dim(self, x: Tensor) -> None:
        pass


@torch.no_grad()
def whole_statistics(x: Tensor, group: Group) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of each channel over the images of all processes, (C,), and of how many values they are.

    Each process sends its count, mean and sum of squared deviations, which are merged without cancellation (Chan,
    Golub and LeVeque 1979).

    Args:
        x: (N, C, …); N may be 0.
    """
    values = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(0, 1).flatten(1)  # (C, values)
    count = values.shape[1]
    mean = values.mean(1) if count else values.new_zeros(len(values))
    own = torch.cat([mean.new_tensor([count]), mean, (values - mean[:, None]).square().sum(1)])
    counts, means, squares = group.gather(own[None], sizes=[1] * group.size).split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    whole_mean = (counts * means).sum(0) / total
    variance = (squares + counts * (means - whole_mean).square()).sum(0) / total
    return whole_mean, variance, round(total.item())


class _Normalize(torch.autograd.Function):
    """y = (x − mean) / std · weight + bias, where mean and std are those of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        count: int,
        group: Group,
    ) -> Tensor:
        along = (1, -1, *[1] * (x.dim() - 2))
        normalized = (x.to(mean.dtype) - mean.view(along)) * inverse_std.view(along)
        ctx.save_for_backward(normalized, weight, inverse_std)
        ctx.count, ctx.group, ctx.along = count, group, along
        return (normalized * weight.view(along) + bias.view(along)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normalized, weight, inverse_std = ctx.saved_tensors
        kind, gradient = gradient.dtype, gradient.to(normalized.dtype)
        axes = [axis for axis in range(gradient.dim()) if axis != 1]
        own = torch.stack([gradient.sum(axes), (gradient * normalized).sum(axes)])  # of the bias and the weight, (2, C)
        of_bias, of_weight = ctx.group.all_reduce(own.clone()) / ctx.count
        centered = gradient - of_bias.view(ctx.along) - normalized * of_weight.view(ctx.along)
        of_x = centered * (weight * inverse_std).view(ctx.along)
        return of_x.to(kind), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None, None, None
