"""captum: what it attributes to pixels and layers, against the axioms that it promises and against slow formulas."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from .networks import assert_same, every_network, images_for, network_for, reference_scores

pytestmark = pytest.mark.client("captum")
TARGET = 3


@every_network
def test_saliency(name):
    """`Saliency`: gradients of a score are those of slow formulas in float64"""
    from captum.attr import Saliency

    network, x = network_for(name), images_for(name).requires_grad_()
    reference_scores(name, network, x)[:, TARGET].sum().backward()
    assert_same(Saliency(network).attribute(x.detach().clone(), target=TARGET), x.grad.abs())


@every_network
def test_integrated_gradients(name):
    """`IntegratedGradients`: attributions sum to the difference of the scores (completeness)"""
    from captum.attr import IntegratedGradients

    network, x = network_for(name), images_for(name, 1)
    parts = IntegratedGradients(network).attribute(x, target=TARGET, n_steps=400, internal_batch_size=50)
    assert_same(parts.sum(), _risen(name, network, x), 0.02)


@every_network
def test_layer_conductance(name):
    """`LayerConductance`: through each layer flows the difference of the scores"""
    from captum.attr import LayerConductance

    network, x = network_for(name), images_for(name, 1)
    for layer in {"conv1", "norm1", "pool2", "spatial_norm2", "relu3"} & {*dict(network.named_children())}:
        parts = LayerConductance(network, network.get_submodule(layer)).attribute(x, target=TARGET, n_steps=200)
        assert_same(parts.sum(), _risen(name, network, x), 0.02)


@every_network
def test_layer_activation(name):
    """`LayerActivation`: of every layer, the same as `features`"""
    from captum.attr import LayerActivation

    network, x = network_for(name), images_for(name)
    for layer, expected in network.features(x).items():
        assert_same(LayerActivation(network, network.get_submodule(layer)).attribute(x), expected, 1e-6)


@every_network
def test_layer_grad_cam(name):
    """`LayerGradCam` of conv3: the sum of channels, each times its mean gradient"""
    from captum.attr import LayerGradCam

    network, x = network_for(name), images_for(name)
    activations = network.features(x)
    (gradients,) = torch.autograd.grad(activations["fc8"][:, TARGET].sum(), activations["conv3"])
    expected = (activations["conv3"] * gradients.mean((2, 3), keepdim=True)).sum(1, keepdim=True)
    assert_same(LayerGradCam(network, network.conv3).attribute(x, TARGET), expected)


def _risen(name, network, x):
    """How much higher a score is than for an image of zeros, by slow formulas."""
    scores = reference_scores(name, network, torch.cat([x, torch.zeros_like(x)]))[:, TARGET]
    return scores[0] - scores[1]


STOCK_NORMS = {"torchvision": nn.Identity, "caffe": lambda: nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)}
"""The networks that can be made of torch's own modules, and their norm."""


def pair_for(name):
    """A network without biases (they take relevance), the same of torch's own modules, and an image."""
    ours, x = network_for(name), 60 * images_for(name, 1)
    for key, parameter in ours.named_parameters():
        if key.endswith("bias"):
            nn.init.zeros_(parameter)
    modules = (
        (key, STOCK_NORMS[name]() if key.startswith("norm") else module) for key, module in ours.named_children()
    )
    theirs = copy.deepcopy(nn.Sequential(OrderedDict(modules)))
    assert all(type(module).__module__.startswith("torch.nn.") for module in theirs)
    return ours, theirs, x


@pytest.mark.parametrize("name", STOCK_NORMS)
@pytest.mark.parametrize("method", ["DeepLift", "GuidedBackprop", "Deconvolution", "LRP"])
def test_methods_that_change_modules(method, name):
    """`DeepLift`, `GuidedBackprop`, `Deconvolution`, `LRP` (with rules for flatten and norms) as for torch's modules"""
    import captum.attr
    from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule

    *networks, x = pair_for(name)
    for module in (each for network in networks for each in network.children()):
        if method == "LRP" and not isinstance(module, (nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.Dropout)):
            module.rule = IdentityRule() if "Norm" in type(module).__name__ else EpsilonRule()
    method = getattr(captum.attr, method)
    found, expected = (method(network).attribute(x.clone(), target=TARGET) for network in networks)
    assert_same(found, expected, 1e-3)


@pytest.mark.parametrize("name", ["torchvision"])
def test_relevance_is_image_times_gradient(name):
    """`LRP` without norms and biases: relevance is image × gradient and sums to the score"""
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    network, _, x = pair_for(name)
    x.requires_grad_()
    score = network(x)[0, TARGET]
    (gradient,) = torch.autograd.grad(score, x)
    network.get_submodule("flatten").rule = EpsilonRule()
    relevance = LRP(network).attribute(x, target=TARGET)
    assert_same(relevance, x * gradient, 1e-3)
    assert_same(relevance.sum(), score, 1e-3)
