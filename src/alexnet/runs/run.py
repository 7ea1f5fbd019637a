"""The folder of a run: what it was asked to do, and how it ended."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.pack.reading import UNREADABLE, Pack
from ..data.pack.statistics import compute_statistics
from ..data.source import SPLITS
from ..files import PART_SUFFIX, atomic_write, file_lock, is_locked
from ..specs.storage import from_json, to_json
from ..training.plan import Plan
from ..training.step import MicroBatch

FILE, SPLIT_FILE, LEFT_OUT_FILE = "run.json", "split.csv", "left_out.csv"
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}
"""Of files with the names of images, which may be any bytes."""
MATHEMATICS = ("architecture", "recipe", "seed", "precision")
"""Settings that a resumed run shares with the one that was interrupted, as it does the images."""
ROUNDING = ("device", "threads", "micro_batch", "versions")
"""Settings that it may have changed; the bits are then not quite the same."""


def settings(
    plan: Plan, seed: int, split_seed: int, precision: str, device: str, micro_batch: MicroBatch = None
) -> dict:
    """What run.json says of a run at its start; `images` changes with every image, label and split."""
    source = plan.transfer and plan.transfer.source
    return {
        "data": plan.data,
        "images": plan.packed.checksum,
        "jpeg": plan.jpeg,
        "from": str(source.file) if source else None,
        "from_sha256": source.sha256 if source else None,
        "variant": plan.architecture.name,
        "seed": seed,
        "split_seed": split_seed,
        "device": device,
        "precision": precision,
        "micro_batch": micro_batch,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "recipe": to_json(plan.recipe),
        "architecture": to_json(plan.architecture),
    }


def new_folder(output: Path | None, name: str) -> Path:
    """The folder of a new run: `output`, or the next free runs/NAME-1, runs/NAME-2 …

    Raises:
        ValueError: `output` is no folder, holds anything, or cannot be written to.
    """
    if output is not None:
        _check_free(output)
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK):
            raise ValueError(f"{output} cannot be written to")
        return output
    number = 1 + max(_numbered(name), default=0)
    while True:  # another run may take the same number at the same time
        with contextlib.suppress(FileExistsError):
            (Path("runs") / f"{name}-{number}").mkdir(parents=True)
            return Path("runs") / f"{name}-{number}"
        number += 1


def interrupted_folder(output: Path | None, data: str, variant: str | None) -> Path:
    """The folder to go on in: `output`, or the newest in runs/ on the same data that has no results yet and that nobody
    is training in.

    Args:
        variant: of the network, any where None.

    Raises:
        ValueError: there is none, or it has finished.
    """
    if output is not None:
        about = read_run(output)
        if not about:
            raise ValueError(f"{output} holds no run to go on with ({FILE} is not there)")
        if "results" in about:
            raise ValueError(f"{output} has finished; to train further, start a new run")
        return output
    candidates = []
    for path in Path("runs").glob(f"*/{FILE}"):
        about: dict = {}
        with contextlib.suppress(ValueError):  # a damaged one is not gone on with
            about = read_run(path.parent)
        fits = about.get("data") == data and variant in (None, about["variant"]) and "results" not in about
        if fits and not is_locked(path):  # one that only lacks its results was trained to the end
            candidates.append(("weights" not in about, path.stat().st_mtime_ns, path.parent))
    if not candidates:
        raise ValueError(f"no interrupted run on {data} is in runs/; name its folder by --output")
    return max(candidates)[-1]


def read_run(folder: Path) -> dict:
    """run.json of a folder; empty where there is none, or it is that of another program.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return about if isinstance(about, dict) and about.keys() >= {"data", "recipe", "architecture"} else {}


def write_run(folder: Path, about: Mapping) -> None:
    with atomic_write(folder / FILE) as temporary:
        temporary.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_splits(packed: Pack, folder: Path) -> None:
    """Which image is in which split, as CSV; and which were left out, and why, where there are any."""
    with atomic_write(folder / SPLIT_FILE) as temporary, temporary.open("w", newline="", **TEXT) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", "split"))
        for name, label, split in zip(packed.names, packed.labels, packed.splits, strict=True):
            writer.writerow((name, packed.classes[label], SPLITS[split] if split < len(SPLITS) else "unreadable"))
    if packed.unreadable:
        with atomic_write(folder / LEFT_OUT_FILE) as temporary, temporary.open("w", **TEXT) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image", "why"))
            writer.writerows((packed.names[number], reason) for number, reason in packed.unreadable.items())


