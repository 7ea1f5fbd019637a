"""Why a network does not learn: symptoms, and the causes to be thought of, the surest first.

All that is looked at stands in the journal and in layers.jsonl, so a run can be examined while it goes on and long
afterwards. A cause is a function that says what speaks for it and what helps, or None.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from torch import Tensor

from ..device import Precision
from ..model.network import AlexNet
from ..runs.checkpoints import Progress
from ..runs.history import read_journal
from ..training.optimizer import PaperSGD
from ..training.plan import Plan
from .layers import data_facts, is_due, layer_sizes, read_layers, write_layers

NEAR = 0.95
"""A loss of at least this share of that of guessing is no better than guessing."""
PATIENCE = 1000
"""Steps before a run that goes on is called stuck: `docs/networks.md` says how long networks take to begin."""
FEW = 200
"""Steps in which nothing need have been learnt yet."""
APART = 10.0
"""Inputs that many times smaller or larger than a network is made for are the wrong ones."""
ALIKE = 2.0
"""Images whose pixels differ by less than this, of 255, are all alike."""
DEAD = 0.9
"""Share of a layer's units that never answer, from which on it passes on nothing to speak of."""
BEGUN = 0.7
"""Of the error of guessing: one below that share of it is not had by chance."""
SLOW = 2e-5
"""Updates over weights, in half of the layers, below which nothing happens in thousands of steps."""
DOMINANT = 0.7
"""Share of the images in one class, from which on guessing it is hard to improve on."""


@dataclass(frozen=True)
class Diagnosis:
    symptom: str
    cause: str
    """In a word: the name of the function below that found it."""
    because: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.symptom}.\n  Likely cause: {self.because}.\n  What helps: {self.remedy}."


@dataclass(frozen=True)
class Facts:
    """What is known of a run: the lines of its journal and of layers.jsonl."""

    epochs: Sequence[dict]
    layers: Sequence[dict]

    def __str__(self) -> str:
        loss = "no number" if self.loss is None else f"{self.loss:.3g}"
        return f"after {self.steps:,} steps: loss {loss}, that of guessing {self.data['guess']:.3g}; inputs " + (
            f"{self.now['inputs']:.2g} large" if self.now["inputs"] is not None else "that are no numbers"
        )

    @property
    def data(self) -> dict:
        return self.layers[0]["data"]

    @property
    def now(self) -> dict:
        return self.layers[-1]

    @property
    def steps(self) -> int:
        return max(self.now["step"], self.epochs[-1]["steps"] if self.epochs else 0)

    @property
    def loss(self) -> float | None:
        """Of the last epoch, else of the last step that was looked at; None where it is no number."""
        if self.now["loss"] is None:
            return None
        return self.epochs[-1]["train_loss"] if self.epochs else self.now["loss"]

    @property
    def val_loss(self) -> float | None:
        return self.epochs[-1].get("val_loss") if self.epochs else None

    @property
    def guessing_error(self) -> float:
        """Of naming the largest class of the training images for all of them."""
        return 1 - self.data["largest"]

    @property
    def val_guessing_error(self) -> float:
        """Of naming that class for all validation images, which may be otherwise shared out."""
        share = self.data.get("largest_in_val")  # younger than some runs
        return self.guessing_error if share is None else 1 - share

    @property
    def has_begun(self) -> bool:
        """Whether errors are clearly below those of guessing, whatever the loss."""
        last = self.epochs[-1] if self.epochs else {}
        guessed = {"train_error": self.guessing_error, "val_error": self.val_guessing_error}
        return any(last.get(key, 1) < BEGUN * error for key, error in guessed.items())

    @property
    def highest_rate(self) -> float:
        """Of the whole run, as far as is known: what `--lr` stands for."""
        return self.now.get("highest_rate", max(row["rate"] for row in self.layers))

    def sizes(self, what: str) -> dict[str, float]:
        """By layer, now."""
        return {name: sizes[what] for name, sizes in self.now["layers"].items() if sizes.get(what) is not None}

    @property
    def usual_ratio(self) -> float:
        """Of updates to weights, in the layer in the middle of those that move, at the time when it was largest."""
        rows = [row["layers"] for row in self.layers]
        largest = [max(row[name]["ratio"] or 0.0 for row in rows if name in row) for name in self.now["layers"]]
        return median([ratio for ratio in largest if ratio] or [0.0])


