"""An operation says everything about itself: what networks of version 0.1 and a user's own operation show."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import alexnet
from alexnet.model.layers import module_for
from alexnet.specs.architecture import Architecture
from alexnet.specs.description import differences, layer_rows
from alexnet.specs.operations import Activation, Conv, Linear, Norm, Operation, Pool
from alexnet.specs.shapes import infer_shapes
from alexnet.specs.storage import from_json, to_json
from alexnet.specs.variants import VARIANTS


@dataclass(frozen=True)
class Scale(Operation):
    """A learned factor per channel; all that a new operation needs is this and its module."""

    prefix = "scale"

    initial: float = 1.0

    def parameter_shapes(self, input_shape):
        return {"weight": input_shape[:1]}

    def description(self, input_shape=()):
        return f"a factor per channel, first {self.initial:g}"


@module_for(Scale)
class ChannelScale(nn.Module):
    def __init__(self, scale, input_shape):
        super().__init__()
        self.weight = nn.Parameter(torch.full(input_shape[:1], scale.initial))

    def forward(self, x):
        return x * self.weight[:, None, None]


SMALL = VARIANTS["small"]
SCALED = replace(
    SMALL.with_layers(conv2={"then": ("relu", Scale(0.5), "pool")}, conv3={"then": (Scale(), "relu")}), name="scaled"
)


def test_a_new_operation_is_described():
    placed = infer_shapes(SCALED)
    rows = {row[0]: row for row in layer_rows(placed)}
    assert rows["scale2"] == ("scale2", "a factor per channel, first 0.5", "64 × 28 × 28", "64", "", "9")
    assert differences(SCALED, SMALL) == [
        "conv2: followed by ReLU, scale, pool, not by ReLU, pool.",
        "conv3: followed by scale, ReLU, not by ReLU.",
    ]
    assert sum(step.parameters for step in placed) == sum(p.numel() for p in alexnet.create(SCALED, 13).parameters())


def test_a_new_operation_is_trained_saved_loaded_evaluated_and_exported(split_folder, tmp_path):
    classifier = alexnet.Classifier(SCALED, "cpu", "fp32")
    classifier.fit(split_folder, epochs=2, batch_size=8, verbose=False)
    weight = classifier.network.scale2.weight.detach()
    assert ((weight - 0.5).abs() > 1e-6).all() and weight.std() > 0, "it learned"
    loaded = alexnet.load(classifier.save(tmp_path / "saved"), "cpu", "fp32")
    assert loaded.network.architecture == SCALED
    assert torch.equal(loaded.network.scale2.weight, weight)
    evaluations = [each.evaluate(split_folder, "test", verbose=False) for each in (classifier, loaded)]
    assert evaluations[0].all_views.summary() == evaluations[1].all_views.summary()

    images = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = loaded.network(images).numpy()
    with pytest.raises(ValueError, match="the classifier must be trained before it is exported"):
        alexnet.export_weights(alexnet.Classifier(), tmp_path / "network.pt2", "torch-export")
    program = alexnet.export_weights(loaded, tmp_path / "network.pt2", "torch-export")
    code = f"import sys, torch; sys.modules['alexnet'] = None; torch.export.load({str(program)!r})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    found = torch.export.load(program).module()(images).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    path = alexnet.export_weights(loaded, tmp_path / "network.onnx", "onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, rtol=1e-4, atol=1e-5)


def test_a_new_operation_can_take_the_place_of_a_word():
    network = alexnet.create(replace(VARIANTS["cifar-11"], norm=Scale(2.0)), 10).eval()
    x = torch.rand(2, 3, 32, 32)
    found = network.features(x)
    assert torch.equal(found["scale1"], 2 * found["pool1"])
    assert list(dict(network.named_children()))[2:6] == ["pool1", "scale1", "conv2", "relu2"]


def test_an_operation_without_a_module_is_named():
    @dataclass(frozen=True)
    class Blur(Operation):
        prefix = "blur"

    with pytest.raises(TypeError, match=r"blur3: no module is registered for Blur.*@module_for\(Blur\)"):
        alexnet.create(SMALL.with_layers(conv3={"then": (Blur(),)}))


def test_an_operation_has_a_name_of_its_own():
    with pytest.raises(TypeError, match=r"must be new, got Pool, which alexnet\.specs\.operations has"):
        type("Pool", (Operation,), {"__module__": "mine"})
    assert Operation.kinds["Pool"] is Pool


def test_networks_saved_by_version_0_1_load():
    """Names of fields then; "relu" was, and is, a word."""
    stored = {
        "is": "Architecture",
        "name": "old",
        "about": "",
        "layers": [
            {"is": "Conv", "name": "conv1", "maps": 8, "kernel": 3, "stride": 1, "pad": 1, "groups": 1, "std": "he"}
            | {"round_up": False, "bias": 0.0, "number": "_a", "then": ["relu", {"is": "Pool", "kind": "mean"}]},
            {"is": "Local", "name": "local2", "maps": 4, "kernel": 3, "pad": 0, "number": "", "then": ["norm"]},
            {"is": "Linear", "name": "fc8", "units": None, "number": "", "then": []},
        ],
        "activation": "tanh",
        "norm": {"is": "Norm", "divided": False},
    }
    architecture = from_json(json.loads(json.dumps(stored)))
    conv, local, linear = architecture.layers
    assert conv == Conv("conv1", 8, 3, pad=1, std="he", suffix="_a", then=("relu", Pool("mean")))
    assert (local.channels, linear) == (4, Linear("fc8", None))
    names = [step.name for step in infer_shapes(architecture)]
    assert names == ["conv1", "relu_a", "pool_a", "local2", "norm2", "flatten", "fc8"]
    assert architecture.meaning("relu") == Activation("tanh") and architecture.meaning("norm") == Norm(divided=False)
    assert from_json(json.loads(json.dumps(to_json(architecture)))) == architecture


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv("conv1", 8, 3, then=("norn",)),), "what follows conv1 must be an operation or one of relu, .*'norn'"),
        ((Conv("conv1", 8, 3), Conv("conv1", 8, 3)), "names must be unique, got conv1, relu1 more than once"),
        ((Conv("conv1", 8, 3, then=("pool", "relu", "pool")),), "names must be unique, got pool1 more than once"),
        ((Conv("conv1", 9, 3, groups=2),), r"conv1: groups must divide the 3 .* and the 9 .*, got 2"),
        ((Conv("conv1", 9, 3, then=(Norm(groups=2),)),), "norm1: groups must divide the 9 channels, got 2"),
        ((Linear("fc1", 9), Conv("conv2", 8, 3)), r"conv2: input must be feature maps .*, got \(9,\)"),
    ],
)
def test_a_table_that_makes_no_network_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        infer_shapes(Architecture("mine", "", layers))


def test_kinds_of_operations_are_checked():
    with pytest.raises(ValueError, match="small: activation must be relu or tanh or a Operation, got 'gelu'"):
        replace(SMALL, activation="gelu")
    with pytest.raises(ValueError, match="Pool: kind must be max or mean, got 'avg'"):
        Pool("avg")


PAGE = Path(__file__).parent.parent / "docs" / "networks.md"


@pytest.mark.skipif(not PAGE.exists(), reason="needs the checkout")
def test_the_example_of_the_documentation_runs(monkeypatch):
    monkeypatch.delitem(Operation.kinds, "Scale")  # this file has a Scale of its own
    section = (
        PAGE.read_text(encoding="utf-8").partition("## Networks and operations of your own")[2].partition("\n## ")[0]
    )
    names = {"alexnet": alexnet, "__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(block, names)
    network = alexnet.create(names["scaled"], 5)
    assert network.scale2.weight.shape == (64,) and names["network"].conv1.weight.shape[0] == 96
