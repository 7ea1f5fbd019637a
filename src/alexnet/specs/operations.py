"""The operations of which networks are made. Each says everything about itself: shapes, tensors, cost and words.

An operation is a frozen dataclass here and an `nn.Module` in `model/layers.py`, and nothing else needs to know it.
(Caffe and Keras have words of their own for some: `interchange/`.) To add one, derive from `Operation`, override what
differs from an elementwise operation without parameters, and register a module (example: docs/networks.md).

Shapes have no batch dimension: (channels, height, width), or (units,) once flattened. Sizes follow the 2012 code
(`layer.py`): out = 1 + (in + 2 · pad − window) / stride, rounded down or up as the operation says.
"""

import math
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from ..compat import renamed_fields
from .checks import check_fields

Shape = tuple[int, ...]
Std = float | Literal["he", "torch"]
"""Standard deviation of the initial weights: a number, √(2 / fan-in) ("he"), or PyTorch's uniform default ("torch",
which also draws the biases)."""

MOST = 1_000_000
"""Largest value of a field: channels, kernels and so on."""
_OF_NORMS = {"size": (1, 10_000), "alpha": (0, MOST), "beta": (-100, 100), "k": (1e-30, MOST)}


class InputTooSmall(ValueError):
    """An input is smaller than the window that reads it."""


@dataclass(frozen=True)
class Operation:
    """One step of a network. The defaults are those of an elementwise operation without parameters."""

    prefix: ClassVar[str] = ""
    """Begins its name in a network: "pool" gives pool1, pool2 …"""
    takes: ClassVar[Literal["anything", "maps", "vectors"]] = "anything"
    """Its inputs: feature maps alone, vectors alone (feature maps are flattened before it), or both."""
    kinds: ClassVar[dict[str, type[Self]]] = {}
    """Every operation by the name under which it is stored."""
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}
    """Smallest and largest value of some fields."""

    def __post_init__(self):
        check_fields(self, self.bounds, self._owner)

    @property
    def _owner(self) -> str:
        """Whose field it is, in error messages."""
        return type(self).__name__

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        known = Operation.kinds.setdefault(cls.__name__, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"the name of an operation must be new, got {cls.__name__}, which {known.__module__} has")
        Operation.kinds[cls.__name__] = cls

    @property
    def label(self) -> str:
        """In a word or two, as in "followed by ReLU, pool"."""
        return self.prefix

    @property
    def sliding_window(self) -> tuple[int, int]:
        """Side and stride of the windows that it reads."""
        return 1, 1

    @property
    def inference_scale(self) -> float:
        """What it multiplies activations by outside of training: keep, for the dropout of 2012."""
        return 1.0

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of its output.

        Raises:
            InputTooSmall: a window does not fit.
            ValueError: the number of channels does not fit.
        """
        return input_shape

    def reads(self, first: int, last: int, side: int) -> tuple[int, int]:
        """The first and the last position of an input of this side that the outputs from `first` to `last` read."""
        (window, stride), pad = self.sliding_window, getattr(self, "pad", 0)
        return max(0, first * stride - pad), min(side, last * stride - pad + window) - 1

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """Shapes of its learned tensors by name, as its module has them."""
        return {}

    def buffer_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """Shapes of the tensors that it keeps but does not learn by gradients, by name."""
        return {}

    def multiply_adds(self, input_shape: Shape) -> int:
        """Multiply-adds for one image."""
        return 0

    def channel_groups(self, input_shape: Shape) -> int:
        """Groups of channels, or units, that do not read one another: elementwise, each is one."""
        return input_shape[0]

    @property
    def neighbors(self) -> tuple[int, int]:
        """Channels before and after its own that an output reads, within a group; 0, 0 where it reads all of them."""
        return 0, 0

    def part(self, channels: int, of: int) -> Self:
        """The operation on so many of its output channels, which are entire groups or, without groups, any of them."""
        return self

    def description(self, input_shape: Shape = ()) -> str:
        """In a few words; some know more where the shape of the input is known."""
        return self.label

    def differences(self, other: "Operation") -> list[str]:
        """What sets it apart from another, in words; empty where nothing that they say of themselves does."""
        mine, theirs = self.description(), other.description()
        return [f"{mine}, not {theirs}"] if mine != theirs else []


@dataclass(frozen=True)
class Layer(Operation):
    """A row of a network's table: an operation with weights and biases, and the steps that follow it."""

    name: str
    _: KW_ONLY
    std: Std = 0.01
    bias: float = 0.0
    then: tuple[str | Operation, ...] = ("relu",)
    suffix: str = ""
    """Ends the names of the steps that follow; empty for the digits of `name`."""

    bounds: ClassVar = {"std": (0, MOST), "bias": (-MOST, MOST)}

    @property
    def _owner(self) -> str:
        return str(self.name)[:80]

    def fan_in(self, input_shape: Shape) -> int:
        """Inputs that one output sums."""
        return math.prod(self.parameter_shapes(input_shape)["weight"][1:])

    def multiply_adds(self, input_shape: Shape) -> int:
        return math.prod(self.output_shape(input_shape)) * self.fan_in(input_shape)

    def differences(self, other: "Operation") -> list[str]:
        if type(self) is not type(other):
            return super().differences(other)
        return [words for name, words in self._changes(other).items() if getattr(self, name) != getattr(other, name)]

    def _changes(self, other: Any) -> dict[str, str]:
        """By field: the words for a change."""
        return {
            "std": f"weights start with {_std_in_words(self.std)}, not {_std_in_words(other.std, self.std)}",
            "bias": f"biases start at {self.bias:g}, not {other.bias:g}",
        }