def diagnosed(facts: Facts) -> Diagnosis | None:
    """What a run suffers from; None where it learns."""
    for shows, causes in SYMPTOMS:
        if symptom := shows(facts):
            for cause in causes:
                if found := cause(facts):
                    return Diagnosis(symptom, cause.__name__.replace("_", "-"), *found)
    return None


def is_no_number(facts: Facts) -> str | None:
    if facts.loss is None:
        return f"The loss is no number any more, after {facts.steps:,} steps"
    return None


def is_guessing(facts: Facts) -> str | None:
    guess = facts.data["guess"]
    if min(facts.loss, facts.loss if facts.val_loss is None else facts.val_loss) < NEAR * guess:
        return None
    return f"It does not learn: after {facts.steps:,} steps the loss is {facts.loss:.3g}, that of guessing {guess:.3g}"


def names_one_class(facts: Facts) -> str | None:
    """On the validation images, whatever the loss."""
    share = facts.epochs[-1].get("val_largest_answer", 0) if facts.epochs else 0
    if share < 0.99 or facts.epochs[-1]["val_error"] <= 0.9 * facts.val_guessing_error:
        return None
    return f"It names one class for {share:.0%} of the validation images, after {facts.steps:,} steps"


def learns_what_does_not_hold(facts: Facts) -> str | None:
    """The training images and nothing else."""
    if not facts.epochs or "val_error" not in facts.epochs[-1]:
        return None
    train, val = facts.epochs[-1]["train_error"], facts.epochs[-1]["val_error"]
    if train > 0.5 * facts.guessing_error or val <= 0.95 * facts.val_guessing_error:
        return None
    return f"It errs on {train:.0%} of the training images and on {val:.0%} of the validation images, as by guessing"


Found = tuple[str, str] | None
"""What speaks for a cause, and what helps."""


def constant_images(facts: Facts) -> Found:
    if facts.data["spread"] >= ALIKE:
        return None
    differ = f"from one image to another pixels differ by {facts.data['spread']:.2g} of 255"
    return f"the images are all alike; {differ}", "look at some of them, and at how they were written"


def small_inputs(facts: Facts) -> Found:
    size, made_for = facts.now["inputs"], facts.data["inputs"]
    if size is None or size * APART > made_for:
        return None
    return (
        f"inputs are {size:.2g} large, and the initial weights are made for about {made_for:g}, so hardly any signal "
        f"arrives at the last layer",
        "the recipe that belongs to the network (leave --recipe out), or images with more contrast",
    )


def large_inputs(facts: Facts) -> Found:
    size, made_for = facts.now["inputs"], facts.data["inputs"]
    if size is None or size < APART * made_for:
        return None
    return (
        f"inputs are {size:.2g} large, and the initial weights are made for about {made_for:g}, so the first steps are "
        f"far too long",
        "the recipe that belongs to the network (leave --recipe out)",
    )


def high_rate(facts: Facts) -> Found:
    lower = f"a tenth of the rate, --lr {facts.highest_rate / 10:.2g}"
    if facts.loss is None or facts.loss > 1.5 * facts.data["guess"]:
        return f"with rates of up to {facts.highest_rate:.2g} the steps are too long", lower
    dead = facts.sizes("dead")
    most = max(dead, key=dead.get, default=None)
    if most and dead[most] >= DEAD:
        return f"{dead[most]:.0%} of the units of {most} are dead, as after steps that were too long", lower
    return None


def low_rate(facts: Facts) -> Found:
    if facts.usual_ratio >= SLOW:
        return None
    return (
        f"in half of the layers a step changes the weights by less than {facts.usual_ratio:.1g} of their size; a "
        f"thousandth is usual",
        f"a higher rate than {facts.highest_rate:.2g}, or leave --lr out",
    )


def class_order(facts: Facts) -> Found:
    error, renamed = (facts.epochs[-1].get(f"val_error{kind}", 1) for kind in ("", "_renamed"))
    if renamed > 0.5 * error:
        return None
    return (
        f"the classes have another order in val than in train: with other names for them the validation error would be "
        f"{renamed:.0%} instead of {error:.0%}",
        "the same folder names, or the same list of classes, for both",
    )


