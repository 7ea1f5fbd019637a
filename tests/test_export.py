"""ONNX files, run by ONNX Runtime, against the networks themselves."""

import numpy as np
import onnxruntime
import pytest
import torch

import alexnet
from alexnet.model.export import write_onnx
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
