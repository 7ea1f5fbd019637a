"""Caffe's files: `.caffemodel`, a network with its weights, and `.binaryproto`, a mean image.

The architecture is read from the file itself, layer by layer, so that bvlc_alexnet, CaffeNet and networks derived from
them are told apart. Caffe's convolutions round sizes down and its pooling rounds up, its LRN divides alpha by the
window, and its images are BGR. Needs Google's `protobuf` (`pip install 'alexnet[caffe]'`), not Caffe.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs.architecture import Architecture
from ..specs.operations import Activation, AdaptivePool, Conv, Dropout, Flatten, Linear, Norm, Pool
from ..specs.shapes import Placed
from ..specs.variants import VARIANTS
from .matching import computation
from .protobuf import message_classes, parse
from .weights_file import Layers, WeightsFile, bgr_layers_of, named_tensors, swap_colors

SCHEMA = """
message BlobShape { repeated int64 dim = 1; }
message BlobProto {
  int64 num = 1; int64 channels = 2; int64 height = 3; int64 width = 4; BlobShape shape = 7;
  repeated bytes data = 5; repeated bytes double_data = 8;
}
message ConvolutionParameter {
  uint32 num_output = 1; bool bias_term = 2; repeated uint32 pad = 3; repeated uint32 kernel_size = 4;
  uint32 group = 5 [default = 1]; repeated uint32 stride = 6; bytes weight_filler = 7; bytes bias_filler = 8;
  int32 engine = 15;
}
message DataParameter { uint32 crop_size = 5; }
message DropoutParameter { float dropout_ratio = 1 [default = 0.5]; }
message InnerProductParameter {
  uint32 num_output = 1; bool bias_term = 2; bytes weight_filler = 3; bytes bias_filler = 4;
}
message InputParameter { BlobShape shape = 1; }
message LRNParameter {
  uint32 local_size = 1 [default = 5]; float alpha = 2 [default = 1]; float beta = 3 [default = 0.75];
  int32 norm_region = 4; float k = 5 [default = 1]; int32 engine = 6;
}
message PoolingParameter {
  int32 pool = 1; uint32 kernel_size = 2; uint32 stride = 3 [default = 1]; uint32 pad = 4; int32 engine = 11;
}
message ReLUParameter { int32 engine = 2; }
message TransformationParameter { uint32 crop_size = 3; }
message LayerParameter {
  string name = 1; string type = 2; repeated string bottom = 3; repeated string top = 4; repeated bytes blobs = 7;
  TransformationParameter transform_param = 100; ConvolutionParameter convolution_param = 106;
  DataParameter data_param = 107; DropoutParameter dropout_param = 108;
  InnerProductParameter inner_product_param = 117; LRNParameter lrn_param = 118;
  PoolingParameter pooling_param = 121; ReLUParameter relu_param = 123; InputParameter input_param = 143;
}
message V1LayerParameter {
  bytes layer = 1; string name = 4; int32 type = 5; repeated bytes blobs = 6;
  ConvolutionParameter convolution_param = 10; DataParameter data_param = 11; DropoutParameter dropout_param = 12;
  InnerProductParameter inner_product_param = 17; LRNParameter lrn_param = 18; PoolingParameter pooling_param = 19;
  ReLUParameter relu_param = 30; TransformationParameter transform_param = 36;
}
message NetParameter {
  string name = 1; repeated bytes layers = 2; repeated int64 input_dim = 4; BlobShape input_shape = 8;
  repeated bytes layer = 100;
}
"""
"""The messages of caffe.proto that describe networks like AlexNet."""
_message_classes, _parse = partial(message_classes, "Caffe", SCHEMA), partial(parse, "Caffe", SCHEMA)
V1_TYPES = {
    **{1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 9: "HDF5Data", 12: "ImageData"},
    **{14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split"},
    **{23: "TanH", 24: "WindowData", 29: "MemoryData", 32: "DummyData", 36: "Silence"},
}
"""Types of layers before 2015, which were numbers."""
IGNORED = {
    *("Accuracy", "Data", "DummyData", "Flatten", "HDF5Data", "ImageData", "Input", "MemoryData", "Silence"),
    *("Softmax", "SoftmaxWithLoss", "Split", "WindowData"),
}
"""Types of layers that change nothing between an image and the scores."""
WEIGHTED = ("Convolution", "InnerProduct")
FILES = ("network.caffemodel", "deploy.prototxt", "mean.binaryproto")
STARTS = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")
"""First bytes of a `.caffemodel`, whose fields are written in order: its name, or without one a layer or an input."""
MEAN_COLOR = (122.67891434, 116.66876762, 104.00698793)
"""Mean color of the training images of ILSVRC-2012, RGB, from Caffe's `ilsvrc_2012_mean.npy`."""


