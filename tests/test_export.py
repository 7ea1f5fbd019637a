"""ONNX files, run by ONNX Runtime, and torch.export's, run without this package, against the networks themselves."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import alexnet
from alexnet.data.pack.packing import make_pack
from alexnet.data.sources.detection import open_source
from alexnet.model.bundle import ModelBundle
from alexnet.model.network import AlexNet
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.variants import VARIANTS

SIDE = 99
"""Side of the images, pixels, for networks made for larger ones, to save time."""


def export(network, path, preprocessing=None):
    """Write a network in the format of the file name's ending."""
    size = network.input_size
    bundle = ModelBundle(
        network,
        preprocessing or Preprocessing(size, size, torch.zeros(1, 1, 3), torch.ones(3)),
        tuple(map(str, range(network.num_classes))),
    )
    format = {".onnx": "onnx", ".pt2": "torch-export"}[path.suffix]
    return alexnet.export_weights(bundle, path, format, preprocessing=preprocessing is not None)


def pixels(side, count=3):
    scale = 60 if side > 60 else 1
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * scale


def assert_close(actual, expected, rtol=1e-4):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-5 * np.abs(expected).max())


def onnx_activations(path, images, layers=()):
    """The values with the names of these layers and `scores` in an ONNX file, as ONNX Runtime computes them."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output] == ["scores"]
    values = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(values[layer] for layer in layers)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(["scores", *layers], session.run(None, {"images": images}), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_runtime_gives_the_same_activations_under_the_same_names(name, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    network = alexnet.create(name, num_classes=7, input_size=side).eval()
    path, x = export(network, tmp_path / "network.onnx"), pixels(side)
    with torch.inference_mode():
        expected = network.features(x)
        expected.popitem()  # the last layer, whose output is `scores`
        scores = network(x)
    actual = onnx_activations(path, x.numpy(), list(expected))
    for layer, activation in {"scores": scores, **expected}.items():
        assert_close(actual[layer], activation.numpy())


@pytest.mark.parametrize("size", [4, 5])
def test_onnx_normalizes_over_the_same_window(size, tmp_path):
    norm = replace(VARIANTS["cifar-11"].norm, size=size, groups=2, alpha=1.0)
    network = AlexNet(replace(VARIANTS["cifar-11"], norm=norm), 7).eval()
    path, x = export(network, tmp_path / "network.onnx"), pixels(32)
    with torch.inference_mode():
        assert_close(onnx_activations(path, x.numpy())["scores"], network(x).numpy())


def test_onnx_has_operators_of_its_own_for_normalization_and_no_paths_of_this_machine(tmp_path):
    path = export(alexnet.create("batch-norm", num_classes=7, input_size=SIDE), tmp_path / "network.onnx")
    assert "BatchNormalization" in [node.op_type for node in onnx.load(path).graph.node]
    path = export(alexnet.create("original", num_classes=7, input_size=SIDE), tmp_path / "network.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node].count("LRN") == 4  # two layers, two towers
    assert torch.__path__[0].encode() not in path.read_bytes()


def test_a_package_that_onnx_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx_ir.passes.common", None)
    with pytest.raises(ImportError, match=r"needs the package onnxscript: pip install 'alexnet\[export\]'"):
        export(alexnet.create("cifar-18", num_classes=7), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


RUN_PROGRAM = """
import sys, numpy, torch
sys.modules["alexnet"] = None
images = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], torch.export.load(sys.argv[1]).module()(images).detach().numpy())
"""


def program_scores(path, images, folder):
    """Scores of a file of torch.export, in a process that has torch but not this package."""
    np.save(folder / "images.npy", images)
    files = [path, folder / "images.npy", folder / "scores.npy"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN_PROGRAM, *files], check=True)
    return np.load(folder / "scores.npy")


@pytest.mark.parametrize("name", ["original", "caffenet", "cifar-13", "small"])
def test_a_program_of_torch_gives_the_same_scores(name, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    network = alexnet.create(name, num_classes=7, input_size=side).eval()
    path, x = export(network, tmp_path / "network.pt2"), pixels(side)
    with torch.inference_mode():
        expected = network(x).numpy()
    assert_close(program_scores(path, x.numpy(), tmp_path), expected, rtol=1e-5)


@pytest.mark.parametrize("file_name", ["network.onnx", "network.pt2"])
@pytest.mark.parametrize("mean", ["color", "image"])
def test_preprocessing_can_be_in_the_file(mean, file_name, folder, tmp_path):
    images = torch.from_numpy(np.array(make_pack(open_source(str(folder)), 64).images[:5]))
    shape = (64, 64, 3) if mean == "image" else (1, 1, 3)
    pixel_mean = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    preprocessing = Preprocessing(64, 56, pixel_mean, torch.tensor([50.0, 60.0, 70.0]), mean_follows_crop=True)
    network = alexnet.create("small", num_classes=7).eval()
    with torch.inference_mode():
        expected = network(preprocessing.center_crop(images)).numpy()
    path = export(network, tmp_path / file_name, preprocessing)
    if path.suffix == ".onnx":
        actual = onnx_activations(path, images.numpy())["scores"]
    else:
        actual = program_scores(path, images.numpy(), tmp_path)
    assert_close(actual, expected, rtol=1e-5)
