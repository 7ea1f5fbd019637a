"""The networks against slow ones written from the facts alone, in float64 (tests/references)."""

import math
from functools import partial

import pytest
import torch
from references import networks

from alexnet.model.network import AlexNet
from alexnet.specs.operations import Conv, Linear, Local
from alexnet.specs.variants import variant

REFERENCES = {
    "original": networks.original_2012,
    "caffe": networks.caffe_bvlc,
    "caffenet": networks.caffenet,
    "cifar-18": networks.cifar_18,
    "cifar-13": networks.cifar_13,
    "cifar-11": networks.cifar_11,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_forward_and_gradients_agree_with_the_reference(name):
    network = lively(narrower(name, 6))
    compare(network, REFERENCES[name], pixels(network.input_size))


@pytest.mark.parametrize("size", [99, 131])
def test_original_agrees_at_other_sizes(size):
    network = lively(narrower("original", 6, input_size=size))
    compare(network, networks.original_2012, pixels(size))


def test_original_agrees_in_full_width():
    small_units = {"fc6": {"units": 128}, "fc7": {"units": 128}}
    network = lively(AlexNet(variant("original").with_layers(**small_units), 10))
    compare(network, networks.original_2012, pixels(224))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_agrees_in_training_and_evaluation(training):
    network = lively(narrower("batch-norm", 6, input_size=99))
    running = {name: tensor for name, tensor in network.named_buffers() if "running" in name}
    for tensor in running.values():
        tensor.uniform_(10, 1000)
    network.norm1.train(training), network.norm2.train(training)  # dropout stays as it is afterwards
    known = {} if training else running
    without = ("conv1.bias",) if training else ()  # which batch norm takes off again
    compare(network, partial(networks.original_with_batch_norm, running=known), pixels(99), without)


def test_torchvision_agrees_with_its_definition():
    ours = lively(AlexNet(variant("torchvision"), 10))
    theirs = networks.torchvision_alexnet(10).eval()
    names = {ours_name: name for name, ours_name in named_pairs(theirs)}
    theirs.load_state_dict({names[key]: value for key, value in ours.state_dict().items()})
    x = pixels(224)
    y, expected = ours(x), theirs(x)
    assert_same(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    gradients = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        assert_same(parameter.grad, gradients[names[key]].grad)


def named_pairs(theirs):
    """torchvision's and our names of the same parameters."""
    from alexnet.model.network import TORCHVISION_NAMES

    for name in theirs.state_dict():
        module, _, kind = name.rpartition(".")
        yield name, f"{TORCHVISION_NAMES[module]}.{kind}"


def compare(network, reference, images, without=()):
    """Scores and all gradients, those of the images included; the parameters in `without` have none."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    theirs = images.clone().requires_grad_()
    expected = reference({name: reorder(name, p) for name, p in parameters.items()}, theirs)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    (expected * weights).sum().backward()
    ours = images.clone().requires_grad_()
    scores = network(ours)
    assert (scores[0] - scores[1]).abs().max() > 1e-3, "two images with one answer prove nothing"
    (scores * weights).sum().backward()
    assert_same(scores, expected)
    assert_same(ours.grad, theirs.grad)
    for name in without:
        assert parameters.pop(name).grad.abs().max() < 1e-12 > network.get_parameter(name).grad.abs().max()
    for name in parameters:
        parameter = network.get_parameter(name)
        assert parameters[name].grad.abs().max() > 0, name
        assert_same(parameter.grad, parameters[name].grad)


def reorder(name, parameter):
    """Unshared weights as the reference has them: (channels, inputs · kernel², positions) and (channels, positions)."""
    if not name.startswith("local"):
        return parameter
    return parameter.permute(2, 1, 0) if name.endswith("weight") else parameter.T


def assert_same(found, expected):
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * max(scale, 1e-300))


def narrower(name, channels, input_size=None):
    """A variant with few channels and units, but the same groups and normalization, and 7 classes."""
    architecture = variant(name)
    changes = {}
    for index, layer in enumerate(architecture.layers):
        if isinstance(layer, Linear) and layer.units is not None:
            changes[layer.name] = {"units": 20 + 2 * index}
        elif isinstance(layer, (Conv, Local)):
            changes[layer.name] = {"channels": 2 * (channels + index)}
    return AlexNet(architecture.with_layers(**changes), 7, input_size=input_size)


def lively(network):
    """The network in float64 and test mode, with weights large enough that its answers depend on the image."""
    network = network.double().eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.uniform_(-0.5, 0.5, generator=generator)
        else:
            inputs = parameter.shape[1] if parameter.dim() == 3 else parameter[0].numel()
            parameter.data.normal_(0, math.sqrt(2 / inputs), generator=generator)
    return network


def pixels(size):
    """Two smooth images in pixel units around zero, (2, 3, size, size)."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(2, 3, 9, 9, generator=generator, dtype=torch.float64)
    return 60 * torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
