"""Caffe's files: `.caffemodel`, which holds a network with its weights, and `.binaryproto`, a mean image.

The network is read from the file itself, layer by layer, so that bvlc_alexnet, CaffeNet and what was made of them are
told apart. Caffe's convolutions round sizes down and its pooling rounds up, its normalization divides alpha by its
window, and its pictures are BGR. Numbers of fields are those of `caffe.proto`, in the older form (`layers`) and the
newer (`layer`).
"""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..preprocessing.preprocessing import Preprocessing
from ..specs.architecture import AdaptivePool, Architecture, Conv, Dropout, Linear, Norm, Pool
from ..specs.variants import VARIANTS
from .layout import Found, Layers, in_pixels, layers_of, named_tensors, swap_colors, work_of
from .protobuf import Message, Schema, binary, text

SHAPE: Schema = {"dim": 1}
BLOB: Schema = {
    "num": 1,
    "channels": 2,
    "height": 3,
    "width": 4,
    "data": 5,
    "shape": (7, SHAPE),
    "double_data": 8,
}
CONVOLUTION: Schema = {
    "num_output": 1,
    "bias_term": 2,
    "pad": 3,
    "kernel_size": 4,
    "group": 5,
    "stride": 6,
    "weight_filler": 7,
    "bias_filler": 8,
    "engine": 15,
}
INNER_PRODUCT: Schema = {"num_output": 1, "bias_term": 2, "weight_filler": 3, "bias_filler": 4}
LRN: Schema = {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5, "engine": 6}
POOLING: Schema = {"pool": 1, "kernel_size": 2, "stride": 3, "pad": 4, "engine": 11}
LAYER: Schema = {
    "name": 1,
    "type": 2,
    "bottom": 3,
    "top": 4,
    "blobs": (7, BLOB),
    "transform_param": (100, {"crop_size": 3}),
    "convolution_param": (106, CONVOLUTION),
    "dropout_param": (108, {"dropout_ratio": 1}),
    "inner_product_param": (117, INNER_PRODUCT),
    "lrn_param": (118, LRN),
    "pooling_param": (121, POOLING),
    "relu_param": (123, {"engine": 2}),
    "input_param": (143, {"shape": (1, SHAPE)}),
}
OLD_LAYER: Schema = {
    "oldest": (1, {}),
    "name": 4,
    "type": 5,
    "blobs": (6, BLOB),
    "convolution_param": (10, CONVOLUTION),
    "data_param": (11, {"crop_size": 5}),
    "dropout_param": (12, {"dropout_ratio": 1}),
    "inner_product_param": (17, INNER_PRODUCT),
    "lrn_param": (18, LRN),
    "pooling_param": (19, POOLING),
    "relu_param": (30, {"engine": 2}),
    "transform_param": (36, {"crop_size": 3}),
}
NET: Schema = {
    "name": 1,
    "layers": (2, OLD_LAYER),
    "input": 3,
    "input_dim": 4,
    "input_shape": (8, SHAPE),
    "layer": (100, LAYER),
}
OLD_TYPES = {
    1: "Accuracy",
    4: "Convolution",
    5: "Data",
    6: "Dropout",
    8: "Flatten",
    9: "HDF5Data",
    12: "ImageData",
    14: "InnerProduct",
    15: "LRN",
    17: "Pooling",
    18: "ReLU",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
    23: "TanH",
    24: "WindowData",
    29: "MemoryData",
    32: "DummyData",
    36: "Silence",
}
NO_WORK = {
    *("Accuracy", "Data", "DummyData", "Flatten", "HDF5Data", "ImageData", "Input", "MemoryData", "Silence"),
    *("Softmax", "SoftmaxWithLoss", "Split", "WindowData"),
}
"""Types of layers that change nothing on the way from an image to the scores."""

STARTS = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")
"""First bytes of a network, as fields are written in order: its name, or where it has none a layer, old or new, or an
input."""
MEAN_COLOR = (122.67891434, 116.66876762, 104.00698793)
"""Of the training images of ILSVRC-2012, RGB: the mean of Caffe's own `ilsvrc_2012_mean.npy`."""


