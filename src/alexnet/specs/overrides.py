"""The keywords of `Classifier.fit`, for type checkers; written by `python tools/write_settings_doc.py`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from .architecture import Architecture
from .recipe import Recipe
from .settings import MicroBatch


class Overrides(TypedDict, total=False):
    labels: str | Path | None
    label_indices: str | Path | None
    variant: str | Architecture | None
    recipe: str | Path | Recipe | Mapping[str, Any] | None
    pretrained: str | Path | None
    freeze: tuple[str, ...]
    lr_scale: Mapping[str, float] | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    schedule: Literal["constant", "step", "plateau", "linear", "exponential", "cosine", "warmup-linear"] | None
    milestones: tuple[float, ...]
    gamma: float | None
    weight_decay: float | None
    momentum: float | None
    label_smoothing: float | None
    class_weights: Literal["balanced"] | Mapping[str, float] | None
    patience: int | None
    set: Mapping[str, Any] | None
    flip: bool | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    crop_size: int | None
    seed: int | None
    split_seed: int | None
    val_fraction: float | None
    aspect: Literal["crop", "squash", "pad"] | None
    augment: Callable[[Any], Any] | str | None
    config: str | Path | None
    output: str | Path | None
    log: tuple[str, ...] | str | None
    resume: bool
    allow_changes: bool
    checkpoint_minutes: float
    keep_checkpoints: bool
    micro_batch: MicroBatch
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    gpus: int | Literal["all"] | None
    processes: int | None
    parallel: Literal["data", "towers", "hybrid"]
    compress_gradients: bool
    max_restarts: int
    jpeg: int | None
    workers: int | None
    strict: bool
