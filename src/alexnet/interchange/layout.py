"""Layouts of weights, and the weights of a network for writing.

This package, PyTorch and Caffe: kernels (channels, inputs, height, width), fully connected (units, inputs), and the
first fully connected layer reads (channel, row, column). TensorFlow and Keras: kernels (height, width, inputs,
channels), fully connected (inputs, units), and the first reads (row, column, channel). Caffe's images are BGR.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..model.network import AlexNet
from ..specs.shapes import inference_scales

Layers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Weight and bias by layer, in the order of the network."""


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

    Raises:
        ValueError: a layer has other parameters than kernels, or a matrix, and biases.
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


def channels_last(layers: Layers) -> Layers:
    """Convert to the layout of TensorFlow and Keras."""
    converted, channels = {}, 0
    for name, (weight, bias) in layers.items():
        if weight.ndim == 4:
            converted[name], channels = (weight.transpose(2, 3, 1, 0), bias), len(weight)
            continue
        if channels:
            weight = weight.reshape(len(weight), channels, -1).transpose(0, 2, 1).reshape(len(weight), -1)
        converted[name], channels = (weight.T, bias), 0
    return converted


def channels_first(layers: Layers) -> Layers:
    """Convert from the layout of TensorFlow and Keras.

    Raises:
        ValueError: the first fully connected layer does not read the channels before it.
    """
    converted, channels = {}, 0
    for name, (weight, bias) in layers.items():
        if weight.ndim == 4:
            converted[name], channels = (weight.transpose(3, 2, 0, 1), bias), weight.shape[3]
            continue
        weight = weight.T
        if channels:
            if weight.shape[1] % channels:
                raise ValueError(f"{name} reads {weight.shape[1]} values, not a multiple of the {channels} channels")
            weight = weight.reshape(len(weight), -1, channels).transpose(0, 2, 1).reshape(len(weight), -1)
        converted[name], channels = (weight, bias), 0
    return converted


def swap_colors(layers: Layers) -> Layers:
    """Convert the first layer from RGB to BGR or back, if it reads three channels."""
    name, (weight, bias) = next(iter(layers.items()))
    return layers | {name: (weight[:, ::-1], bias)} if weight.shape[1] == 3 else layers


def divide_by_std(layers: Layers, std: Tensor) -> Layers:
    """Move the division by the standard deviation into the first layer, for inputs that only had the mean removed."""
    name, (weight, bias) = next(iter(layers.items()))
    return layers | {name: (weight / std.cpu().numpy()[: weight.shape[1], None, None], bias)}
