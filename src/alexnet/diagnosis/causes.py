"""Why a network does not learn: symptoms, and their possible causes, the most certain first.

Everything it looks at is in the history and the layer statistics of a run, so a run can be examined while it trains and
long afterwards.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from ..specs.names import counted
from ..specs.settings import option

NEAR = 0.95
"""A loss of at least this fraction of that of guessing is no better than guessing."""
FEW, TOO_FEW = 200, 20
"""Steps in which a network may have learned nothing yet, and in which hardly any has."""
ENOUGH = 500
"""Steps in which most networks have started to learn."""
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
FAR = 4.0
"""A learning rate this many times higher or lower than the recipe's was somebody's choice, and may be the fault."""
DOMINANT = 0.7
"""Fraction of the images in one class from which on always guessing it is hard to beat."""

NO_LEARNING = ("constant-images", "small-inputs", "large-inputs", "high-lr", "low-lr", "dominant-class")
NO_LEARNING += ("few-steps", "labels")
"""Causes of a loss or of predictions that are no better than guessing."""


@dataclass(frozen=True)
class Diagnosis:
    symptom: str
    cause: str
    """Its short name, such as high-lr."""
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
        guess = f"guessing gives {self.data['guess']:.3g}"
        return f"after {counted(self.steps, 'step')}: loss {loss}, {guess}; input RMS {size}"

    @property
    def data(self) -> dict:
        return self.layers[0]["data"]

    @property
    def now(self) -> dict:
        return self.layers[-1]

    @property
    def last_epoch(self) -> dict:
        return self.epochs[-1] if self.epochs else {}

    @property
    def steps(self) -> int:
        return max(self.now["step"], self.last_epoch.get("steps", 0))

    @property
    def loss(self) -> float | None:
        """Loss of the last epoch, or of the last step with statistics before the first ends; None if not finite."""
        return None if self.now["loss"] is None else self.last_epoch.get("train_loss", self.now["loss"])

    @property
    def guessing(self) -> dict[str, float]:
        """Errors of always predicting the largest class of the training images, by key of the history."""
        train = self.data["largest"]
        val = self.data.get("largest_in_val")  # older runs lack it
        return {"train_error": 1 - train, "val_error": 1 - (train if val is None else val)}

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of the run, as far as is known: what `--lr` sets."""
        return self.now.get("peak_lr", max(row["lr"] for row in self.layers))

    @property
    def own_lr(self) -> float:
        """Peak learning rate of the recipe, without `lr`."""
        return self.peak_lr / (self.data.get("lr_factor") or 1.0)

    @property
    def verdict(self) -> str:
        """What a run that learns has reached."""
        if "val_error" not in self.last_epoch:
            return "It learns."
        error, guessing = self.last_epoch["val_error"], self.guessing["val_error"]
        errors = f"the validation error is {error:.0%}, and guessing gives {guessing:.0%}"
        if self.loss is None or self.loss < self.data["guess"]:
            return f"It learns: {errors}."
        steps = counted(self.steps, "step")
        return f"Too early to say, after {steps}: {errors}, but the training loss is not below that of guessing."

    @property
    def usual_ratio(self) -> float:
        """Ratio of updates to weights at its highest, the median over the layers that move."""
        rows = [row["layers"] for row in self.layers]
        largest = [max(row[name]["ratio"] or 0.0 for row in rows if name in row) for name in self.now["layers"]]
        return median([ratio for ratio in largest if ratio] or [0.0])


def diagnosed(facts: Facts) -> Diagnosis | None:
    """What is wrong with a run; None if it learns."""
    symptom, names = _symptom(facts)
    if symptom is None:
        return None
    return next(Diagnosis(symptom, *cause) for cause in _causes(facts) if cause[0] in names)


def _symptom(facts: Facts) -> tuple[str | None, tuple[str, ...]]:
    """What is wrong, and which causes that can have."""
    loss, guess, last, guessing = facts.loss, facts.data["guess"], facts.last_epoch, facts.guessing
    steps = f"after {counted(facts.steps, 'step')}"
    if loss is None:
        return f"The loss is no longer finite, {steps}", ("large-inputs", "high-lr")
    val_loss = last.get("val_loss")
    if min(loss, loss if val_loss is None else val_loss) >= NEAR * guess:
        return f"It does not learn: {steps} the loss is {loss:.3g}, and guessing gives {guess:.3g}", NO_LEARNING
    if loss >= guess and facts.usual_ratio < SLOW:  # on few images, the validation loss says little
        return f"It hardly learns: {steps} the training loss is {loss:.3g}, and guessing gives {guess:.3g}", ("low-lr",)
    fraction = last.get("val_largest_answer", 0)
    if fraction >= 0.99 and last["val_error"] > 0.9 * guessing["val_error"]:
        return f"It predicts one class for {fraction:.0%} of the validation images, {steps}", NO_LEARNING
    train, val = last.get("train_error", 1), last.get("val_error", 0)
    if train <= 0.5 * guessing["train_error"] and val > 0.95 * guessing["val_error"]:  # only the training images
        errors = f"{train:.0%} on the training images, but {val:.0%} on the validation images"
        return f"The error is {errors}, as if guessing", ("class-order", "labels")
    return None, ()


