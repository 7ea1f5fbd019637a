"""A network in words and numbers: its layers, and how it differs from another one."""

import math
import re

from .architecture import Architecture
from .operations import Layer, Operation
from .shapes import Placed
from .variants import PAPER, VARIANTS


def layer_rows(placed: list[Placed]) -> list[tuple[str, ...]]:
    """A row for each operation: layer, operation, output, parameters, multiply-adds, receptive field."""
    return [
        (
            step.name,
            step.operation.description(step.input_shape),
            " × ".join(map(str, step.output_shape)),
            f"{step.parameters:,}" if step.parameters else "",
            f"{step.multiply_adds:,}" if step.multiply_adds else "",
            f"{step.receptive_field}" if step.receptive_field else "",
        )
        for step in placed
    ]


def totals(placed: list[Placed]) -> dict[str, str]:
    """Sums over a network, per image where that matters."""
    units = sum(math.prod(step.output_shape) for step in placed if isinstance(step.operation, Layer))
    return {
        "parameters": f"{sum(step.parameters for step in placed):,}",
        "multiply-adds per image": f"{sum(step.multiply_adds for step in placed):,}",
        "units in layers with weights": f"{units:,}",
    }


def base_of(architecture: Architecture) -> Architecture:
    """The network that another is a change of: the first one that its `about` names, else the one in the paper."""
    words = re.findall(r"[\w-]+", architecture.about)
    return next((VARIANTS[word] for word in words if word in VARIANTS and word != architecture.name), PAPER)


def differences(architecture: Architecture, other: Architecture) -> list[str]:
    """How a network differs from another, a sentence each."""
    sentences = []
    if architecture.input_size != other.input_size:
        sentences.append(f"It sees crops of {architecture.input_size} pixels, not {other.input_size}.")
    for word, subject in SUBJECTS.items():
        if change := _change_of_meaning(architecture, other, word):
            sentences.append(f"{subject}: {change}.")
    mine = {layer.name: layer for layer in architecture.layers}
    theirs = {layer.name: layer for layer in other.layers}
    sentences += [f"It has no {name}." for name in theirs if name not in mine]
    for name, layer in mine.items():
        if name not in theirs:
            sentences.append(f"It has {name}: {layer.description()}.")
        elif changes := _layer_changes(architecture, layer, other, theirs[name]):
            sentences.append(f"{name}: {'; '.join(changes)}.")
    return sentences


SUBJECTS = {
    "relu": "Activation",
    "norm": "Normalization across channels",
    "spatial_norm": "Normalization over positions",
    "pool": "Pooling",
    "dropout": "Dropout",
}


def _change_of_meaning(architecture: Architecture, other: Architecture, word: str) -> str:
    """What a word in the rows of both stands for here and not there, empty where that is the same."""
    mine, theirs = (
        each.meaning(word) if any(word in row.then for row in each.layers) else None for each in (architecture, other)
    )
    if mine is None or theirs is None:
        return "" if mine is theirs else "none" if mine is None else f"{mine.description()} (the other has none)"
    return "; ".join(mine.differences(theirs))


def _layer_changes(architecture: Architecture, mine: Layer, other: Architecture, theirs: Layer) -> list[str]:
    changes = mine.differences(theirs)
    if type(mine) is type(theirs):
        here, there = (_labels(each.operations(row)[1:]) for each, row in ((architecture, mine), (other, theirs)))
        changes += [f"followed by {here}, not by {there}"] if here != there else []
    return changes


def _labels(operations: list[tuple[str, Operation]]) -> str:
    return ", ".join(operation.label for _, operation in operations) or "nothing"
