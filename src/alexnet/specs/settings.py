"""The settings of a training: as a user gives them, and as resolved.

Every option is declared here, once, with its help: the command, `Classifier.fit`, a run's folder and the documentation
read this file.
"""

import ast
import inspect
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from .architecture import Architecture
from .recipe import CHECKS as RECIPE_CHECKS
from .recipe import Check, Recipe, is_integer, is_real

MicroBatch = int | Literal["auto"] | None


@dataclass(frozen=True)
class LabelMaps:
    """Files that label images, wherever they and the images are."""

    labels: str | Path | None = None
    """File or URL of a map from images to labels (JSON, CSV or text); overrides class folders and label files in the
    data (default: those)."""
    label_indices: str | Path | None = None
    """File or URL of a map from labels to class indices (JSON), or a list of the classes in order (default:
    sorted)."""

    def __post_init__(self):
        for name in filter(vars(self).__contains__, CHECKS):
            check_setting(name, getattr(self, name))


@dataclass(frozen=True)
class TrainSettings(LabelMaps):
    """Settings of a training as the user gives them. None leaves the choice to the recipe, the data or the machine."""

    variant: str | Architecture | None = None
    """Network to train; `alexnet describe` lists them (default: that of --pretrained, else chosen by the number and
    size of the images and the device)."""
    recipe: str | Path | Recipe | Mapping[str, Any] | None = None
    """How to train it: the name of a recipe (`alexnet describe --recipes` lists them), a .json or .toml file of a
    recipe's fields, or the run.json of a run (default: the network's own; with --pretrained, transfer, or fine-tune
    from 100,000 images on)."""
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
    """Images per step (default: the recipe's; fewer on small data sets, for 16 steps per epoch)."""
    lr: float | None = None
    """Peak learning rate; the rest of the schedule scales with it (default: the recipe's)."""
    schedule: Literal["constant", "step", "plateau", "linear", "exponential", "cosine", "warmup-linear"] | None = None
    """Learning-rate schedule: constant; step (two drops, at equal intervals); plateau (a drop whenever the validation
    error stops falling); linear, exponential or cosine (decay to 1/1000); warmup-linear (default: the recipe's)."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the learning rate is multiplied by --gamma, such as 25 50 75 (default: the recipe's schedule)."""
    gamma: float | None = None
    """Factor of each drop of the learning rate, for --milestones and the schedules step and plateau (default: 0.1)."""
    weight_decay: float | None = None
    """Weight decay (L2) of all layers (default: the recipe's)."""
    momentum: float | None = None
    """Momentum of SGD (default: the recipe's)."""
    label_smoothing: float | None = None
    """Fraction of each label that is spread over all classes (default: the recipe's)."""
    class_weights: Literal["balanced"] | Mapping[str, float] | None = None
    """Weight of each class in the loss, such as cat=2 dog=0.5; balanced weights each class by its inverse frequency
    (default: the recipe's, none)."""
    patience: int | None = None
    """Early stopping: stop after this many epochs without a lower validation error, with the weights of the best epoch
    (default: the recipe's, never)."""
    set: Mapping[str, Any] | None = None
    """Any other fields of the recipe, such as mixup=0.2 color_shift=none schedule.warmup=0.1; docs/settings.md lists
    them."""
    flip: bool | None = None
    """Random horizontal flips; switch them off where left and right differ, as in digits (default: the recipe's)."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue, subtracted from the input: for pixels of 0 ... 255, or of 0 ... 1 if no value is
    above 1 (default: the recipe's, computed from the training images)."""
    std: tuple[float, float, float] | None = None
    """Standard deviation by which the input is divided, in the units of --mean (default: the recipe's)."""
    crop_size: int | None = None
    """Side of the network's input, pixels; the size of the stored images follows in proportion (default: the
    network's own)."""
    seed: int | None = None
    """Seed of the initial weights, order, crops and dropout (default: 0)."""
    split_seed: int | None = None
    """Seed of the train/val/test split of a data set that has none (default: 0)."""
    val_fraction: float | None = None
    """Fraction of each class that is held out from train as val, where that is missing, and as much again as test,
    where both are (default: 0.1)."""
    aspect: Literal["crop", "squash", "pad"] | None = None
    """What is stored of an image that is no square: its central square, all of it squashed, or all of it padded with
    black (default: crop, or as for --pretrained)."""
    augment: Callable[[Any], Any] | str | None = None
    """Your own augmentation: a function that takes the stored images of a batch, a uint8 tensor (N, 3, side, side) on
    the device, and returns such a tensor. It runs before crops, flips and color shift. A run stores only its name, so
    give the function again to resume."""
    config: str | Path | None = None
    """A .json or .toml file of settings by these names, or the run.json of a run, to repeat it; settings given besides
    override it."""
    output: str | Path | None = None
    """Folder for weights, history and report; auto takes the next free runs/DATA-VARIANT-1, -2 ... (default: auto; in
    Python, nothing is written)."""
    log: tuple[str, ...] | str | None = None
    """Loggers of the history, besides the run's own files: any of tensorboard, wandb and mlflow; --log alone turns them
    off (default: tensorboard, if it is installed)."""
    resume: bool = False
    """Resume an interrupted run with its own settings: the one in --output, or the newest on this data. It ends with
    the same weights as if it had never been interrupted."""
    allow_changes: bool = False
    """Resume even if settings or images have changed; from there on it is a different run."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; the end of an epoch writes one, too, if the last is at least a minute old."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of a finished run, with momentum and progress (default: only its weights are kept)."""
    micro_batch: MicroBatch = None
    """Gradient accumulation: images per forward and backward pass, for the same steps in less memory; auto takes as
    many as fit (default: the whole batch)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Mixed precision: the type of convolutions and matrix products. auto uses bf16 where the hardware supports it;
    weights and accumulators stay fp32."""
    gpus: int | Literal["all"] | None = None
    """GPUs of this machine to train on, a process for each: all, or how many (default: one)."""
    processes: int | None = None
    """Processes to train on, on a machine without GPUs (default: one)."""
    parallel: Literal["data", "towers", "hybrid"] = "data"
    """How several processes divide the work: data (each has a part of every batch), towers (2012: each has one of the
    two towers) or hybrid (2014: data in the convolutions, units in the fully connected layers)."""
    compress_gradients: bool = False
    """Send gradients from process to process as bf16: half of the bytes, with a rounding error."""
    max_restarts: int = 0
    """How often to start all processes anew, from the last checkpoint, when one of them dies."""
    jpeg: int | None = None
    """JPEG quality, 1 to 95, of the packed images, if raw pixels do not fit on the disk (default: raw pixels)."""
    workers: int | None = None
    """Number of processes that decode images (default: one per core)."""
    strict: bool = False
    """Fail if any image cannot be read, instead of skipping up to five or 1%."""

    def __post_init__(self):
        super().__post_init__()
        if self.gpus and self.processes:
            raise ValueError("only one of gpus and processes must be given, got both")
        if isinstance(self.freeze, str):
            raise ValueError(f"freeze must be a list of layers, got {self.freeze!r}")
        if both := [layer for layer in self.freeze if layer in (self.lr_scale or {})]:
            raise ValueError(f"{min(both)} must be in freeze or in lr_scale, got both")
        if self.pretrained and (self.mean or self.std):
            raise ValueError("mean and std must not be given with pretrained, whose weights expect their own")

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
class EvaluationSettings(InferenceSettings):
    """Where, in which precision and on how many processes a trained network is evaluated."""

    gpus: int | Literal["all"] | None = None
    """GPUs of this machine to evaluate on, a process for each: all, or how many (default: one)."""
    processes: int | None = None
    """Processes to evaluate on, on a machine without GPUs (default: one)."""


