"""What torch records of a network: by torch.fx, torch.jit, torch.export, torch.onnx and torch.compile.

What leaves the process consists of torch's own operations, so that other programs, and processes without this package,
run it.
"""

import io
import shutil
import subprocess
import sys

import pytest
import torch
from test_hooks import images_for, in_declared_order
from test_networks import narrow
from torch import fx, nn
from torch.export import Dim
from torch.fx.passes.shape_prop import ShapeProp

import alexnet
from alexnet.model.layers import RoundedUpAvgPool2d
from alexnet.specs.variants import VARIANTS

SEVERAL = ["original", "small", "batch-norm", "cifar-18", "cifar-13", "torchvision"]
"""Every operation, and convolutions that are rounded up."""


def assert_same(actual, expected):
    actual, expected = torch.as_tensor(actual).detach(), expected.detach()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


class OperationsOfTorch(fx.Tracer):
    """As in torchvision's create_feature_extractor: remembers the module in which each node was recorded."""

    def __init__(self):
        super().__init__(autowrap_modules=())
        self.path, self.paths = "", {}

    def call_module(self, module, forward, args, kwargs):
        outer, self.path = self.path, self.path_of_module(module)
        try:
            if not self.is_leaf_module(module, self.path):
                return forward(*args, **kwargs)
            return self.create_proxy("call_module", self.path, args, kwargs)
        finally:
            self.path = outer

    def create_proxy(self, kind, target, args, kwargs, *more, **options):
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        self.paths[proxy.node] = self.path if kind != "call_module" else target
        return proxy


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_can_be_extracted_from_a_graph(name):
    network = narrow(name).eval()
    tracer = OperationsOfTorch()
    graph = tracer.trace(network)
    last = {tracer.paths.get(node): node for node in graph.nodes}
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = ({name: last[name] for name, module in network._modules.items()},)
    extractor, x = fx.GraphModule(network, graph), images_for(network)
    with torch.no_grad():
        activations = extractor(x)
        for layer, expected in in_declared_order(network, x).items():
            assert_same(activations[layer], expected)


@pytest.mark.parametrize("name", SEVERAL)
def test_shapes_go_through_a_graph(name):
    network = narrow(name).eval()
    graph = fx.symbolic_trace(network)
    with torch.no_grad():
        ShapeProp(graph).propagate(images_for(network))
    shapes = {node.target: node.meta["tensor_meta"].shape[1:] for node in graph.graph.nodes if node.op == "call_module"}
    declared = {step.name: step.output_shape for step in network.placed}
    assert "fc8" in shapes and all(tuple(shape) == declared[layer] for layer, shape in shapes.items())


@pytest.mark.parametrize("name", SEVERAL)
def test_exported_programs_need_only_torch(name):
    network = narrow(name).eval()
    x = images_for(network)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: Dim("N")},))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators and not any("alexnet" in operator for operator in operators)
    for images in (x, torch.cat([x, 2 * x])):
        assert_same(program.module()(images), network(images))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", SEVERAL)
def test_traced_networks_need_only_torch(name):
    network = narrow(name).eval()
    x = images_for(network)
    traced = torch.jit.trace(network, x)
    assert all(node.kind().startswith(("aten::", "prim::")) for node in traced.inlined_graph.nodes())
    for images in (x, torch.cat([x, 2 * x])):
        assert_same(traced(images), network(images))


def test_files_run_in_a_process_without_the_package(tmp_path):
    network = narrow("cifar-18").eval()
    x = images_for(network)
    torch.export.save(torch.export.export(network, (x,)), tmp_path / "network.pt2")
    torch.save({"x": x, "y": network(x).detach()}, tmp_path / "example.pt")
    code = (
        f"import sys, torch; e = torch.load({str(tmp_path / 'example.pt')!r})\n"
        f"y = torch.export.load({str(tmp_path / 'network.pt2')!r}).module()(e['x'])\n"
        "torch.testing.assert_close(y, e['y'], rtol=1e-4, atol=1e-5); assert 'alexnet' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Block(nn.Module):
    """A user's own module around the public functions, with an even window and a ReLU."""

    def forward(self, x):
        y = alexnet.response_norm(x, size=4, alpha=0.3, beta=0.6, k=1.5, groups=2, relu=True)
        return alexnet.response_norm(y, size=5, alpha=0.5)


def onnx_scores(file, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def by_dynamo(module, x, path):
    pytest.importorskip("onnxscript")
    torch.onnx.export(module, (x,), path, dynamo=True, verbose=False, dynamic_shapes=({0: Dim("N")},))
    return str(path)


def by_torchscript(module, x, path):
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "N"}})
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", [by_dynamo, by_torchscript])
@pytest.mark.parametrize("name", ["original", "cifar-18", "torchvision"])
def test_the_public_exporters_write_onnx(name, export, tmp_path):
    network = narrow(name).eval()
    x = images_for(network).contiguous()
    file = export(network, x, tmp_path / "network.onnx")
    for images in (x, torch.cat([x, 2 * x])):
        assert_same(onnx_scores(file, images), network(images))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", [by_dynamo, by_torchscript])
def test_the_public_exporters_write_the_functions(export, tmp_path):
    x = torch.randn(2, 12, 5, 6)
    file = export(Block(), x, tmp_path / "block.onnx")
    assert_same(onnx_scores(file, x), Block()(x))


@pytest.mark.parametrize("name", SEVERAL)
def test_compilation_needs_no_break(name):
    network = narrow(name).eval()
    x = images_for(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x), network(x))
    gradients = []
    for call in (network, compiled):
        network.zero_grad()
        call(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("side", [5, 8, 13, 16])
@pytest.mark.parametrize("size", [(3, 2, 0), (3, 2, 1), (2, 3, 0), (5, 4, 2), (3, 3, 1)])
def test_pooling_without_ceil_mode_is_that_with_it(side, size, monkeypatch):
    x, pool = torch.randn(2, 3, side, side + 1), RoundedUpAvgPool2d(*size, ceil_mode=True, count_include_pad=False)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(pool(x), nn.AvgPool2d(*size, ceil_mode=True, count_include_pad=False)(x))


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_inductor_derives_the_gradient_of_mean_pooling():
    """Of torch's own AvgPool2d with ceil_mode it derives another one (torch 2.13)."""
    pool = alexnet.create("cifar-18").pool2
    assert pool.ceil_mode and type(pool) is RoundedUpAvgPool2d
    x, weights = torch.randn(2, 4, 16, 16, requires_grad=True), torch.randn(2, 4, 8, 8)
    expected, compiled = (
        torch.autograd.grad((run(x) * weights).sum(), x)[0]
        for run in (lambda x: pool(x.relu() * 2), torch.compile(lambda x: pool(x.relu() * 2)))
    )
    torch.testing.assert_close(compiled, expected)
