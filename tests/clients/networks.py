"""The networks that the tools are tried on, and what they must give, computed without the package."""

import pytest
import torch
import torch.nn.functional as F
from references import networks
from test_references import lively, narrower
from torch import Tensor

SIZES = {"small": 56, "original": 101, "cifar-18": 32}
"""Sides of the images, pixels. At 101, windows of conv1 of `original` hang over, as they do at 224."""

every_network = pytest.mark.parametrize("name", SIZES)


def small(parameters: networks.Parameters, images: Tensor) -> Tensor:
    def layer(function, name, *settings):
        return function(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], *settings).relu()

    x = images
    for name, stride, pad in (("conv1", 2, 2), ("conv2", 1, 1), ("conv3", 1, 1), ("conv4", 1, 1), ("conv5", 1, 1)):
        x = layer(F.conv2d, name, stride, pad)
        x = networks.max_pool(x) if name in ("conv2", "conv5") else x
    x = x.flatten(1)
    for name in ("fc6", "fc7"):
        x = layer(F.linear, name)
    return networks.dense(x, parameters["fc8.weight"], parameters["fc8.bias"])


REFERENCES = {"small": small, "original": networks.original_2012, "cifar-18": networks.cifar_18}


def network_for(name: str):
    """A narrow network of 7 classes in test mode, whose answers depend on the image."""
    return lively(narrower(name, 6, SIZES.get(name))).float()


def images_for(name: str, count: int = 2) -> Tensor:
    """Images in the units of the network's recipe, so that the norms have something to do."""
    side = SIZES.get(name, 224)
    scale = 60 if name == "original" else 1
    return scale * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def parameters_of(network) -> networks.Parameters:
    """Copies in float64 that need gradients."""
    return {name: each.detach().double().requires_grad_() for name, each in network.named_parameters()}


def reference_scores(name: str, network, images: Tensor) -> Tensor:
    """What the network must give for images, by slow formulas in float64."""
    return REFERENCES[name](parameters_of(network), images.double())


def assert_same(actual, expected, tolerance: float = 1e-4) -> None:
    """The same numbers, within a fraction of the largest."""
    actual, expected = (torch.as_tensor(each).detach().double() for each in (actual, expected))
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())