@dataclass(frozen=True)
class ResolvedSettings:
    """What a training really does: nothing is left open. The first part of run.json."""

    data: str
    augment: str | None
    """Name of the `augment` function."""
    images: int
    """Checksum of names, classes, labels, splits and pixels."""
    jpeg: int | None
    labels: str | None
    label_indices: str | None
    pretrained: str | None
    pretrained_sha256: str | None
    variant: str
    seed: int
    split_seed: int
    val_fraction: float | None
    aspect: Literal["crop", "squash", "pad"]
    device: str
    precision: Literal["fp32", "bf16"]
    micro_batch: MicroBatch
    log: tuple[str, ...] | None
    checkpoint_minutes: float
    keep_checkpoints: bool
    threads: int
    processes: int
    parallel: Literal["data", "towers", "hybrid"]
    compress_gradients: bool
    versions: Mapping[str, str]
    recipe: Recipe
    architecture: Architecture


LOGGERS = ("tensorboard", "wandb", "mlflow")
_SHARED = ("epochs", "batch_size", "flip", "weight_decay", "momentum", "label_smoothing", "patience", "class_weights")
CHECKS: dict[str, Check] = {name: RECIPE_CHECKS[name] for name in _SHARED} | {
    "mean": (lambda mean: _are_colors(mean, 0), "three numbers >= 0, of red, green and blue"),
    "std": (lambda std: _are_colors(std, 1e-6), "three numbers > 0, of red, green and blue"),
    "log": (lambda log: set([log] if isinstance(log, str) else log) <= set(LOGGERS), "any of " + ", ".join(LOGGERS)),
    "gamma": (lambda gamma: is_real(gamma) and gamma > 0, "> 0"),
    "crop_size": (lambda size: is_integer(size, 1), "an integer >= 1"),
    "lr": (lambda lr: is_real(lr) and lr > 0, "> 0"),
    "seed": (lambda seed: is_integer(seed, 0) and seed < 2**63, "an integer from 0 to 2**63 - 1"),
    "split_seed": (lambda seed: is_integer(seed, 0), "an integer >= 0"),
    "val_fraction": (lambda fraction: is_real(fraction) and 0 < fraction < 0.5, "> 0 and < 0.5"),
    "aspect": (lambda aspect: aspect in ("crop", "squash", "pad"), "crop, squash or pad"),
    "checkpoint_minutes": (lambda minutes: is_real(minutes) and minutes >= 0, ">= 0"),
    "micro_batch": (lambda size: size == "auto" or is_integer(size, 1), "an integer >= 1, or 'auto'"),
    **dict.fromkeys(("labels", "label_indices"), (lambda file: isinstance(file, (str, Path)), "a path or a URL")),
    "gpus": (lambda gpus: gpus == "all" or is_integer(gpus, 1), "an integer >= 1, or 'all'"),
    "processes": (lambda processes: is_integer(processes, 1), "an integer >= 1"),
    "max_restarts": (lambda restarts: is_integer(restarts, 0), "an integer >= 0"),
    "parallel": (lambda way: way in ("data", "towers", "hybrid"), "data, towers or hybrid"),
    "workers": (lambda workers: is_integer(workers, 1), "an integer >= 1"),
    "jpeg": (lambda quality: is_integer(quality, 1) and quality <= 95, "an integer from 1 to 95"),
}