@dataclass(frozen=True)
class _Convolution(Layer):
    """What shared and unshared convolutions have in common."""

    takes = "maps"
    bounds: ClassVar = (
        Layer.bounds | dict.fromkeys(("channels", "kernel", "stride", "groups"), (1, MOST)) | {"pad": (0, MOST)}
    )

    channels: int
    kernel: int
    _: KW_ONLY
    pad: int = 0
    stride = 1
    groups = 1
    round_up = False

    @property
    def sliding_window(self) -> tuple[int, int]:
        return self.kernel, self.stride

    def output_shape(self, input_shape: Shape) -> Shape:
        inputs, *sides = input_shape
        if inputs % self.groups or self.channels % self.groups:
            both = f"the {inputs} channels that it reads and the {self.channels} that it gives"
            raise ValueError(f"groups must divide {both}, got {self.groups}")
        window = self.kernel, self.stride, self.pad, self.round_up
        return self.channels, *(_output_side(side, *window) for side in sides)

    def channel_groups(self, input_shape: Shape) -> int:
        return self.groups

    def part(self, channels: int, of: int) -> Self:
        return replace(self, channels=channels)

    def description(self, input_shape: Shape = ()) -> str:
        words = [f"{self.channels} kernels {self.kernel} × {self.kernel}"]
        words += [f"stride {self.stride}"] if self.stride > 1 else []
        words += [f"pad {self.pad}"] if self.pad else []
        words += [f"{self.groups} groups"] if self.groups > 1 else []
        words += ["size rounded up"] if self.round_up else []
        return ", ".join(words)

    def _changes(self, other: Self) -> dict[str, str]:
        rounded = "rounded up, with zeros on the right and at the bottom" if self.round_up else "rounded down"
        return {
            "channels": f"{self.channels} kernels, not {other.channels}",
            "kernel": f"kernels {self.kernel} × {self.kernel}, not {other.kernel} × {other.kernel}",
            "stride": f"stride {self.stride}, not {other.stride}",
            "pad": f"pad {self.pad}, not {other.pad}",
            "groups": f"groups: {self.groups}, not {other.groups}",
            "round_up": f"the output size is {rounded}",
        } | super()._changes(other)


