"""How a network is trained, as data: update, schedule, initialization's counterpart the input scale, augmentation.

A recipe ties together what only works together: inputs of 0 … 255 minus the mean belong to the deviations of 2012,
inputs of unit size to larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Literal

from .schedules import NEW, LearningRates, Schedule


@dataclass(frozen=True)
class Input:
    """From pixels of 0 … 255 to what the network sees: (pixels − mean) / std."""

    mean: Literal["image", "aligned image", "channel", "pretrained"] | tuple[float, float, float] = "image"
    """The training set's mean image by its central crop ("image", as in 2012) or by the same crop as the picture's
    ("aligned image", Caffe), its mean color ("channel"), or given colors; or that of the network that training goes on
    from ("pretrained")."""
    std: Literal["one", "channel", "pretrained"] | tuple[float, float, float] = "one"
    """Not divided at all ("one"), by the training set's deviation of each channel, by given numbers, or as for the
    network that training goes on from."""


PRETRAINED = Input("pretrained", "pretrained")
"""Of every run that goes on from a trained network: its weights know no other input. A recipe that has it from the
start cannot begin with new weights."""


@dataclass(frozen=True)
class ColorShift:
    """Section 4.1: to every pixel of an image add the same draw along the principal colors of the training set."""

    std: float = 0.1
    scaled_by: Literal["eigenvalues", "standard deviations"] = "standard deviations"
    """What scales the draws: eigenvalues as printed (of colors of 0 … 1), their square roots as run in 2012."""
    divide: bool = True
    """Divide the image by 1 + std afterwards, as run in 2012; images to be tested are not."""


KINDS = {
    "flip": (bool, "True or False"),
    "decay_biases": (bool, "True or False"),
    "lr_scale": (Mapping, "a number for each of some layers"),
}
"""Types of settings, and the words for them."""
BOUNDS = {
    "1 or more, whole": (lambda x: isinstance(x, Integral) and x >= 1, ("epochs", "batch_size", "crop_group")),
    "0 or more, whole": (lambda x: isinstance(x, Integral) and x >= 0, ("min_steps",)),
    "1 or more": (lambda x: 1 <= x < math.inf, ("crop_ratio",)),
    "0 or more": (lambda x: 0 <= x < math.inf, ("lr_factor", "weight_decay", "lr_scale", "mixup", "cutmix")),
    "above 0": (lambda x: 0 < x < math.inf, ("max_grad_norm", "lars_trust_coefficient")),
    "0 to below 1": (lambda x: 0 <= x < 1, ("momentum", "label_smoothing", "ema_decay")),
}
"""What numbers of a recipe may be, by the words that say so; each is False for nan."""
OPTIONAL, BY_LAYER = ("max_grad_norm", "lars_trust_coefficient", "ema_decay"), ("weight_decay", "lr_scale")
"""Numbers that may be None, and those that may be given by layer."""


@dataclass(frozen=True)
class Recipe:
    name: str
    about: str
    schedule: Schedule
    epochs: int = 90
    """Passes over the training images (section 5: roughly 90)."""
    min_steps: int = 2000
    """A small data set gets as many more epochs as give this many steps."""
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float | Mapping[str, float] = 0.0005
    """Of all weights, or by layer."""
    decay_biases: bool = False
    input: Input = Input()
    color_shift: ColorShift | None = None
    flip: bool = True
    crop_scale: tuple[float, float] | None = None
    """Smallest and largest area of the crops, as shares of the stored image, which are then resized; where None,
    crops have the size that the network sees, as in the paper."""
    crop_ratio: float = 1.0
    """With `crop_scale`: the largest ratio of a crop's sides."""
    crop_group: int = 1
    """Consecutive images that share one crop and one flipping; 32 in the 2012 code."""
    shuffle: Literal["epoch", "once", "blocks"] = "epoch"
    """A new order each epoch; one order for all epochs, as the 2012 code has it; or, for packs larger than memory, a
    new order of blocks of neighbors, shuffled within a few blocks."""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """Every image of a batch is averaged with another; the share is drawn from Beta(mixup, mixup). 0 is off."""
    cutmix: float = 0.0
    """A window of every image of a batch shows another; the share is drawn from Beta(cutmix, cutmix). 0 is off. With
    `mixup` as well, each batch gets one of the two."""
    ema_decay: float | None = None
    """What is validated and kept is a running mean of the weights: mean ← ema_decay · mean + (1 − ema_decay) · weights
    after each step, with a smaller share of the mean in the first ones, so that it forgets the initial weights."""
    max_grad_norm: float | None = None
    """Where the norm of the gradient of all parameters together is larger, it is scaled down to this."""
    lars_trust_coefficient: float | None = None
    """LARS (You, Gitman and Ginsburg 2017), for batches of thousands: the learning rate of each layer's weights is
    multiplied by trust coefficient · ‖w‖ / (‖gradient‖ + weight decay · ‖w‖), so that a step changes no layer by more
    than that fraction of its norm."""
    lr_factor: float = 1.0
    """Multiplies every rate of the schedule."""
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """By layer, multiplies its rates: 0 freezes it from the first step."""
    new_layers: tuple[str, ...] | None = None
    """Those that the schedule's rates of new layers are for; the plan of a run finds them where None."""

    def __post_init__(self):
        for name, (kind, may_be) in KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise ValueError(f"recipe {self.name}: {name} is {value!r}; it may be {may_be}")
        for may_be, (fits, names) in BOUNDS.items():
            for name in names:
                value = getattr(self, name)
                by_layer = value if name in BY_LAYER and isinstance(value, Mapping) else {None: value}
                wrong = {layer: each for layer, each in by_layer.items() if not (is_number(each) and fits(each))}
                if wrong and not (value is None and name in OPTIONAL):
                    shown = wrong if by_layer is value else value
                    raise ValueError(f"recipe {self.name}: {name} is {shown!r}; it may be {may_be}")
        if self.crop_scale is not None and not _are_shares(self.crop_scale):
            raise ValueError(
                f"recipe {self.name}: crop_scale is {self.crop_scale!r}; it may be "
                f"two shares, 0 < smallest ≤ largest ≤ 1"
            )

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
        for name in (*by_layer, *self.lr_scale):
            weights, biases = by_layer.get(name, (rates.weights, rates.biases))
            factor = self.lr_factor * self.lr_scale.get(name, 1.0)
            scaled[name] = weights * factor, biases * factor
        return replace(
            rates, weights=rates.weights * self.lr_factor, biases=rates.biases * self.lr_factor, layers=scaled
        )

    def peak_lr(self) -> float:
        """The highest learning rate of the weights, which `--lr` sets."""
        return max(self.learning_rates(percent / 100, []).weights for percent in range(100))

    def weight_decay_of(self, layer: str) -> float:
        return self.weight_decay.get(layer, 0.0) if isinstance(self.weight_decay, Mapping) else self.weight_decay


def is_number(value: object) -> bool:
    """Whether it is a real number, Python's or NumPy's; nan and inf are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_shares(crop_scale: object) -> bool:
    if not isinstance(crop_scale, (tuple, list)) or len(crop_scale) != 2 or not all(map(is_number, crop_scale)):
        return False
    return 0 < crop_scale[0] <= crop_scale[1] <= 1