def dominant_class(facts: Facts) -> Found:
    share, name = facts.data["largest"], facts.data["largest_class"]
    if share < DOMINANT:
        return None
    return (
        f"{share:.0%} of the training images are {name}, which is hard to beat by guessing",
        "more images of the other classes, or fewer of this one; and look at errors by class",
    )


def few_steps(facts: Facts) -> Found:
    if facts.steps < FEW:
        return f"{facts.steps} steps are few: networks take 70 to 800 to begin", "more --epochs"
    if facts.has_begun:
        return (
            "the errors are below those of guessing already, so it has begun, with few steps or with short ones",
            f"more --epochs, or a higher rate than {facts.highest_rate:.2g}",
        )
    return None


def labels(facts: Facts) -> Found:
    """What is left where all else is as it should be."""
    return (
        "images, inputs, rate and units are as they should be, so the labels may not belong to the images",
        "look at some images beside their labels, and at how the two were brought together",
    )


Cause = Callable[[Facts], Found]
ALL: tuple[Cause, ...] = (
    constant_images,
    small_inputs,
    large_inputs,
    high_rate,
    low_rate,
    dominant_class,
    few_steps,
    labels,
)
SYMPTOMS: tuple[tuple[Callable[[Facts], str | None], tuple[Cause, ...]], ...] = (
    (is_no_number, (large_inputs, high_rate)),
    (is_guessing, ALL),
    (names_one_class, ALL),
    (learns_what_does_not_hold, (class_order, labels)),
)
"""What is seen, and what may be behind it; the surest first."""


def examined(run: Path) -> Facts:
    """What is known of a run, by its files.

    Raises:
        ValueError: there is nothing to judge by.
    """
    rows = read_layers(run)
    if not rows:
        raise ValueError(f"{run} has no layers.jsonl: it is no run, or its first step is not done")
    return Facts(read_journal(run), rows)


class Watch:
    """Looks into a network now and then while it learns, and says once what it suffers from.

    Args:
        run: folder for layers.jsonl; not written where None.
        say: is told the diagnosis.
    """

    def __init__(
        self,
        network: AlexNet,
        optimizer: PaperSGD,
        plan: Plan,
        precision: Precision,
        run: Path | None,
        say: Callable[[str], object],
    ):
        self.network, self.optimizer, self.plan, self.precision = network, optimizer, plan, precision
        self.run, self.say = run, say
        images, size = plan.training_images, plan.recipe.batch_size
        self.per_epoch, self.last_full = math.ceil(images / size), max(1, images // size)

    def after_step(self, progress: Progress, loss: float, rate: float, views: Tensor) -> None:
        """Add a line to `progress.layers`, where one is due or the loss is no number.

        Args:
            loss: of the step, nats.
            views: of the step.
        """
        step = progress.epoch * self.per_epoch + progress.batch
        ends_epoch, is_last = progress.batch == self.last_full, progress.epoch + 1 == self.plan.recipe.epochs
        if math.isfinite(loss) and not is_due(step, ends_epoch, is_last, progress.layers):
            return
        row = {"epoch": progress.epoch + 1, "step": step, "loss": loss if math.isfinite(loss) else None, "rate": rate}
        row["highest_rate"] = self.plan.recipe.peak_lr()
        row |= layer_sizes(self.network, self.optimizer, views, self.precision)
        if not progress.layers:
            row["data"] = data_facts(self.plan)
        progress.layers.append(row)
        if self.run:
            with contextlib.suppress(OSError):  # the next checkpoint holds the lines too, and says what is wrong
                write_layers(self.run, progress.layers)

    def after_epoch(self, progress: Progress) -> None:
        """Say what is wrong, where something is, unless it was said before or it is early days."""
        is_over = progress.epoch == self.plan.recipe.epochs
        if progress.diagnosed or not (is_over or progress.epoch * self.per_epoch >= PATIENCE):
            return
        if found := diagnosed(Facts(progress.epochs, progress.layers)):
            progress.diagnosed = True
            self.say(str(found))
