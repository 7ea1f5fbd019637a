"""The folder of a run: what it was asked to do, and how it ended."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy
import torch

from ..specs.architecture import Architecture
from ..specs.recipes import Recipe
from ..specs.storage import to_json
from .loop import LAST

FILE = "run.json"
MATHEMATICS = ("architecture", "recipe", "seed", "precision", "pack")
"""Settings that a resumed run shares with the one that was interrupted."""


def settings(
    data: str, pack: str, architecture: Architecture, recipe: Recipe, seed: int, precision: str, device: str
) -> dict:
    """What run.json says of a run at its start.

    Args:
        pack: name of the pack's file, which changes with every image, label and split.
    """
    return {
        "data": data,
        "pack": pack,
        "variant": architecture.name,
        "seed": seed,
        "device": device,
        "precision": precision,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
        "recipe": to_json(recipe),
        "architecture": to_json(architecture),
    }


def new_folder(output: Path | None, name: str) -> Path:
    """The folder of a new run: `output`, or the next free runs/NAME-1, runs/NAME-2 …

    Raises:
        ValueError: `output` holds a run already.
    """
    if output is None:
        number = 1 + max((_number(folder) for folder in Path("runs").glob(f"{name}-*")), default=0)
        output = Path("runs") / f"{name}-{number}"
    elif (output / FILE).exists():
        raise ValueError(f"{output} holds a run already; go on with it by --resume, or choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    return output


def interrupted_folder(output: Path | None, name: str) -> Path:
    """The folder to go on in: `output`, or the newest of runs/NAME-… that has not finished.

    Raises:
        ValueError: there is none, or it has finished.
    """
    if output is None:
        folders = sorted(Path("runs").glob(f"{name}-*"), key=_number)
        open_runs = [folder for folder in folders if (folder / LAST).exists() and "finished" not in read_run(folder)]
        if not open_runs:
            raise ValueError(f"no interrupted run runs/{name}-… is here; name its folder by --output")
        return open_runs[-1]
    if not (output / LAST).exists():
        raise ValueError(f"{output} holds no checkpoint {LAST} to go on from")
    if "finished" in read_run(output):
        raise ValueError(f"{output} has finished; to train further, start a new run")
    return output


def read_run(folder: Path) -> dict:
    """run.json of a folder, empty where there is none."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_run(folder: Path, about: Mapping) -> None:
    temporary = folder / (FILE + ".part")
    temporary.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / FILE)


def check_same(folder: Path, now: Mapping) -> None:
    """Refuse to go on with settings that would make another run.

    Raises:
        ValueError: a setting that changes the mathematics is not what it was.
    """
    before = read_run(folder)
    changed = []
    for key in MATHEMATICS:
        was, is_now = before.get(key), json.loads(json.dumps(now[key]))
        if was != is_now and isinstance(was, dict):
            changed += [f"{key}.{k}: {was.get(k)} then, {is_now[k]} now" for k in is_now if was.get(k) != is_now[k]]
        elif was != is_now:
            changed.append(f"{key}: {was} then, {is_now} now")
    if changed:
        raise ValueError(f"{folder} was begun with other settings, so it cannot go on:\n  " + "\n  ".join(changed))


def _number(folder: Path) -> int:
    digits = folder.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