def read(path: Path) -> Found:
    """A `.caffemodel`.

    Raises:
        ValueError: it is damaged, or its network has a layer that no AlexNet has.
    """
    net = Message(_mapped(path), NET)
    kinds = [(layer, layer.text("type")) for layer in net.messages("layer")]
    for layer in net.messages("layers"):
        if "oldest" in layer:
            raise ValueError("a Caffe network of before 2014; Caffe's upgrade_net_proto_binary makes it a newer one")
        number = layer.integer("type")
        kinds.append((layer, OLD_TYPES.get(number, f"number {number}")))
    layers: Layers = {}
    for layer, kind in kinds:
        if kind in ("Convolution", "InnerProduct"):
            layers[layer.text("name")] = _weights(layer, kind)
    if not layers:
        raise ValueError("neither a network of Caffe's nor any other format that is known")
    skipped = [
        layer.text("name") for layer, kind in kinds if "blobs" in layer and kind not in ("Convolution", "InnerProduct")
    ]
    return Found(
        "Caffe's caffemodel",
        named_tensors(swap_colors(layers)),
        tuple(skipped),
        _architecture(net.text("name", "unnamed"), kinds, layers),
        input_size=_input_size(net, kinds),
        mean=torch.tensor(MEAN_COLOR).view(1, 1, 3),
    )


def read_mean(path: Path) -> Tensor:
    """A `.binaryproto`, or the `.npy` of pycaffe, (3, height, width) BGR, as (height, width, 3) RGB.

    Raises:
        ValueError: it is neither, or not square.
    """
    try:
        with path.open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        values = np.load(path, allow_pickle=False) if is_npy else _values(Message(_mapped(path), BLOB))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; mean may be a color, or a file with a mean image") from None
    except ValueError as error:
        raise ValueError(f"{path} holds no mean image, as a .binaryproto or an .npy: {error}") from error
    values = values.reshape(values.shape[-3:])
    if values.ndim != 3 or values.shape[0] not in (1, 3) or values.shape[1] != values.shape[2]:
        raise ValueError(f"{path} has shape {values.shape}; a mean image may be (3, side, side)")
    mean = np.array(values[::-1].transpose(1, 2, 0), np.float32, order="C")
    if not np.isfinite(mean).all():
        raise ValueError(f"{path} has infinite numbers or NaN in it; a mean image has pixels of 0 to 255")
    return torch.from_numpy(mean)


def write(bundle: ModelBundle, folder: Path) -> None:
    """`network.caffemodel`, `deploy.prototxt` and `mean.binaryproto`, as Caffe wants them.

    Raises:
        ValueError: Caffe has no layer for one of the network's.
    """
    network, inputs = bundle.network, bundle.preprocessing
    layers = swap_colors(in_pixels(layers_of(network, "Caffe"), inputs.std))
    name = ("name", network.architecture.name)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "network.caffemodel") as temporary:
        temporary.write_bytes(binary([name, *_described(network, layers)], NET))
    with atomic_write(folder / "deploy.prototxt") as temporary:
        temporary.write_text(text([name, *_described(network, {})]), encoding="utf-8")
    with atomic_write(folder / "mean.binaryproto") as temporary:
        temporary.write_bytes(binary(_mean(inputs), BLOB))


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("an empty file")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _values(blob: Message) -> np.ndarray:
    """A blob's numbers in its shape, of the older form (four sides) or the newer (as many as it has)."""
    shape = blob.message("shape").integers("dim") if "shape" in blob else None
    if shape is None:
        shape = [blob.integer(side, 1) for side in ("num", "channels", "height", "width")]
    values = blob.array("data", "<f4") if "data" in blob else blob.array("double_data", "<f8")
    if np.prod(shape, dtype=object) != len(values):
        raise ValueError(f"a blob of {len(values):,} numbers has the shape {shape}")
    return values.reshape(shape)


