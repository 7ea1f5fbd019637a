"""A network as an ONNX file, operation by operation, for other runtimes.

Needs the package `onnx` (`pip install 'alexnet[export]'`). Normalization across channels becomes ONNX's own operator,
which divides alpha by its window as ours does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files import written_whole
from ..specs import architecture as words
from ..specs.geometry import Placed
from .network import AlexNet

OPSET = 17


def write_onnx(network: AlexNet, path: str | Path) -> Path:
    """Write a network that takes `images`, (N, channels, side, side), float32, and gives `scores`, (N, classes).

    Images are in the network's own units, as its preprocessing leaves them. N is free.

    Raises:
        ValueError: a layer cannot be said in ONNX.
        ImportError: the package onnx is not installed.
    """
    import onnx

    graph = _Graph(network)
    names = "images"
    for step in network.placed:
        names = graph.add(step, names)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
        for name, shape in (("images", network.placed[0].inputs), (names, network.placed[-1].outputs))
    ]
    opset = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_graph(graph.nodes, network.architecture.name, ends[:1], ends[1:], graph.constants)
    model = onnx.helper.make_model(made, opset_imports=opset, ir_version=8, producer_name="alexnet")
    onnx.checker.check_model(model)
    with written_whole(Path(path)) as temporary:
        onnx.save(model, temporary)
    return Path(path)


class _Graph:
    """ONNX nodes and constants, as they are added; every value is named by what made it."""

    def __init__(self, network: AlexNet):
        self.network, self.nodes, self.constants = network, [], []

    def add(self, step: Placed, x: str) -> str:
        """The nodes of one operation; the name of what it gives."""
        operation, name = step.operation, "scores" if step is self.network.placed[-1] else step.name
        match operation:
            case words.Conv():
                after = [-(side + 2 * operation.pad - operation.kernel) % operation.stride for side in step.inputs[1:]]
                far = [operation.pad + (more if operation.round_up else 0) for more in after]
                return self.node(
                    *("Conv", name, x, *self.parameters(step.name, "weight", "bias")),
                    kernel_shape=[operation.kernel] * 2,
                    strides=[operation.stride] * 2,
                    pads=[operation.pad, operation.pad, *far],
                    group=operation.groups,
                )
            case words.Local():
                return self.local(step, name, x)
            case words.Linear():
                return self.node("Gemm", name, x, *self.parameters(step.name, "weight", "bias"), transB=1)
            case words.Norm():
                return self.response_norm(operation, step.inputs[0], name, x)
            case words.SpatialNorm():
                return self.spatial_norm(operation, name, x)
            case words.BatchNorm():
                learnt = self.parameters(step.name, "weight", "bias", "running_mean", "running_var")
                epsilon = self.network.get_submodule(step.name).eps
                return self.node("BatchNormalization", name, x, *learnt, epsilon=epsilon)
            case words.Pool():
                window = {"kernel_shape": [operation.window] * 2, "strides": [operation.stride] * 2}
                kind = "MaxPool" if operation.kind == "max" else "AveragePool"
                return self.node(kind, name, x, ceil_mode=int(operation.round_up), **window)
            case words.AdaptivePool():
                stride, rest = divmod(step.inputs[1], operation.side)
                if rest:
                    old, new = (f"{side} × {side}" for side in (step.inputs[1], operation.side))
                    raise ValueError(f"{step.name} makes {new} of {old}, which windows of one size do not")
                return self.node("AveragePool", name, x, kernel_shape=[stride] * 2, strides=[stride] * 2)
            case words.Dropout(rescale=True):
                return self.node("Identity", name, x)
            case words.Dropout():
                return self.node("Mul", name, x, self.constant(f"{name}.keep", 1 - operation.rate))
            case "relu":
                return self.node({"relu": "Relu", "tanh": "Tanh"}[self.network.architecture.activation], name, x)
            case "flatten":
                return self.node("Flatten", name, x)
        raise ValueError(f"{step.name}: no ONNX operation is known for {operation}")

    def response_norm(self, norm: words.Norm, channels: int, name: str, x: str) -> str:
        if norm.size % 2 == 0:
            raise ValueError(f"{name} sums {norm.size} channels; ONNX's own even windows lie one channel further")
        alpha = norm.alpha if norm.divided else norm.alpha * norm.size
        constants = {"size": norm.size, "alpha": float(alpha), "beta": norm.beta, "bias": float(norm.k)}
        if norm.groups == 1:
            return self.node("LRN", name, x, **constants)
        parts = [f"{name}.{tower}" for tower in range(norm.groups)]
        sizes = self.constant(f"{name}.sizes", [channels // norm.groups] * norm.groups, np.int64)
        self.nodes.append(_made("Split", [x, sizes], parts, axis=1))
        return self.node("Concat", name, *(self.node("LRN", f"{p}.normed", p, **constants) for p in parts), axis=1)

    def spatial_norm(self, norm: words.SpatialNorm, name: str, x: str) -> str:
        before, after = norm.size // 2, norm.size - 1 - norm.size // 2
        window = {"kernel_shape": [norm.size] * 2, "pads": [before, before, after, after], "count_include_pad": 1}
        mean = self.node("AveragePool", f"{name}.mean", self.node("Mul", f"{name}.square", x, x), **window)
        scaled = self.node("Mul", f"{name}.scaled", mean, self.constant(f"{name}.alpha", norm.alpha))
        s = self.node("Add", f"{name}.s", scaled, self.constant(f"{name}.k", norm.k))
        return self.node(
            "Mul", name, x, self.node("Pow", f"{name}.power", s, self.constant(f"{name}.beta", -norm.beta))
        )

    def local(self, step: Placed, name: str, x: str) -> str:
        """Patches by a convolution that copies, then a product of its own at every place."""
        operation, (maps, side, _) = step.operation, step.outputs
        count = step.inputs[0] * operation.kernel**2
        copies = self.constant(f"{name}.copies", np.eye(count).reshape(count, step.inputs[0], *[operation.kernel] * 2))
        patches = self.node("Conv", f"{name}.patches", x, copies, pads=[operation.pad] * 4)
        flat = self.node("Reshape", f"{name}.flat", patches, self.constant(f"{name}.f", [0, count, -1], np.int64))
        places = self.node("Transpose", f"{name}.places", flat, perm=[2, 0, 1])
        weight, bias = self.parameters(step.name, "weight", "bias")
        product = self.node("MatMul", f"{name}.product", places, weight)
        each = self.constant(f"{name}.b", [side * side, 1, maps], np.int64)
        summed = self.node("Add", f"{name}.sum", product, self.node("Reshape", f"{name}.bias_of_place", bias, each))
        turned = self.node("Transpose", f"{name}.turned", summed, perm=[1, 2, 0])
        return self.node("Reshape", name, turned, self.constant(f"{name}.shape", [0, maps, side, side], np.int64))

    def parameters(self, layer: str, *kinds: str) -> list[str]:
        module = self.network.get_submodule(layer)
        return [self.constant(f"{layer}.{kind}", getattr(module, kind).detach().cpu().numpy()) for kind in kinds]

    def constant(self, name: str, value, dtype=np.float32) -> str:
        import onnx

        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes) -> str:
        self.nodes.append(_made(kind, list(inputs), [name], **attributes))
        return name


def _made(kind: str, inputs: list[str], outputs: list[str], **attributes):
    import onnx

    return onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)
