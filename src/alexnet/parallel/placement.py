"""What lies on which process, and what they exchange, as a declaration (no torch here).

data     every process has the whole network and a part of the images: gradients are summed
towers   two processes see all images, and have half of each layer's kernels and units, as the two GPUs of 2012
         (section 3.2, Figure 2): they exchange activations where a layer reads both towers
hybrid   data parallel in the convolutions, and each process has a part of the units of the fully connected layers
         ("One weird trick", Krizhevsky 2014)
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from ..specs.architecture import Architecture
from ..specs.operations import Linear, Shape
from ..specs.shapes import Placed, count_towers, infer_shapes
from ..specs.variants import VARIANTS
from .parts import part_sizes

Way = Literal["data", "towers", "hybrid"]
VALUE_BYTES = 4
"""Bytes of an activation, and of a gradient, in float32."""


@dataclass(frozen=True)
class Exchange:
    """Activations that processes pass on to one another before an operation, and their gradients on the way back."""

    reader: str
    """The operation that reads them; "scores" for the loss, which needs those of all classes."""
    kind: Literal["channels", "images", "neighbors"]
    """What each process lacks: channels (or units) of the others, their images, or a few channels at the edge."""
    values: int
    """What all processes together pass on, values for each image."""
    parts: tuple[int, ...] = ()
    """By process: the channels, or units, that it passes on; empty where it passes on images."""

    @property
    def backward(self) -> bool:
        """Whether gradients come back. From the scores they do not: every process has the loss of all images."""
        return self.reader != "scores"

    def sent(self, processes: int) -> float:
        """Values that a process sends, forward, for each image of the whole batch; the mean over processes."""
        return self.values * (processes - 1) / processes


@dataclass(frozen=True)
class Division:
    """One operation of a network, and how it is divided over the processes."""

    step: Placed
    divided: Literal["images", "channels"]
    """What of its output a process has: all channels of its images, or its channels (units) of all images."""
    reads: tuple[int, ...]
    """By process: the channels (units) of its input, after the exchange."""
    gives: tuple[int, ...]
    """By process: the channels (units) of its output."""
    exchange: Exchange | None = None

    def local(self, rank: int) -> Placed | None:
        """The operation as one process has it, before any neighbors are added to its input; None if it has nothing."""
        step, channels = self.step, self.step.output_shape[0]
        if not self.gives[rank]:
            return None
        operation = step.operation if self.divided == "images" else step.operation.part(self.gives[rank], channels)
        shapes = (self.reads[rank], *step.input_shape[1:]), (self.gives[rank], *step.output_shape[1:])
        return Placed(step.name, step.row, operation, *shapes, step.receptive_field)

    @property
    def tensors(self) -> dict[str, tuple[int, tuple[int, ...]] | None]:
        """By parameter or buffer: the dimension along which it is divided, and the sizes of the parts by process; None
        if every process has all of it."""
        entire, first, *others = map(_tensors, (self.step, *map(self.local, range(len(self.gives)))))
        divided: dict[str, tuple[int, tuple[int, ...]] | None] = {}
        for name, shape in entire.items():
            differing = [axis for axis, side in enumerate(shape) if side != first[name][axis]]  # none has more than it
            sizes = (each[name][differing[0]] if each else 0 for each in (first, *others)) if differing else ()
            divided[name] = (differing[0], tuple(sizes)) if differing else None
        return divided


@dataclass(frozen=True)
class Placement:
    """A network on several processes."""

    way: Way
    processes: int
    divisions: tuple[Division, ...]
    scores: Exchange | None
    """What gives every process all scores; None if it has those of its images."""

    @property
    def exchanges(self) -> list[Exchange]:
        """All of them, in the order of the forward pass."""
        return [*(each.exchange for each in self.divisions if each.exchange), *([self.scores] if self.scores else [])]

    @property
    def replicated(self) -> int:
        """Parameters that every process has, and whose gradients are summed."""
        return sum(each.step.parameters for each in self.divisions if each.divided == "images")

    def parameters(self, rank: int) -> int:
        """Parameters on a process."""
        return sum(local.parameters for each in self.divisions if (local := each.local(rank)))

    def exchanged_bytes(self, exchanges: Iterable[Exchange] | None = None) -> float:
        """What a process sends for each image of the whole batch, forward and backward, bytes."""
        exchanges = self.exchanges if exchanges is None else exchanges
        return VALUE_BYTES * sum(each.sent(self.processes) * (1 + each.backward) for each in exchanges)

    def summed_bytes(self) -> float:
        """What a process sends in a step to sum gradients, bytes: those of a ring, 2 (N − 1) / N of all."""
        return VALUE_BYTES * self.replicated * 2 * (self.processes - 1) / self.processes

    def step_bytes(self, batch_size: int) -> float:
        """What a process sends in a step with this whole batch, bytes."""
        return self.summed_bytes() + batch_size * self.exchanged_bytes()

    def breaks_even_at(self, exchanges: Iterable[Exchange] | None = None) -> float:
        """The whole batch below which it sends fewer bytes than data parallel does on as many processes."""
        everything = VALUE_BYTES * sum(each.step.parameters for each in self.divisions)
        saved = everything * 2 * (self.processes - 1) / self.processes - self.summed_bytes()
        return saved / self.exchanged_bytes(exchanges) if self.exchanges else math.inf


def placement_of(
    architecture: Architecture,
    way: Way,
    processes: int,
    num_classes: int | None = None,
    in_channels: int = 3,
    input_size: int | None = None,
) -> Placement:
    """What lies where, and what is exchanged, when a network is trained on several processes.

    Raises:
        ValueError: the network cannot be divided in this way.
    """
    placed = infer_shapes(architecture, num_classes, in_channels, input_size)
    if way == "towers":
        _check_towers(architecture.name, placed, processes)
    divisions: list[Division] = []
    has_all_images, parts = way == "towers", None  # parts: by process, channels of the last output; None for all
    for step in placed:
        exchange = None
        if way == "hybrid" and not has_all_images and isinstance(step.operation, Linear):
            has_all_images, exchange = True, Exchange(step.name, "images", math.prod(step.input_shape))
        if has_all_images:
            divisions.append(_divided(architecture.name, step, parts, processes, exchange))
            parts = divisions[-1].gives
        else:
            channels = ((shape[0],) * processes for shape in (step.input_shape, step.output_shape))
            divisions.append(Division(step, "images", *channels))
    scores = Exchange("scores", "channels", sum(parts), parts) if parts else None
    return Placement(way, processes, tuple(divisions), scores)


def _divided(
    name: str, step: Placed, parts: tuple[int, ...] | None, processes: int, exchange: Exchange | None
) -> Division:
    """How an operation is divided by channels.

    Args:
        parts: by process, the channels that it has of the input; None if every process has all.
        exchange: what was exchanged to have all.
    """
    inputs, outputs = step.input_shape[0], step.output_shape[0]
    groups = step.operation.channel_groups(step.input_shape)
    if parts is None and groups > 1:
        raise ValueError(f"{name}: groups of {step.name}, which sees the images, must be 1, got {groups}")
    if parts is None:
        return Division(step, "channels", (inputs,) * processes, _sizes(outputs, processes), exchange)
    if not any(cut % (inputs // groups) for cut in accumulate(parts)):
        return Division(step, "channels", parts, tuple(part * outputs // inputs for part in parts))
    positions = math.prod(step.input_shape[1:])
    if groups > 1:
        raise ValueError(f"{name}: groups of {step.name} must be 1 or a multiple of {processes}, got {groups}")
    if step.operation.neighbors == (0, 0):
        exchange = Exchange(step.name, "channels", math.prod(step.input_shape), parts)
        return Division(step, "channels", (inputs,) * processes, _sizes(outputs, processes), exchange)
    before, after = step.operation.neighbors  # the first process passes on its last ones, the second its first ones
    edges = min(before, parts[0]), min(after, parts[1])
    return Division(step, "channels", parts, parts, Exchange(step.name, "neighbors", sum(edges) * positions, edges))


def _tensors(step: Placed | None) -> dict[str, Shape]:
    """Shapes of parameters and buffers by name."""
    if step is None:
        return {}
    return step.operation.parameter_shapes(step.input_shape) | step.operation.buffer_shapes(step.input_shape)


def _sizes(channels: int, processes: int) -> tuple[int, ...]:
    return tuple(part_sizes(channels, processes))


def _check_towers(name: str, placed: Sequence[Placed], processes: int) -> None:
    if count_towers(placed) != 2:
        with_towers = [each for each in VARIANTS.values() if count_towers(infer_shapes(each)) == 2]
        names = ", ".join(each.name for each in with_towers)
        raise ValueError(f"the network must have two towers, layers in two groups, as {names}; got {name}")
    if processes != 2:
        raise ValueError(f"processes must be 2 for towers, one for each, got {processes}")
