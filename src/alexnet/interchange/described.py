"""The network that a file describes itself, layer by layer, as a table of layers and their tensors.

Readers turn the layers of their framework into `Step`s, which `build` puts together. What stands before the first
weights (Rescaling, Normalization, a batch norm of the pixels) becomes the mean and std of the preprocessing. A
convolution that reads its whole input is the fully connected layer that it equals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import NoneType

import numpy as np
import torch
from torch import Tensor

from ..specs import operations as ops
from ..specs.architecture import Architecture
from ..specs.variants import VARIANTS
from .weights_file import WeightsFile

CHANNELS = 3  # red, green and blue
IGNORED = ("name", "suffix", "then", "std", "bias", "channels", "units")
"""Fields of operations that are names, widths and initialization, and not what is computed."""


@dataclass(frozen=True)
class Step:
    """A layer of a file. Its operation's name and widths do not matter."""

    name: str
    operation: ops.Operation | None
    """None: pixels times `weight` plus `bias`, for each color; only before the first layer with weights."""
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    """In PyTorch's layout, under the names that a module has for them."""


def build(format: str, name: str, steps: Iterable[Step], side: int, recipe: str) -> WeightsFile:
    """Put a network together: the variant of equal computation, or else one of its own.

    Args:
        format: what kind of network the file holds.
        name, recipe: of a network of its own.
        side: of the images that the network takes, pixels.

    Raises:
        ValueError: the layers do not make a network with one vector of scores.
    """
    (mean, std), steps = _split_front(list(steps))
    rows: list[ops.Layer] = []
    tensors: list[Mapping[str, np.ndarray]] = []  # of each operation but dropout
    count = sum(isinstance(step.operation, ops.Layer) for step in steps)
    shape: ops.Shape = (CHANNELS, side, side)
    for step in steps:
        operation, arrays = step.operation, step.tensors
        if isinstance(operation, ops.Conv) and _reads_all(operation, shape):
            operation = ops.Linear("", operation.channels)
            arrays = {**arrays, "weight": arrays["weight"].reshape(len(arrays["weight"]), -1)}
            shape = (operation.units,)
        elif isinstance(operation, (ops.Linear, ops.Flatten)):
            shape = (len(arrays["weight"]),) if arrays else (int(np.prod(shape)),)
        elif operation == ops.AdaptivePool(1) and len(shape) == 1:
            continue  # there is one place
        elif operation.takes == "maps" and len(shape) == 1:
            raise ValueError(f"{step.name} must read feature maps, but follows a fully connected layer")
        else:
            shape = operation.output_shape(shape)
        if isinstance(operation, ops.Layer):
            last = step
            index = len(rows) + 1
            # The last one is fc8 even if there are few.
            row_name = f"fc{index + max(0, 8 - count)}" if isinstance(operation, ops.Linear) else f"conv{index}"
            rows.append(replace(operation, name=row_name, then=()))
        elif _changes_nothing(operation, rows[-1].then):
            continue
        elif operation.prefix in {each.prefix for each in rows[-1].then}:
            second = f"{step.name} ({operation.label}) is a second {operation.prefix}"
            raise ValueError(f"{second} after {rows[-1].name}, which is not supported")
        else:
            rows[-1] = replace(rows[-1], then=(*rows[-1].then, operation))
        if not isinstance(operation, ops.Dropout):
            tensors.append(arrays)
    if not isinstance(rows[-1], ops.Linear):
        sides = " × ".join(map(str, shape[1:]))
        is_mean = any(isinstance(each, ops.AdaptivePool) for each in rows[-1].then)
        what = "averages of feature maps, as in Network in Network" if is_mean else f"feature maps of {sides}"
        raise ValueError(
            f"the scores of its last layer, {last.name}, are {what} for images of {side} × {side}; a network must end "
            "in one score per class, from a fully connected layer. If it was made fully convolutional, give the "
            "input_size of the network that it was made from, for AlexNet's kind mostly 227"
        )
    layers = (*rows[:-1], replace(rows[-1], units=None))
    own = Architecture(name, f"Read from {format}.", layers, side, usual_stored_size(side), recipe=recipe)
    known = next((each for each in VARIANTS.values() if computation(each) == computation(own)), own)
    names = [each for row in known.layers for each, operation in known.operations(row) if not _is_dropout(operation)]
    named = {
        f"{layer}.{kind}": _tensor(array)
        for layer, arrays in zip(names, tensors, strict=True)
        for kind, array in arrays.items()
    }
    return WeightsFile(format, named, architecture=known, mean=mean, std=std, inputs_from="its first layers")


