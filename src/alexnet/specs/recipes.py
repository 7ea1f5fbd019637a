"""Every recipe. Most are another one with a few fields replaced; a new one is one more constant in this file."""

from dataclasses import replace

from .names import not_one_of
from .recipe import PRETRAINED, ColorShift, Input, Recipe
from .schedules import (
    NEW,
    DiscretizedExponential,
    LateChanges,
    LearningRates,
    LinearWarmupDecay,
    Piecewise,
    ReduceOnPlateau,
    Segment,
    SmoothDecay,
    StepDecay,
)

CONV1_FROZEN = {"conv1": (0.0, 0.0)}


def _by_hand(*ends: float, biases: float = 0.002, late: tuple[str, ...] = ("conv1",)) -> Piecewise:
    """The six segments of 2012: the learning rate falls twice, the layers in `late` are slowed down without the color
    shift, then frozen, and the learning rate of the others falls once more."""
    slow, frozen = dict.fromkeys(late, (0.00001, biases)), dict.fromkeys(late, (0.0, 0.0))
    lrs = (0.01, 0.02, {}), (0.001, biases, {}), (0.0001, biases, {})
    lrs += (0.0001, biases, slow), (0.0001, biases, frozen), (0.00001, biases, frozen)
    return Piecewise(tuple(Segment(end, LearningRates(*lr, not lr[-1])) for end, lr in zip(ends, lrs, strict=True)))


def _switched(schedule: DiscretizedExponential | SmoothDecay, color_shift_until: float) -> LateChanges:
    return LateChanges(schedule, epochs=95, color_shift_until=color_shift_until, frozen_from={"conv1": 74})


def _cifar(*ends: float) -> Piecewise:
    lrs = (0.001, 0.002), (0.0001, 0.0002), (0.00001, 0.00002)
    return Piecewise(tuple(Segment(end, LearningRates(*each)) for end, each in zip(ends, lrs, strict=True)))


FOUR_LEVELS = DiscretizedExponential(initial_lr=0.01, levels=4, final_div_factor=250, bias_lrs=(0.02, 0.002))

ORIGINAL = Recipe(
    name="original",
    about="The author's script of 2012 (`run4.sh`), with conv1 frozen late and the color shift off, as in 145.",
    schedule=_by_hand(22, 49, 66, 73, 81, 95),
    epochs=95,
    color_shift=ColorShift(),
    crop_group=32,
    shuffle="once",
)

PAPER = Recipe(
    name="paper",
    about="Section 5 as printed: one learning rate, divided by 10 when the validation error stops improving.",
    schedule=ReduceOnPlateau(),
    color_shift=ColorShift(scaled_by="eigenvalues", divide=False),
)

SCRIPTED = replace(
    ORIGINAL,
    name="scripted",
    about="`run4.sh` of 2012 to the letter, for the four-GPU network 120: conv1 and conv2 are frozen late.",
    schedule=_by_hand(22, 49, 66, 73, 81, 95, late=("conv1", "conv2")),
)

BY_HAND = replace(
    ORIGINAL,
    name="by-hand",
    about="Configuration 145 on ILSVRC-2010, by its author's notes: the run with errors of 37.5% and 17.0%.",
    schedule=_by_hand(23, 51, 68, 72, 78, 93),  # the notes do not say when that of the biases fell: here at 23
    epochs=93,
)

BY_HAND_2012 = replace(
    ORIGINAL,
    name="by-hand-2012",
    about="Configuration 145 on ILSVRC-2012, by its author's notes: 40.7% and 18.2%; biases stay at 0.02.",
    schedule=_by_hand(25, 51, 67, 72, 79, 91, biases=0.02),
    epochs=91,
)

