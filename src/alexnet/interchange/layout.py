"""The orders in which frameworks keep the same numbers, and what a file that was read holds.

Ours, PyTorch's and Caffe's: kernels (maps, inputs, height, width), fully connected (units, inputs), and the first of
those reads (channel, row, column). TensorFlow's and Keras's: kernels (height, width, inputs, maps), fully connected
(inputs, units), and the first reads (row, column, channel). Caffe's networks see blue, green, red.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..model.network import AlexNet, plain_dropout
from ..specs import architecture as words
from ..specs.shapes import named_operations

Layers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Weights and biases by layer, in the order of the work."""


@dataclass
class Found:
    """What a file holds, in our layout."""

    format: str
    tensors: dict[str, Tensor]
    """By name, `conv1.weight` and so on, layers in the order of the work; names may still be the file's own."""
    skipped: tuple[str, ...] = ()
    """What in the file is no weight."""
    architecture: words.Architecture | None = None
    """Where the file describes its network."""
    likely: str | None = None
    """The variant that files of this format are of, where shapes do not tell."""
    rescaled: bool = True
    """Whether the framework scales dropout while training, so that weights are used as they are."""
    input_size: int | None = None
    mean: Tensor | None = None
    """Of the pixels, RGB, 0 … 255: (1, 1, 3)."""
    std: Tensor | None = None
    classes: tuple[str, ...] | None = None


def named_tensors(layers: Layers) -> dict[str, Tensor]:
    """`NAME.weight` and `NAME.bias`, float32, in memory of their own."""
    named = {}
    for name, (weight, bias) in layers.items():
        named[f"{name}.weight"] = torch.from_numpy(np.array(weight, np.float32, order="C"))
        named[f"{name}.bias"] = torch.from_numpy(np.array(bias, np.float32).reshape(-1))
    return named


def layers_of(network: AlexNet, target: str) -> Layers:
    """A network's weights for a framework whose dropout is scaled while training, as all but that of 2012.

    Plain dropout's factor goes into the weights that follow it.

    Raises:
        ValueError: a layer is unshared or normalizes over the batch, which the target's file does not hold.
    """
    layers: Layers = {}
    factors = plain_dropout(network.placed)
    for step in network.placed:
        match step.operation:
            case words.Local():
                raise ValueError(f"{step.name} has weights of its own at every place, which {target} does not know")
            case words.BatchNorm():
                raise ValueError(f"{step.name} normalizes by means of batches, for which {target} has no place here")
            case words.Conv() | words.Linear():
                module, keep = network.get_submodule(step.name), factors[step.name]
                weight, bias = (each.detach().float().cpu().numpy() for each in (module.weight, module.bias))
                layers[step.name] = (weight if keep == 1 else weight * np.float32(keep)), bias
    return layers


def channels_last(layers: Layers) -> Layers:
    """As TensorFlow and Keras have them."""
    turned, maps = {}, 0
    for name, (weight, bias) in layers.items():
        if weight.ndim == 4:
            turned[name], maps = (weight.transpose(2, 3, 1, 0), bias), len(weight)
            continue
        if maps:
            weight = weight.reshape(len(weight), maps, -1).transpose(0, 2, 1).reshape(len(weight), -1)
        turned[name], maps = (weight.T, bias), 0
    return turned


def channels_first(layers: Layers) -> Layers:
    """As we and Caffe have them; the way back from `channels_last`."""
    turned, maps = {}, 0
    for name, (weight, bias) in layers.items():
        if weight.ndim == 4:
            turned[name], maps = (weight.transpose(3, 2, 0, 1), bias), weight.shape[3]
            continue
        weight = weight.T
        if maps:
            if weight.shape[1] % maps:
                raise ValueError(f"{name} reads {weight.shape[1]} values, which {maps} maps before it cannot give")
            weight = weight.reshape(len(weight), -1, maps).transpose(0, 2, 1).reshape(len(weight), -1)
        turned[name], maps = (weight, bias), 0
    return turned


def swap_colors(layers: Layers) -> Layers:
    """From RGB to BGR or back: the first layer's inputs, where they are three."""
    name, (weight, bias) = next(iter(layers.items()))
    return layers | {name: (weight[:, ::-1], bias)} if weight.shape[1] == 3 else layers


def in_pixels(layers: Layers, std: Tensor) -> Layers:
    """For inputs that have the mean taken off but are not divided: the first layer divides."""
    name, (weight, bias) = next(iter(layers.items()))
    return layers | {name: (weight / std.cpu().numpy()[: weight.shape[1], None, None], bias)}


def work_of(architecture: words.Architecture) -> list:
    """What a trained network does, step by step, whatever its layers are called, how wide they are and how they began.

    Two networks of the same work can take each other's weights.
    """
    work: list = [architecture.activation]
    for row in architecture.layers:
        for name, operation in named_operations(architecture, row):
            if isinstance(operation, words.Conv):
                work.append(replace(operation, name="", maps=0, std=0, bias=0, then=(), number=""))
            elif name == row.name:
                work.append(type(operation).__name__)
            elif not isinstance(operation, words.Dropout):
                work.append(operation)
    return work
