"""Layer statistics: how large things are inside a network while it trains, from which a stuck run is diagnosed.

There is a row after steps 1, 10 and 100, and at the end of epochs that are at least APART steps apart. It has epoch,
step, loss (nats; null if not finite), lr (learning rate of the weights), peak_lr (of the whole run, what `--lr` sets),
inputs (root mean square of what the network sees), and for each layer with weights

- activations: root mean square of its output, before the nonlinearity, without dropout;
- spread: the part of it that differs from image to image;
- weights, updates: root mean squares of the weights and of the last step's change;
- ratio: updates over weights;
- dead: fraction of its channels or units that are 0 for all images of the sample, if a ReLU follows.

The first row also has `data`: facts about the images.
"""

import contextlib
import math
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn

from ..device import autocast
from ..runs.history import check_keys
from ..runs.run import Run
from ..specs.recipes import recipe
from ..training.loop import Step, Training
from ..training.plan import Plan
from .causes import Diagnosis, Facts, diagnosed

NEEDED = {"step": int, "loss": Real | None, "lr": Real, "inputs": Real | None, "layers": dict}
STATISTICS = dict.fromkeys(("activations", "spread", "weights", "updates", "ratio"), Real | None)
DATA = {"guess": Real, "largest": Real, "largest_class": str, "spread": Real, "inputs": Real}
"""Keys of a row, of each of its layers, and of `data`, and the types of their values."""
SAMPLE = 32
"""Images of a batch that the statistics are taken of."""
FIRST, APART = (1, 10, 100), 100
"""Steps after which a row is due, and how far apart later ones are: a row takes about half the time of a step."""
PATIENCE = 1000
"""Steps before an unfinished run is called stuck: docs/networks.md has how long networks take to start learning."""
EXPLODED = 100
"""A loss this many times that of guessing does not wait for PATIENCE."""
PIXELS, UNIT = 60.0, 1.0
"""Typical size of inputs: pixels of 0 … 255 minus their mean, and those divided by their standard deviation."""


class Diverged(ValueError):
    """The loss is no longer finite."""


