"""Why a network does not learn: symptoms, and their possible causes, the most certain first.

Everything it looks at is in the history and the layer statistics of a run, so a run can be examined while it trains and
long afterwards. A cause is a function that returns the evidence for it and what helps, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

NEAR = 0.95
"""A loss of at least this fraction of that of guessing is no better than guessing."""
FEW = 200
"""Steps in which a network may have learned nothing yet."""
APART = 10.0
"""Inputs this many times smaller or larger than those that a network is made for are the wrong ones."""
ALIKE = 2.0
"""Images whose pixels differ by less than this, of 255, are all the same."""
DEAD = 0.9
"""Fraction of dead units from which on a layer passes on hardly anything."""
BETTER = 0.7
"""An error below this fraction of that of guessing is no coincidence."""
SLOW = 2e-5
"""Ratio of updates to weights, in half of the layers, below which nothing happens in thousands of steps."""
DOMINANT = 0.7
"""Fraction of the images in one class from which on always guessing it is hard to beat."""


@dataclass(frozen=True)
class Diagnosis:
    symptom: str
    cause: str
    """The name of the function below that found it."""
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.symptom}.\n  Likely cause: {self.evidence}.\n  What to try: {self.remedy}."


@dataclass(frozen=True)
class Facts:
    """What is known of a run: its history and its layer statistics."""

    epochs: Sequence[dict]
    layers: Sequence[dict]

    def __str__(self) -> str:
        loss = "not finite" if self.loss is None else f"{self.loss:.3g}"
        size = "not finite" if self.now["inputs"] is None else f"{self.now['inputs']:.2g}"
        return f"after {self.steps:,} steps: loss {loss}, guessing gives {self.data['guess']:.3g}; input RMS {size}"

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
        """Loss of the last epoch, or of the last step with statistics before the first ends; None if not finite."""
        if self.now["loss"] is None:
            return None
        return self.epochs[-1]["train_loss"] if self.epochs else self.now["loss"]

    @property
    def val_loss(self) -> float | None:
        return self.epochs[-1].get("val_loss") if self.epochs else None

    @property
    def guessing_error(self) -> float:
        """Training error of always answering the largest class."""
        return 1 - self.data["largest"]

    @property
    def val_guessing_error(self) -> float:
        """Validation error of always answering the largest class of the training images."""
        largest = self.data.get("largest_in_val")  # older runs lack it
        return self.guessing_error if largest is None else 1 - largest

    @property
    def has_started_learning(self) -> bool:
        """Whether errors are clearly below those of guessing, whatever the loss."""
        last = self.epochs[-1] if self.epochs else {}
        guessing = {"train_error": self.guessing_error, "val_error": self.val_guessing_error}
        return any(last.get(key, 1) < BETTER * error for key, error in guessing.items())

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of the run, as far as is known: what `--lr` sets."""
        return self.now.get("peak_lr", max(row["lr"] for row in self.layers))

    def sizes(self, what: str) -> dict[str, float]:
        """One of the layer statistics, by layer, now."""
        return {name: sizes[what] for name, sizes in self.now["layers"].items() if sizes.get(what) is not None}

    @property
    def usual_ratio(self) -> float:
        """Ratio of updates to weights at its highest, the median over the layers that move."""
        rows = [row["layers"] for row in self.layers]
        largest = [max(row[name]["ratio"] or 0.0 for row in rows if name in row) for name in self.now["layers"]]
        return median([ratio for ratio in largest if ratio] or [0.0])


def diagnosed(facts: Facts) -> Diagnosis | None:
    """What is wrong with a run; None if it learns."""
    for shown, causes in SYMPTOMS:
        if symptom := shown(facts):
            for cause in causes:
                if explanation := cause(facts):
                    return Diagnosis(symptom, cause.__name__.replace("_", "-"), *explanation)
    return None


def is_not_finite(facts: Facts) -> str | None:
    if facts.loss is None:
        return f"The loss is no longer finite, after {facts.steps:,} steps"
    return None


def is_guessing(facts: Facts) -> str | None:
    guess = facts.data["guess"]
    if min(facts.loss, facts.loss if facts.val_loss is None else facts.val_loss) < NEAR * guess:
        return None
    loss = f"the loss is {facts.loss:.3g}, and guessing gives {guess:.3g}"
    return f"It does not learn: after {facts.steps:,} steps {loss}"


def predicts_one_class(facts: Facts) -> str | None:
    """For the validation images, whatever the loss."""
    fraction = facts.epochs[-1].get("val_largest_answer", 0) if facts.epochs else 0
    if fraction < 0.99 or facts.epochs[-1]["val_error"] <= 0.9 * facts.val_guessing_error:
        return None
    return f"It predicts one class for {fraction:.0%} of the validation images, after {facts.steps:,} steps"