def with_splits_of(folder: Path, packed: Pack, new_ones: bool = False) -> Pack:
    """The same images in the splits that a run had them in, so that an image that was trained on stays one.

    Those that the run did not have are left out, or with `new_ones` stay where they are.

    Raises:
        ValueError: split.csv of the run is damaged or not there.
    """
    known = _known_splits(folder)
    splits = [
        SPLITS.index(known[name])
        if known.get(name) in SPLITS
        else split
        if new_ones and name not in known
        else UNREADABLE
        for name, split in zip(packed.names, packed.splits, strict=True)
    ]
    return replace(packed, splits=np.array(splits, np.uint8))


def _known_splits(folder: Path) -> dict[str, str]:
    """Of each image that a run had.

    Raises:
        ValueError: split.csv is damaged or not there.
    """
    path = folder / SPLIT_FILE
    try:
        with path.open(newline="", **TEXT) as file:
            return {row["image"]: row["split"] for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error) as error:
        raise ValueError(f"{path}, which says what was trained on, cannot be read: {error}") from error


def accepted(
    folder: Path, now: Mapping, plan: Plan, allowed: bool, say: Callable[[str], object] = lambda words: None
) -> tuple[Plan, dict]:
    """Compare a run's settings with those of now, to go on with it; say which have changed.

    Images that the run knows stay in their splits. Nothing is written.

    Returns:
        The plan, and what run.json is to say.

    Raises:
        ValueError: a setting that changes the mathematics is not what it was, or split.csv cannot be read.
    """
    begun = read_run(folder)
    before = json.loads(json.dumps(to_json(from_json(begun))))  # with fields that are younger than the run
    now = json.loads(json.dumps(now))
    harmless = [line for key in ROUNDING if key in before for line in _changes(key, before[key], now[key])]
    if harmless:
        say("changed since it was begun, so that sums may round otherwise:\n  " + "\n  ".join(harmless))
    changed = [line for key in MATHEMATICS for line in _changes(key, before.get(key), now[key])]
    if before.get("images") != now["images"]:
        changed.append(f"data: {_changed_images(folder, plan.packed)}")
    listed = "\n  ".join(changed)
    if changed and not allowed:
        raise ValueError(
            f"{folder} was begun with other settings or data, so going on makes another run (--allow-changes does):\n"
            f"  {listed}"
        )
    if changed or begun.get("changed"):  # otherwise the splits are as they were cut
        kept = with_splits_of(folder, plan.packed, new_ones=True)
        if not np.array_equal(kept.splits, plan.packed.splits):
            plan = replace(plan, packed=kept, found=compute_statistics(kept.images, kept.indices("train")))
    if not changed:
        return plan, begun | {"data": now["data"]}
    say(f"changed since it was begun, so that this is another run from here on:\n  {listed}")
    return plan, begun | dict(now) | {"changed": [*begun.get("changed", ()), *changed]}


def _changes(name: str, was: Any, is_now: Any) -> list[str]:
    """A line for each setting that differs."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        return [line for key in is_now for line in _changes(f"{name}.{key}", was.get(key), is_now[key])]
    return [] if was == is_now else [f"{name}: {was} then, {is_now} now"]


def _changed_images(folder: Path, packed: Pack) -> str:
    """How the images of a pack differ from those that the run was begun with."""
    known = _known_splits(folder)
    gone, new = len(known.keys() - set(packed.names)), len(set(packed.names) - known.keys())
    there = ((known[name], split) for name, split in zip(packed.names, packed.splits, strict=True) if name in known)
    moved = sum(SPLITS.index(was) != split for was, split in there if was in SPLITS)
    if gone or new or moved:
        return f"images that are gone: {gone}, new: {new}, in another split: {moved}"
    return "images or labels are not what they were"


@contextlib.contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Keep other processes from training in a folder at the same time.

    Raises:
        ValueError: one is, or nothing can be written there.
    """
    if folder is None:
        yield
        return
    try:
        busy = is_locked(folder / FILE)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to: {error.strerror}") from error
    if busy:
        raise ValueError(f"another process is training in {folder}")
    with file_lock(folder / FILE):
        yield


def _check_free(output: Path) -> None:
    """Refuse a folder for a new run in which something would be overwritten.

    Raises:
        ValueError: there is something in it, or it is no folder.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; --output may be a new or an empty folder")
    about = read_run(output)
    if "results" in about:
        raise ValueError(f"{output} holds a finished run; choose another --output")
    if about:
        raise ValueError(f"{output} holds a run already; go on with it by --resume, or choose another --output")
    held = sorted(path.name for path in output.glob("*") if path.suffix not in (".lock", PART_SUFFIX))
    if held:
        raise ValueError(f"{output} holds {held[0]}{' and more' if held[1:] else ''}; --output may be an empty folder")


def _numbered(name: str) -> list[int]:
    """Numbers of the runs of that name."""
    matches = (re.fullmatch(re.escape(name) + r"-(\d+)", path.name) for path in Path("runs").glob("*"))
    return [int(match[1]) for match in matches if match]