def read(path: Path) -> WeightsFile:
    """Read a `.caffemodel`."""
    net = _parse("NetParameter", path.read_bytes())
    typed_layers = _typed_layers(net)
    layers: Layers = {layer.name: _weights(layer, kind) for layer, kind in typed_layers if kind in WEIGHTED}
    if not layers:
        raise ValueError("neither a Caffe network nor any other known format")
    return WeightsFile(
        "Caffe's caffemodel",
        named_tensors(swap_colors(layers)),
        tuple(layer.name for layer, kind in typed_layers if layer.blobs and kind not in WEIGHTED),
        _architecture(net.name or "unnamed", typed_layers, layers),
        input_size=_input_size(net, typed_layers),
        mean=torch.tensor(MEAN_COLOR),
    )


def read_mean(path: Path) -> Tensor:
    """Read a mean image, `.binaryproto` or pycaffe's `.npy`: (3, side, side) BGR, returned as (side, side, 3) RGB."""
    try:
        with path.open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        values = np.load(path, allow_pickle=False) if is_npy else _parse_array(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; mean must be a color or a file with a mean image") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a mean image, neither a .binaryproto nor an .npy: {error}") from error
    values = values.reshape(values.shape[-3:])
    if values.ndim != 3 or values.shape[0] not in (1, 3) or values.shape[1] != values.shape[2]:
        raise ValueError(f"the shape of a mean image must be (3, side, side), got {values.shape} in {path}")
    mean = np.array(values[::-1].transpose(1, 2, 0), np.float32, order="C")
    if not np.isfinite(mean).all():
        raise ValueError(f"{path} has infinite values or NaN; the pixels of a mean image must be 0 to 255")
    return torch.from_numpy(mean)


def write(bundle: ModelBundle, folder: Path) -> None:
    """Write FILES, for BGR images minus the mean."""
    net = _message_classes()["NetParameter"](name=bundle.network.architecture.name)
    from google.protobuf.text_format import MessageToString

    layers = bgr_layers_of(bundle, "Caffe")
    text = MessageToString(net)
    for layer in _described(bundle.network):
        text += f"layer {{\n{MessageToString(layer, indent=2)}}}\n"
        layer.blobs.extend(map(_array_message, layers.get(layer.name, ())))
        net.layer.append(layer.SerializeToString())
    side = bundle.preprocessing.stored_size
    mean = bundle.preprocessing.mean.cpu().expand(side, side, 3).numpy()[..., ::-1].transpose(2, 0, 1)
    data = [np.ascontiguousarray(mean, "<f4").tobytes()]
    mean_blob = _message_classes()["BlobProto"](num=1, channels=3, height=side, width=side, data=data)
    folder.mkdir(parents=True, exist_ok=True)
    contents = net.SerializeToString(), text.encode(), mean_blob.SerializeToString()
    for name, content in zip(FILES, contents, strict=True):
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)


def _typed_layers(net) -> list[tuple]:
    """The layers of a network, old and new, each with its type."""
    if len(net.layer) + len(net.layers) > 1000:
        raise ValueError("a network of more than 1,000 layers")
    typed = [(layer, layer.type) for layer in (_parse("LayerParameter", content) for content in net.layer)]
    for layer in (_parse("V1LayerParameter", content) for content in net.layers):
        if layer.HasField("layer"):
            raise ValueError("a Caffe network from before 2014; upgrade it with Caffe's upgrade_net_proto_binary")
        typed.append((layer, V1_TYPES.get(layer.type, f"number {layer.type}")))
    return typed


