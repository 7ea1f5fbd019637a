"""Tools that take activations out of a network, against the network run module by module."""

import pytest
import torch

from .networks import assert_same, every_network, images_for, network_for


@torch.no_grad()
def module_by_module(network, x):
    """Activations by name."""
    return {name: (x := module(x)) for name, module in network.named_children()}


@pytest.mark.client("torchextractor")
@every_network
def test_torchextractor(name):
    """`Extractor`: activations of every layer"""
    import torchextractor

    network, x = network_for(name), images_for(name)
    expected = module_by_module(network, x)
    scores, found = torchextractor.Extractor(network, list(expected))(x)
    assert_same(scores, expected["fc8"])
    for layer in expected:
        assert_same(found[layer], expected[layer])


@pytest.mark.client("torchvision")
@every_network
def test_feature_extractor(name):
    """`create_feature_extractor`: activations of every layer"""
    from torchvision.models.feature_extraction import create_feature_extractor

    network, x = network_for(name), images_for(name)
    expected = module_by_module(network, x)
    found = create_feature_extractor(network, list(expected))(x)
    for layer in expected:
        assert_same(found[layer], expected[layer])