WARM_RESTART = replace(
    BY_HAND_2012,
    name="warm-restart",
    about="by-hand-2012 restarted: learning rate back up, conv1 still frozen; 40.3% and 18.0%.",
    input=PRETRAINED,
    schedule=Piecewise(
        (  # epochs 91 to 135 of that run
            Segment(107 - 91, LearningRates(0.001, 0.02, CONV1_FROZEN)),
            Segment(124 - 91, LearningRates(0.0001, 0.02, CONV1_FROZEN)),
            Segment(135 - 91, LearningRates(0.00001, 0.02, CONV1_FROZEN, color_shift=False)),
        )
    ),
    epochs=135 - 91,
)

FINE_TUNE = replace(
    ORIGINAL,
    name="fine-tune",
    about="Configuration 146 fine-tuned from Fall 2011 to ILSVRC-2012, by its author's notes: 39.0% and 16.6%.",
    # The notes give no learning rates of the biases; these are the ones that run4.sh pairs with those of the weights.
    schedule=Piecewise(
        (
            Segment(0.03, LearningRates(0.001, 0.002, {"conv1": (0.0001, 0.002)})),  # 300 batches
            Segment(7, LearningRates(0.001, 0.002, {"conv1": (0.0001, 0.002), NEW: (0.01, 0.02)})),
            Segment(9, LearningRates(0.001, 0.002, CONV1_FROZEN | {NEW: (0.01, 0.02)})),
            Segment(22, LearningRates(0.001, 0.002, CONV1_FROZEN)),
            Segment(38, LearningRates(0.0001, 0.002, CONV1_FROZEN)),
            Segment(42, LearningRates(0.0001, 0.002, CONV1_FROZEN, color_shift=False)),
            Segment(54, LearningRates(0.00001, 0.002, CONV1_FROZEN, color_shift=False)),
        )
    ),
    epochs=54,
    input=PRETRAINED,
)

LINEAR_FALL = replace(
    ORIGINAL,
    name="linear-fall",
    about="Configuration 153, December 2012: linear decay. Its author stopped it at epoch 18.",
    schedule=SmoothDecay(peak_lr=0.01, final_div_factor=1000, shape="linear", bias_lr_factor=2),
)

EXPONENTIAL = replace(
    ORIGINAL,
    name="exponential",
    about="Configuration 155, December 2012: exponential decay from 0.02 to 0.000005; 40.7% and 18.5%.",
    schedule=_switched(SmoothDecay(0.02, final_div_factor=4000, shape="exponential", bias_lr_factor=2), 61),
)

LEVELS = replace(
    ORIGINAL,
    name="levels",
    about="Configuration 170, January 2013: four levels, 250 times apart, no worse than by hand; 40.5% and 18.0%.",
    schedule=_switched(FOUR_LEVELS, 68),
)

JUMPY = replace(
    ORIGINAL,
    name="jumpy",
    about="Configuration 174, January 2013: four levels, 500 times apart, with jumps back up; 40.4% and 18.0%.",
    schedule=_switched(replace(FOUR_LEVELS, final_div_factor=500, jumps=True), 62),
)

ZFNET = Recipe(
    name="zfnet",
    about="Zeiler and Fergus (2013): 70 epochs, learning rate divided by 10 on a plateau, no color shift.",
    schedule=ReduceOnPlateau(),
    epochs=70,
)

ONE_TOWER = Recipe(
    name="one-tower",
    about='"One weird trick" (2014): four levels from 0.01 to 250 times less.',
    schedule=FOUR_LEVELS,
    color_shift=ColorShift(),
)

