"""The layers of a Keras model by its JSON, as `.keras` and whole-model `.h5` files have it.

Nothing is run: a Lambda, whose code no file of data can tell, is taken for LRN, which Keras lacks, and said to be a
guess. Convolutions and pooling with padding="same" are those whose first windows hang over as TensorFlow's do.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..specs.operations import Activation, AdaptivePool, BatchNorm, Conv, Dropout, Flatten, Linear, Norm, Pool, Shape
from .described import Step

UNCHANGED = "Random|GaussianNoise|GaussianDropout|AlphaDropout|SpatialDropout|ActivityRegularization|Augment"
"""In the names of layers that do nothing outside of training."""
NESTED = ("Sequential", "Functional", "Model")
LRN = "lrn|local_?response|lambda|cross_?channel"
"""In the names of layers that are taken for LRN, in lower case."""
LRN_SETTINGS = {
    "size": ("n", "size", "local_size", "depth_radius"),
    "alpha": ("alpha",),
    "beta": ("beta",),
    "k": ("k", "bias"),
}
"""Fields of `Norm`, and what TensorFlow and the LRN layers of tutorials call them."""
ONLY = {"dilation_rate": (1, 1), "data_format": ("channels_last", "channels_first"), "depth_multiplier": (1,)}
MAX_SIDE = 4096

Arrays = Callable[[tuple[str, ...], str, int], list[np.ndarray]]
"""The arrays of a layer, by the path of models in which it is, its name, and how many layers of its type precede it."""


@dataclass
class Model:
    """The steps of a model, read one layer after another."""

    arrays: Arrays
    steps: list[Step] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    shape: Shape | None = None
    """What the layers so far give has this shape; None before the size of the images is known."""
    side: int | None = None
    """Side of the images, pixels."""
    is_flat: bool = False
    """Whether feature maps of that shape have been flattened, along rows, columns and channels."""
    pad: int = 0
    """Zeros that ZeroPadding2D put around the input of the next convolution."""
    is_done: bool = False
    """Whether a softmax has ended it."""

    def read(self, model: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
        """Read the layers of a model, and those of the models in it."""
        counts: dict[str, int] = {}
        if (built := isinstance(model["config"], Mapping) and model["config"].get("build_input_shape")) and not path:
            self._set_input(built)
        for layer, inbound in _chain(model):
            kind, config = layer["class_name"], layer.get("config", {})
            name = str(config.get("name", layer.get("name", kind)))
            index = counts[kind] = counts.get(kind, -1) + 1
            key = snake_case(kind) + (f"_{index}" if index else "")
            if kind in NESTED:
                self.read(layer, (*path, key))
                continue
            if (shape := config.get("batch_shape", config.get("batch_input_shape"))) and self.shape is None:
                self._set_input(shape)
            self._add(kind, name, config, self.arrays(path, name, key), inbound)

    def _set_input(self, shape: list) -> None:
        sides = shape[2:4] if shape[1] in (1, 3) and shape[-1] not in (1, 3) else shape[1:3]
        if len(shape) != 4 or sides[0] != sides[1] or not (sides[0] is None or _is_side(sides[0])):
            raise ValueError(f"images must be squares of 1 to {MAX_SIDE} pixels, got {shape}")
        self.shape = sides[0] and (3, sides[0], sides[0])

    def _add(self, kind: str, name: str, config: Mapping[str, Any], arrays: list[np.ndarray], inbound: Any) -> None:
        """Add what a layer does to the steps."""
        for setting, known in ONLY.items():
            values = np.ravel(config.get(setting, known[0])).tolist()
            if any(value not in known for value in values):
                raise ValueError(f"{name} must have {setting} {known[0]}, got {config[setting]}")
        if kind in ("Resizing", "CenterCrop") and not self.steps:
            self.shape = (3, _size(config, "height"), _size(config, "width"))
        elif kind == "ZeroPadding2D":
            self.pad += _size({"padding": np.ravel(config.get("padding", 1)).tolist()}, "padding")
        elif kind in ("Conv2D", "Convolution2D"):
            self._convolution(name, config, arrays)
        elif kind == "Dense":
            self._dense(name, config, arrays)
        elif kind == "BatchNormalization":
            self._batch_norm(name, config, arrays)
        elif kind in ("MaxPooling2D", "AveragePooling2D"):
            window = _size(config, "pool_size", 2)
            stride = _size(config, "strides", window) if config.get("strides") else window
            pad, round_up = self._padding(name, config, window, stride)
            self._step(name, Pool("max" if kind == "MaxPooling2D" else "mean", window, stride, round_up, pad))
        elif kind == "GlobalAveragePooling2D":
            self._step(name, AdaptivePool(1))
        elif kind == "Dropout":
            self._step(name, Dropout(float(config["rate"] if "rate" in config else config["p"]), rescale=True))
        elif kind == "Flatten":
            self.is_flat = True
        elif kind in ("Activation", "ReLU", "Softmax"):
            if any(config.get(each) for each in ("max_value", "negative_slope", "threshold")):
                raise ValueError(f"{name} must be an ordinary ReLU, got {dict(config)}")
            self._activation(name, config.get("activation", kind.lower()))
        elif kind == "Rescaling":
            self._rescaling(name, config["scale"], config.get("offset", 0.0))
        elif kind == "Normalization":
            mean, variance = (config.get(each) for each in ("mean", "variance"))
            mean, variance = arrays[:2] if mean is None else (mean, variance)
            scale = 1 / np.maximum(np.sqrt(np.float64(variance).ravel()), 1e-7)
            self._rescaling(name, scale, -np.float64(mean).ravel() * scale)
        elif re.search(LRN, f"{kind} {name}".lower()):
            self._response_norm(kind, name, config, inbound)
        elif kind != "InputLayer" and not re.search(UNCHANGED, kind):
            raise ValueError(f"{name} is a layer of type {kind}, which is not supported")

    def _step(self, name: str, operation: Any, tensors: Mapping[str, np.ndarray] | None = None) -> None:
        """Add a step, and follow the shape."""
        if self.is_done:
            raise ValueError(f"{name} follows a softmax")
        if self.shape and not any(isinstance(step.operation, Conv) for step in self.steps):
            self.side = self.shape[1]
        if self.pad and not isinstance(operation, Conv):
            raise ValueError(f"{name} follows zero padding, which is supported before convolutions alone")
        if operation is not None and operation.takes == "maps":
            if self.is_flat:
                raise ValueError(f"{name} must read feature maps, but follows Flatten or Dense")
            self.shape = self.shape and operation.output_shape(self.shape)
        self.steps.append(Step(name, operation, tensors or {}))

    def _convolution(self, name: str, config: Mapping[str, Any], arrays: list[np.ndarray]) -> None:
        weight, bias = _weights(name, arrays, 4)
        kernel, stride = _size(config, "kernel_size", weight.shape[0]), _size(config, "strides", 1)
        pad, round_up = self._padding(name, config, kernel, stride)
        groups = _size(config, "groups", 1)
        conv = Conv("", weight.shape[3], kernel, pad=pad + self.pad, stride=stride, groups=groups, round_up=round_up)
        self._step(name, conv, {"weight": weight.transpose(3, 2, 0, 1), "bias": bias})
        self.pad = 0
        self._activation(name, config.get("activation"))

    def _dense(self, name: str, config: Mapping[str, Any], arrays: list[np.ndarray]) -> None:
        weight, bias = _weights(name, arrays, 2)
        if self.shape is None or (len(self.shape) == 3 and not self.is_flat and self.shape[1:] != (1, 1)):
            raise ValueError(f"{name} must follow Flatten or GlobalAveragePooling2D, and images of a known size")
        if len(weight) != math.prod(self.shape):
            raise ValueError(f"{name} must read {math.prod(self.shape)} values, got weights of shape {weight.shape}")
        self._step(name, Linear("", len(bias)), {"weight": self._by_channel(weight.T), "bias": bias})
        self.shape, self.is_flat = (len(bias),), True
        self._activation(name, config.get("activation"))

    def _by_channel(self, array: np.ndarray) -> np.ndarray:
        """Values of flattened maps, (…, rows · columns · channels), as (…, channels · rows · columns)."""
        if len(self.shape) == 1:
            return array
        channels, *sides = self.shape
        return np.moveaxis(array.reshape(*array.shape[:-1], *sides, channels), -1, -3).reshape(array.shape)

    def _batch_norm(self, name: str, config: Mapping[str, Any], arrays: list[np.ndarray]) -> None:
        kinds = [kind for kind, given in (("weight", "scale"), ("bias", "center")) if config.get(given, True)]
        kinds += ["running_mean", "running_var"]
        if len(arrays) != len(kinds) or any(each.ndim != 1 for each in arrays):
            raise ValueError(f"{name} must have {len(kinds)} arrays, got {len(arrays)}")
        tensors = dict(zip(kinds, arrays, strict=True))
        tensors = {"weight": np.ones_like(arrays[0]), "bias": np.zeros_like(arrays[0])} | tensors
        if self.is_flat and len(self.shape or ()) == 3:
            self._step("flatten", Flatten())
            tensors = {kind: self._by_channel(each) for kind, each in tensors.items()}
        self._step(name, BatchNorm(float(config.get("epsilon", 1e-3))), tensors)

    def _activation(self, name: str, activation: Any) -> None:
        if isinstance(activation, Mapping):
            inner = activation.get("config")
            activation = inner if isinstance(inner, str) else str(activation.get("class_name")).lower()
        if activation in ("relu", "tanh"):
            self._step(name, Activation(activation))
        elif activation == "softmax":
            self.is_done = True
        elif activation not in (None, "linear"):
            raise ValueError(f"{name} must have the activation relu, tanh or, at the end, softmax, got {activation}")

    def _padding(self, name: str, config: Mapping[str, Any], window: int, stride: int) -> tuple[int, bool]:
        """Pad before the first window, and whether the last ones hang over further."""
        padding = config.get("padding", config.get("border_mode", "valid"))
        if padding == "valid":
            return 0, False
        if padding != "same":
            raise ValueError(f"{name} must have padding valid or same, got {padding!r}")
        if stride == 1 and window % 2:
            return window // 2, False
        if self.shape is None:
            raise ValueError(f"{name} has padding same, and images must have a known size; give input_size")
        side = self.shape[1] + 2 * self.pad
        total = max(0, (-(-side // stride) - 1) * stride + window - side)
        if total % 2 and stride == 1:
            raise ValueError(f"{name} must not have padding same for windows of {window} × {window} at stride 1")
        return total // 2, total % 2 > 0

    def _rescaling(self, name: str, scale: Any, offset: Any) -> None:
        self._step(name, None, {"weight": np.float64(scale).ravel(), "bias": np.float64(offset).ravel()})

    def _response_norm(self, kind: str, name: str, config: Mapping[str, Any], inbound: Any) -> None:
        """LRN with the constants that are written, and for others those of TensorFlow or of the paper."""
        if not self.steps:
            raise ValueError(f"{name}, of type {kind}, comes before the first weights, and what it does cannot be read")
        written = {**dict(_numbers(inbound)), **dict(_numbers(config))}
        is_tensorflow = "local_response" in f"{config.get('function')} {name}".lower()
        constants = {"size": 11, "alpha": 1.0, "beta": 0.5, "k": 1.0} if is_tensorflow else {}
        for constant, names in LRN_SETTINGS.items():
            for each in names:
                if each in written:
                    constants[constant] = 2 * int(written[each]) + 1 if each == "depth_radius" else written[each]
        norm = Norm(**{"divided": False} | constants | {"size": int(constants.get("size", 5))})
        self.guesses.append(f"{name}, of type {kind}, is taken for {norm.description()}")
        self._step(name, norm)


def snake_case(name: str) -> str:
    """The name that Keras 3 gives to the group of a layer of this type."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _chain(model: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Any]]:
    """The layers of a model in their order, each with what it reads."""
    config = model["config"]
    layers = config if isinstance(config, list) else config["layers"]
    if len(layers) > 1000:
        raise ValueError(f"a model of {len(layers):,} layers")
    if "output_layers" not in config:
        return [(layer, None) for layer in layers]
    named = {layer.get("name", layer["config"]["name"]): layer for layer in layers}
    outputs = [*dict.fromkeys(_sources(config["output_layers"]))]
    chain: list[tuple[Mapping[str, Any], Any]] = []
    while outputs:
        if len(outputs) > 1 or len(chain) >= len(layers):
            after = f"{chain[-1][0]['name']} reads" if chain else "it has the outputs"
            raise ValueError(
                f"{after} {', '.join(outputs)}: a model with several heads or branches must be cut to one chain of "
                "layers, from the images to the scores"
            )
        layer = named[outputs[0]]
        inbound = layer.get("inbound_nodes", [])
        chain.append((layer, inbound))
        outputs = [*dict.fromkeys(_sources(inbound))]
    return chain[::-1]


