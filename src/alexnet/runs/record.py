"""What a run records of its settings, and which of them may have changed when it resumes."""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..data.pack.reading import Pack
from ..data.source import SPLITS
from ..data.sources.memory import location_of
from ..device import pick_device, pick_precision
from ..kernels import library
from ..parallel.group import Group
from ..specs.settings import ResolvedSettings, TrainSettings, option
from ..specs.storage import from_json, to_json
from ..training.plan import Plan
from .run import Run

MATHEMATICS = ("architecture", "recipe", "seed", "precision", "augment")
"""Settings that a resumed run shares with the one that was interrupted, besides the images."""
ROUNDING = ("device", "threads", "micro_batch", "versions", "processes", "parallel", "compress_gradients")
"""Settings that may change; sums are then rounded differently."""
ASIDE = ("data", "log", "checkpoint_minutes", "keep_checkpoints")
"""Settings that may change without a word, as the result is the same."""


def processes_of(settings: TrainSettings, group: Group) -> int:
    """How many processes are to train: those that there are, or those that were asked for.

    Raises:
        ValueError: more than there are GPUs, or others than torchrun has started.
    """
    asked, device = settings.processes, pick_device(settings.device)
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if settings.gpus is not None:
        asked = gpus if settings.gpus == "all" else settings.gpus
        if not 1 <= asked <= gpus:
            raise ValueError(f"gpus must be from 1 to the GPUs that can be used here, {gpus}, got {settings.gpus}")
    if group.size > 1 and asked not in (None, group.size):
        raise ValueError(f"processes must be left out under torchrun, which started {group.size}, got {asked}")
    processes = max(group.size, asked or 1)
    if processes > 1 and (device.type not in ("cpu", "cuda") or device.index is not None):
        raise ValueError(f"device must be cpu or cuda for several processes, got {device}")
    if asked and asked > 1 and device.type == "cuda" and asked > gpus:
        raise ValueError(f"processes must be at most the GPUs of this machine, {gpus}, got {asked}")
    return processes


def check_same(records: Sequence[dict]) -> None:
    """Raise ValueError if the processes that train together were started with different settings or images."""
    for rank, record in enumerate(records):
        keys = (*MATHEMATICS, "images", "parallel", "micro_batch", "compress_gradients")
        differences = [each for key in keys for each in _differences(key, records[0][key], record[key])]
        if differences:
            lines = (f"\n  {name}: {first} on process 0, {here} on process {rank}" for name, first, here in differences)
            raise ValueError(f"all processes must be started with the same settings and images:{''.join(lines)}")


def resolve(settings: TrainSettings, plan: Plan, location: str, processes: int = 1) -> ResolvedSettings:
    """What a training of a plan really does, given where its data is and how many processes train."""
    device, log = pick_device(settings.device), settings.log
    augment = settings.augment if hasattr(settings.augment, "__qualname__") else type(settings.augment)
    source = plan.transfer and plan.transfer.source
    plan.placement(settings.parallel, processes)  # refuses what cannot be divided
    return ResolvedSettings(
        data=location,
        augment=f"{augment.__module__}.{augment.__qualname__}" if settings.augment else None,
        images=plan.packed.checksum,
        jpeg=settings.jpeg,
        labels=settings.labels and location_of(settings.labels),
        label_indices=settings.label_indices and location_of(settings.label_indices),
        pretrained=str(source.file) if source else None,
        pretrained_sha256=source.sha256 if source else None,
        variant=plan.architecture.name,
        seed=int(settings.seed or 0),
        split_seed=int(settings.split_seed or 0),
        val_fraction=settings.val_fraction,
        aspect=plan.packed.squares.aspect,
        device=str(device),
        precision=pick_precision(settings.precision, device),
        micro_batch=settings.micro_batch if settings.micro_batch in (None, "auto") else int(settings.micro_batch),
        log=(log,) if isinstance(log, str) else log,
        checkpoint_minutes=float(settings.checkpoint_minutes),
        keep_checkpoints=settings.keep_checkpoints,
        threads=torch.get_num_threads(),
        processes=processes,
        parallel=settings.parallel,
        compress_gradients=settings.compress_gradients,
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "kernels": "C" if library() else "none",
        },
        recipe=plan.recipe,
        architecture=plan.architecture,
    )


def record_of(resolved: ResolvedSettings) -> dict:
    """Resolved settings as run.json holds them."""
    return json.loads(json.dumps({name: to_json(value) for name, value in vars(resolved).items()}))


def resumed(
    run: Run, resolved: ResolvedSettings, plan: Plan, allow_changes: bool, notify: Callable[[str], object]
) -> tuple[Plan, dict]:
    """The plan, in which images that the run knows stay in their splits, and the new contents of run.json.

    Raises:
        ValueError: a setting that changes the mathematics has changed, or split.csv cannot be read.
    """
    record, now = run.record(), record_of(resolved)
    before = json.loads(json.dumps(to_json(from_json(record))))  # with fields that are younger than the run
    harmless = [line for key in ROUNDING if key in before for line in _changes(key, before[key], now[key])]
    if harmless:
        notify("changed since the run started, so sums may be rounded differently:\n  " + "\n  ".join(harmless))
    changed = [line for key in MATHEMATICS for line in _changes(key, before.get(key), now[key])]
    if before.get("images") != now["images"]:
        changed.append(f"data: {_changed_images(run, plan.packed)}")
    listed = "\n  ".join(changed)
    if changed and not allow_changes:
        raise ValueError(
            f"cannot resume {run}: these settings or images changed since it started "
            f"({option('allow_changes', True)} resumes anyway, as a different run):\n  {listed}"
        )
    if changed or record.get("changed"):  # otherwise the splits are as they were drawn
        plan = replace(plan, packed=run.with_splits(plan.packed, keep_new=True))
    if not changed:
        return plan, record | {name: now[name] for name in ASIDE}
    notify(f"changed since the run started, so it is a different run from here on:\n  {listed}")
    return plan, record | now | {"changed": [*record.get("changed", ()), *changed]}


def _changes(name: str, was: Any, now: Any) -> list[str]:
    """A line for each setting that differs."""
    return [f"{each}: was {before}, is now {after}" for each, before, after in _differences(name, was, now)]


def _differences(name: str, was: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Each setting that differs, and its two values; what a recipe or network is about may be worded anew."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [each for key in now if key != "about" for each in _differences(f"{name}.{key}", was.get(key), now[key])]
    return [] if was == now else [(name, was, now)]


def _changed_images(run: Run, packed: Pack) -> str:
    """How the images of a pack differ from those that the run started with."""
    known = run.splits()
    gone, new = len(known.keys() - set(packed.names)), len(set(packed.names) - known.keys())
    both = ((known[name], split) for name, split in zip(packed.names, packed.splits, strict=True) if name in known)
    moved = sum(SPLITS.index(was) != split for was, split in both if was in SPLITS)
    if gone or new or moved:
        return f"{gone} images are gone, {new} are new, {moved} are in another split"
    return "images or labels have changed"
