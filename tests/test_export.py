"""ONNX files, run by ONNX Runtime, and torch.export's, run without this package, against the networks themselves."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import alexnet
from alexnet.data.pack.packing import make_pack
from alexnet.data.sources.detection import open_source
from alexnet.interchange.onnx import write_onnx, write_program
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.variants import VARIANTS

SIDE = 99
"""Of the images that networks made for larger ones see here, to save time."""


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_runtime_gives_the_same_scores(name, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    if VARIANTS[name].recipe == "torchvision":
        side = VARIANTS[name].input_size  # whose pooling gives 6 × 6 of 6 × 6 at its own size alone
    network = alexnet.create(name, num_classes=7, input_size=side).eval()
    path = write_onnx(network, tmp_path / "network.onnx")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, side, side, generator=generator) * (60 if side > 60 else 1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": x.numpy()})
    with torch.inference_mode():
        expected = network(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_what_onnx_cannot_say_is_named(tmp_path):
    with pytest.raises(ValueError, match="avgpool5 makes 6 × 6 of 2 × 2"):
        write_onnx(alexnet.create("torchvision", num_classes=7, input_size=99), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


RUN_PROGRAM = """
import sys, numpy, torch
sys.modules["alexnet"] = None
images = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], torch.export.load(sys.argv[1]).module()(images).detach().numpy())
"""


def run_program(path, images, folder):
    """Scores of a file of torch.export, in a process that has torch alone."""
    np.save(folder / "images.npy", images)
    files = [path, folder / "images.npy", folder / "scores.npy"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN_PROGRAM, *files], check=True)
    return np.load(folder / "scores.npy")


def run_onnx(path, images, folder):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.mark.parametrize("name", ["original", "caffenet", "cifar-13", "small"])
def test_a_program_of_torch_gives_the_same_scores(name, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    network = alexnet.create(name, num_classes=7, input_size=side).eval()
    path = write_program(network, tmp_path / "network.pt2")
    x = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 60
    with torch.inference_mode():
        expected = network(x).numpy()
    found = run_program(path, x.numpy(), tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("write, run, name", [(write_onnx, run_onnx, "n.onnx"), (write_program, run_program, "n.pt2")])
@pytest.mark.parametrize("mean", ["color", "image"])
def test_preprocessing_can_be_in_the_file(mean, write, run, name, folder, tmp_path):
    images = torch.from_numpy(np.array(make_pack(open_source(str(folder)), 64).images[:5]))
    taken = torch.rand((64, 64, 3) if mean == "image" else (1, 1, 3), generator=torch.Generator().manual_seed(0)) * 255
    inputs = Preprocessing(64, 56, taken, torch.tensor([50.0, 60.0, 70.0]), mean_follows_crop=True)
    network = alexnet.create("small", num_classes=7).eval()
    with torch.inference_mode():
        expected = network(inputs.center_crop(images)).numpy()
    found = run(write(network, tmp_path / name, inputs), images.numpy(), tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