@renamed_fields(maps="channels", number="suffix")
@dataclass(frozen=True)
class Conv(_Convolution):
    """A convolution."""

    _: KW_ONLY
    stride: int = 1
    groups: int = 1
    round_up: bool = False
    """Round the output size up: windows that hang over the right and bottom edge read zeros."""

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        weight = self.channels, input_shape[0] // self.groups, self.kernel, self.kernel
        return {"weight": weight, "bias": (self.channels,)}

    def part(self, channels: int, of: int) -> Self:
        return replace(self, channels=channels, groups=max(1, self.groups * channels // of))


@renamed_fields(maps="channels", number="suffix")
@dataclass(frozen=True)
class Local(_Convolution):
    """An unshared convolution, with weights and biases of its own at every position (cuda-convnet's `local`)."""

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        positions = math.prod(self.output_shape(input_shape)[1:])
        weight = positions, input_shape[0] * self.kernel**2, self.channels
        return {"weight": weight, "bias": (positions, self.channels)}

    def fan_in(self, input_shape: Shape) -> int:
        return self.parameter_shapes(input_shape)["weight"][1]

    def description(self, input_shape: Shape = ()) -> str:
        return f"{super().description()}, unshared (locally connected)"


@renamed_fields(number="suffix")
@dataclass(frozen=True)
class Linear(Layer):
    """A fully connected layer."""

    takes = "vectors"
    bounds: ClassVar = Layer.bounds | {"units": (1, MOST)}

    units: int | None
    """None: one per class."""
    then: tuple[str | Operation, ...] = field(default=(), kw_only=True)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (self.units,)

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.units, *input_shape), "bias": (self.units,)}

    def channel_groups(self, input_shape: Shape) -> int:
        return 1

    def part(self, channels: int, of: int) -> Self:
        return replace(self, units=channels)

    def description(self, input_shape: Shape = ()) -> str:
        return f"fully connected to {input_shape[0]:,}" if input_shape else "fully connected"

    def _changes(self, other: Self) -> dict[str, str]:
        return {"units": f"{self.units} units, not {other.units}"} | super()._changes(other)


@dataclass(frozen=True)
class Activation(Operation):
    """The nonlinearity (section 3.1). `relu1` is that of layer 1 in every network, also where it is tanh."""

    prefix = "relu"

    kind: Literal["relu", "tanh"] = "relu"

    @property
    def label(self) -> str:
        return "ReLU" if self.kind == "relu" else "tanh"


