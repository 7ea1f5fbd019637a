"""Tools that count parameters and multiply-adds, against a count by hand."""

import pytest
import torch

import alexnet

CONVOLUTIONS = 55**2 * 96 * 3 * 11**2 + 27**2 * 256 * 48 * 5**2 + 13**2 * 3**2 * (384 * 256 + (384 + 256) * 192)
FULLY_CONNECTED = 256 * 6 * 6 * 4096 + 4096 * 4096 + 4096 * 1000
MULTIPLY_ADDS = CONVOLUTIONS + FULLY_CONNECTED
"""Multiply-adds for an image of 227 × 227, from the layer sizes of section 3.5: 724 million."""
BIASES = 55**2 * 96 + 27**2 * 256 + 13**2 * (384 + 384 + 256) + 4096 + 4096 + 1000
PARAMETERS = 60_965_224


def client(package):
    """The test tries this package on Caffe's network."""
    return lambda test: pytest.mark.client(package)(pytest.mark.parametrize("name", ["caffe"])(test))


@pytest.fixture(scope="module")
def network():
    return alexnet.create("caffe").eval()


@client("torch")
def test_the_counter_of_torch(name, network):
    """`FlopCounterMode`: two for each multiply-add"""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 227, 227))
    assert counter.get_total_flops() == 2 * MULTIPLY_ADDS


@client("torchinfo")
def test_torchinfo(name, network):
    """`summary`: parameters, and multiply-adds with an addition for each bias"""
    from torchinfo import summary

    found = summary(network, (1, 3, 227, 227), verbose=0)
    assert (found.total_params, found.total_mult_adds) == (PARAMETERS, MULTIPLY_ADDS + BIASES)


@client("fvcore")
def test_fvcore(name, network):
    """`FlopCountAnalysis`: multiply-adds of convolutions and fully connected layers; `parameter_count`"""
    from fvcore.nn import FlopCountAnalysis, parameter_count

    by_operator = FlopCountAnalysis(network, torch.zeros(1, 3, 227, 227)).by_operator()
    assert (by_operator["conv"], by_operator["linear"]) == (CONVOLUTIONS, FULLY_CONNECTED)
    assert parameter_count(network)[""] == PARAMETERS


@client("ptflops")
@pytest.mark.parametrize("backend", ["pytorch", "aten"])
def test_ptflops(name, network, backend):
    """`get_model_complexity_info`, both backends: within 1%, since it also counts biases, ReLU and pooling"""
    from ptflops import get_model_complexity_info

    options = {"as_strings": False, "print_per_layer_stat": False, "verbose": False, "backend": backend}
    found, parameters = get_model_complexity_info(network, (3, 227, 227), **options)
    assert MULTIPLY_ADDS <= found < 1.01 * MULTIPLY_ADDS and parameters == PARAMETERS


@client("thop")
def test_thop(name, network):
    """`profile`: within 1%, since it also counts pooling"""
    from thop import profile

    found, parameters = profile(network, (torch.zeros(1, 3, 227, 227),), verbose=False)
    assert MULTIPLY_ADDS <= found < 1.01 * MULTIPLY_ADDS and parameters == PARAMETERS