def _causes(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Each cause that there is evidence for: its name, the evidence and what helps; the most certain first."""
    data, last, peak_lr = facts.data, facts.last_epoch, facts.peak_lr
    if data["spread"] < ALIKE:
        evidence = f"the images are nearly identical: pixels differ by {data['spread']:.2g} of 255 from image to image"
        yield "constant-images", evidence, "look at some of them, and at the code that wrote them"

    size, made_for = facts.now["inputs"], data["inputs"]
    inputs = f"inputs have an RMS of {size or 0:.2g}, but the initial weights are made for about {made_for:g}, so"
    own_recipe = "" if data.get("has_own_inputs") else f"the network's own recipe (omit {option('recipe')}), or "
    if size is not None and size * APART <= made_for:
        evidence = f"{inputs} hardly any signal reaches the last layer"
        yield "small-inputs", evidence, f"{own_recipe}images with more contrast"
    if size is not None and size >= APART * made_for:
        evidence = f"{inputs} the first steps are far too large"
        yield "large-inputs", evidence, f"{own_recipe}images of the usual contrast"

    if facts.steps <= TOO_FEW:
        yield "few-steps", *_few_steps(facts)

    omit = f"the recipe's learning rate, {facts.own_lr:.2g} (omit {option('lr')})"
    is_far = not 1 / FAR < peak_lr / facts.own_lr < FAR
    lower = omit if is_far else f"a tenth of the learning rate, {option('lr', f'{peak_lr / 10:.2g}')}"
    if facts.loss is None or facts.loss > 1.5 * data["guess"]:
        yield "high-lr", f"the learning rate, up to {peak_lr:.2g}, is too high", lower
    dead = {name: statistics.get("dead") or 0.0 for name, statistics in facts.now["layers"].items()}
    most = max(dead, key=dead.get, default=None)
    if most and dead[most] >= DEAD:
        evidence = f"{dead[most]:.0%} of the units of {most} are dead, as happens if the learning rate is too high"
        yield "high-lr", evidence, lower

    if (ratio := facts.usual_ratio) < SLOW:
        usual = "a thousandth is usual"
        evidence = f"in half of the layers a step changes the weights by less than {ratio:.1g} of their size; {usual}"
        yield "low-lr", evidence, omit if is_far else f"a higher learning rate than {peak_lr:.2g}"

    error, renamed = last.get("val_error", 1), last.get("val_error_renamed", 1)
    if renamed <= 0.5 * error:
        order = "the classes are in a different order in val than in train"
        evidence = f"{order}: in another order, the validation error would be {renamed:.0%} instead of {error:.0%}"
        yield "class-order", evidence, "the same folder names, or the same list of classes, for both"

    if (largest := data["largest"]) >= DOMINANT:
        evidence = f"{largest:.0%} of the training images are {data['largest_class']}, and always predicting that"
        remedy = "more images of the other classes, or fewer of this one; and look at the error of each class"
        yield "dominant-class", f"{evidence} class is hard to beat", remedy

    if facts.steps < FEW:
        yield "few-steps", *_few_steps(facts)
    elif any(last.get(key, 1) < BETTER * error for key, error in facts.guessing.items()):  # whatever the loss
        below = "errors are already below those of guessing"
        evidence = f"{below}: it has started to learn, but steps are too few or too small"
        yield "few-steps", evidence, f"more epochs ({option('epochs')}), or a higher learning rate than {peak_lr:.2g}"

    fine = "images, inputs, learning rate and units are as they should be"
    evidence = f"{fine}, so the labels may not match the images"
    yield "labels", evidence, "look at some images with their labels, and at how the two were matched"


def _few_steps(facts: Facts) -> tuple[str, str]:
    """Evidence and remedy."""
    epochs = math.ceil(ENOUGH * facts.last_epoch.get("epoch", 1) / facts.steps)
    are = "is" if facts.steps == 1 else "are"
    return (
        f"{counted(facts.steps, 'step')} {are} few: networks take 30 to 800 to start learning",
        f"more epochs ({option('epochs', epochs)} takes about {ENOUGH} steps), smaller batches "
        f"({option('batch_size')}), or a network that has learned from other images ({option('pretrained')})",
    )