class Watch:
    """Adds rows of layer statistics to the progress of a training and to its run, and says what is wrong with it."""

    def __init__(self, training: Training, run: Run | None = None):
        self.training, self.run = training, run

    def step(self, step: Step) -> None:
        """Right after a step, add a row if one is due or the loss is not finite.

        Raises:
            Diverged: the loss is not finite.
        """
        if self._add_row(step) and self.run:
            with contextlib.suppress(OSError):  # the next checkpoint holds the rows, and says what is wrong
                self.run.write_layer_rows(self.training.progress.layers)
        self._check_finite(step.step_loss, f"in epoch {step.epoch}, step {step.batch}", step.lr)

    def epoch(self, row: dict) -> Diagnosis | None:
        """After an epoch, what is wrong; None if nothing is, if it was said before, or if it is too early to tell.

        Raises:
            Diverged: the validation loss is not finite.
        """
        self._check_finite(row.get("val_loss", 0.0), f"after epoch {row['epoch']}, on val", row["lr"])
        progress = self.training.progress
        is_over = progress.epoch == self.training.plan.recipe.epochs
        exploded = row["train_loss"] > EXPLODED * progress.layers[0]["data"]["guess"]
        if progress.diagnosed or not (is_over or exploded or row["steps"] >= PATIENCE):
            return None
        diagnosis = diagnosed(Facts(progress.epochs, progress.layers))
        progress.diagnosed = diagnosis is not None
        return diagnosis

    def _add_row(self, step: Step) -> bool:
        """Whether there is a new row."""
        rows, plan = self.training.progress.layers, self.training.plan
        ends_epoch = step.batch == max(1, plan.training_images // plan.recipe.batch_size)  # its last full batch
        far = step.epoch == plan.recipe.epochs or step.step - (rows[-1]["step"] if rows else 0) >= APART
        finite = math.isfinite(step.step_loss)
        if finite and step.step not in FIRST and not (ends_epoch and far):
            return False
        row = {"epoch": step.epoch, "step": step.step, "loss": step.step_loss if finite else None, "lr": step.lr}
        views = self.training.strategy.first_views(step.views, step.images, SAMPLE)
        row |= {"peak_lr": plan.recipe.peak_lr()} | layer_statistics(self.training, views)
        if not rows:
            row["data"] = data_facts(plan)
        rows.append(row)
        return True

    def _check_finite(self, loss: float, where: str, lr: float) -> None:
        if not math.isfinite(loss):
            diagnosis = diagnosed(Facts(self.training.progress.epochs, self.training.progress.layers))
            explanation = f"\n{diagnosis}" if diagnosis else ""
            raise Diverged(f"the loss became {loss} {where}, at a learning rate of {lr:g}{explanation}")


@torch.no_grad()
def layer_statistics(training: Training, views: Tensor) -> dict:
    """`inputs` and `layers` of a row, right after a step. Nothing is drawn, and nothing in the network changes.

    Args:
        views: inputs of the step, (N, channels, side, side), of which the first SAMPLE are used.
    """
    network, optimizer, sample = training.network, training.optimizer, views[:SAMPLE]
    training.strategy.publish()
    velocities, was_training = training.strategy.gathered(optimizer.velocities()), network.training
    network.eval()
    with autocast(views.device, training.precision):
        outputs = network.features(sample)
    network.train(was_training)
    groups = {group["name"]: group for group in optimizer.param_groups}
    rows = {step.row for step in network.placed}
    relus = {step.row: step.name for step in network.placed if isinstance(network._modules.get(step.name), nn.ReLU)}
    layers: dict[str, dict] = {}
    for name in filter(rows.__contains__, outputs):
        group, output = groups[f"{name}.weight"], outputs[name].float()
        weight = network.get_parameter(f"{name}.weight")
        layers[name] = {
            "activations": _size(output),
            "spread": output.var(0, correction=0).mean().sqrt(),
            "weights": _size(weight),
            "updates": _size(velocities[group["name"]]) * (group["lr"] > 0),  # the change is the velocity
        }
        if name in relus:
            layers[name]["dead"] = 1 - (outputs[relus[name]].transpose(0, 1).flatten(1) > 0).any(1).float().mean()
    tensors = [_size(sample), *(value for layer in layers.values() for value in layer.values())]
    values = iter([value if math.isfinite(value) else None for value in torch.stack(tensors).tolist()])  # one transfer
    inputs = next(values)
    for name in layers:
        layer = layers[name] = {statistic: next(values) for statistic in layers[name]}
        known = layer["updates"] is not None and layer["weights"]
        layer["ratio"] = layer["updates"] / layer["weights"] if known else None
    return {"inputs": inputs, "layers": layers}


def data_facts(plan: Plan) -> dict:
    """Facts about the images: number of classes, the loss of guessing by class frequency in nats, the largest class and
    its fraction of train and of val (None without val), how much pixels differ from image to image (0 … 255); and the
    size of inputs that the network is made for, whether its own recipe made these, and the factor on the recipe's
    learning rates (1 unless `lr` is set)."""
    packed = plan.packed
    train, val = packed.indices("train"), packed.indices("val")
    frequencies = np.bincount(packed.labels[train], minlength=len(packed.classes)) / len(train)
    sample = packed.images[np.unique(train[np.linspace(0, len(train) - 1, 2 * SAMPLE).astype(np.int64)])]
    inputs = recipe(plan.architecture.recipe).input
    return {
        "classes": len(packed.classes),
        "guess": -sum(frequency * math.log(frequency) for frequency in frequencies.tolist() if frequency),
        "largest": frequencies.max().item(),
        "largest_in_val": np.mean(packed.labels[val] == frequencies.argmax()).item() if len(val) else None,
        "largest_class": packed.classes[frequencies.argmax()],
        "spread": sample.std(0, dtype=np.float64).mean().item(),
        "inputs": PIXELS if inputs.std == "one" else UNIT,
        "has_own_inputs": plan.transfer is not None or plan.recipe.input == inputs,
        "lr_factor": plan.recipe.lr_factor,
    }


HEAD = ("layer", "activations", "spread", "weights", "updates", "ratio", "dead")
WORDS = """\
RMS: root mean square, as are activations, weights and updates (changes by the last step). Spread: the part of the
activations that differs from image to image. Ratio: updates over weights, usually about 0.001. Dead: units that are 0
for all images. Losses are in nats.""".replace("\n", " ")


def layer_table(row: dict) -> list[list[str]]:
    """A row of statistics as a table of layers, in the columns of HEAD."""

    def cell(value: float | None, statistic: str) -> str:
        return "" if value is None else f"{value:.0%}" if statistic == "dead" else f"{value:.2g}"

    return [[name, *(cell(layer.get(key), key) for key in HEAD[1:])] for name, layer in row["layers"].items()]


def check_row(row: object, location: str) -> None:
    """Refuse what is no row of layer statistics, as a ValueError."""
    check_keys(row, NEEDED, location)
    for name, statistics in row["layers"].items():
        check_keys(statistics, STATISTICS, f"{location}, {name}")
    if "data" in row or location.endswith(" 1"):
        check_keys(row.get("data"), DATA, f"{location}, data")


def _size(tensor: Tensor) -> Tensor:
    """Root mean square."""
    return tensor.float().square().mean().sqrt()
