"""The folder of a run: what it was asked to do, and how it ended."""

from __future__ import annotations

import contextlib
import csv
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..data.packing import BROKEN, Pack
from ..data.sources import SPLITS
from ..files import written_whole
from ..specs.storage import from_json, to_json
from .plan import Plan

FILE, SPLIT_FILE, LEFT_OUT_FILE = "run.json", "split.csv", "left_out.csv"
MATHEMATICS = ("architecture", "recipe", "seed", "precision", "pack", "from_sha256")
"""Settings that a resumed run shares with the one that was interrupted."""


def settings(plan: Plan, seed: int, split_seed: int, precision: str, device: str) -> dict:
    """What run.json says of a run at its start. The name of the pack changes with every image, label and split."""
    source = plan.transfer and plan.transfer.source
    return {
        "data": plan.data,
        "pack": plan.packed.path.name,
        "from": str(source.file) if source else None,
        "from_sha256": source.sha256 if source else None,
        "variant": plan.architecture.name,
        "seed": seed,
        "split_seed": split_seed,
        "device": device,
        "precision": precision,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "recipe": to_json(plan.recipe),
        "architecture": to_json(plan.architecture),
    }


def new_folder(output: Path | None, name: str) -> Path:
    """The folder of a new run: `output`, or the next free runs/NAME-1, runs/NAME-2 …

    Raises:
        ValueError: `output` holds a run already.
    """
    if output is not None:
        if (output / FILE).exists():
            raise ValueError(f"{output} holds a run already; go on with it by --resume, or choose another --output")
        output.mkdir(parents=True, exist_ok=True)
        return output
    number = 1 + max(_numbered(name), default=0)
    while True:  # another run may take the same number at the same time
        with contextlib.suppress(FileExistsError):
            (Path("runs") / f"{name}-{number}").mkdir(parents=True)
            return Path("runs") / f"{name}-{number}"
        number += 1


def interrupted_folder(output: Path | None, data: str, variant: str | None) -> Path:
    """The folder to go on in: `output`, or the newest in runs/ on the same data that has no results yet.

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
        about = read_run(path.parent)
        if about["data"] == data and variant in (None, about["variant"]) and "results" not in about:
            candidates.append((path.stat().st_mtime_ns, path.parent))
    if not candidates:
        raise ValueError(f"no interrupted run on {data} is in runs/; name its folder by --output")
    return max(candidates)[1]


def read_run(folder: Path) -> dict:
    """run.json of a folder, empty where there is none."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_run(folder: Path, about: Mapping) -> None:
    with written_whole(folder / FILE) as temporary:
        temporary.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_splits(packed: Pack, folder: Path) -> None:
    """Which image is in which split, as CSV; and which were left out, and why, where there are any."""
    with written_whole(folder / SPLIT_FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "class", "split"))
        for name, label, split in zip(packed.names, packed.labels, packed.splits, strict=True):
            writer.writerow((name, packed.classes[label], SPLITS[split] if split < len(SPLITS) else "unreadable"))
    if packed.unread:
        with written_whole(folder / LEFT_OUT_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image", "why"))
            writer.writerows((packed.names[number], reason) for number, reason in packed.unread.items())


def with_splits_of(folder: Path, packed: Pack) -> Pack:
    """The same images in the splits that a run had them in; those that it did not have are left out.

    So an image that was trained on stays one, whatever was added to the folder since.
    """
    with (folder / SPLIT_FILE).open(encoding="utf-8", newline="") as file:
        known = {row["image"]: row["split"] for row in csv.DictReader(file)}
    splits = [SPLITS.index(known[name]) if known.get(name) in SPLITS else BROKEN for name in packed.names]
    return replace(packed, splits=np.array(splits, np.uint8))


def check_same(folder: Path, now: Mapping) -> None:
    """Refuse to go on with settings that would make another run.

    Raises:
        ValueError: a setting that changes the mathematics is not what it was.
    """
    before = json.loads(json.dumps(to_json(from_json(read_run(folder)))))  # with fields that are younger than the run
    changed = []
    for key in MATHEMATICS:
        was, is_now = before.get(key), json.loads(json.dumps(now[key]))
        if was != is_now and isinstance(was, dict):
            changed += [f"{key}.{k}: {was.get(k)} then, {is_now[k]} now" for k in is_now if was.get(k) != is_now[k]]
        elif was != is_now:
            changed.append(f"{key}: {was} then, {is_now} now")
    if changed:
        raise ValueError(f"{folder} was begun with other settings, so it cannot go on:\n  " + "\n  ".join(changed))


def _numbered(name: str) -> list[int]:
    """Numbers of the runs of that name."""
    matches = (re.fullmatch(re.escape(name) + r"-(\d+)", path.name) for path in Path("runs").glob("*"))
    return [int(match[1]) for match in matches if match]