@dataclass(frozen=True)
class Norm(Operation):
    """Local response normalization across channels, LRN (section 3.3)."""

    prefix = "norm"
    label = "LRN"
    takes = "maps"
    bounds: ClassVar = _OF_NORMS | {"groups": (1, MOST)}

    size: int = 5
    """Channels summed: the paper's n."""
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    divided: bool = True
    """Whether alpha is divided by `size`: the 2012 code, Caffe and PyTorch divide; the printed formula does not."""
    groups: int = 1
    """Groups of channels normalized apart: 2 where each tower saw only its own channels."""

    @property
    def divided_alpha(self) -> float:
        """Alpha for those who divide it by `size`, as PyTorch and Caffe do."""
        return self.alpha if self.divided else self.alpha * self.size

    def output_shape(self, input_shape: Shape) -> Shape:
        if input_shape[0] % self.groups:
            raise ValueError(f"groups must divide the {input_shape[0]} channels, got {self.groups}")
        return input_shape

    def channel_groups(self, input_shape: Shape) -> int:
        return self.groups

    @property
    def neighbors(self) -> tuple[int, int]:
        return self.size // 2, self.size - 1 - self.size // 2

    def part(self, channels: int, of: int) -> Self:
        return replace(self, groups=max(1, self.groups * channels // of))

    def description(self, input_shape: Shape = ()) -> str:
        scope = f" within {self.groups} groups" if self.groups > 1 else ""
        alpha = f"{self.alpha:g}" + (f" / {self.size}" if self.divided else "")
        return f"LRN over {self.size} channels{scope}, k {self.k:g}, alpha {alpha}, beta {self.beta:g}"


@dataclass(frozen=True)
class SpatialNorm(Operation):
    """Local response normalization over a size × size window of one channel (layer type `rnorm` of the 2012 code).

    x · (k + alpha / size² · Σ x²)^(−beta)
    """

    prefix = "spatial_norm"
    label = "spatial LRN"
    takes = "maps"
    bounds: ClassVar = _OF_NORMS

    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75
    k: float = 1.0

    @property
    def sliding_window(self) -> tuple[int, int]:
        return self.size, 1

    @property
    def pad(self) -> int:
        """How far the first windows hang over the left and top edge."""
        return self.size // 2

    def description(self, input_shape: Shape = ()) -> str:
        constants = f"k {self.k:g}, alpha {self.alpha:g} / {self.size**2}, beta {self.beta:g}"
        return f"LRN over {self.size} × {self.size} positions of a channel, {constants}"


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Batch normalization (Ioffe and Szegedy 2015): each channel minus its mean over the batch, divided by its standard
    deviation, with a learned scale and shift. Outside of training, running statistics take the place of the batch's."""

    prefix = "norm"
    label = "batch norm"

    bounds: ClassVar = {"eps": (0, MOST)}

    eps: float = 1e-5
    """Added to the variance before its square root."""

    def parameter_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return {"weight": input_shape[:1], "bias": input_shape[:1]}

    def buffer_shapes(self, input_shape: Shape) -> dict[str, Shape]:
        return {"running_mean": input_shape[:1], "running_var": input_shape[:1], "num_batches_tracked": ()}

    def description(self, input_shape: Shape = ()) -> str:
        return "batch norm with a learned scale and shift" + (f", eps {self.eps:g}" if self.eps != 1e-5 else "")


@dataclass(frozen=True)
class Pool(Operation):
    """Max or average pooling over windows, clipped at the border; an average is over the pixels inside."""

    prefix = "pool"
    takes = "maps"
    bounds: ClassVar = {"window": (1, MOST), "stride": (1, MOST)}

    kind: Literal["max", "mean"] = "max"
    window: int = 3
    stride: int = 2
    round_up: bool = True
    """Whether a last window may hang over the right and bottom edge."""
    pad: int = 0
    """How far the first windows hang over the left and top edge, and the last ones over the others."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= 2 * self.pad <= self.window:
            raise ValueError(f"pad of pooling must be 0 to half its window, {self.window}, got {self.pad}")

    @property
    def label(self) -> str:
        return "pool" if self.kind == "max" else "average pool"

    @property
    def sliding_window(self) -> tuple[int, int]:
        return self.window, self.stride

    def output_shape(self, input_shape: Shape) -> Shape:
        channels, *sides = input_shape
        outputs = [_output_side(side, self.window, self.stride, self.pad, self.round_up) for side in sides]
        starts = [(output - 1) * self.stride - self.pad for output in outputs]  # of the last window, which sees a pixel
        return channels, *(each - (start >= side) for each, start, side in zip(outputs, starts, sides, strict=True))

    def description(self, input_shape: Shape = ()) -> str:
        kind = "max" if self.kind == "max" else "average"
        return f"{kind} of {self.window} × {self.window}, stride {self.stride}" + (f", pad {self.pad}" * (self.pad > 0))


@dataclass(frozen=True)
class AdaptivePool(Operation):
    """Average pooling to side × side outputs, whatever the input size (torchvision)."""

    prefix = "avgpool"
    label = "adaptive average pool"
    takes = "maps"
    bounds: ClassVar = {"side": (1, MOST)}

    side: int = 6

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.side, self.side

    def reads(self, first: int, last: int, side: int) -> tuple[int, int]:
        return first * side // self.side, -(-(last + 1) * side // self.side) - 1

    def description(self, input_shape: Shape = ()) -> str:
        return f"average to {self.side} × {self.side}"


@dataclass(frozen=True)
class Dropout(Operation):
    """Dropout (section 4.2). With `rescale`, multiplies by 1 / keep in training instead of by keep afterwards."""

    prefix = "drop"
    label = "dropout"
    bounds: ClassVar = {"rate": (0, 1)}

    rate: float = 0.5
    rescale: bool = False

    @property
    def inference_scale(self) -> float:
        return 1.0 if self.rescale else 1 - self.rate

    def description(self, input_shape: Shape = ()) -> str:
        scaled = "rescaled in training" if self.rescale else f"× {1 - self.rate:g} in evaluation"
        return f"rate {self.rate:g}, {scaled}"


@dataclass(frozen=True)
class Flatten(Operation):
    """Feature maps to a vector, before the first fully connected layer."""

    prefix = "flatten"

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def reads(self, first: int, last: int, side: int) -> tuple[int, int]:
        return 0, side - 1

    def description(self, input_shape: Shape = ()) -> str:
        return "to a vector"


def _output_side(side: int, window: int, stride: int, pad: int, round_up: bool) -> int:
    padded = side + 2 * pad
    if padded < window:
        raise InputTooSmall(f"reads windows of {window} × {window}, but its input would be {padded} × {padded}")
    return 1 + (padded - window + (stride - 1) * round_up) // stride


def _std_in_words(std: Std, other: Std = "torch") -> str:
    """In words; without those that the other has already said."""
    if std == "torch":
        return "PyTorch's uniform default, biases too"
    number = "√(2 / fan-in)" if std == "he" else f"{std:g}"
    return f"standard deviation {number}" if other == "torch" else number
