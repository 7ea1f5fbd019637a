"""Which pixels of an image speak for a class, by captum: Grad-CAM, occlusion, gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..data.labels.class_names import readable_class_name
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs.names import not_one_of
from ..specs.operations import Activation

Method = Literal["gradcam", "occlusion", "gradients"]
BATCH_BYTES = 2**28
"""Activations of one batch of occluded images."""
WINDOWS = 8
"""Occluding squares along a side; neighbors overlap by half."""


@dataclass(frozen=True)
class Explanation:
    """How much each pixel of an image speaks for a class."""

    image: str
    pixels: np.ndarray
    """The image as the network sees it: its center crop, (side, side, 3), uint8."""
    target: int
    """Index of the class."""
    heat: np.ndarray
    """(side, side), float32, in the units that `unit` says."""
    unit: str
    method: Method
    layer: str | None
    """Layer of Grad-CAM."""
    probabilities: np.ndarray
    """The probability of every class, by the center crop, (classes,)."""
    classes: tuple[str, ...]


def explain(
    bundle: ModelBundle,
    stored: np.ndarray,
    name: str,
    method: Method,
    target: str | None = None,
    layer: str | None = None,
    window: int | None = None,
) -> Explanation:
    """Explain one image.

    Args:
        stored: (stored_size, stored_size, 3), uint8.
        name: of the image.
        method: "gradcam" (Selvaraju et al. 2017): feature maps of a layer, weighted by their mean gradients;
            "occlusion" (Zeiler and Fergus 2013): how much the probability drops when a square of mean color hides the
            pixels; "gradients" (Simonyan et al. 2013): the largest slope of the score among a pixel's colors.
        target: name of the class; the likeliest if None.
        layer: for Grad-CAM; the last ReLU of feature maps, such as relu5, if None.
        window: for occlusion, side of the square, pixels; an eighth of the side of the image if None.

    Raises:
        ValueError: there is no such method, class or layer, or the layer has no feature maps.
        ImportError: captum is missing.
    """
    if method not in get_args(Method):
        raise ValueError(not_one_of("by", method, get_args(Method)))
    label = None if target is None else _label(bundle.classes, target)
    inputs, side = bundle.preprocessing, bundle.preprocessing.crop_size
    with bundle.for_inference("fp32"), warnings.catch_warnings(action="ignore"):  # captum warns of its own hooks
        network = bundle.network  # whose weights autograd can use
        x = inputs.center_crop(torch.from_numpy(stored[None]).to(next(network.parameters()).device)).contiguous()
        with torch.no_grad():
            probabilities = network(x).float().softmax(1)[0]
        label = int(probabilities.argmax()) if label is None else label
        if method == "gradcam":
            layer = layer or last_relu(network)
            heat, unit = _gradcam(network, x, label, layer), "weighted activation"
        elif method == "occlusion":
            window = max(1, side // WINDOWS) if window is None else window
            if not 1 <= window <= side:
                raise ValueError(f"window must be 1 … {side}, got {window}")
            heat, unit = _occlusion(network, x, label, window), "drop of the probability"
        else:
            heat, unit = _attribution().Saliency(network).attribute(x, target=label).amax(1)[0], "slope of the score"
    start = inputs.margin // 2
    pixels, heat = stored[start : start + side, start : start + side], heat.detach().float().cpu().numpy()
    about = method, layer if method == "gradcam" else None, probabilities.cpu().numpy(), bundle.classes
    return Explanation(name, pixels, label, heat, unit, *about)


def last_relu(network: AlexNet) -> str:
    """The last activation function of feature maps: relu5 in most networks."""
    steps = (step for step in network.placed if isinstance(step.operation, Activation))
    return [step.name for step in steps if len(step.output_shape) == 3][-1]


def _gradcam(network: AlexNet, x: Tensor, label: int, layer: str) -> Tensor:
    attr = _attribution()
    steps = {step.name: step for step in network.placed}
    if layer not in steps:
        raise ValueError(not_one_of(f"a layer of {network.architecture.name}", layer, steps))
    if len(steps[layer].output_shape) != 3:
        raise ValueError(f"layer must have feature maps, got {layer}, which gives {steps[layer].output_shape}")
    maps = attr.LayerGradCam(network, network.get_submodule(layer)).attribute(x, label, relu_attributions=True)
    return attr.LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")[0, 0]


def _occlusion(network: AlexNet, x: Tensor, label: int, window: int) -> Tensor:
    per_image = 4 * sum(prod(step.output_shape) for step in network.placed)
    probability = nn.Sequential(network, nn.Softmax(1))
    stride = max(1, window // 2)
    drops = (
        _attribution()
        .Occlusion(probability)
        .attribute(
            x,
            sliding_window_shapes=(x.shape[1], window, window),
            strides=(x.shape[1], stride, stride),
            target=label,
            perturbations_per_eval=max(1, min(256, BATCH_BYTES // per_image)),
        )
    )
    return drops[0, 0]  # a square hides all colors alike


def _label(classes: Sequence[str], name: str) -> int:
    """The index of a class by its name, as it is stored or shown."""
    for names in (classes, [*map(readable_class_name, classes)]):
        if name in names:
            return names.index(name)
    raise ValueError(not_one_of("target", name, classes))


def _attribution():
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError("explain needs the package captum: pip install 'alexnet[inside]'") from error
    return captum.attr
