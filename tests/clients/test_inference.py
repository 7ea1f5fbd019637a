"""Tools that store, convert, shrink or run a network, against slow formulas in float64."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

import alexnet
from alexnet.model.bundle import ModelBundle
from alexnet.preprocessing.preprocessing import Preprocessing

from .networks import assert_same, every_network, images_for, network_for, reference_scores

client = pytest.mark.client


@client("safetensors")
@every_network
def test_safetensors(name, tmp_path):
    """`save_file` of the state dict, `load_file`; `save_model`, `load_model`"""
    from safetensors.torch import load_file, load_model, save_file, save_model

    network, x = network_for(name), images_for(name)
    save_file(network.state_dict(), tmp_path / "state.safetensors")
    save_model(network, tmp_path / "model.safetensors")
    for load in (
        lambda other: other.load_state_dict(load_file(tmp_path / "state.safetensors")),
        lambda other: load_model(other, tmp_path / "model.safetensors"),
    ):
        other = copy.deepcopy(network)
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        load(other)
        assert_same(other(x), reference_scores(name, network, x))


@client("onnxruntime")
@pytest.mark.parametrize("name", ["original", "cifar-18"])
def test_onnx_runtime(name, tmp_path):
    """What `torch.onnx.export` writes of the module"""
    import onnxruntime

    network, x = network_for(name), images_for(name)
    torch.onnx.export(network, (x,), tmp_path / "network.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_same(scores, reference_scores(name, network, x))


@client("openvino")
@every_network
@pytest.mark.parametrize("source", ["module", ".pt2", ".onnx"])
def test_openvino(name, source, tmp_path):
    """`convert_model` of the module, and of the `.pt2` and `.onnx` that `alexnet export` writes"""
    import openvino

    network, x = network_for(name), images_for(name)
    if source == "module":
        model = openvino.convert_model(network, example_input=x)
    else:
        side, path = network.input_size, tmp_path / f"network{source}"
        images = Preprocessing(side, side, torch.zeros(1, 1, 3), torch.ones(3))
        format = {".onnx": "onnx", ".pt2": "torch-export"}[source]
        alexnet.export_weights(ModelBundle(network, images, tuple("abcdefg")), path, format)
        model = openvino.convert_model(torch.export.load(path) if source == ".pt2" else path)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    scores = openvino.compile_model(model, "CPU", settings)(x.numpy())[0]
    assert_same(scores, reference_scores(name, network, x))


@client("torchao")
@every_network
def test_torchao(name):
    """`quantize_` with int8 weights: scores within 3% of the largest"""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    network, x = network_for(name), images_for(name)
    expected = reference_scores(name, network, x)
    quantize_(network, Int8WeightOnlyConfig())
    assert type(network.fc8.weight) is not nn.Parameter
    with torch.no_grad():
        assert_same(network(x), expected, 0.03)


@client("torch")
@every_network
@pytest.mark.filterwarnings("ignore")
def test_fuse_modules(name):
    """`ao.quantization.fuse_modules` of convolutions and fully connected layers with their ReLU"""
    quantization = pytest.importorskip("torch.ao.quantization")
    network, x = network_for(name), images_for(name)
    names = [each for each, _ in network.named_children()]
    pairs = [[a, b] for a, b in pairwise(names) if b.startswith("relu") and a[:2] in ("co", "fc")]
    fused = quantization.fuse_modules(network, pairs)
    assert all(isinstance(fused.get_submodule(b), nn.Identity) for _, b in pairs)
    with torch.no_grad():
        assert_same(fused(x), reference_scores(name, network, x))


@client("torch")
@pytest.mark.parametrize("name", ["small"])
@pytest.mark.filterwarnings("ignore")
def test_eager_quantization(name):
    """`ao.quantization.prepare` and `convert` to int8: scores within 10% of the largest"""
    quantization = pytest.importorskip("torch.ao.quantization")
    network, x = network_for(name), images_for(name, 8)
    expected = reference_scores(name, network, x)
    stubs = quantization.QuantWrapper(network)
    stubs.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    prepared = quantization.prepare(stubs)
    prepared(x)
    converted = quantization.convert(prepared)
    assert "quantized" in type(converted.module.conv1).__module__
    assert_same(converted(x), expected, 0.1)