TORCHVISION = Recipe(
    name="torchvision",
    about="torchvision's reference: standardized input, learning rate divided by 10 every 30 of 90 epochs.",
    schedule=StepDecay(initial_lr=0.01, interval=1 / 3),
    batch_size=256,
    weight_decay=0.0001,
    decay_biases=True,
    crop_scale=(0.08, 1.0),
    crop_ratio=4 / 3,
    input=Input(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
)

CAFFE = Recipe(
    name="caffe",
    about="BVLC's solver: batches of 256, learning rate divided by 10 every 100,000 of 450,000 steps.",
    schedule=StepDecay(initial_lr=0.01, interval=100 / 450, bias_lr_factor=2),
    batch_size=256,
    input=Input(mean="aligned image"),
)

CAFFENET = replace(
    CAFFE,
    name="caffenet",
    about="caffe with gradient clipping at 8: with few classes, biases of 1 let the first steps explode.",
    max_grad_norm=8.0,
)

LINEAR = replace(
    ONE_TOWER,
    name="linear",
    about="Batches of 1,024 by the linear scaling rule: 8 times the learning rates for 128, after a warmup of 5%.",
    schedule=LinearWarmupDecay(peak_lr=0.08, warmup=0.05, bias_lr_factor=2),
    batch_size=1024,
)

LARS = replace(
    LINEAR,
    name="lars",
    about="Batches of 8,192 by LARS (2017): each layer's learning rate follows the norms of its weights and gradient.",
    schedule=LinearWarmupDecay(peak_lr=6.0, warmup=0.05, bias_lr_factor=0.02),
    batch_size=8192,
    lars_trust_coefficient=0.001,
)


CIFAR_18 = Recipe(
    name="cifar-18",
    about="cuda-convnet's CIFAR-10 run: 120 epochs, then 10 at 1/10 and 10 at 1/100 of the learning rate.",
    schedule=_cifar(120, 130, 140),
    epochs=140,
    weight_decay={"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc8": 1.0},
    flip=False,
    shuffle="once",
)
CIFAR_13 = replace(
    CIFAR_18,
    name="cifar-13",
    about="The published run of the 11% network: 500 epochs, then 10 at 1/10 and 10 at 1/100 of the learning rate.",
    schedule=_cifar(500, 510, 520),
    epochs=520,
    weight_decay={"local3": 0.004, "local4": 0.004, "fc8": 0.004},
    flip=True,
)
CIFAR_11 = replace(
    CIFAR_13,
    name="cifar-11",
    about="cifar-13 with a weight decay of 0.01 on fc8.",
    weight_decay={"local3": 0.004, "local4": 0.004, "fc8": 0.01},
)
CIFAR_KERAS = replace(
    CIFAR_18,
    name="cifar-keras",
    about="The weight decay of cifar-11 in the shorter run of cifar-18, with horizontal flips.",
    flip=True,
    weight_decay={"conv3": 0.004, "conv4": 0.004, "fc8": 0.01},
)

SMALL = Recipe(
    name="small",
    about="Our own for a few thousand images and no GPU: standardized input, warmup, then linear decay.",
    schedule=LinearWarmupDecay(peak_lr=0.05),
    epochs=46,
    min_steps=2200,
    batch_size=64,
    input=Input(mean="channel", std="channel"),
    color_shift=ColorShift(divide=False),
    crop_scale=(0.4, 1.0),
    label_smoothing=0.1,
    max_grad_norm=2.0,
)

TRANSFER = replace(
    SMALL,
    name="transfer",
    about="Our own for fine-tuning on a few thousand images: hundreds of steps, new layers learn ten times as fast.",
    schedule=LinearWarmupDecay(peak_lr=0.008, new_layers_lr_factor=10),
    epochs=8,
    min_steps=400,
    input=PRETRAINED,
    color_shift=None,
)

MODERN = replace(
    ORIGINAL,
    name="modern",
    about="What came later, for accuracy, not history: cosine decay, mixup, CutMix, label smoothing, EMA.",
    schedule=SmoothDecay(peak_lr=0.05, final_div_factor=1000, shape="cosine", warmup=0.05),
    epochs=90,
    color_shift=ColorShift(divide=False),
    crop_group=1,
    shuffle="epoch",
    crop_scale=(0.25, 1.0),
    crop_ratio=4 / 3,
    label_smoothing=0.1,
    mixup=0.2,
    cutmix=1.0,
    ema_decay=0.998,
)

RECIPES = {each.name: each for each in list(globals().values()) if isinstance(each, Recipe)}
"""Every recipe by name."""


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: no recipe has that name.
    """
    if name not in RECIPES:
        raise ValueError(not_one_of("recipe", name, RECIPES))
    return RECIPES[name]
