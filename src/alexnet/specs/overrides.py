"""The keywords of `Classifier.fit`, for type checkers and editors, written by `python tools/write_settings_doc.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypedDict

from .architecture import Architecture
from .recipe import Recipe
from .settings import MicroBatch


class Overrides(TypedDict, total=False):
    variant: str | Architecture | None
    recipe: str | Recipe | None
    pretrained: str | Path | None
    freeze: tuple[str, ...]
    lr_scale: Mapping[str, float] | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    flip: bool | None
    seed: int | None
    split_seed: int | None
    output: str | Path | None
    resume: bool
    allow_changes: bool
    checkpoint_minutes: float
    micro_batch: MicroBatch
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    jpeg: int | None
    workers: int | None
    strict: bool
