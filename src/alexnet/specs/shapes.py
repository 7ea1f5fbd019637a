"""What follows from a table of layers by arithmetic: shapes, tensors, costs, receptive fields.

No torch here, so that `alexnet describe` answers at once.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .architecture import MAX_CLASSES, MAX_SIDE, Architecture
from .operations import Flatten, InputTooSmall, Layer, Linear, Operation, Shape
from .recipe import is_integer

MAX_WORK = 1e9, 1e11, 1e13
"""Outputs, parameters and multiply-adds of an operation for one image, far beyond those of any network here."""


@dataclass(frozen=True)
class Placed:
    """One operation of a network, for one size of input. Shapes have no batch dimension."""

    name: str
    """In the network: conv1, relu1, pool1 …"""
    row: str
    """Name of the layer with weights that it is, or follows; a flatten precedes it."""
    operation: Operation
    input_shape: Shape
    output_shape: Shape
    receptive_field: int
    """Side of the square of the input that one output depends on, pixels, before clipping; 0 once flattened."""

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return sum(map(math.prod, self.operation.parameter_shapes(self.input_shape).values()))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        return self.operation.multiply_adds(self.input_shape)


def infer_shapes(
    architecture: Architecture, num_classes: int | None = None, in_channels: int = 3, input_size: int | None = None
) -> list[Placed]:
    """Every operation of a network in its order, with shapes.

    Raises:
        ValueError: the input is too small for a layer, or a number of classes, channels or groups does not fit.
    """
    num_classes = architecture.classes if num_classes is None else num_classes
    size = architecture.input_size if input_size is None else input_size
    limits = {
        "num_classes": (num_classes, MAX_CLASSES),
        "in_channels": (in_channels, 10_000),
        "input_size": (size, MAX_SIDE),
    }
    for setting, (value, most) in limits.items():
        if not is_integer(value, 1) or value > most:
            limit = f"<= {most:,}" if is_integer(value, 1) else "an integer >= 1"
            raise ValueError(f"{setting} must be {limit}, got {str(value)[:80]}")
    try:
        return _check_work(architecture.name, _infer_shapes(architecture, num_classes, in_channels, size))
    except InputTooSmall as error:
        smallest, own = smallest_input(architecture, in_channels), architecture.input_size
        raise ValueError(
            f"{architecture.name}: input_size must be >= {smallest}, got {size}, at which {error}. Enlarge the images "
            f"(its own input_size is {own}) or use a variant for small images, such as cifar-18"
        ) from None


def _check_work(name: str, placed: list[Placed]) -> list[Placed]:
    """Raise ValueError for a network that no machine has room or time for."""
    for step in placed:
        costs = math.prod(step.output_shape), step.parameters, step.multiply_adds
        for what, cost, most in zip(("outputs", "parameters", "multiply-adds"), costs, MAX_WORK, strict=True):
            if cost > most:
                raise ValueError(f"{name}, {step.name}: {what} for an image must be <= {most:.0e}, got {cost:.1e}")
    return placed


def smallest_input(architecture: Architecture, in_channels: int = 3) -> int:
    """Side of the smallest square image that passes through every layer, pixels."""

    def fits(size: int) -> bool:
        try:
            return bool(_infer_shapes(architecture, 2, in_channels, size))
        except InputTooSmall:
            return False

    return 1 + bisect_left(range(1, architecture.input_size), True, key=fits)


def count_towers(placed: Iterable[Placed]) -> int:
    """2 if there are layers in two groups, the paper's two towers (section 3.2); else 1."""
    return 2 if any(getattr(step.operation, "groups", 1) == 2 for step in placed) else 1


def tensor_shapes(placed: Iterable[Placed]) -> dict[str, Shape]:
    """Shapes of all tensors of a network by name, without allocating what a file claims to hold."""
    return {
        f"{step.name}.{name}": shape
        for step in placed
        for shapes in (step.operation.parameter_shapes, step.operation.buffer_shapes)
        for name, shape in shapes(step.input_shape).items()
    }


def receptive_span(placed: Sequence[Placed], position: int) -> tuple[int, int]:
    """The pixels along an axis that an output depends on: the first one, and one past the last.

    Args:
        placed: a network up to the operation of the output.
        position: of the output along the axis; any for a vector, which depends on all pixels.
    """
    first = last = position
    for step in reversed(placed):
        first, last = step.operation.reads(first, last, step.input_shape[-1])
    return first, last + 1


def inference_scales(placed: Iterable[Placed]) -> dict[str, float]:
    """By layer with weights: what its inputs were multiplied by outside of training, by the dropout of 2012; 1 without.

    Weights of a network whose dropout rescales in training are those of the same network with plain dropout times this.
    """
    scales: dict[str, float] = {}
    scale = 1.0
    for step in placed:
        if isinstance(step.operation, Layer):
            scales[step.name], scale = scale, 1.0
        else:
            scale *= step.operation.inference_scale
    return scales


def _infer_shapes(architecture: Architecture, num_classes: int, in_channels: int, input_size: int) -> list[Placed]:
    placed: list[Placed] = []
    shape: Shape = (in_channels, input_size, input_size)
    field, jump = 1, 1  # receptive field, and distance in input pixels between neighboring values
    for layer in architecture.layers:
        named = architecture.operations(layer)
        if layer.takes == "vectors" and len(shape) > 1:
            named.insert(0, ("flatten", Flatten()))
        for name, operation in named:
            if isinstance(operation, Linear) and operation.units is None:
                operation = replace(operation, units=num_classes)
            try:
                if operation.takes == "maps" and len(shape) != 3:
                    raise ValueError(f"input must be feature maps (channels, height, width), got {shape}")
                input_shape, shape = shape, operation.output_shape(shape)
            except InputTooSmall as error:
                raise InputTooSmall(f"{name} {error}") from None
            except ValueError as error:
                raise ValueError(f"{architecture.name}, {name}: {error}") from None
            window, stride = operation.sliding_window
            field, jump = (field + (window - 1) * jump if len(shape) > 1 and field else 0), jump * stride
            placed.append(Placed(name, layer.name, operation, input_shape, shape, field))
    return placed
