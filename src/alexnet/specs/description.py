"""A network in words and numbers: its layers, and how it differs from the one in the paper."""

from __future__ import annotations

import math
from dataclasses import fields

from .architecture import AdaptivePool, Architecture, BatchNorm, Conv, Dropout, Linear, Local, Norm, Pool, SpatialNorm
from .shapes import Operation, Placed, named_operations
from .variants import PAPER

HEAD = ("layer", "what", "output", "parameters", "multiply-adds", "sees")
NUMBERS = (2, 3, 4, 5)
"""Columns of HEAD that hold numbers."""


def layer_rows(placed: list[Placed]) -> list[tuple[str, ...]]:
    """A row for each operation, in the columns of HEAD; the last is the side of the receptive field, pixels."""
    return [
        (
            step.name,
            in_words(step.operation, step.inputs),
            " × ".join(map(str, step.outputs)),
            f"{step.weights + step.biases:,}" if step.weights else "",
            f"{step.multiply_adds:,}" if step.multiply_adds else "",
            f"{step.receptive_field}" if step.receptive_field else "",
        )
        for step in placed
    ]


def totals(placed: list[Placed]) -> dict[str, str]:
    """Sums over a network, for one image where that matters."""
    return {
        "parameters": f"{sum(step.weights + step.biases for step in placed):,}",
        "multiply-adds per image": f"{sum(step.multiply_adds for step in placed):,}",
        "units with weights": f"{sum(math.prod(step.outputs) for step in placed if step.multiply_adds):,}",
    }


def in_words(operation: Operation, inputs: tuple[int, ...] = ()) -> str:
    """An operation in a few words."""
    match operation:
        case Conv():
            parts = [f"{operation.maps} kernels {operation.kernel} × {operation.kernel}"]
            parts += [f"stride {operation.stride}"] if operation.stride > 1 else []
            parts += [f"pad {operation.pad}"] if operation.pad else []
            parts += [f"{operation.groups} groups"] if operation.groups > 1 else []
            parts += ["zeros right and below"] if operation.round_up else []
            return ", ".join(parts)
        case Local():
            return f"{operation.maps} kernels {operation.kernel} × {operation.kernel}, own weights at every place"
        case Linear():
            return f"fully connected to {inputs[0]:,}" if inputs else "fully connected"
        case Norm():
            scope = f" within {operation.groups} groups" if operation.groups > 1 else ""
            divided = f" / {operation.size}" if operation.divided else ""
            constants = f"k {operation.k:g}, alpha {operation.alpha:g}{divided}, beta {operation.beta:g}"
            return f"response norm over {operation.size} maps{scope}, {constants}"
        case SpatialNorm():
            return (
                f"response norm over {operation.size} × {operation.size} places of a map, alpha {operation.alpha:g} / "
                f"{operation.size**2}"
            )
        case BatchNorm():
            return "batch norm: each map less its mean, over its deviation; learnt scale and shift"
        case Pool():
            return f"{operation.kind} of {operation.window} × {operation.window}, stride {operation.stride}"
        case AdaptivePool():
            return f"mean to {operation.side} × {operation.side}"
        case Dropout():
            scaled = "scaled while training" if operation.rescale else f"× {1 - operation.rate:g} when testing"
            return f"rate {operation.rate:g}, {scaled}"
        case _:
            return {"relu": "nonlinearity", "flatten": "to a vector"}[operation]


def differences(architecture: Architecture, other: Architecture = PAPER) -> list[str]:
    """How a network differs from another, by default the one in the paper, a sentence each."""
    sentences = []
    if architecture.input_size != other.input_size:
        sentences.append(f"It sees crops of {architecture.input_size} pixels, not {other.input_size}.")
    if architecture.activation != other.activation:
        sentences.append(f"Its nonlinearity is {architecture.activation}, not {other.activation}.")
    for word, name in (("norm", "Normalization across maps"), ("spatial_norm", "Normalization over places")):
        mine, theirs = _used(architecture, word), _used(other, word)
        if mine != theirs:
            sentences.append(_changed(name, mine, theirs))
    for word, name in (("pool", "Pooling"), ("dropout", "Dropout")):
        mine, theirs = _used(architecture, word), _used(other, word)
        if mine != theirs and (word != "pool" or in_words(mine) != in_words(theirs)):
            sentences.append(_changed(name, mine, theirs))
    mine = {layer.name: layer for layer in architecture.layers}
    theirs = {layer.name: layer for layer in other.layers}
    for name in theirs:
        if name not in mine:
            sentences.append(f"It has no {name}.")
    for name, layer in mine.items():
        if name not in theirs:
            sentences.append(f"It has {name}: {in_words(layer)}.")
        elif changes := _layer_changes(architecture, layer, other, theirs[name]):
            sentences.append(f"{name}: {'; '.join(changes)}.")
    return sentences


def _changed(name: str, mine: Operation | None, theirs: Operation | None) -> str:
    if mine is None:
        return f"{name}: none."
    return f"{name}: {in_words(mine)}" + (
        f", not {in_words(theirs)}." if theirs is not None else ", which is not there."
    )


def _used(architecture: Architecture, word: str) -> Operation | None:
    """What a word means in a network, None where no row has it."""
    return getattr(architecture, word) if any(word in layer.then for layer in architecture.layers) else None


SAID = {
    "maps": "{0} kernels, not {1}",
    "kernel": "kernels of {0} × {0}, not {1} × {1}",
    "stride": "stride {0}, not {1}",
    "pad": "pad {0}, not {1}",
    "groups": "groups: {0}, not {1}",
    "units": "{0} units, not {1}",
    "bias": "biases start at {0:g}, not {1:g}",
}


def _layer_changes(architecture: Architecture, mine, other: Architecture, theirs) -> list[str]:
    if type(mine) is not type(theirs):
        return [f"{in_words(mine)}, not {in_words(theirs)}"]
    changes = []
    for field in fields(mine):
        old, new = getattr(theirs, field.name), getattr(mine, field.name)
        if old == new:
            continue
        if field.name in SAID:
            changes.append(SAID[field.name].format(new, old))
        elif field.name == "round_up":
            changes.append("its size is rounded up, with zeros right and below" if new else "its size is rounded down")
        elif field.name == "std":
            changes.append(f"weights start {_deviation(new)}, not {_deviation(old)}")
    new_order, old_order = (
        [_step_name(operation) for _, operation in named_operations(net, layer)[1:]]
        for net, layer in ((architecture, mine), (other, theirs))
    )
    if new_order != old_order:
        changes.append(f"followed by {_list(new_order)}, not by {_list(old_order)}")
    return changes


def _step_name(operation: Operation) -> str:
    names = {Norm: "norm", BatchNorm: "batch norm", SpatialNorm: "spatial norm", Dropout: "dropout"}
    names[AdaptivePool] = "mean to a fixed size"
    if isinstance(operation, Pool):
        return "pool" if operation.kind == "max" else "mean pool"
    return "ReLU" if operation == "relu" else names[type(operation)]


def _deviation(std: float | str) -> str:
    words = {"he": "with deviation √(2 / inputs)", "torch": "uniform up to 1 / √inputs, biases too"}
    return words[std] if isinstance(std, str) else f"with deviation {std:g}"


def _list(names: list[str]) -> str:
    return ", ".join(names) or "nothing"
