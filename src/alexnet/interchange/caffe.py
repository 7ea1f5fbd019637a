"""Caffe's files: `.caffemodel`, a network with its weights, and `.binaryproto`, a mean image.

The architecture is read from the file itself, layer by layer, so that bvlc_alexnet, CaffeNet and networks derived from
them are told apart. Caffe's convolutions round sizes down and its pooling rounds up, its LRN divides alpha by the
window, and its images are BGR. Needs Google's `protobuf` (`pip install 'alexnet[caffe]'`), not Caffe.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import atomic_write, open_regular_file
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs import operations as ops
from ..specs.shapes import Placed
from .described import Step, build
from .protobuf import message_classes, parse
from .weights_file import WeightsFile, bgr_layers_of

SCHEMA = """
message BlobShape { repeated int64 dim = 1; }
message BlobProto {
  int64 num = 1; int64 channels = 2; int64 height = 3; int64 width = 4; BlobShape shape = 7;
  repeated bytes data = 5; repeated bytes double_data = 8;
}
message BatchNormParameter {
  bool use_global_stats = 1; float moving_average_fraction = 2; float eps = 3 [default = 1e-5];
}
message ConvolutionParameter {
  uint32 num_output = 1; bool bias_term = 2; repeated uint32 pad = 3; repeated uint32 kernel_size = 4;
  uint32 group = 5 [default = 1]; repeated uint32 stride = 6; bytes weight_filler = 7; bytes bias_filler = 8;
  uint32 pad_h = 9; uint32 pad_w = 10; uint32 kernel_h = 11; uint32 kernel_w = 12; uint32 stride_h = 13;
  uint32 stride_w = 14; int32 engine = 15; int32 axis = 16 [default = 1]; bool force_nd_im2col = 17;
  repeated uint32 dilation = 18;
}
message DataParameter { float scale = 2 [default = 1]; string mean_file = 3; uint32 crop_size = 5; }
message DropoutParameter { float dropout_ratio = 1 [default = 0.5]; }
message InnerProductParameter {
  uint32 num_output = 1; bool bias_term = 2; bytes weight_filler = 3; bytes bias_filler = 4;
  int32 axis = 5 [default = 1]; bool transpose = 6;
}
message InputParameter { BlobShape shape = 1; }
message LRNParameter {
  uint32 local_size = 1 [default = 5]; float alpha = 2 [default = 1]; float beta = 3 [default = 0.75];
  int32 norm_region = 4; float k = 5 [default = 1]; int32 engine = 6;
}
message PoolingParameter {
  int32 pool = 1; uint32 kernel_size = 2; uint32 stride = 3 [default = 1]; uint32 pad = 4; uint32 kernel_h = 5;
  uint32 kernel_w = 6; uint32 stride_h = 7; uint32 stride_w = 8; uint32 pad_h = 9; uint32 pad_w = 10;
  int32 engine = 11; bool global_pooling = 12; int32 round_mode = 13;
}
message ReLUParameter { float negative_slope = 1; int32 engine = 2; }
message ScaleParameter {
  int32 axis = 1 [default = 1]; int32 num_axes = 2 [default = 1]; bytes filler = 3; bool bias_term = 4;
  bytes bias_filler = 5;
}
message TanHParameter { int32 engine = 1; }
message TransformationParameter {
  float scale = 1 [default = 1]; uint32 crop_size = 3; string mean_file = 4; repeated float mean_value = 5;
}
message LayerParameter {
  string name = 1; string type = 2; repeated string bottom = 3; repeated string top = 4; repeated bytes blobs = 7;
  TransformationParameter transform_param = 100; ConvolutionParameter convolution_param = 106;
  DataParameter data_param = 107; DropoutParameter dropout_param = 108;
  InnerProductParameter inner_product_param = 117; LRNParameter lrn_param = 118;
  PoolingParameter pooling_param = 121; ReLUParameter relu_param = 123; TanHParameter tanh_param = 127;
  BatchNormParameter batch_norm_param = 139; ScaleParameter scale_param = 142; InputParameter input_param = 143;
}
message V1LayerParameter {
  repeated string bottom = 2; repeated string top = 3; bytes layer = 1; string name = 4; int32 type = 5;
  repeated bytes blobs = 6;
  ConvolutionParameter convolution_param = 10; DataParameter data_param = 11; DropoutParameter dropout_param = 12;
  InnerProductParameter inner_product_param = 17; LRNParameter lrn_param = 18; PoolingParameter pooling_param = 19;
  ReLUParameter relu_param = 30; TransformationParameter transform_param = 36; TanHParameter tanh_param = 37;
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
    **{13: "InfogainLoss", 14: "InnerProduct", 15: "LRN", 16: "MultinomialLogisticLoss", 17: "Pooling", 18: "ReLU"},
    **{20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split", 23: "TanH", 24: "WindowData", 28: "HingeLoss"},
    **{29: "MemoryData", 30: "ArgMax", 32: "DummyData", 36: "Silence"},
}
"""Types of layers before 2015, which were numbers."""
SOURCES = ("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData")
"""Types of layers that give images."""
IGNORED = (
    *("Accuracy", "ArgMax", "Flatten", "HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "Silence", "Softmax"),
    *("SoftmaxWithLoss", "Split"),
)
"""Types of layers that change nothing between an image and the scores."""
BLOBS = {"BatchNorm": (3,), "Convolution": (1, 2), "InnerProduct": (1, 2), "Scale": (1, 2)}
"""How many arrays a layer may have, if not none."""
ONLY = {
    "convolution_param": {"axis": 1, "dilation": 1},
    "inner_product_param": {"axis": 1, "transpose": 0},
    "lrn_param": {"norm_region": 0},
    "relu_param": {"negative_slope": 0},
    "scale_param": {"axis": 1, "num_axes": 1},
}
"""Settings of which one value alone is supported, which is mostly Caffe's default."""
FILES = ("network.caffemodel", "deploy.prototxt", "mean.binaryproto")
STARTS = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")
"""First bytes of a `.caffemodel`, whose fields are written in order: its name, or without one a layer or an input."""
MEAN_COLOR = (122.67891434, 116.66876762, 104.00698793)
"""Mean color of the training images of ILSVRC-2012, RGB, from Caffe's `ilsvrc_2012_mean.npy`."""


def read(path: Path, input_size: int | None = None) -> WeightsFile:
    """Read a `.caffemodel`, for images of its own size or of that size."""
    net = _parse("NetParameter", path.read_bytes())
    typed_layers = _typed_layers(net)
    if not any(layer.blobs for layer, _ in typed_layers):
        raise ValueError("neither a Caffe network nor any other known format")
    side = _input_size(net, typed_layers)
    steps = _steps(_chain(typed_layers))
    built = build("Caffe's caffemodel", net.name or "unnamed", steps, input_size or side or 227, "caffe")
    colors = _colors(typed_layers)
    if built.std is not None:  # of a batch norm of what the transformation gives
        mean, std = colors.get("mean", torch.zeros(3)), colors.get("std", torch.ones(3))
        colors |= {"mean": None if mean is None else mean + built.mean * std, "std": built.std * std}
        colors |= {"inputs_from": "its batch norm of the images"}
    return replace(built, input_size=side, **colors)


def read_mean(path: Path) -> Tensor:
    """Read a mean image, `.binaryproto` or pycaffe's `.npy`: (3, side, side) BGR, returned as (side, side, 3) RGB."""
    try:
        with open_regular_file(path) as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        # Mapped, so that nothing is allocated that a header merely claims.
        values = np.load(path, "r", allow_pickle=False) if is_npy else _parse_array(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; mean must be a color or a file with a mean image") from None
    except Exception as error:  # numpy reads the header as Python
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


def _chain(typed_layers: list[tuple]) -> list[tuple]:
    """The layers from the images to the scores, each of which must read what the one before it gives."""
    chain: list[tuple] = []
    positions: dict[str, int] = {}  # of each blob: how many layers of the chain it has passed
    for layer, kind in typed_layers:
        position = positions.get(layer.bottom[0], 0) if layer.bottom else len(chain)
        if kind in SOURCES:
            position = 0
        elif kind not in IGNORED:
            if position != len(chain) or len(layer.bottom) > 1:
                read = " and ".join(layer.bottom)
                after = f", not {chain[-1][0].name}, the layer before it" if position != len(chain) else ""
                raise ValueError(
                    f"{layer.name}, of type {kind}, reads {read}{after}: a network with several heads or branches "
                    "must be cut to one chain of layers, from the images to the scores"
                )
            chain.append((layer, kind))
            position = len(chain)
        positions |= dict.fromkeys(layer.top, position)
    return chain


def _steps(chain: list[tuple]) -> list[Step]:
    """The layers with their operations and weights, the latter in the order red, green, blue."""
    steps: list[Step] = []
    for layer, kind in chain:
        if len(layer.blobs) not in BLOBS.get(kind, (0,)):
            expected = {"BatchNorm": "a mean, a variance and a factor"}.get(kind, "weights and perhaps biases")
            expected = expected if kind in BLOBS else "no arrays"
            raise ValueError(f"{layer.name} must have {expected}, got {len(layer.blobs)} blobs")
        arrays = dict(zip(("weight", "bias"), map(_parse_array, layer.blobs), strict=False))
        if kind == "Scale" and steps and isinstance(steps[-1].operation, ops.BatchNorm):
            _checked(layer, "scale_param")
            steps[-1] = replace(steps[-1], tensors={**steps[-1].tensors, **arrays})
            continue
        operation = _operation(layer, kind, arrays)
        if isinstance(operation, ops.BatchNorm):
            factor = _parse_array(layer.blobs[2]).reshape(-1)[:1].astype(np.float64)
            mean, variance = (each.reshape(-1) / np.where(factor == 0, 1, factor) for each in arrays.values())
            ones = np.ones(len(mean))
            arrays = {"weight": ones, "bias": 0 * ones, "running_mean": mean, "running_var": variance}
        elif arrays:
            arrays["bias"] = arrays.get("bias", np.zeros(len(arrays["weight"]), np.float32)).reshape(-1)
        steps.append(Step(layer.name, operation, arrays))
    first = next((index for index, step in enumerate(steps) if isinstance(step.operation, ops.Layer)), -1)
    return [_red_first(step) if index <= first else step for index, step in enumerate(steps)]


def _red_first(step: Step) -> Step:
    """A layer that reads blue, green and red, as one that reads red, green and blue."""
    kernel = step.tensors.get("weight")
    if isinstance(step.operation, ops.Layer):
        return replace(step, tensors={**step.tensors, "weight": kernel[:, ::-1] if kernel.shape[1] == 3 else kernel})
    return replace(step, tensors={name: array[::-1] for name, array in step.tensors.items()})


def _colors(typed_layers: list[tuple]) -> dict:
    """What the layer of the images says about their mean and scale."""
    for layer, kind in typed_layers:
        transform, data = layer.transform_param, layer.data_param
        means, scale = list(transform.mean_value), transform.scale * data.scale
        file = transform.mean_file or data.mean_file
        if kind in SOURCES and (means or file or scale != 1):
            if len(means) not in (0, 1, 3) or not np.isfinite([*means, scale]).all() or not scale > 0:
                got = f"{means}, {scale}"
                raise ValueError(f"{layer.name} must have 1 or 3 finite mean_values and a scale > 0, got {got}")
            mean = None if file else torch.tensor((means or [0.0])[::-1]).expand(3)
            note = f"its mean image, {file}, is not in it; to be sure, give that file as mean" if file else ""
            colors = {"mean": mean, "std": torch.full((3,), 1 / scale)}
            return colors | {"inputs_from": "its transform_param", "mean_note": note}
    return {}


def _input_size(net, typed_layers: list[tuple]) -> int | None:
    """Side of the images that the network sees, if the file says it."""
    shapes = [net.input_shape.dim, net.input_dim]
    shapes += [layer.input_param.shape.dim for layer, kind in typed_layers if kind == "Input"]
    sides = [shape[3] for shape in shapes if len(shape) >= 4]
    for layer, _ in typed_layers:
        sides += [layer.transform_param.crop_size, layer.data_param.crop_size]
    return next(filter(None, sides), None)


def _operation(layer, kind: str, arrays: Mapping[str, np.ndarray]) -> ops.Operation | None:
    """The operation of a layer; None for one that scales the images."""
    weight = arrays.get("weight")
    match kind:
        case "Convolution":
            parameters = _checked(layer, "convolution_param")
            if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
                raise ValueError(f"{layer.name} must have square kernels, got weights of shape {weight.shape}")
            stride, pad = _size(parameters, "stride"), _size(parameters, "pad", 0)
            return ops.Conv("", len(weight), weight.shape[2], stride=stride, pad=pad, groups=_size(parameters, "group"))
        case "InnerProduct":
            _checked(layer, "inner_product_param")
            if weight.ndim == 4:  # before 2015
                arrays["weight"] = weight = weight.reshape(weight.shape[-2:])
            if weight.ndim != 2:
                raise ValueError(f"{layer.name} must have a matrix of weights, got weights of shape {weight.shape}")
            return ops.Linear("", len(weight))
        case "BatchNorm":
            return ops.BatchNorm(_decimal(_checked(layer, "batch_norm_param").eps))
        case "Scale":
            _checked(layer, "scale_param")
            return None
        case "ReLU" | "TanH":
            _checked(layer, f"{kind.lower()}_param")
            return ops.Activation(kind.lower())
        case "Dropout":
            return ops.Dropout(_decimal(layer.dropout_param.dropout_ratio), rescale=True)
        case "LRN":
            lrn = _checked(layer, "lrn_param")
            return ops.Norm(_size(lrn, "local_size"), _decimal(lrn.alpha), _decimal(lrn.beta), _decimal(lrn.k))
        case "Pooling":
            pooling = _checked(layer, "pooling_param")
            pad = _size(pooling, "pad", 0)
            if pooling.pool > 1 or (pooling.pool == 1 and pad) or (pooling.pool == 0 and pooling.global_pooling):
                raise ValueError(f"{layer.name} must be max pooling, or an average without padding or of all places")
            if pooling.global_pooling:
                return ops.AdaptivePool(1)
            window, stride = _size(pooling, "kernel_size"), _size(pooling, "stride")
            return ops.Pool("mean" if pooling.pool else "max", window, stride, not pooling.round_mode, pad)
    raise ValueError(f"{layer.name} is a layer of type {kind}, which is not supported")


def _checked(layer, name: str):
    """A layer's parameters; refuses fields that the schema lacks, and values other than those in ONLY."""
    parameters = getattr(layer, name)
    known = type(parameters).FromString(parameters.SerializeToString())
    known.DiscardUnknownFields()
    if known.ByteSize() != parameters.ByteSize():
        raise ValueError(f"{layer.name} sets fields in {name} that are not supported")
    for field, only in ONLY.get(name, {}).items():
        value = getattr(parameters, field)
        if any(each != only for each in ([value] if isinstance(value, (int, float)) else value)):
            raise ValueError(f"{layer.name} must have {field} {only}, got {value}")
    return parameters


def _size(parameters, name: str, least: int = 1) -> int:
    """A size that is given once, or for height and width alike; the least if it is not given."""
    value = getattr(parameters, name)
    sizes = {value} if isinstance(value, int) else set(value)
    sides = [f"{name.removesuffix('_size')}_{side}" for side in "hw"]
    if any(side in parameters.DESCRIPTOR.fields_by_name and parameters.HasField(side) for side in sides):
        sizes = {getattr(parameters, side) for side in sides}
    sizes = sizes or {least}
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
        case ops.Conv(round_up=False):
            sizes = {"pad": [operation.pad], "kernel_size": [operation.kernel], "stride": [operation.stride]}
            sizes |= {"num_output": operation.channels, "group": operation.groups}
            return {"type": "Convolution", "convolution_param": sizes}
        case ops.Linear():
            return {"type": "InnerProduct", "inner_product_param": {"num_output": operation.units}}
        case ops.Norm(groups=1, size=size, beta=beta, k=k):
            constants = {"local_size": size, "alpha": operation.divided_alpha, "beta": beta, "k": k}
            return {"type": "LRN", "lrn_param": constants}
        case ops.Pool(kind, window, stride, round_up, pad) if (
            round_up or (step.input_shape[1] + 2 * pad - window) % stride == 0
        ) and not (kind == "mean" and pad):
            sizes = {"pool": int(kind == "mean"), "kernel_size": window, "stride": stride, "pad": pad}
            return {"type": "Pooling", "pooling_param": sizes}
        case ops.Dropout():
            return {"type": "Dropout", "dropout_param": {"dropout_ratio": operation.rate}}
        case ops.Activation():
            return {"type": {"relu": "ReLU", "tanh": "TanH"}[operation.kind]}
        case ops.Flatten():
            return {}
        case ops.AdaptivePool() if step.input_shape[1] == operation.side:
            return {}
    raise ValueError(f"{step.name}: Caffe has no layer for {type(operation).__name__} with these settings")


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
