"""The words in which a network is declared: layers, what follows each of them, and a table of such rows.

A row reads like a sentence of section 3.5. `then` names, in their order, the steps that follow the row's weights:

    Conv("conv2", maps=256, kernel=5, pad=2, groups=2, bias=1, then=("relu", "norm", "pool"))

The words "relu", "norm", "spatial_norm", "pool" and "dropout" mean what the architecture says they mean, so that one
replaced field changes them everywhere (`replace(PAPER, norm=None)` has no normalization); a step written out in a row,
such as `Pool("mean")`, holds for that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

WORDS = ("relu", "norm", "spatial_norm", "pool", "dropout")


@dataclass(frozen=True)
class Norm:
    """Local response normalization across channels (section 3.3)."""

    size: int = 5
    """Channels summed: the paper's n."""
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    divided: bool = True
    """Whether alpha is divided by `size`: the 2012 code, Caffe and PyTorch divide; the printed formula does not."""
    groups: int = 1
    """Parts of the channels that are normalized apart: 2 where each tower saw only its own maps."""


@dataclass(frozen=True)
class SpatialNorm:
    """Response normalization over a size × size window of the same map (layer type `rnorm` of the 2012 code).

    x · (k + alpha / size² · Σ x²)^(−beta)
    """

    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75
    k: float = 1.0


@dataclass(frozen=True)
class BatchNorm:
    """Each map less its mean, over its deviation, both over the batch (Ioffe and Szegedy 2015); with a learnt scale and
    shift for each map. Where the network is not being trained, by running means."""


@dataclass(frozen=True)
class Pool:
    """Pooling over windows, clipped at the border; a mean divides by the pixels inside."""

    kind: Literal["max", "mean"] = "max"
    window: int = 3
    stride: int = 2
    round_up: bool = True
    """Whether a last window may hang over the right and lower edge."""


@dataclass(frozen=True)
class AdaptivePool:
    """Mean over as many windows as it takes to give side × side values (torchvision)."""

    side: int = 6


@dataclass(frozen=True)
class Dropout:
    """Section 4.2. `rescale` multiplies by 1 / keep while training, instead of by keep afterwards."""

    rate: float = 0.5
    rescale: bool = False


Word = Literal["relu", "norm", "spatial_norm", "pool", "dropout"]
Step = Word | Norm | SpatialNorm | BatchNorm | Pool | AdaptivePool | Dropout
Deviation = float | Literal["he", "torch"]
"""Standard deviation of the initial weights: a number, √(2 / inputs) ("he"), or PyTorch's uniform default ("torch",
which also draws the bias)."""


@dataclass(frozen=True)
class Conv:
    """A convolution whose kernels all places share."""

    name: str
    maps: int
    kernel: int
    stride: int = 1
    pad: int = 0
    groups: int = 1
    round_up: bool = False
    """Round the output size up: windows that hang over the right and lower edge read zeros."""
    std: Deviation = 0.01
    bias: float = 0.0
    then: tuple[Step, ...] = ("relu",)
    number: str = ""
    """How the steps that follow are numbered; the digits of the name where empty."""


@dataclass(frozen=True)
class Local:
    """A convolution with weights and biases of its own at every place (cuda-convnet's `local`)."""

    name: str
    maps: int
    kernel: int
    pad: int = 0
    std: Deviation = 0.01
    bias: float = 0.0
    then: tuple[Step, ...] = ("relu",)
    number: str = ""
    stride = 1
    round_up = False


@dataclass(frozen=True)
class Linear:
    """A fully connected layer; `units=None` gives one unit a class."""

    name: str
    units: int | None
    std: Deviation = 0.01
    bias: float = 0.0
    then: tuple[Step, ...] = ()
    number: str = ""


Layer = Conv | Local | Linear


@dataclass(frozen=True)
class Architecture:
    """A network as a table of layers, and what the words in its rows mean."""

    name: str
    about: str
    """One sentence: what it is and where it comes from."""
    layers: tuple[Layer, ...]
    input_size: int = 224
    """Side of the square crops that it sees, pixels."""
    stored_size: int = 256
    """Side of the square images that crops are cut from, pixels."""
    activation: Literal["relu", "tanh"] = "relu"
    norm: Norm | BatchNorm | None = None
    spatial_norm: SpatialNorm | None = None
    pool: Pool = Pool()
    dropout: Dropout | None = Dropout()
    classes: int = 1000
    """Classes of the data set that it was made for."""
    recipe: str = "original"
    """The recipe that trains it unless another is asked for."""

    def __post_init__(self):
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two layers have one name, in {', '.join(names)}")
        for layer in self.layers:
            for step in layer.then:
                if isinstance(step, str) and step not in WORDS:
                    raise ValueError(f"{self.name}, {layer.name}: {step!r} may be one of {', '.join(WORDS)}")

    def layer(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"{self.name} has no layer {name!r}, but {', '.join(layer.name for layer in self.layers)}")

    def with_layers(self, **changes: dict) -> Architecture:
        """This network with fields of the named layers replaced: `with_layers(conv2={"pad": 1})`."""
        for name in changes:
            self.layer(name)
        return replace(self, layers=tuple(replace(row, **changes.get(row.name, {})) for row in self.layers))

    def without(self, *names: str) -> Architecture:
        """This network without the named layers and all that follows each of them."""
        for name in names:
            self.layer(name)
        return replace(self, layers=tuple(row for row in self.layers if row.name not in names))

    def insert_after(self, name: str, layer: Layer) -> Architecture:
        at = self.layers.index(self.layer(name)) + 1
        return replace(self, layers=(*self.layers[:at], layer, *self.layers[at:]))
