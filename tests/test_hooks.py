"""Whoever looks into a network sees its declared order; the shortcut of `forward` is taken where nobody can tell."""

from itertools import pairwise

import pytest
import torch
from test_networks import narrow
from test_references import lively
from torch import nn

import alexnet
from alexnet.model.bundle import ModelBundle
from alexnet.specs.variants import VARIANTS

SWAPPED = ["small", "torchvision", "zfnet", "caffe"]
"""Networks in which max pooling follows relu5."""


def images_for(network):
    """Channels last, as a network makes them, so that its modules alone give the same bits."""
    size = network.input_size
    scale = 60 if size > 60 else 1
    images = scale * torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def in_declared_order(network, x):
    """Outputs by name, of a plain sequence of the network's modules."""
    outputs = {}
    for name, module in network._modules.items():
        x = outputs[name] = module(x)
    return outputs


def assert_equal(outputs, expected):
    assert list(outputs) == list(expected)
    for name in expected:
        assert torch.equal(outputs[name], expected[name]), name


@pytest.fixture
def shortcuts(monkeypatch):
    """Names of the ReLUs that are given what the pooling after them has left, if a network is called so."""
    sizes, forward = {}, nn.ReLU.forward

    def spy(self, x):
        sizes[self] = x.numel()
        return forward(self, x)

    monkeypatch.setattr(nn.ReLU, "forward", spy)

    def find(network, x, call=None):
        (call or network)(x)
        seen = dict(sizes)
        in_declared_order(network, x)
        return {name for name, module in network.named_children() if module in seen and seen[module] != sizes[module]}

    return find


@pytest.mark.parametrize("name", VARIANTS)
def test_forward_hooks_and_features_agree_in_all_layers(name):
    network = narrow(name).eval()
    x = images_for(network)
    inputs, outputs = {}, {}
    for layer, module in network.named_children():
        module.register_forward_pre_hook(lambda module, args, layer=layer: inputs.update({layer: args[0]}))
        module.register_forward_hook(lambda module, args, output, layer=layer: outputs.update({layer: output}))
    with torch.no_grad():
        scores = network(x)
        hooked = dict(outputs)
        features = network.features(x)
        expected = in_declared_order(network, x)
    assert_equal(hooked, expected)
    assert_equal(features, expected)
    assert torch.equal(scores, features["fc8"])
    assert all(torch.equal(inputs[after], outputs[before]) for before, after in pairwise(expected))


@pytest.mark.parametrize("name", SWAPPED)
def test_backward_hooks_see_the_gradients_of_the_declared_order(name):
    network = narrow(name).eval()
    x = images_for(network).requires_grad_()
    gradients = {}
    for layer in ("relu5", "pool5"):
        network.get_submodule(layer).register_full_backward_hook(
            lambda module, inputs, outputs, layer=layer: gradients.update({layer: outputs[0]})
        )
    network(x).square().sum().backward()
    hooked = dict(gradients)
    outputs = in_declared_order(network, x)
    for output in outputs.values():
        output.retain_grad()
    outputs["fc8"].square().sum().backward()
    assert_equal(hooked, {layer: outputs[layer].grad for layer in ("pool5", "relu5")})


@pytest.mark.parametrize("name", SWAPPED)
def test_the_shortcut_is_taken_unless_somebody_looks(name, shortcuts):
    network = narrow(name).eval()
    x = images_for(network)
    assert "relu5" in shortcuts(network, x)
    assert not shortcuts(network, x, network.features)
    with network.conv5.register_forward_hook(lambda *_: None):
        assert "relu5" in shortcuts(network, x), "conv5 gives the same in either order"
    for module in (network.relu5, network.pool5):
        for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
            with getattr(module, f"register_{kind}_hook")(lambda *_: None):
                assert "relu5" not in shortcuts(network, x)
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert not shortcuts(network, x)
    network.pool5.forward = network.pool5.forward
    assert "relu5" not in shortcuts(network, x)
    del network.pool5.forward
    assert "relu5" in shortcuts(network, x)


def order_of(names):
    """Where ReLU and max pooling come, among the names of functions or operators."""
    return ["pool" if "max_pool" in name else "relu" for name in names if "relu" in name or "max_pool2d" in name]


def declared(network):
    names = [type(module).__name__ for module in network.children()]
    return ["pool" if name == "MaxPool2d" else "relu" for name in names if name in ("ReLU", "MaxPool2d")]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_what_is_recorded_has_the_declared_order():
    network = narrow("small").eval()
    x, expected = images_for(network), declared(network)
    exported = torch.export.export(network, (x,)).graph
    assert order_of([str(node.target) for node in exported.nodes]) == expected
    traced = torch.jit.trace(network, x).inlined_graph
    assert order_of([node.kind() for node in traced.nodes()]) == expected
    compiled = []
    with torch.no_grad():
        torch.compile(network, backend=lambda module, _: compiled.append(module) or module.forward)(x)
    code = [line for line in compiled[0].code.splitlines() if "=" in line]
    assert order_of([line.partition("=")[2] for line in code]) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_torch_fx_follows_every_network(name):
    """As torchvision's create_feature_extractor does."""
    network = narrow(name).eval()
    graph = torch.fx.symbolic_trace(network)
    x = images_for(network)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert called == [name for name in network._modules if name in called] and "relu1" in called
    with torch.no_grad():
        torch.testing.assert_close(graph(x), network(x))