def _weights(layer: Message, kind: str) -> tuple[np.ndarray, np.ndarray]:
    name, blobs = layer.text("name"), [_values(blob) for blob in layer.messages("blobs")]
    if not 1 <= len(blobs) <= 2:
        raise ValueError(f"{name} has {len(blobs)} blobs; it may have weights and biases")
    weight = blobs[0]
    if kind == "InnerProduct":
        weight = weight.reshape(weight.shape[-2:]) if weight.ndim == 4 else weight
    if weight.ndim != (4 if kind == "Convolution" else 2):
        raise ValueError(f"{name} has weights of shape {weight.shape}, which a {kind} has not")
    return weight, (blobs[1] if len(blobs) == 2 else np.zeros(len(weight), np.float32))


def _input_size(net: Message, kinds: list[tuple[Message, str]]) -> int | None:
    """The side of the images that the network sees, where the file says."""
    shapes = [shape.integers("dim") for shape in net.messages("input_shape")] + [net.integers("input_dim")]
    crops = []
    for layer, kind in kinds:
        if kind == "Input":
            shapes += [shape.integers("dim") for shape in layer.message("input_param").messages("shape")]
        for name in ("transform_param", "data_param"):
            if name in layer.schema:
                crops.append(layer.message(name).integer("crop_size"))
    return next((side for side in [*(shape[3] for shape in shapes if len(shape) == 4), *crops] if side), None)


def _architecture(name: str, kinds: list[tuple[Message, str]], layers: Layers) -> Architecture:
    """The network that a file describes: one of the variants where it is one, or else one of its own."""
    rows: list[Conv | Linear] = []
    convolutions = sum(weight.ndim == 4 for weight, _ in layers.values())
    first_linear = max(convolutions + 1, 9 - (len(layers) - convolutions))  # the last is fc8, also where layers are few
    for layer, kind in kinds:
        if kind in NO_WORK:
            continue
        number = len(rows) + 1
        if kind == "Convolution":
            maps, kernel = (layers[layer.text("name")][0].shape[each] for each in (0, 2))
            rows.append(_convolution(layer, f"conv{number}", maps, kernel))
        elif kind == "InnerProduct":
            _check(layer, "inner_product_param")
            units = layers[layer.text("name")][0].shape[0] if number < len(layers) else None
            rows.append(Linear(f"fc{first_linear + number - convolutions - 1}", units))
        elif not rows:
            raise ValueError(f"{layer.text('name')}, a {kind}, comes before the first weights")
        else:
            rows[-1] = replace(rows[-1], then=(*rows[-1].then, _step(layer, kind)))
    activation = "tanh" if any(kind == "TanH" for _, kind in kinds) else "relu"
    if activation == "tanh" and any(kind == "ReLU" for _, kind in kinds):
        raise ValueError("both ReLU and TanH are in the network; it may have one of them")
    about = f"Read from the network {name} of Caffe's."
    described = Architecture(name, about, tuple(rows), 227, activation=activation, recipe="caffe")
    for variant in VARIANTS.values():
        if work_of(variant) == work_of(described):
            return variant
    return described


def _convolution(layer: Message, name: str, maps: int, kernel: int) -> Conv:
    found = _check(layer, "convolution_param")
    return Conv(
        name,
        maps,
        kernel,
        stride=_size(found, "stride", 1),
        pad=_size(found, "pad", 0),
        groups=_size(found, "group", 1),
        then=(),
    )