def computation(architecture: Architecture) -> list[tuple]:
    """What a trained network computes, operation by operation; networks of equal computation can exchange weights."""
    return [
        (type(operation), [getattr(operation, each.name) for each in fields(operation) if each.name not in IGNORED])
        for row in architecture.layers
        for _, operation in architecture.operations(row)
        if not _is_dropout(operation)
    ]


def usual_stored_size(side: int) -> int:
    """Side of the images that crops of this size are usually cut from, pixels: 256 for 224 and 227, none for CIFAR."""
    return side if side <= 64 else round(side / 0.875) if side < 200 or side > 256 else 256


def _reads_all(conv: ops.Conv, shape: ops.Shape) -> bool:
    """Whether a convolution reads an input of this shape as one window, as a fully connected layer does."""
    window = shape[1] if len(shape) == 3 else 1
    return conv.kernel == window and not conv.pad and conv.groups == 1


def _changes_nothing(operation: ops.Operation, before: tuple[ops.Operation, ...]) -> bool:
    """Whether this is a second ReLU, with nothing below 0 before it, or a second dropout."""
    is_relu = operation == ops.Activation("relu") and not any(isinstance(each, ops.BatchNorm) for each in before)
    return (is_relu and operation in before) or (_is_dropout(operation) and any(map(_is_dropout, before)))


def _is_dropout(operation: ops.Operation) -> bool:
    return isinstance(operation, ops.Dropout)


def _split_front(steps: list[Step]) -> tuple[tuple[Tensor | None, Tensor | None], list[Step]]:
    """Mean and std of what comes before the first weights, and the other layers."""
    first = next((index for index, step in enumerate(steps) if isinstance(step.operation, ops.Layer)), None)
    if first is None:
        raise ValueError("it has no layers with weights")
    if late := next((step for step in steps[first:] if step.operation is None), None):
        raise ValueError(f"{late.name} must not scale activations, except before the first layer or by batch norm")
    scale, offset, is_scaled = np.ones(CHANNELS), np.zeros(CHANNELS), False
    for step in steps[:first]:
        if isinstance(step.operation, (ops.Dropout, ops.Flatten)):
            continue
        if not isinstance(step.operation, (ops.BatchNorm, NoneType)):
            raise ValueError(f"{step.name} ({step.operation.label}) comes before the first weights")
        arrays = {name: np.asarray(array, np.float64) for name, array in step.tensors.items()}
        weight, bias = arrays["weight"], arrays["bias"]
        if isinstance(step.operation, ops.BatchNorm):
            weight = weight / np.sqrt(arrays["running_var"] + step.operation.eps)
            bias = bias - weight * arrays["running_mean"]
        if weight.size not in (1, CHANNELS) or bias.size not in (1, CHANNELS):
            raise ValueError(f"{step.name} must scale three colors, got {weight.size}")
        scale, offset, is_scaled = scale * weight.reshape(-1), offset * weight.reshape(-1) + bias.reshape(-1), True
    if not is_scaled:
        return (None, None), steps[first:]
    if not (scale > 0).all():
        raise ValueError(f"pixels must be scaled by numbers > 0, got {scale.tolist()}")
    return (_tensor(-offset / scale), _tensor(1 / scale)), steps[first:]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))
