"""What follows from a table of layers by arithmetic: sizes, parameters, multiply-adds, receptive fields.

The size rules are those of the 2012 code (`layer.py`): out = 1 + (in + 2·pad − window) / stride, rounded down or up as
the row says. No torch here, so that `alexnet describe` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architecture import (
    AdaptivePool,
    Architecture,
    BatchNorm,
    Conv,
    Dropout,
    Layer,
    Linear,
    Local,
    Norm,
    Pool,
    SpatialNorm,
    Step,
)

Operation = Layer | Norm | SpatialNorm | BatchNorm | Pool | AdaptivePool | Dropout | str
"""A row of the table, a step after it, or "relu" for the nonlinearity and "flatten" before the first `Linear`."""


@dataclass(frozen=True)
class Placed:
    """One operation of a network for one size of input."""

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    """Shape of what it reads, without the batch: (channels, height, width) or (units,)."""
    outputs: tuple[int, ...]
    weights: int = 0
    biases: int = 0
    multiply_adds: int = 0
    """For one image."""
    receptive_field: int = 0
    """Side of the square of the input that one of its values depends on, pixels, before clipping; 0 once flattened."""


def place(
    architecture: Architecture, num_classes: int | None = None, in_channels: int = 3, input_size: int | None = None
) -> list[Placed]:
    """Every operation of a network in its order, with shapes and counts.

    Raises:
        ValueError: the input is too small for a layer, or a number of classes or channels does not fit.
    """
    num_classes = architecture.classes if num_classes is None else num_classes
    size = architecture.input_size if input_size is None else input_size
    for what, number in (("num_classes", num_classes), ("in_channels", in_channels), ("input_size", size)):
        if number < 1:
            raise ValueError(f"{what} is {number}; it may be 1 or more")
    try:
        return _place(architecture, num_classes, in_channels, size)
    except _TooSmallError as error:
        smallest = smallest_input(architecture)
        raise ValueError(
            f"{architecture.name}: {error} for images of {size} × {size}; the smallest that it takes are "
            f"{smallest} × {smallest}. Either enlarge the images (input_size={architecture.input_size} is its own "
            f"size) or take a variant for small images, such as cifar-18"
        ) from None


def smallest_input(architecture: Architecture) -> int:
    """Side of the smallest square image that passes through every layer, pixels."""
    for size in range(1, architecture.input_size):
        try:
            _place(architecture, 2, 1, size)
        except _TooSmallError:
            continue
        return size
    return architecture.input_size


class _TooSmallError(Exception):
    pass


def _place(architecture: Architecture, num_classes: int, in_channels: int, input_size: int) -> list[Placed]:
    placed: list[Placed] = []
    shape: tuple[int, ...] = (in_channels, input_size, input_size)
    field, jump = 1, 1  # receptive field, and distance in input pixels between neighboring values
    for layer in architecture.layers:
        if isinstance(layer, Linear) and len(shape) == 3:
            flat = (shape[0] * shape[1] * shape[2],)
            placed.append(Placed("flatten", "flatten", shape, flat))
            shape, field = flat, 0
        for name, operation in named_operations(architecture, layer):
            window, stride = _window(operation)
            inputs, shape = shape, _output_shape(name, operation, shape, num_classes)
            if field:
                field, jump = field + (window - 1) * jump, jump * stride
            weights, biases, multiply_adds = _costs(operation, inputs, shape)
            placed.append(Placed(name, operation, inputs, shape, weights, biases, multiply_adds, field))
    return placed


def named_operations(architecture: Architecture, layer: Layer) -> list[tuple[str, Operation]]:
    """A row's weights and the steps after it, under the names that they have in the network: conv1, relu1, norm1 …"""
    number = layer.number or "".join(filter(str.isdigit, layer.name))
    named: list[tuple[str, Operation]] = [(layer.name, layer)]
    for step in layer.then:
        operation = _meaning(architecture, step)
        if operation is not None:
            named.append((f"{_prefix(operation)}{number}", operation))
    return named


def _meaning(architecture: Architecture, step: Step) -> Operation | None:
    """What a word in a row stands for; None where the architecture leaves that step out."""
    words = {
        "relu": "relu",
        "norm": architecture.norm,
        "spatial_norm": architecture.spatial_norm,
        "pool": architecture.pool,
        "dropout": architecture.dropout,
    }
    return words[step] if isinstance(step, str) else step


def _prefix(operation: Operation) -> str:
    if isinstance(operation, (Norm, BatchNorm)):
        return "norm"
    prefixes = {SpatialNorm: "spatial_norm", Pool: "pool", AdaptivePool: "avgpool", Dropout: "drop"}
    return "relu" if operation == "relu" else prefixes[type(operation)]


def _window(operation: Operation) -> tuple[int, int]:
    """Side and stride of the windows that an operation reads."""
    match operation:
        case Conv() | Local():
            return operation.kernel, operation.stride
        case Pool():
            return operation.window, operation.stride
        case SpatialNorm():
            return operation.size, 1
        case _:
            return 1, 1


def _output_shape(name: str, operation: Operation, shape: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
    match operation:
        case Conv() | Local():
            if isinstance(operation, Conv) and (shape[0] % operation.groups or operation.maps % operation.groups):
                raise ValueError(
                    f"{name}: {operation.groups} groups do not divide its {shape[0]} input and {operation.maps} "
                    f"output maps"
                )
            side = _output_side(name, shape[1], operation.kernel, operation.stride, operation.pad, operation.round_up)
            return operation.maps, side, side
        case Pool():
            side = _output_side(name, shape[1], operation.window, operation.stride, 0, operation.round_up)
            return shape[0], side, side
        case AdaptivePool():
            return shape[0], operation.side, operation.side
        case Linear():
            return (num_classes if operation.units is None else operation.units,)
        case Norm() if shape[0] % operation.groups:
            raise ValueError(f"{name}: {operation.groups} groups do not divide its {shape[0]} maps")
        case _:
            return shape


def _output_side(name: str, side: int, window: int, stride: int, pad: int, round_up: bool) -> int:
    span = side + 2 * pad - window
    if span < 0:
        raise _TooSmallError(
            f"{name} reads windows of {window} × {window} but would be given {side + 2 * pad} × {side + 2 * pad}"
        )
    return 1 + (-(-span // stride) if round_up else span // stride)


def _costs(operation: Operation, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[int, int, int]:
    """Weights, biases and multiply-adds for one image."""
    match operation:
        case Conv():
            weights = operation.maps * (inputs[0] // operation.groups) * operation.kernel**2
            return weights, operation.maps, weights * outputs[1] * outputs[2]
        case Local():
            weights = operation.maps * inputs[0] * operation.kernel**2 * outputs[1] * outputs[2]
            return weights, operation.maps * outputs[1] * outputs[2], weights
        case Linear():
            return inputs[0] * outputs[0], outputs[0], inputs[0] * outputs[0]
        case BatchNorm():
            return inputs[0], inputs[0], 0
        case _:
            return 0, 0, 0