def _step(layer: Message, kind: str) -> str | Norm | Pool | Dropout:
    """What a layer without weights does."""
    name = layer.text("name")
    match kind:
        case "ReLU" | "TanH":
            if kind == "ReLU":
                _check(layer, "relu_param")
            return "relu"
        case "Dropout":
            return Dropout(layer.message("dropout_param").real("dropout_ratio", 0.5), rescale=True)
        case "LRN":
            found = _check(layer, "lrn_param")
            if found.integer("norm_region"):
                raise ValueError(f"{name} normalizes within channels; across them is what is known")
            return Norm(
                _size(found, "local_size", 5), found.real("alpha", 1.0), found.real("beta", 0.75), found.real("k", 1.0)
            )
        case "Pooling":
            found = _check(layer, "pooling_param")
            method = found.integer("pool")
            if method > 1 or found.integer("pad"):
                raise ValueError(
                    f"{name} pools by method {method} with pad {found.integer('pad')}; it may be 0 or 1, 0"
                )
            return Pool("mean" if method else "max", _size(found, "kernel_size", 1), _size(found, "stride", 1))
    raise ValueError(f"{name} is a layer of type {kind}, which no AlexNet has")


def _check(layer: Message, name: str) -> Message:
    """A layer's parameters, which may be those of the schema alone: no dilation, no sides of their own."""
    found = layer.message(name)
    if unknown := found.unknown():
        raise ValueError(f"{layer.text('name')} has settings that are not known, {name} number {unknown[0]}")
    return found


def _size(found: Message, name: str, default: int) -> int:
    value, least = found.integer(name, default), min(default, 1)
    if not least <= value <= 1000:
        raise ValueError(f"{name} is {value}; it may be {least} to 1000")
    return value


def _described(network: AlexNet, layers: Layers) -> list[tuple[str, object]]:
    """The network as Caffe's layers, with their weights, from the image to the probabilities."""
    shape = [("dim", (1, *network.placed[0].inputs))]
    described = [[("name", "data"), ("type", "Input"), ("top", "data"), ("input_param", [("shape", shape)])]]
    below = "data"
    for step in network.placed:
        says = _layer(step, network.architecture.activation)
        if says is None:
            continue
        kind, settings = says
        blobs = [("blobs", [("shape", [("dim", array.shape)]), ("data", array)]) for array in layers.get(step.name, ())]
        ends = [("name", step.name), ("type", kind), ("bottom", below), ("top", step.name)]
        described.append([*ends, *blobs, *settings])
        below = step.name
    described.append([("name", "prob"), ("type", "Softmax"), ("bottom", below), ("top", "prob")])
    return [("layer", each) for each in described]


def _layer(step, activation: str) -> tuple[str, list] | None:
    """Type and settings of a layer; None where Caffe needs none."""
    operation = step.operation
    match operation:
        case Conv(round_up=False):
            sizes = [("pad", operation.pad), ("kernel_size", operation.kernel), ("stride", operation.stride)]
            settings = [("num_output", operation.maps), *sizes, ("group", operation.groups)]
            return "Convolution", [("convolution_param", settings)]
        case Linear():
            return "InnerProduct", [("inner_product_param", [("num_output", step.outputs[0])])]
        case Norm(groups=1):
            alpha = operation.alpha if operation.divided else operation.alpha * operation.size
            constants = [("alpha", float(alpha)), ("beta", operation.beta), ("k", float(operation.k))]
            return "LRN", [("lrn_param", [("local_size", operation.size), *constants])]
        case Pool() if operation.round_up or (step.inputs[1] - operation.window) % operation.stride == 0:
            sizes = [("kernel_size", operation.window), ("stride", operation.stride)]
            return "Pooling", [("pooling_param", [("pool", int(operation.kind == "mean")), *sizes])]
        case AdaptivePool() if step.inputs[1] == operation.side:
            return None
        case Dropout():
            return "Dropout", [("dropout_param", [("dropout_ratio", operation.rate)])]
        case "relu":
            return {"relu": "ReLU", "tanh": "TanH"}[activation], []
        case "flatten":
            return None
    raise ValueError(f"{step.name}: Caffe has no layer for {operation}")


def _mean(inputs: Preprocessing) -> list[tuple[str, object]]:
    side = inputs.stored_size
    mean = inputs.mean.cpu().expand(side, side, 3).numpy()[..., ::-1].transpose(2, 0, 1)
    return [("num", 1), ("channels", 3), ("height", side), ("width", side), ("data", mean)]
