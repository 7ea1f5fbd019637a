"""The settings of a training: what a user may ask for, and what it came to.

Every option is declared here, once, with its help: the command, `Classifier.fit`, a run's folder and the documentation
read this file.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from .architecture import Architecture
from .names import did_you_mean
from .recipe import Check, Recipe, is_integer, is_real

MicroBatch = int | Literal["auto"] | None


@dataclass(frozen=True)
class TrainSettings:
    """What a user asks of a training. None leaves the choice to the recipe, the data or the machine."""

    variant: str | Architecture | None = None
    """Network to train; `alexnet describe` lists them (default: that of --pretrained, or by the size of the images)."""
    recipe: str | Recipe | None = None
    """How to train it; `alexnet describe --recipes` lists them (default: the network's own, or fine-tune with
    --pretrained)."""
    pretrained: str | Path | None = None
    """Weights to fine-tune: a run, a saved classifier, a file, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
    Layers of the same name and shape are copied; the last one only if the classes are the same (default: train from
    scratch)."""
    freeze: tuple[str, ...] = ()
    """Layers to freeze: their weights are not trained."""
    lr_scale: Mapping[str, float] | None = None
    """Multipliers for the learning rates of some layers, such as conv3=0.1 conv4=0.5."""
    epochs: int | None = None
    """Passes over the training images (default: the recipe's; section 5)."""
    batch_size: int | None = None
    """Images per step (default: the recipe's)."""
    lr: float | None = None
    """Peak learning rate; the rest of the schedule scales with it (default: the recipe's)."""
    flip: bool | None = None
    """Random horizontal flips; switch them off where left and right differ, as in digits (default: the recipe's)."""
    seed: int | None = None
    """Seed of the initial weights, order, crops and dropout (default: 0)."""
    split_seed: int | None = None
    """Seed of the train/val/test split of a data set that has none (default: 0)."""
    output: str | Path | None = None
    """Folder for weights, history and report; auto takes the next free runs/DATA-VARIANT-1, -2 ... (default: auto; in
    Python, nothing is written)."""
    resume: bool = False
    """Resume an interrupted run with its own settings: the one in --output, or the newest on this data. It ends with
    the same weights as if it had never been interrupted."""
    allow_changes: bool = False
    """Resume even if settings or images have changed; from there on it is a different run."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints within an epoch; one is always written after each epoch."""
    micro_batch: MicroBatch = None
    """Gradient accumulation: images per forward and backward pass, for the same steps in less memory; auto takes as
    many as fit (default: the whole batch)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Mixed precision: the type of convolutions and matrix products. auto uses bf16 where the hardware supports it;
    weights and accumulators stay fp32."""
    jpeg: int | None = None
    """JPEG quality, 1 to 95, of the packed images, if raw pixels do not fit on the disk (default: raw pixels)."""
    workers: int | None = None
    """Number of processes that decode images (default: one per core)."""
    strict: bool = False
    """Fail if any image cannot be read, instead of skipping up to 1%."""

    def __post_init__(self):
        for name in CHECKS:
            check_setting(name, getattr(self, name))
        if both := set(self.freeze) & set(self.lr_scale or {}):
            raise ValueError(f"{min(both)} must be in freeze or in lr_scale, got both")

    @classmethod
    def of(cls, settings: Self | None, overrides: Mapping[str, Any]) -> Self:
        """Settings with some replaced by keyword arguments.

        Raises:
            TypeError: there is no setting of a name.
            ValueError: a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        for name in overrides.keys() - set(known):
            raise TypeError(f"there is no setting {name!r}{did_you_mean(name, known) or ', only ' + ', '.join(known)}")
        return replace(settings or cls(), **overrides)

    @property
    def lr_factors(self) -> dict[str, float]:
        """By layer, the factor on its learning rates; 0 freezes it."""
        return dict.fromkeys(self.freeze, 0.0) | dict(self.lr_scale or {})


@dataclass(frozen=True)
class InferenceSettings:
    """Where and in which precision a trained network runs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of convolutions and matrix products; auto uses bf16 where the hardware supports it."""
    fc_precision: Literal["same", "bf16", "int8"] = "same"
    """Type of the weights of the fully connected layers: the same as the others, or smaller: bf16, or quantized to
    int8. Smaller is faster for few images; `alexnet evaluate` prints what it changes."""


@dataclass(frozen=True)
class ResolvedSettings:
    """What a training really does: nothing is left open. The first part of run.json."""

    data: str
    images: int
    """Checksum of names, classes, labels, splits and pixels."""
    jpeg: int | None
    pretrained: str | None
    pretrained_sha256: str | None
    variant: str
    seed: int
    split_seed: int
    device: str
    precision: Literal["fp32", "bf16"]
    micro_batch: MicroBatch
    threads: int
    versions: Mapping[str, str]
    recipe: Recipe
    architecture: Architecture


CHECKS: dict[str, Check] = {
    "lr": (lambda lr: is_real(lr) and lr > 0, "> 0"),
    "seed": (lambda seed: is_integer(seed, 0) and seed < 2**63, "an integer from 0 to 2**63 - 1"),
    "split_seed": (lambda seed: is_integer(seed, 0), "an integer >= 0"),
    "checkpoint_minutes": (lambda minutes: is_real(minutes) and minutes >= 0, ">= 0"),
    "micro_batch": (lambda size: size == "auto" or is_integer(size, 1), "an integer >= 1, or 'auto'"),
    "workers": (lambda workers: is_integer(workers, 1), "an integer >= 1"),
    "jpeg": (lambda quality: is_integer(quality, 1) and quality <= 95, "an integer from 1 to 95"),
}


def check_setting(name: str, value: object) -> None:
    """Raise ValueError if a setting has a value that it must not have."""
    fits, must_be = CHECKS[name]
    if value is not None and not fits(value):
        raise ValueError(f"{name} must be {must_be}, got {value!r}")


_spoken = {"flags": False}


@contextmanager
def named_as_flags() -> Iterator[None]:
    """While a command runs, messages name settings as flags."""
    _spoken["flags"] = True
    try:
        yield
    finally:
        _spoken["flags"] = False


def option(name: str, value: object = "…") -> str:
    """How the reader of a message gives a setting: `--batch-size 16` to a command, `batch_size=16` in Python."""
    if not _spoken["flags"]:
        return f"{name}={value}"
    return f"--{name.replace('_', '-')}" + ("" if value == "…" else f" {value}")


def help_of(settings: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, by name, on one line."""
    (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(settings))).body)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