def check_setting(name: str, value: object) -> None:
    """Raise ValueError if a setting has a value that it must not have."""
    fits, must_be = CHECKS[name]
    if value is not None and not fits(value):
        got = ", ".join(map(repr, value)) if name == "log" and isinstance(value, tuple) else repr(value)
        raise ValueError(f"{spoken(name)} must be {must_be}, got {got}")


_spoken = {"flags": False}


@contextmanager
def named_as_flags() -> Iterator[None]:
    """While a command runs, messages name settings as flags."""
    _spoken["flags"] = True
    try:
        yield
    finally:
        _spoken["flags"] = False


def spoken(name: str) -> str:
    """A setting as the reader of a message knows it: `--batch-size` in a command, `batch_size` in Python."""
    return f"--{name.replace('_', '-')}" if _spoken["flags"] else name


def option(name: str, value: object = "…") -> str:
    """How the reader of a message gives a setting: `--batch-size 16` or `--resume` to a command, `batch_size=16` or
    `resume=True` in Python."""
    if not _spoken["flags"]:
        return f"{name}={str(value)!r}" if isinstance(value, Path) else f"{name}={value}"
    return spoken(name) + ("" if value is True or value == "…" else f" {shlex.quote(str(value))}")


def _are_colors(values: Any, least: float) -> bool:
    return isinstance(values, (tuple, list)) and len(values) == 3 and all(is_real(x) and x >= least for x in values)


def help_of(settings: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, by name, on one line."""
    (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(settings))).body)
    inherited = help_of(settings.__base__) if is_dataclass(settings.__base__) else {}
    return inherited | {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
