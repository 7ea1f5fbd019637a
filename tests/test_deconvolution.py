"""Receptive fields and deconvolution, against derivatives by autograd, kernels themselves, and captum."""

import copy
import warnings

import pytest
import torch
from test_hooks import images_for
from test_networks import narrow
from test_references import lively
from torch import nn

from alexnet.analysis.deconvolution import deconvolve, norm_factors
from alexnet.model.layers import ResponseNorm
from alexnet.specs.shapes import receptive_span
from alexnet.specs.variants import VARIANTS


def positions(side):
    return sorted({0, 1, side // 2, side - 1})


def one_unit(network, x, layer, unit, row, column):
    """A signal that is 0 but for the activations of one unit."""
    with torch.no_grad():
        values = network.features(x, layer)[layer]
    signal = torch.zeros_like(values)
    signal[:, unit, row, column] = values[:, unit, row, column]
    return signal


def box(placed, row, column):
    return (slice(*receptive_span(placed, row)), slice(*receptive_span(placed, column)))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_unit_depends_on_all_of_its_receptive_field_and_on_nothing_else(name):
    """In a network without maxima and cuts, whose gradients are not 0 by chance."""
    network = lively(narrow(name))
    for key, module in network.named_children():
        if isinstance(module, (nn.ReLU, nn.Tanh)):
            setattr(network, key, nn.Identity())
        if isinstance(module, nn.MaxPool2d):
            size = module.kernel_size, module.stride, module.padding
            setattr(network, key, nn.AvgPool2d(*size, ceil_mode=module.ceil_mode, count_include_pad=False))
    for parameter in network.parameters():
        parameter.data.abs_()
    x = images_for(network).double()[:1].requires_grad_()
    outputs = network.features(x)
    for index, step in enumerate(network.placed):
        if len(step.output_shape) == 1 or not step.name.startswith(("conv", "pool", "spatial", "avgpool")):
            continue
        for row in positions(step.output_shape[1]):
            column = step.output_shape[2] // 2
            (gradient,) = torch.autograd.grad(outputs[step.name][0, 0, row, column], x, retain_graph=True)
            rows, columns = box(network.placed[: index + 1], row, column)
            inside = gradient[0].abs().sum(0)[rows, columns]
            for corner in (inside[0, 0], inside[0, -1], inside[-1, 0], inside[-1, -1]):
                assert corner > 0, (step.name, row)
            assert inside.count_nonzero() == gradient[0].abs().sum(0).count_nonzero()
    span = receptive_span(network.placed, 0)
    assert span == (0, network.input_size), "a score depends on the whole image"


@pytest.mark.parametrize(
    ("name", "layer", "side"), [("caffe", "pool5", 195), ("original", "conv5", 195), ("zfnet", "conv5", 139)]
)
def test_receptive_fields_are_those_of_the_literature(name, layer, side):
    """R-CNN: pool5 sees 195 × 195 of 227 pixels."""
    placed = narrow(name).placed
    index = [step.name for step in placed].index(layer)
    first, end = receptive_span(placed[: index + 1], placed[index].output_shape[1] // 2)
    assert end - first == placed[index].receptive_field == side


def without_relu(network):
    for key, module in network.named_children():
        if isinstance(module, nn.ReLU):
            setattr(network, key, nn.Identity())
    return network


class Fixed(nn.Module):
    """A normalization whose denominators do not depend on its input any more."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x * self.factors


@pytest.mark.parametrize("name", ["small", "original", "cifar-11", "cifar-13", "batch-norm", "torchvision", "tanh"])
def test_without_rectification_it_is_the_vector_jacobian_product(name):
    network = without_relu(lively(narrow(name)))
    x = images_for(network).double()
    outputs = network.features(x)
    fixed, before = copy.deepcopy(network), x
    for key, module in network.named_children():
        if isinstance(module, ResponseNorm):
            torch.testing.assert_close(before * norm_factors(module, before), outputs[key])
            setattr(fixed, key, Fixed(norm_factors(module, before)))
        before = outputs[key]
    layer = next(key for key in reversed(outputs) if outputs[key].dim() == 4)
    signal = torch.randn(outputs[layer].shape, dtype=torch.float64, generator=torch.manual_seed(0))
    x.requires_grad_()
    (expected,) = torch.autograd.grad(fixed.features(x, layer)[layer], x, signal)
    found = deconvolve(network, x.detach(), layer, signal)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["small", "original", "paper"])
def test_a_unit_of_conv1_gives_its_kernel_times_its_activation(name):
    network = lively(narrow(name)).float()
    x, conv = images_for(network), network.conv1
    row = column = 5
    signal = one_unit(network, x, "conv1", 2, row, column)
    expected = torch.zeros_like(x)
    rows, columns = box(network.placed[:1], row, column)
    expected[:, :, rows, columns] = signal[:, 2, row, column].view(-1, 1, 1, 1) * conv.weight.detach()[2]
    torch.testing.assert_close(deconvolve(network, x, "conv1", signal), expected)


@pytest.mark.parametrize("name", ["small", "original", "caffe", "cifar-11"])
def test_it_is_zero_outside_of_the_receptive_field_and_reaches_its_corners(name):
    network = without_relu(lively(narrow(name))).float()
    x = images_for(network)
    index = max(i for i, step in enumerate(network.placed) if step.name.startswith("conv"))
    step = network.placed[index]
    side = step.output_shape[1]
    for row, column in ((0, side - 1), (side // 2, side // 2)):
        found = deconvolve(network, x, step.name, one_unit(network, x, step.name, 0, row, column))
        rows, columns = box(network.placed[: index + 1], row, column)
        inside = found[:, :, rows, columns]
        assert inside.count_nonzero() == found.count_nonzero() > 0
    pooled = [each.name for each in network.placed[:index] if each.name.startswith("pool")]
    if not pooled:
        assert inside[:, :, 0, 0].any() and inside[:, :, -1, -1].any()


@pytest.mark.parametrize("name", ["small", "torchvision", "no-norm", "cifar-13"])
def test_it_is_captums_where_there_is_no_normalization(name):
    attr = pytest.importorskip("captum.attr")
    network = lively(narrow(name)).float()
    x, layer = images_for(network), "conv2"
    signal = one_unit(network, x, layer, 1, 3, 3).sign().abs()
    with warnings.catch_warnings(action="ignore"):
        expected = attr.NeuronDeconvolution(network, network.get_submodule(layer)).attribute(x.clone(), (1, 3, 3))
    assert expected.abs().max() > 0
    torch.testing.assert_close(deconvolve(network, x, layer, signal), expected)


@pytest.mark.parametrize("name", ["small", "torchvision"])
def test_a_score_is_projected_back_as_by_captum(name):
    attr = pytest.importorskip("captum.attr")
    network = lively(narrow(name)).float()
    x = images_for(network)
    with warnings.catch_warnings(action="ignore"):
        expected = attr.Deconvolution(network).attribute(x.clone(), target=3)
    signal = torch.eye(5)[[3, 3]]
    assert expected.abs().max() > 0
    torch.testing.assert_close(deconvolve(network, x, "fc8", signal), expected)