def does_not_generalize(facts: Facts) -> str | None:
    """It knows the training images and nothing else."""
    if not facts.epochs or "val_error" not in facts.epochs[-1]:
        return None
    train, val = facts.epochs[-1]["train_error"], facts.epochs[-1]["val_error"]
    if train > 0.5 * facts.guessing_error or val <= 0.95 * facts.val_guessing_error:
        return None
    return f"The error is {train:.0%} on the training images, but {val:.0%} on the validation images, as if guessing"


Explanation = tuple[str, str] | None
"""The evidence for a cause, and what helps."""


def constant_images(facts: Facts) -> Explanation:
    if facts.data["spread"] >= ALIKE:
        return None
    differ = f"pixels differ by {facts.data['spread']:.2g} of 255 from image to image"
    return f"the images are nearly identical: {differ}", "look at some of them, and at the code that wrote them"


def small_inputs(facts: Facts) -> Explanation:
    size, made_for = facts.now["inputs"], facts.data["inputs"]
    if size is None or size * APART > made_for:
        return None
    return (
        f"inputs have an RMS of {size:.2g}, but the initial weights are made for about {made_for:g}, so hardly any "
        f"signal reaches the last layer",
        "the network's own recipe (omit --recipe), or images with more contrast",
    )


def large_inputs(facts: Facts) -> Explanation:
    size, made_for = facts.now["inputs"], facts.data["inputs"]
    if size is None or size < APART * made_for:
        return None
    return (
        f"inputs have an RMS of {size:.2g}, but the initial weights are made for about {made_for:g}, so the first "
        f"steps are far too large",
        "the network's own recipe (omit --recipe)",
    )


def high_lr(facts: Facts) -> Explanation:
    lower = f"a tenth of the learning rate, --lr {facts.peak_lr / 10:.2g}"
    if facts.loss is None or facts.loss > 1.5 * facts.data["guess"]:
        return f"the learning rate, up to {facts.peak_lr:.2g}, is too high", lower
    dead = facts.sizes("dead")
    most = max(dead, key=dead.get, default=None)
    if most and dead[most] >= DEAD:
        return f"{dead[most]:.0%} of the units of {most} are dead, as happens if the learning rate is too high", lower
    return None


def low_lr(facts: Facts) -> Explanation:
    if facts.usual_ratio >= SLOW:
        return None
    return (
        f"in half of the layers a step changes the weights by less than {facts.usual_ratio:.1g} of their size; a "
        f"thousandth is usual",
        f"a higher learning rate than {facts.peak_lr:.2g}, or omit --lr",
    )


def class_order(facts: Facts) -> Explanation:
    error, renamed = (facts.epochs[-1].get(f"val_error{kind}", 1) for kind in ("", "_renamed"))
    if renamed > 0.5 * error:
        return None
    return (
        f"the classes are in a different order in val than in train: in another order, the validation error would "
        f"be {renamed:.0%} instead of {error:.0%}",
        "the same folder names, or the same list of classes, for both",
    )


def dominant_class(facts: Facts) -> Explanation:
    fraction, name = facts.data["largest"], facts.data["largest_class"]
    if fraction < DOMINANT:
        return None
    return (
        f"{fraction:.0%} of the training images are {name}, and always predicting that class is hard to beat",
        "more images of the other classes, or fewer of this one; and look at the error of each class",
    )


def few_steps(facts: Facts) -> Explanation:
    if facts.steps < FEW:
        return f"{facts.steps} steps are few: networks take 30 to 800 to start learning", "more --epochs"
    if facts.has_started_learning:
        return (
            "errors are already below those of guessing: it has started to learn, but steps are too few or too small",
            f"more --epochs, or a higher learning rate than {facts.peak_lr:.2g}",
        )
    return None


def labels(facts: Facts) -> Explanation:
    """What remains if everything else is as it should be."""
    return (
        "images, inputs, learning rate and units are as they should be, so the labels may not match the images",
        "look at some images with their labels, and at how the two were matched",
    )


Cause = Callable[[Facts], Explanation]
ALL: tuple[Cause, ...] = (
    constant_images,
    small_inputs,
    large_inputs,
    high_lr,
    low_lr,
    dominant_class,
    few_steps,
    labels,
)
SYMPTOMS: tuple[tuple[Callable[[Facts], str | None], tuple[Cause, ...]], ...] = (
    (is_not_finite, (large_inputs, high_lr)),
    (is_guessing, ALL),
    (predicts_one_class, ALL),
    (does_not_generalize, (class_order, labels)),
)
"""Symptoms and their possible causes, the most certain first."""
