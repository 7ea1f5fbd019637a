"""How a network is trained, as data: update, schedule, initialization's counterpart the input scale, augmentation.

A recipe ties together what only works together: inputs of 0 … 255 minus the mean belong to the deviations of 2012,
inputs of unit size to larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Literal

from .schedules import NEW, Drops, Fall, Levels, Plateau, Rates, Schedule, Stage, Stages, Switched, WarmThenLinear


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

    deviation: float = 0.1
    along: Literal["eigenvalues", "standard deviations"] = "standard deviations"
    """What scales the draws: eigenvalues as printed (of colors of 0 … 1), their square roots as run in 2012."""
    divide: bool = True
    """Divide the image by 1 + deviation afterwards, as run in 2012; images to be tested are not."""


KINDS = {
    "mirror": (bool, "True or False"),
    "decay_biases": (bool, "True or False"),
    "layer_scale": (Mapping, "a number for each of some layers"),
}
"""Types of settings, and the words for them."""
BOUNDS = {
    "1 or more, whole": (lambda x: isinstance(x, Integral) and x >= 1, ("epochs", "batch_size", "crop_group")),
    "0 or more, whole": (lambda x: isinstance(x, Integral) and x >= 0, ("least_steps",)),
    "1 or more": (lambda x: 1 <= x < math.inf, ("stretch",)),
    "0 or more": (lambda x: 0 <= x < math.inf, ("rate_scale", "weight_decay", "layer_scale", "mixup", "cutmix")),
    "above 0": (lambda x: 0 < x < math.inf, ("largest_gradient", "trust")),
    "0 to below 1": (lambda x: 0 <= x < 1, ("momentum", "label_smoothing", "averaging")),
}
"""What numbers of a recipe may be, by the words that say so; each is False for nan."""
OPTIONAL, BY_LAYER = ("largest_gradient", "trust", "averaging"), ("weight_decay", "layer_scale")
"""Numbers that may be None, and those that may be given by layer."""


@dataclass(frozen=True)
class Recipe:
    name: str
    about: str
    schedule: Schedule
    epochs: int = 90
    """Passes over the training images (section 5: roughly 90)."""
    least_steps: int = 2000
    """A small data set gets as many more epochs as give this many steps."""
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float | Mapping[str, float] = 0.0005
    """Of all weights, or by layer."""
    decay_biases: bool = False
    input: Input = Input()
    color: ColorShift | None = None
    mirror: bool = True
    zoom: tuple[float, float] | None = None
    """Smallest and largest area of the crops, as shares of the stored image, which are then resized; where None,
    crops have the size that the network sees, as in the paper."""
    stretch: float = 1.0
    """With `zoom`: the largest ratio of a crop's sides."""
    crop_group: int = 1
    """Consecutive images that share one crop and one mirroring; 32 in the 2012 code."""
    shuffle: Literal["epoch", "once", "blocks"] = "epoch"
    """A new order each epoch; one order for all epochs, as the 2012 code has it; or, for packs larger than memory, a
    new order of blocks of neighbors, shuffled within a few blocks."""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """Every image of a batch is averaged with another; the share is drawn from Beta(mixup, mixup). 0 is off."""
    cutmix: float = 0.0
    """A window of every image of a batch shows another; the share is drawn from Beta(cutmix, cutmix). 0 is off. With
    `mixup` as well, each batch gets one of the two."""
    averaging: float | None = None
    """What is validated and kept is a running mean of the weights: mean ← averaging · mean + (1 − averaging) · weights
    after each step, with a smaller share of the mean in the first ones, so that it forgets the initial weights."""
    largest_gradient: float | None = None
    """Where the norm of the gradient of all parameters together is larger, it is scaled down to this."""
    trust: float | None = None
    """LARS (You, Gitman and Ginsburg 2017), for batches of thousands: the rate of each layer's weights is multiplied by
    trust · ‖w‖ / (‖gradient‖ + decay · ‖w‖), so that no layer moves by more than that share of its size."""
    rate_scale: float = 1.0
    """Multiplies every rate of the schedule."""
    layer_scale: Mapping[str, float] = field(default_factory=dict)
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
        if self.zoom is not None and not _are_shares(self.zoom):
            raise ValueError(
                f"recipe {self.name}: zoom is {self.zoom!r}; it may be two shares, 0 < smallest ≤ largest ≤ 1"
            )

    def epochs_for(self, images: int) -> int:
        """Passes over a training set of that many images."""
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(images / self.batch_size)))

    def rates(self, progress: float, errors: list[float]) -> Rates:
        """Learning rates at a moment of the run.

        Args:
            progress: part of the run that is done, 0 … 1.
            errors: validation errors of the epochs that are done, for schedules that follow them.
        """
        rates, scale = self.schedule.rates(progress, errors), self.rate_scale
        own = dict(rates.layers)
        if NEW in own and self.new_layers is not None:
            own |= dict.fromkeys(self.new_layers, own.pop(NEW))
        layers = {}
        for name in (*own, *self.layer_scale):
            weights, biases = own.get(name, (rates.weights, rates.biases))
            share = scale * self.layer_scale.get(name, 1.0)
            layers[name] = weights * share, biases * share
        return replace(rates, weights=rates.weights * scale, biases=rates.biases * scale, layers=layers)

    def first_rate(self) -> float:
        """The highest rate of the weights: what `--lr` stands for."""
        return max(self.rates(moment / 100, []).weights for moment in range(100))

    def decay_of(self, layer: str) -> float:
        return self.weight_decay.get(layer, 0.0) if isinstance(self.weight_decay, Mapping) else self.weight_decay


