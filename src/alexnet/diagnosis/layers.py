"""How large things are inside a network while it learns: lines of layers.jsonl, from which a stuck run is diagnosed.

A line is written after steps 1, 10 and 100, and at the end of epochs that are at least APART steps apart. It has epoch,
step, loss (nats; null where it is no number), rate (of weights), highest_rate (in the whole run, what `--lr` stands
for), inputs (root mean square of what the network sees), and for each layer with weights

- activations: root mean square of its output, before the nonlinearity, without dropout;
- spread: the part of it that differs from image to image;
- weights, updates: root mean squares, of the weights and of the last step's change;
- ratio: updates over weights;
- dead: share of its maps or units that are 0 for all images of the sample, where ReLUs follow it.

The first line also has `data`: what is to be known of the images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..device import Precision, autocast
from ..files import atomic_write
from ..model.network import AlexNet
from ..runs.history import check_keys, read_lines
from ..specs.recipes import recipe
from ..training.optimizer import PaperSGD
from ..training.plan import Plan

FILE = "layers.jsonl"
NEEDED = {"step": int, "loss": Real | None, "rate": Real, "inputs": Real | None, "layers": dict}
SIZES = dict.fromkeys(("activations", "spread", "weights", "updates", "ratio"), Real | None)
DATA = {"guess": Real, "largest": Real, "largest_class": str, "spread": Real, "inputs": Real}
"""What every line has, each of its layers, and `data`."""
SAMPLE = 32
"""Images of a batch that are looked at."""
FIRST, APART = (1, 10, 100), 100
"""Steps after which a line is due, and how far apart later ones are: a line takes about half the time of a step."""
PIXELS, UNIT = 60.0, 1.0
"""How large inputs typically are: pixels of 0 … 255 minus their mean, and those divided by their deviation."""


def is_due(step: int, ends_epoch: bool, is_last_epoch: bool, rows: Sequence[dict]) -> bool:
    """Whether a line is to be written after this step of the run.

    Args:
        step: from 1.
        ends_epoch: whether the rest of the epoch is too short for a sample.
    """
    far = is_last_epoch or step - (rows[-1]["step"] if rows else 0) >= APART
    return step in FIRST or (ends_epoch and far)


@torch.no_grad()
def layer_sizes(network: AlexNet, optimizer: PaperSGD, views: Tensor, precision: Precision) -> dict:
    """`inputs` and `layers` of a line, right after a step. Nothing is drawn, and nothing in the network changes.

    Args:
        views: of the step, (N, channels, side, side); the first SAMPLE of them are looked at.
    """
    sample, training = views[:SAMPLE], network.training
    network.eval()
    with autocast(views.device, precision):
        outputs = network.features(sample)
    network.train(training)
    groups = {group["name"]: group for group in optimizer.param_groups}
    found = {"inputs": _size(sample)}
    for name, output in outputs.items():
        if f"{name}.weight" not in groups or name.startswith("norm"):
            continue
        group, output = groups[f"{name}.weight"], output.float()
        (weight,) = group["params"]
        found[f"{name} activations"] = _size(output)
        found[f"{name} spread"] = output.var(0, correction=0).mean().sqrt()
        found[f"{name} weights"] = _size(weight)
        found[f"{name} updates"] = _size(optimizer.velocity(weight)) * (group["lr"] > 0)  # the change is the velocity
        relu = "relu" + "".join(filter(str.isdigit, name))
        if isinstance(network._modules.get(relu), nn.ReLU):
            found[f"{name} dead"] = 1 - (outputs[relu].transpose(0, 1).flatten(1) > 0).any(1).float().mean()
    values = dict(zip(found, torch.stack([value.float() for value in found.values()]).tolist(), strict=True))
    layers: dict[str, dict[str, float | None]] = {}
    inputs = _number(values.pop("inputs"))
    for key, value in values.items():
        name, what = key.split()
        layers.setdefault(name, {})[what] = _number(value)
    for sizes in layers.values():
        known = sizes["updates"] is not None and sizes["weights"]
        sizes["ratio"] = sizes["updates"] / sizes["weights"] if known else None
    return {"inputs": inputs, "layers": layers}


def data_facts(plan: Plan) -> dict:
    """What is to be known of the images: classes, the loss of guessing by their shares in nats, the largest class and
    its share, and its share of val (None without val), how much pixels differ from image to image (0 … 255), and how
    large inputs the network is made for."""
    packed = plan.packed
    numbers, validation = packed.indices("train"), packed.indices("val")
    shares = np.bincount(packed.labels[numbers], minlength=len(packed.classes)) / len(numbers)
    some = packed.images[np.unique(numbers[np.linspace(0, len(numbers) - 1, 2 * SAMPLE).astype(np.int64)])]
    pixels = recipe(plan.architecture.recipe).input.std == "one"
    return {
        "classes": len(packed.classes),
        "guess": -sum(share * math.log(share) for share in shares.tolist() if share),
        "largest": shares.max().item(),
        "largest_in_val": np.mean(packed.labels[validation] == shares.argmax()).item() if len(validation) else None,
        "largest_class": packed.classes[shares.argmax()],
        "spread": some.std(0, dtype=np.float64).mean().item(),
        "inputs": PIXELS if pixels else UNIT,
    }


HEAD = ("layer", "activations", "spread", "weights", "updates", "ratio", "dead")


def layer_rows(line: dict) -> list[list[str]]:
    """A line as a table, in the columns of HEAD."""

    def cell(value: float | None, what: str) -> str:
        return "" if value is None else f"{value:.0%}" if what == "dead" else f"{value:.2g}"

    return [[name, *(cell(sizes.get(what), what) for what in HEAD[1:])] for name, sizes in line["layers"].items()]


def read_layers(folder: Path) -> list[dict]:
    """The lines so far, none where nothing was written yet.

    Raises:
        ValueError: one is damaged.
    """
    path = folder / FILE
    rows = read_lines(path, NEEDED)
    for number, row in enumerate(rows, 1):
        for name, sizes in row["layers"].items():
            check_keys(sizes, SIZES, f"{path}, line {number}, {name}")
    if rows:
        check_keys(rows[0].get("data"), DATA, f"{path}, line 1, data")
    return rows


def write_layers(folder: Path, rows: Sequence[dict]) -> None:
    """Write all lines anew, whole or not at all, as those of the journal."""
    with atomic_write(folder / FILE) as temporary:
        temporary.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _size(tensor: Tensor) -> Tensor:
    """Root mean square."""
    return tensor.float().square().mean().sqrt()


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