@pytest.mark.parametrize("name", SWAPPED)
def test_modules_may_be_replaced_deleted_and_added(name):
    network = lively(narrow(name)).float()
    x = images_for(network)
    with torch.no_grad():
        scores = network(x)
        for change in (
            lambda: setattr(network, "relu5", nn.Tanh()),
            lambda: setattr(network, "pool5", nn.AvgPool2d(3, 2, ceil_mode=network.pool5.ceil_mode)),
            lambda: setattr(network, "relu5", nn.ReLU()),
            lambda: delattr(network, "relu7"),
            lambda: setattr(network, "relu6", None),
            lambda: network.add_module("softmax", nn.Softmax(1)),
        ):
            before, _ = scores, change()
            scores, features = network(x), network.features(x)
            *_, last = features.values()
            assert torch.equal(scores, last) and not torch.equal(scores, before)
    assert "relu7" not in features and "relu6" not in features and list(features)[-1] == "softmax"
    with pytest.raises(KeyError, match="got 'relu7'"):
        network.features(x, ["relu7"])


class Leaky(nn.ReLU):
    def forward(self, x):
        return x - 2 * super().forward(x)


UNUSUAL = {
    "a subclass of ReLU": lambda network: setattr(network, "relu5", Leaky()),
    "a subclass of MaxPool2d": lambda network: setattr(network, "pool5", type("Pool", (nn.MaxPool2d,), {})(3, 2)),
    "padding": lambda network: setattr(network, "pool5", nn.MaxPool2d(3, 2, padding=1)),
    "dilation": lambda network: setattr(network, "pool5", nn.MaxPool2d(2, 1, dilation=2)),
    "GELU": lambda network: setattr(network, "relu5", nn.GELU()),
    "mean pooling": lambda network: setattr(network, "pool5", nn.AvgPool2d(3, 2)),
    "a module that is used twice": lambda network: setattr(network, "relu5", network.relu3),
    "a ReLU in place": lambda network: setattr(network.relu5, "inplace", True),
    "a sequence": lambda network: setattr(network, "relu5", nn.Sequential(nn.ReLU(), nn.MaxPool2d(1))),
    "indices": lambda network: setattr(network.pool5, "return_indices", True),
}


@pytest.mark.parametrize("change", UNUSUAL)
def test_unusual_modules_do_what_they_say(change):
    """Up to the pooling, which may then give another number of features."""
    network = lively(narrow("small")).float()
    UNUSUAL[change](network)
    for name in [*network._modules][[*network._modules].index("pool5") + 1 :]:
        delattr(network, name)
    x = images_for(network)
    with torch.no_grad():
        expected = in_declared_order(network, x)["pool5"]
        for result in (network(x), network.features(x)["pool5"]):
            torch.testing.assert_close(result, expected, rtol=0, atol=0)


class Recorder:
    def __init__(self):
        self.outputs = []

    def record(self, module, args, output):
        self.outputs.append(output)


def infer(bundle, x):
    with torch.inference_mode(), bundle.for_inference("bf16" if x.dtype == torch.bfloat16 else "fp32") as network:
        return network(x)


@pytest.mark.parametrize("fc_precision", ["same", "bf16", "int8"])
@pytest.mark.parametrize("layer", ["relu5", "fc6", "conv1", "pool5"])
def test_hooks_are_called_by_the_copy_for_inference(layer, fc_precision):
    """Also those that are added after it was made, until they are removed, and methods of the user's own objects."""
    bundle = ModelBundle(narrow("small"), None, (), fc_precision)
    x, recorder = images_for(bundle.network).bfloat16(), Recorder()
    infer(bundle, x)
    handle = bundle.network.get_submodule(layer).register_forward_hook(recorder.record)
    infer(bundle, x)
    (output,) = recorder.outputs
    assert output.dtype == torch.bfloat16
    with torch.inference_mode(), bundle.for_inference("bf16") as network:
        assert torch.equal(output, network.features(x, layer)[layer])
    handle.remove()
    infer(bundle, x)
    assert len(recorder.outputs) == 2


def test_hooks_that_were_there_before_the_copy_are_called_and_can_be_removed():
    bundle, recorder = ModelBundle(narrow("small"), None, ()), Recorder()
    x = images_for(bundle.network).bfloat16()
    handles = [module.register_forward_hook(recorder.record) for module in (bundle.network, bundle.network.conv2)]
    infer(bundle, x)
    assert len(recorder.outputs) == 2
    for handle in handles:
        handle.remove()
    infer(bundle, x)
    assert len(recorder.outputs) == 2


def test_hooks_in_fp32_are_given_the_layer_itself():
    bundle, seen = ModelBundle(narrow("small"), None, ()), []
    bundle.network.conv2.register_forward_hook(lambda module, *_: seen.append(module))
    infer(bundle, images_for(bundle.network))
    assert seen == [bundle.network.conv2]


def test_predictions_in_bf16_call_hooks(folder):
    """What vision scientists do: a hook on a layer of a trained network."""
    classifier = alexnet.Classifier("cifar-18", "cpu", "bf16")
    classifier.fit(folder, epochs=1, verbose=False)
    path, recorder = next(folder.rglob("*.png")), Recorder()
    classifier.predict(path)
    classifier.network.pool1.register_forward_hook(recorder.record)
    classifier.predict(path)
    assert len(recorder.outputs) == 1 and recorder.outputs[0].dtype == torch.bfloat16
