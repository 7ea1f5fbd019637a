"""A network as a program for other runtimes: an ONNX file, operation by operation, or one of torch.export.

ONNX needs the package `onnx` (`pip install 'alexnet[export]'`). Normalization across channels becomes ONNX's own
operator, which divides alpha by its window as ours does. In a file of torch.export it becomes torch's own operations,
so that whoever runs it needs torch alone.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..files import atomic_write
from ..model.network import AlexNet, ResponseNorm, SpatialResponseNorm
from ..normalization import plain
from ..preprocessing.preprocessing import Preprocessing
from ..specs import architecture as words
from ..specs.shapes import Placed

OPSET = 17


def write_onnx(network: AlexNet, path: str | Path, inputs: Preprocessing | None = None) -> Path:
    """Write a network that takes `images`, (N, channels, side, side), float32, and gives `scores`, (N, classes).

    Images are in the network's own units, as its preprocessing leaves them. N is free.

    Args:
        inputs: preprocessing to put before the network, which then takes stored images, (N, stored_size, stored_size,
            3), uint8, and looks at their center.

    Raises:
        ValueError: a layer cannot be said in ONNX.
        ImportError: the package onnx is not installed.
    """
    onnx = _onnx()
    graph = _Graph(network)
    shape, kind = network.placed[0].inputs, onnx.TensorProto.FLOAT
    names = "images"
    if inputs is not None:
        shape, kind = (inputs.stored_size, inputs.stored_size, 3), onnx.TensorProto.UINT8
        names = graph.preprocessing(inputs, names)
    for step in network.placed:
        names = graph.add(step, names)
    taken = onnx.helper.make_tensor_value_info("images", kind, ["N", *shape])
    given = onnx.helper.make_tensor_value_info(names, onnx.TensorProto.FLOAT, ["N", *network.placed[-1].outputs])
    opset = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_graph(graph.nodes, network.architecture.name, [taken], [given], graph.constants)
    model = onnx.helper.make_model(made, opset_imports=opset, ir_version=8, producer_name="alexnet")
    onnx.checker.check_model(model)
    with atomic_write(Path(path)) as temporary:
        onnx.save(model, temporary)
    return Path(path)


def write_program(network: AlexNet, path: str | Path, inputs: Preprocessing | None = None) -> Path:
    """Write a network as `torch.export.save` does; `torch.export.load(path).module()` is one. Arguments as above."""
    module = deepcopy(network).cpu().eval().to(memory_format=torch.contiguous_format)
    for name, child in module.named_children():
        if isinstance(child, (ResponseNorm, SpatialResponseNorm)):
            setattr(module, name, _Plain(child))
    images = torch.zeros(2, *network.placed[0].inputs)
    if inputs is not None:
        module = nn.Sequential(inputs.to("cpu").center_crop, module)
        images = torch.zeros(2, inputs.stored_size, inputs.stored_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("N")},))
    with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)
    return Path(path)


class _Plain(nn.Module):
    """A normalization in torch's own operations."""

    def __init__(self, normalization: ResponseNorm | SpatialResponseNorm):
        super().__init__()
        self.norm = normalization.norm
        self.alpha = getattr(normalization, "alpha", self.norm.alpha)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if isinstance(norm, words.Norm):
            return plain.response_norm(x, norm.size, self.alpha / norm.size, norm.beta, norm.k, norm.groups, False)
        return plain.spatial_norm(x, norm.size, self.alpha / norm.size**2, norm.beta, norm.k)


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

    def preprocessing(self, inputs: Preprocessing, x: str) -> str:
        crop = inputs.to("cpu").center_crop
        places = [
            self.constant(f"crop.{name}", [value] * 2, np.int64)
            for name, value in (("from", crop.start), ("to", crop.end))
        ]
        cropped = self.node("Slice", "crop", x, *places, self.constant("crop.axes", [1, 2], np.int64))
        pixels = self.node("Cast", "pixels", cropped, to=1)  # to float32
        centered = self.node("Sub", "centered", pixels, self.constant("mean", crop.mean.numpy()))
        scaled = self.node("Div", "scaled", centered, self.constant("std", crop.std.numpy()))
        return self.node("Transpose", "normalized", scaled, perm=[0, 3, 1, 2])

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
        self.constants.append(_onnx().numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes) -> str:
        self.nodes.append(_made(kind, list(inputs), [name], **attributes))
        return name


def _made(kind: str, inputs: list[str], outputs: list[str], **attributes):
    return _onnx().helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)


def _onnx():
    try:
        import onnx
    except ImportError:
        raise ImportError("ONNX files need the package onnx: pip install 'alexnet[export]'") from None
    return onnx