def _sources(node: Any) -> Iterator[str]:
    """Names of the layers that a node of a graph mentions."""
    if isinstance(node, Mapping):
        if "keras_history" in node:
            yield node["keras_history"][0]
        else:
            for each in node.values():
                yield from _sources(each)
    elif isinstance(node, list) and len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
        yield node[0]
    elif isinstance(node, list):
        for each in node:
            yield from _sources(each)


def _numbers(node: Any) -> Iterator[tuple[str, float]]:
    """Names and values of the numbers in an object of JSON."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                yield key, value
            else:
                yield from _numbers(value)
    elif isinstance(node, list):
        for each in node:
            yield from _numbers(each)


def _weights(name: str, arrays: list[np.ndarray], dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    if [each.ndim for each in arrays] not in ([dimensions, 1], [dimensions]):
        raise ValueError(f"{name} must have weights of {dimensions} dimensions, maybe biases, got {len(arrays)} arrays")
    return arrays[0], arrays[1] if len(arrays) > 1 else np.zeros(arrays[0].shape[-1], np.float32)


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A size that is the same for height and width."""
    sizes = {*np.ravel(config.get(name) if config.get(name) is not None else default).tolist()}
    if len(sizes) != 1 or not _is_side(size := sizes.pop()):
        raise ValueError(f"{name} must be an integer of 1 to {MAX_SIDE}, the same on all sides, got {config.get(name)}")
    return size


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIDE
