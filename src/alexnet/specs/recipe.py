"""How a network is trained, as data: optimizer, learning-rate schedule, input scale, data augmentation.

A recipe ties together what only works together: inputs of 0 … 255 minus the mean belong to the initialization of 2012,
standardized inputs to a larger one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal

from ..compat import renamed_fields
from .schedules import NEW, LearningRates, Schedule


@dataclass(frozen=True)
class Input:
    """From pixels of 0 … 255 to the network's input: (pixels − mean) / std."""

    mean: Literal["image", "aligned image", "channel", "pretrained"] | tuple[float, float, float] = "image"
    """What is subtracted: the center crop of the training set's mean image ("image", as in 2012), the crop of the mean
    image at the place of the picture's ("aligned image", as in Caffe), the mean color ("channel"), given values of red,
    green and blue, or what the pretrained network subtracts."""
    std: Literal["one", "channel", "pretrained"] | tuple[float, float, float] = "one"
    """What the difference is divided by: nothing ("one"), the training set's standard deviation of each channel, given
    values, or what the pretrained network divides by."""


PRETRAINED = Input("pretrained", "pretrained")
"""The input of every fine-tuned network, as its weights expect what they were trained on. A recipe that declares it
cannot train from scratch."""


@renamed_fields(along="scaled_by", deviation="std")
@dataclass(frozen=True)
class ColorShift:
    """PCA color augmentation (section 4.1): all pixels of an image are shifted along the principal components of the
    training set's colors, by random amounts."""

    std: float = 0.1
    """Standard deviation of the amounts."""
    scaled_by: Literal["eigenvalues", "standard deviations"] = "standard deviations"
    """What the amounts are multiplied by: the eigenvalues as printed (of colors of 0 … 1), or their square roots as run
    in 2012."""
    divide: bool = True
    """Divide the image by 1 + std afterwards, as run in 2012; not in evaluation."""


Check = tuple[Callable[[Any], bool], str]
"""Whether a value is valid, and what it must be, as in "lr must be > 0"."""


def is_integer(value: object, least: int) -> bool:
    """Whether a value is an integer, Python's or NumPy's, and large enough."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def is_real(value: object) -> bool:
    """Whether a value is a finite number, Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _are_factors(values: Any) -> bool:
    """Whether a number, or all numbers of a mapping, are >= 0."""
    return all(is_real(each) and each >= 0 for each in (values.values() if isinstance(values, Mapping) else [values]))


def _is_crop_scale(value: Any) -> bool:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_real, value))
    return is_pair and 0 < value[0] <= value[1] <= 1


CHECKS: dict[str, Check] = {
    **dict.fromkeys(("epochs", "batch_size", "crop_group"), (lambda x: is_integer(x, 1), "an integer >= 1")),
    "fc_batch_size": (lambda x: x is None or is_integer(x, 1), "an integer >= 1, or None"),
    **dict.fromkeys(("lr_factor", "mixup", "cutmix"), (lambda x: is_real(x) and x >= 0, ">= 0")),
    **dict.fromkeys(("momentum", "label_smoothing"), (lambda x: is_real(x) and 0 <= x < 1, ">= 0 and < 1")),
    **dict.fromkeys(
        ("max_grad_norm", "lars_trust_coefficient"), (lambda x: x is None or (is_real(x) and x > 0), "> 0, or None")
    ),
    **dict.fromkeys(("flip", "decay_biases"), (lambda x: isinstance(x, bool), "True or False")),
    "min_steps": (lambda x: is_integer(x, 0), "an integer >= 0"),
    "crop_ratio": (lambda x: is_real(x) and x >= 1, ">= 1"),
    "ema_decay": (lambda x: x is None or (is_real(x) and 0 <= x < 1), ">= 0 and < 1, or None"),
    "weight_decay": (_are_factors, ">= 0, one for all layers or by layer"),
    "patience": (lambda x: x is None or is_integer(x, 1), "an integer >= 1, or None"),
    "class_weights": (
        lambda x: x in (None, "balanced") or (isinstance(x, Mapping) and _are_factors(x)),
        "'balanced', or weights >= 0 by class",
    ),
    "lr_scale": (lambda x: isinstance(x, Mapping) and _are_factors(x), "factors >= 0 by layer"),
    "crop_scale": (lambda x: x is None or _is_crop_scale(x), "two fractions, 0 < smallest <= largest <= 1, or None"),
    "shuffle": (lambda x: x in ("epoch", "once", "blocks"), "epoch, once or blocks"),
}
"""What the fields of a recipe must be."""