def is_number(value: object) -> bool:
    """Whether it is a real number, Python's or NumPy's; nan and inf are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_shares(zoom: object) -> bool:
    if not isinstance(zoom, (tuple, list)) or len(zoom) != 2 or not all(map(is_number, zoom)):
        return False
    return 0 < zoom[0] <= zoom[1] <= 1


def _frozen(*layers: str) -> dict[str, tuple[float, float]]:
    return {layer: (0.0, 0.0) for layer in layers}


ORIGINAL = Recipe(
    name="original",
    about="The author's scripted rates of 2012 (`run4.sh`); late, conv1 is frozen, as in 145, and the color shift off.",
    schedule=Stages(
        (
            Stage(22, Rates(0.01, 0.02)),
            Stage(49, Rates(0.001, 0.002)),
            Stage(66, Rates(0.0001, 0.002)),
            Stage(73, Rates(0.0001, 0.002, {"conv1": (0.00001, 0.002)}, color=False)),
            Stage(81, Rates(0.0001, 0.002, _frozen("conv1"), color=False)),
            Stage(95, Rates(0.00001, 0.002, _frozen("conv1"), color=False)),
        )
    ),
    epochs=95,
    color=ColorShift(),
    crop_group=32,
    shuffle="once",
)

SCRIPTED = replace(
    ORIGINAL,
    name="scripted",
    about="`run4.sh` of 2012 to the letter, written for the four-GPU net 120: conv1 and conv2 are frozen late.",
    schedule=Stages(
        (
            *ORIGINAL.schedule.stages[:3],
            Stage(73, Rates(0.0001, 0.002, {"conv1": (0.00001, 0.002), "conv2": (0.00001, 0.002)}, color=False)),
            Stage(81, Rates(0.0001, 0.002, _frozen("conv1", "conv2"), color=False)),
            Stage(95, Rates(0.00001, 0.002, _frozen("conv1", "conv2"), color=False)),
        )
    ),
)

BY_HAND = replace(
    ORIGINAL,
    name="by-hand",
    about="Configuration 145 on ILSVRC-2010, by its author's notes: the run of 37.5 % and 17.0 %.",
    schedule=Stages(
        (
            Stage(23, Rates(0.01, 0.02)),
            Stage(51, Rates(0.001, 0.002)),  # the notes do not say when the biases' rate fell; run4.sh has it here
            Stage(68, Rates(0.0001, 0.002)),
            Stage(72, Rates(0.0001, 0.002, {"conv1": (0.00001, 0.002)}, color=False)),
            Stage(78, Rates(0.0001, 0.002, _frozen("conv1"), color=False)),
            Stage(93, Rates(0.00001, 0.002, _frozen("conv1"), color=False)),
        )
    ),
    epochs=93,
)

BY_HAND_2012 = replace(
    ORIGINAL,
    name="by-hand-2012",
    about="Configuration 145 on ILSVRC-2012, by its author's notes: 40.7 % and 18.2 %. The biases keep their rate.",
    schedule=Stages(
        (
            Stage(25, Rates(0.01, 0.02)),
            Stage(51, Rates(0.001, 0.02)),
            Stage(67, Rates(0.0001, 0.02)),
            Stage(72, Rates(0.0001, 0.02, {"conv1": (0.00001, 0.02)}, color=False)),
            Stage(79, Rates(0.0001, 0.02, _frozen("conv1"), color=False)),
            Stage(91, Rates(0.00001, 0.02, _frozen("conv1"), color=False)),
        )
    ),
    epochs=91,
)

WARM_RESTART = replace(
    BY_HAND_2012,
    name="warm-restart",
    about="Goes on from the weights of by-hand-2012: the rate back up, conv1 still frozen; 40.3 % and 18.0 %.",
    input=PRETRAINED,
    schedule=Stages(  # epochs 91 to 135 of that run
        (
            Stage(107 - 91, Rates(0.001, 0.02, _frozen("conv1"))),
            Stage(124 - 91, Rates(0.0001, 0.02, _frozen("conv1"))),
            Stage(135 - 91, Rates(0.00001, 0.02, _frozen("conv1"), color=False)),
        )
    ),
    epochs=135 - 91,
)

FINE_TUNE = replace(
    ORIGINAL,
    name="fine-tune",
    about="Configuration 146 from Fall 2011 to ILSVRC-2012, by its author's notes: 39.0 % and 16.6 %.",
    schedule=Stages(  # the notes have no rates of biases: here those that run4.sh has beside the same rate of weights
        (
            Stage(0.03, Rates(0.001, 0.002, {"conv1": (0.0001, 0.002)})),  # 300 batches
            Stage(7, Rates(0.001, 0.002, {"conv1": (0.0001, 0.002), NEW: (0.01, 0.02)})),
            Stage(9, Rates(0.001, 0.002, _frozen("conv1") | {NEW: (0.01, 0.02)})),
            Stage(22, Rates(0.001, 0.002, _frozen("conv1"))),
            Stage(38, Rates(0.0001, 0.002, _frozen("conv1"))),
            Stage(42, Rates(0.0001, 0.002, _frozen("conv1"), color=False)),
            Stage(54, Rates(0.00001, 0.002, _frozen("conv1"), color=False)),
        )
    ),
    epochs=54,
    input=PRETRAINED,
)

LINEAR_FALL = replace(
    ORIGINAL,
    name="linear-fall",
    about="Configuration 153, December 2012: down a straight line. Its author stopped it at epoch 18.",
    schedule=Fall(start=0.01, factor=1000, along="line", biases=2),
)

EXPONENTIAL = replace(
    ORIGINAL,
    name="exponential",
    about="Configuration 155, December 2012: smoothly down from 0.02 to 0.000005; 40.7 % and 18.5 %.",
    schedule=Switched(
        Fall(start=0.02, factor=4000, along="exponential", biases=2),
        epochs=95,
        color_until=61,
        frozen_from={"conv1": 74},
    ),
)

LEVELS = replace(
    ORIGINAL,
    name="levels",
    about="Configuration 170, January 2013: four levels, 250 times apart, no worse than by hand; 40.5 % and 18.0 %.",
    schedule=Switched(
        Levels(start=0.01, levels=4, factor=250, biases=(0.02, 0.002)),
        epochs=95,
        color_until=68,
        frozen_from={"conv1": 74},
    ),
)

JUMPY = replace(
    ORIGINAL,
    name="jumpy",
    about="Configuration 174, January 2013: four levels, 500 times apart, with jumps back up; 40.4 % and 18.0 %.",
    schedule=Switched(
        Levels(start=0.01, levels=4, factor=500, biases=(0.02, 0.002), jumps=True),
        epochs=95,
        color_until=62,
        frozen_from={"conv1": 74},
    ),
)

PAPER = Recipe(
    name="paper",
    about="Section 5 as printed: one rate for all layers, divided by ten when the validation error stops improving.",
    schedule=Plateau(),
    color=ColorShift(along="eigenvalues", divide=False),
)

ZFNET = Recipe(
    name="zfnet",
    about="Zeiler and Fergus (2013): 70 epochs, rate divided by ten on a plateau, no color shift.",
    schedule=Plateau(),
    epochs=70,
)

ONE_TOWER = Recipe(
    name="one-tower",
    about='"One weird trick" (2014): four equal stages from 0.01, 250 times lower at the end.',
    schedule=Levels(start=0.01, levels=4, factor=250, biases=(0.02, 0.002)),
    color=ColorShift(),
)

TORCHVISION = Recipe(
    name="torchvision",
    about="torchvision's reference: unit deviation, rate divided by ten every 30 of 90 epochs, biases decayed.",
    schedule=Drops(start=0.01, every=1 / 3),
    batch_size=256,
    weight_decay=0.0001,
    decay_biases=True,
    zoom=(0.08, 1.0),
    stretch=4 / 3,
    input=Input(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
)

CAFFE = Recipe(
    name="caffe",
    about="BVLC's solver: 256 a batch, rate divided by ten every 100,000 of 450,000 steps, mean image aligned.",
    schedule=Drops(start=0.01, every=100 / 450, biases=2),
    batch_size=256,
    input=Input(mean="aligned image"),
)

CAFFENET = replace(
    CAFFE,
    name="caffenet",
    about="As caffe, with gradients of length 8 at most: with few classes, biases of 1 let the first steps explode.",
    largest_gradient=8.0,
)

LINEAR = replace(
    ONE_TOWER,
    name="linear",
    about="Batches of 1,024 by the linear rule: eight times the rates of 128, after a rise over the first 5 %.",
    schedule=WarmThenLinear(peak=0.08, warm=0.05, biases=2),
    batch_size=1024,
)

LARS = replace(
    LINEAR,
    name="lars",
    about="Batches of 8,192 by LARS (2017): each layer's rate in proportion to its weights over their gradient.",
    schedule=WarmThenLinear(peak=6.0, warm=0.05, biases=0.02),
    batch_size=8192,
    trust=0.001,
)


def _cifar(name: str, about: str, epochs: tuple[int, int, int], decay: dict[str, float]) -> Recipe:
    until_1, until_2, until_3 = epochs
    return Recipe(
        name=name,
        about=about,
        schedule=Stages(
            (
                Stage(until_1, Rates(0.001, 0.002)),
                Stage(until_2, Rates(0.0001, 0.0002)),
                Stage(until_3, Rates(0.00001, 0.00002)),
            )
        ),
        epochs=until_3,
        weight_decay=decay,
        mirror=False,
        shuffle="once",
    )


CIFAR_18 = _cifar(
    "cifar-18",
    "cuda-convnet's CIFAR-10 run of 120 epochs, then ten at a tenth and ten at a hundredth of the rate.",
    (120, 130, 140),
    {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc8": 1.0},
)
CIFAR_13 = replace(
    _cifar(
        "cifar-13",
        "The published run of the 11 % net: 500 epochs, then ten each at a tenth and a hundredth of the rate.",
        (500, 510, 520),
        {"local3": 0.004, "local4": 0.004, "fc8": 0.004},
    ),
    mirror=True,
)
CIFAR_11 = replace(
    CIFAR_13,
    name="cifar-11",
    about="As cifar-13, with fc8 decayed by 0.01.",
    weight_decay={"local3": 0.004, "local4": 0.004, "fc8": 0.01},
)
CIFAR_KERAS = replace(
    CIFAR_18,
    name="cifar-keras",
    about="The decay of cifar-11 in the shorter run of cifar-18, with mirroring.",
    mirror=True,
    weight_decay={"conv3": 0.004, "conv4": 0.004, "fc8": 0.01},
)

SMALL = Recipe(
    name="small",
    about="Our own for a few thousand images and no GPU: inputs of unit deviation, rate up, then down to zero.",
    schedule=WarmThenLinear(peak=0.05),
    epochs=46,
    least_steps=2200,
    batch_size=64,
    input=Input(mean="channel", std="channel"),
    color=ColorShift(divide=False),
    zoom=(0.4, 1.0),
    label_smoothing=0.1,
    largest_gradient=2.0,
)

MODERN = replace(
    ORIGINAL,
    name="modern",
    about="What came later, for accuracy, not history: cosine, mixup, cutmix, smoothed labels, averaged weights.",
    schedule=Fall(start=0.05, factor=1000, along="cosine", warm=0.05),
    epochs=90,
    color=ColorShift(divide=False),
    crop_group=1,
    shuffle="epoch",
    zoom=(0.25, 1.0),
    stretch=4 / 3,
    label_smoothing=0.1,
    mixup=0.2,
    cutmix=1.0,
    averaging=0.998,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        ORIGINAL,
        PAPER,
        SCRIPTED,
        BY_HAND,
        BY_HAND_2012,
        WARM_RESTART,
        FINE_TUNE,
        LINEAR_FALL,
        EXPONENTIAL,
        LEVELS,
        JUMPY,
        ZFNET,
        ONE_TOWER,
        TORCHVISION,
        CAFFE,
        CAFFENET,
        LINEAR,
        LARS,
        CIFAR_18,
        CIFAR_13,
        CIFAR_11,
        CIFAR_KERAS,
        SMALL,
        MODERN,
    )
}


def recipe(name: str) -> Recipe:
    """The recipe declared under this name.

    Raises:
        ValueError: no recipe has that name.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; it may be one of {', '.join(RECIPES)}")
    return RECIPES[name]
