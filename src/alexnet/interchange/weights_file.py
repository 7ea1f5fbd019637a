"""What a file of weights holds, the layouts of the frameworks, and the weights of a network for writing.

This package, PyTorch and Caffe: kernels (channels, inputs, height, width), fully connected (units, inputs), and the
first fully connected layer reads (channel, row, column). TensorFlow and Keras: kernels (height, width, inputs,
channels), fully connected (inputs, units), and the first reads (row, column, channel). Caffe's images are BGR.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs.architecture import Architecture
from ..specs.shapes import inference_scales

Layers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Weight and bias by layer, in the order of the network."""


MAX_TENSORS = 2000
"""Tensors of a file; a network of the family has a few dozen."""


@dataclass(frozen=True)
class WeightsFile:
    """Tensors in PyTorch's layout, and what the file says about the network and its images."""

    format: str
    tensors: dict[str, Tensor]
    """By name (`conv1.weight`), layers in the order of the network; the names may still be the file's own."""
    skipped: tuple[str, ...] = ()
    """Names of what is not a weight."""
    unread: tuple[str, ...] = ()
    """Names of learned arrays for which no reader has a place."""
    architecture: Architecture | None = None
    """If the file describes its network."""
    likely_variant: str | None = None
    """The usual variant of files in this format, if the shapes fit several."""
    recognized_by: str = "the shapes of its tensors"
    """What tells which network it is, if not its description."""
    modules: tuple[str, ...] = ()
    """Names of all modules of the network, if the file has them, in their order."""
    is_state_dict: bool = False
    """Whether it could be that of a network of this package, whose dropout may be that of 2012."""
    order_is_known: bool = True
    """Whether layers of all kinds stand in the order of the network."""
    batch_norm_eps: float = 1e-5
    """The default of the framework."""
    input_size: int | None = None
    """Side of the images, pixels."""
    stored_size: int | None = None
    """Side of the images that crops are cut from, pixels."""
    mean: Tensor | None = None
    """Mean color, RGB, 0 to 255, (3,)."""
    std: Tensor | None = None
    """Standard deviation of the colors, RGB, 0 to 255, (3,)."""
    inputs_from: str = "it"
    """What mean and std are from."""
    mean_note: str = ""
    """What the file says of a mean that it does not hold."""
    guesses: tuple[str, ...] = ()
    """What the reader assumed, in words."""
    classes: tuple[str, ...] | None = None

    def __post_init__(self):
        if len(self.tensors) > MAX_TENSORS:
            raise ValueError(f"it must have <= {MAX_TENSORS:,} tensors, got {len(self.tensors):,}")


def classes_path(weights: Path) -> Path:
    """The class names beside a file that cannot hold them: net.classes.txt of net.pth and of net.weights.h5."""
    return weights.with_name(f"{weights.stem.removesuffix('.weights')}.classes.txt")


def named_tensors(layers: Layers) -> dict[str, Tensor]:
    """Copy to float32 tensors, named `conv1.weight` and `conv1.bias`."""
    named = {}
    for name, (weight, bias) in layers.items():
        named[f"{name}.weight"] = torch.from_numpy(np.array(weight, np.float32, order="C"))
        named[f"{name}.bias"] = torch.from_numpy(np.array(bias, np.float32).reshape(-1))
    return named


def layers_of(network: AlexNet, framework: str) -> Layers:
    """The weights for a framework whose dropout scales during training, which is every framework but that of 2012.

    The factor of plain dropout goes into the weights of the next layer.
    """
    layers: Layers = {}
    factors = inference_scales(network.placed)
    for step in network.placed:
        module = network.get_submodule(step.name)
        parameters = [each.detach().float().cpu().numpy() for each in module.parameters()]
        if [each.ndim for each in parameters] in ([4, 1], [2, 1]) and len(parameters[0]) == len(parameters[1]):
            weight, bias = parameters
            layers[step.name] = weight * np.float32(factors[step.name]), bias
        elif parameters:
            raise ValueError(f"{step.name}: {framework} has no layer for {type(step.operation).__name__}")
    return layers


def bgr_layers_of(bundle: ModelBundle, framework: str) -> Layers:
    """`layers_of` a network for BGR images minus the mean: the first layer divides by the standard deviation."""
    layers = layers_of(bundle.network, framework)
    name, (weight, bias) = next(iter(layers.items()))
    std = bundle.preprocessing.std.cpu().numpy()[: weight.shape[1], None, None]
    return swap_colors(layers | {name: (weight / std, bias)})


def channels_last(layers: Layers) -> Layers:
    """Convert to the layout of TensorFlow and Keras."""
    converted, channels = {}, 1
    for name, (weight, bias) in layers.items():
        if weight.ndim == 4:
            converted[name], channels = (weight.transpose(2, 3, 1, 0), bias), len(weight)
        else:
            by_channel = weight.reshape(len(weight), channels, -1)  # (units, channels, rows × columns)
            converted[name], channels = (by_channel.transpose(2, 1, 0).reshape(weight.T.shape), bias), 1
    return converted


def channels_first(layers: Layers, is_sorted: bool = False) -> Layers:
    """Convert from the layout of TensorFlow and Keras, and sort: convolutions first, conv2 before conv10."""
    converted, channels = {}, 1
    if not is_sorted:
        layers = dict(sorted(layers.items(), key=lambda item: (item[1][0].ndim != 4, numbers_as_numbers(item[0]))))
    for name, (weight, bias) in layers.items():
        if weight.ndim == 4:
            converted[name], channels = (weight.transpose(3, 2, 0, 1), bias), max(1, weight.shape[3])
        elif len(weight) % channels:
            raise ValueError(f"{name} reads {len(weight)} values, not a multiple of the {channels} channels")
        else:
            by_position = weight.reshape(-1, channels, weight.shape[1])  # (rows × columns, channels, units)
            converted[name], channels = (by_position.transpose(2, 1, 0).reshape(weight.T.shape), bias), 1
    return converted


def numbers_as_numbers(name: str) -> list[list[str | int]]:
    """A key that sorts b9 before b10, and fc.1 before fc1.1."""
    pieces = (re.split(r"([0-9]+)", part) for part in name.split("."))
    return [[int(piece) if index % 2 else piece for index, piece in enumerate(each)] for each in pieces]


def in_pixel_units(colors: dict[str, Tensor]) -> dict:
    """Mean and std that a network holds, for pixels of 0 to 255 if both are of 0 to 1."""
    if colors.keys() != {"mean", "std"} or not all(each.isfinite().all() for each in colors.values()):
        return {}
    unit = 255.0 if max(each.abs().max() for each in colors.values()) <= 1 else 1.0
    return {name: unit * each for name, each in colors.items()} | {"inputs_from": "the mean and std in it"}


def swap_colors(layers: Layers) -> Layers:
    """Convert the first layer from RGB to BGR or back, if it reads three channels."""
    name, (weight, bias) = next(iter(layers.items()))
    return layers | {name: (weight[:, ::-1], bias)} if weight.shape[1] == 3 else layers