@renamed_fields(
    averaging="ema_decay",
    color="color_shift",
    largest_gradient="max_grad_norm",
    layer_scale="lr_scale",
    least_steps="min_steps",
    mirror="flip",
    rate_scale="lr_factor",
    stretch="crop_ratio",
    trust="lars_trust_coefficient",
    zoom="crop_scale",
)
@dataclass(frozen=True)
class Recipe:
    """A way of training a network."""

    name: str
    """Name on the command line."""
    about: str = field(compare=False)
    """Origin and purpose, in one line."""
    schedule: Schedule
    """Learning rates over the run."""
    epochs: int = 90
    """Passes over the training images (section 5: roughly 90)."""
    min_steps: int = 2000
    """On a small data set, train for more epochs until there are this many steps."""
    batch_size: int = 128
    """Images per step."""
    fc_batch_size: int | None = None
    """Variable batch size (Krizhevsky 2014): images per step of the fully connected layers, which then take several
    steps, each on so many images of the batch, for each step of the other layers. None: one step for all layers."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float | Mapping[str, float] = 0.0005
    """Weight decay (L2), the same for all layers or by layer; a layer that is not named has none."""
    decay_biases: bool = False
    """Apply weight decay to biases and to the scales and shifts of batch norm, too."""
    input: Input = Input()
    """Mean and standard deviation of the network's input."""
    color_shift: ColorShift | None = None
    """PCA color augmentation (section 4.1)."""
    flip: bool = True
    """Random horizontal flip, with probability one half."""
    crop_scale: tuple[float, float] | None = None
    """Random resized crops: smallest and largest area of a crop, as fractions of the stored image. None: crops have the
    size of the network's input and are not resized, as in the paper."""
    crop_ratio: float = 1.0
    """Largest aspect ratio of a random resized crop; the smallest is its inverse."""
    crop_group: int = 1
    """Consecutive images with the same crop and flip; 32 in the 2012 code."""
    shuffle: Literal["epoch", "once", "blocks"] = "epoch"
    """A new order of the images every epoch; one order for all epochs, as in the 2012 code; or, for data sets larger
    than memory, a new order of blocks of neighbors, shuffled within a few blocks."""
    label_smoothing: float = 0.0
    """Fraction of each label that is spread over all classes."""
    class_weights: Literal["balanced"] | Mapping[str, float] | None = None
    """Weight of each class in the loss; 1 for a class that is not named. balanced: training images / (classes ·
    training images of the class), so that all classes count equally. Errors on val and test are not weighted."""
    mixup: float = 0.0
    """Mixup: average every image of a batch with another one, with weights from Beta(mixup, mixup). 0 is off."""
    cutmix: float = 0.0
    """CutMix: paste a window of another image of the batch, with an area from Beta(cutmix, cutmix). 0 is off. With
    mixup as well, each batch gets one of the two."""
    patience: int | None = None
    """Early stopping: stop the training after this many epochs without a lower validation error, with the weights of
    the best epoch."""
    ema_decay: float | None = None
    """EMA of the weights, which is what is validated and saved: after each step t, average ← d · average + (1 − d) ·
    weights, with d = min(ema_decay, (1 + t) / (10 + t))."""
    max_grad_norm: float | None = None
    """Gradient clipping: a gradient whose norm, over all parameters, is larger than this is scaled down to it."""
    lars_trust_coefficient: float | None = None
    """LARS (You, Gitman and Ginsburg 2017), for batches of thousands: the learning rate of each layer's weights is
    multiplied by trust coefficient · ‖w‖ / (‖gradient‖ + weight decay · ‖w‖), so that a step changes no layer by more
    than that fraction of its norm."""
    lr_factor: float = 1.0
    """Factor on all learning rates of the schedule."""
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Factors on the learning rates of some layers; 0 freezes a layer."""
    new_layers: tuple[str, ...] | None = None
    """In fine-tuning: the layers that were not copied, for schedules with learning rates of their own for them. None:
    those that do not fit."""

    def __post_init__(self):
        for name, (is_valid, must_be) in CHECKS.items():
            if not is_valid(value := getattr(self, name)):
                raise ValueError(f"recipe {self.name}: {name} must be {must_be}, got {value!r}")

    def for_few_images(self, images: int) -> "Recipe":
        """The recipe for a training set of that many images: if an epoch would have fewer than 16 steps, with smaller
        batches, down to 16 images, and with learning rates that fall with the square root of the batch size, which
        keeps the variance of an update (Krizhevsky 2014)."""
        smaller = min(self.batch_size, max(16, 2 ** int(math.log2(max(images, 16) / 16))))
        factor = self.lr_factor * math.sqrt(smaller / self.batch_size)
        return replace(self, batch_size=smaller, lr_factor=factor)

    def epochs_for(self, images: int) -> int:
        """Epochs on a training set of that many images."""
        return max(self.epochs, math.ceil(self.min_steps / math.ceil(images / self.batch_size)))

    def learning_rates(self, fraction_done: float, val_errors: Sequence[float]) -> LearningRates:
        """Learning rates at one moment of the run.

        Args:
            fraction_done: fraction of the run that is done, 0 … 1.
            val_errors: validation error of each epoch so far, for schedules that follow it.
        """
        rates = self.schedule.learning_rates(fraction_done, val_errors)
        by_layer = dict(rates.layers)
        if NEW in by_layer and self.new_layers is not None:
            by_layer |= dict.fromkeys(self.new_layers, by_layer.pop(NEW))
        scaled = {}
        for layer in (*by_layer, *self.lr_scale):
            weights, biases = by_layer.get(layer, (rates.weights, rates.biases))
            factor = self.lr_factor * self.lr_scale.get(layer, 1.0)
            scaled[layer] = weights * factor, biases * factor
        weights, biases = rates.weights * self.lr_factor, rates.biases * self.lr_factor
        return replace(rates, weights=weights, biases=biases, layers=scaled)

    def peak_lr(self) -> float:
        """The highest learning rate of the weights, which `--lr` sets."""
        return self.peak_rates().weights

    def peak_rates(self) -> LearningRates:
        """The learning rates of all layers when that of the weights is highest."""
        return max((self.learning_rates(percent / 100, []) for percent in range(100)), key=lambda rates: rates.weights)

    @property
    def bias_lr_factor(self) -> float:
        """The first learning rate of the biases, as a multiple of that of the weights."""
        first = self.learning_rates(0, [])
        return first.biases / first.weights if first.weights else 1.0

    def weight_decay_of(self, layer: str) -> float:
        """Weight decay of a layer's weights."""
        return self.weight_decay.get(layer, 0.0) if isinstance(self.weight_decay, Mapping) else self.weight_decay