def _weights(layer, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if len(layer.blobs) not in (1, 2):
        raise ValueError(f"{layer.name} must have weights and perhaps biases, got {len(layer.blobs)} blobs")
    weight, *biases = map(_parse_array, layer.blobs)
    if kind == "InnerProduct" and weight.ndim == 4:  # before 2015
        weight = weight.reshape(weight.shape[-2:])
    if weight.ndim != (4 if kind == "Convolution" else 2):
        raise ValueError(f"{layer.name}, of type {kind}, has weights of shape {weight.shape}")
    return weight, (biases[0] if biases else np.zeros(len(weight), np.float32))


def _input_size(net, typed_layers: list[tuple]) -> int | None:
    """Side of the images that the network sees, if the file says it."""
    shapes = [net.input_shape.dim, net.input_dim]
    shapes += [layer.input_param.shape.dim for layer, kind in typed_layers if kind == "Input"]
    sides = [shape[3] for shape in shapes if len(shape) >= 4]
    for layer, _ in typed_layers:
        sides += [layer.transform_param.crop_size, layer.data_param.crop_size]
    return next(filter(None, sides), None)


def _architecture(name: str, typed_layers: list[tuple], layers: Layers) -> Architecture:
    """The network that a file describes: the variant of equal computation, or else one of its own."""
    rows: list[Conv | Linear] = []
    gap = max(0, 8 - len(layers))  # the last is fc8 even if there are few
    for layer, kind in typed_layers:
        if kind in IGNORED:
            continue
        index = len(rows) + 1
        if kind == "Convolution":
            parameters = _checked(layer, "convolution_param")
            channels, _, kernel, _ = layers[layer.name][0].shape
            stride, pad, groups = _size(parameters, "stride"), _size(parameters, "pad", 0), _size(parameters, "group")
            rows.append(Conv(f"conv{index}", channels, kernel, stride=stride, pad=pad, groups=groups, then=()))
        elif kind == "InnerProduct":
            _checked(layer, "inner_product_param")
            units = len(layers[layer.name][0]) if index < len(layers) else None
            rows.append(Linear(f"fc{index + gap}", units))
        elif not rows:
            raise ValueError(f"{layer.name}, of type {kind}, comes before the first weights")
        else:
            rows[-1] = replace(rows[-1], then=(*rows[-1].then, _operation(layer, kind)))
    kinds = {kind for _, kind in typed_layers}
    if {"ReLU", "TanH"} <= kinds:
        raise ValueError("all activations of a network must be of the same type, got ReLU and TanH")
    activation = "tanh" if "TanH" in kinds else "relu"
    about = f"Read from the Caffe network {name}."
    described = Architecture(name, about, tuple(rows), 227, activation=activation, recipe="caffe")
    return next((each for each in VARIANTS.values() if computation(each) == computation(described)), described)


def _operation(layer, kind: str) -> str | Norm | Pool | Dropout:
    """The operation of a layer without weights."""
    match kind:
        case "ReLU" | "TanH":
            _checked(layer, "relu_param")
            return "relu"
        case "Dropout":
            return Dropout(_decimal(layer.dropout_param.dropout_ratio), rescale=True)
        case "LRN":
            lrn = _checked(layer, "lrn_param")
            if lrn.norm_region:
                raise ValueError(f"{layer.name} must normalize across channels, but does within channels")
            return Norm(_size(lrn, "local_size"), _decimal(lrn.alpha), _decimal(lrn.beta), _decimal(lrn.k))
        case "Pooling":
            pooling = _checked(layer, "pooling_param")
            if pooling.pool > 1 or pooling.pad:
                raise ValueError(f"{layer.name} must be max or average pooling without padding")
            kind = "mean" if pooling.pool else "max"
            return Pool(kind, _size(pooling, "kernel_size"), _size(pooling, "stride"))
    raise ValueError(f"{layer.name} is a layer of type {kind}, which is not supported")


def _checked(layer, name: str):
    """A layer's parameters; refuses those that the schema lacks, such as dilation or separate height and width."""
    parameters = getattr(layer, name)
    known = type(parameters).FromString(parameters.SerializeToString())
    known.DiscardUnknownFields()
    if known.ByteSize() != parameters.ByteSize():
        raise ValueError(f"{layer.name} sets fields in {name} that are not supported")
    return parameters


def _size(parameters, name: str, least: int = 1) -> int:
    """A size that is given once, or for height and width alike; the least if it is not given."""
    value = getattr(parameters, name)
    sizes = {value} if isinstance(value, int) else set(value) or {least}
    if len(sizes) > 1:
        raise ValueError(f"{name} must be the same for height and width, got {sorted(sizes)}")
    if not least <= max(sizes) <= 1000:
        raise ValueError(f"{name} must be {least} to 1000, got {max(sizes)}")
    return max(sizes)


def _decimal(value: float) -> float:
    """A 32-bit float as it was written: 0.0001, not the nearest that 32 bits can hold."""
    return float(f"{value:.7g}")


def _described(network: AlexNet) -> list:
    """The network as Caffe's layers without weights, from the image to the probabilities."""
    layer = _message_classes()["LayerParameter"]
    shape = {"dim": [1, *network.placed[0].input_shape]}
    described = [layer(name="data", type="Input", top=["data"], input_param={"shape": shape})]
    for step in network.placed:
        if settings := _settings(step):
            described.append(layer(name=step.name, bottom=[described[-1].name], top=[step.name], **settings))
    return [*described, layer(name="prob", type="Softmax", bottom=[described[-1].name], top=["prob"])]


def _settings(step: Placed) -> dict:
    """Type and parameters of a layer; empty if Caffe needs none."""
    operation = step.operation
    match operation:
        case Conv(round_up=False):
            sizes = {"pad": [operation.pad], "kernel_size": [operation.kernel], "stride": [operation.stride]}
            sizes |= {"num_output": operation.channels, "group": operation.groups}
            return {"type": "Convolution", "convolution_param": sizes}
        case Linear():
            return {"type": "InnerProduct", "inner_product_param": {"num_output": operation.units}}
        case Norm(groups=1, size=size, beta=beta, k=k):
            constants = {"local_size": size, "alpha": operation.divided_alpha, "beta": beta, "k": k}
            return {"type": "LRN", "lrn_param": constants}
        case Pool(kind, window, stride) if operation.round_up or (step.input_shape[1] - window) % stride == 0:
            sizes = {"pool": int(kind == "mean"), "kernel_size": window, "stride": stride}
            return {"type": "Pooling", "pooling_param": sizes}
        case Dropout():
            return {"type": "Dropout", "dropout_param": {"dropout_ratio": operation.rate}}
        case Activation():
            return {"type": {"relu": "ReLU", "tanh": "TanH"}[operation.kind]}
        case Flatten():
            return {}
        case AdaptivePool() if step.input_shape[1] == operation.side:
            return {}
    raise ValueError(f"{step.name}: Caffe has no layer for {operation}")


def _parse_array(blob: bytes) -> np.ndarray:
    """Parse a BlobProto, whose shape is four sides before 2015 and any number later."""
    message = _parse("BlobProto", blob)
    sides = (message.num, message.channels, message.height, message.width)
    shape = tuple(message.shape.dim) if message.HasField("shape") else tuple(side or 1 for side in sides)
    chunks, dtype = (message.data, np.dtype("<f4")) if message.data else (message.double_data, np.dtype("<f8"))
    content = b"".join(chunks)
    if np.prod(shape, dtype=object) * dtype.itemsize != len(content):
        raise ValueError(f"a blob of shape {shape} has {len(content):,} bytes of {dtype}")
    return np.frombuffer(content, dtype).reshape(shape)


def _array_message(array: np.ndarray) -> bytes:
    blob = _message_classes()["BlobProto"]
    return blob(shape={"dim": array.shape}, data=[np.ascontiguousarray(array, "<f4").tobytes()]).SerializeToString()
