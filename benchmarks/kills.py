"""Kill training at random moments, go on with it, and compare with a run that was left alone.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--device cpu]

Each case is a training on small images made here. It is started, killed (SIGKILL) at a moment drawn from the time that
a whole run takes, resumed, killed again …; whenever a run comes to its end its files are held to those of the run that
was left alone: weights, velocities and running means in last.safetensors, best.safetensors, and every line of the
journal but for its times. Prints a table; the exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TIMES = ("images_per_s", "waiting", "elapsed_s")
"""What is a measured time in the journal, and so never the same."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["alexnet.classifier", "torch.utils.tensorboard"])  # so that torch is imported once


@dataclass(frozen=True)
class Case:
    variant: str
    threads: int
    minutes: float
    """Between checkpoints; 0 is after every step."""
    settings: Mapping[str, Any]
    """Of `Classifier.fit`."""

    def __str__(self) -> str:
        return ", ".join((self.variant, *(f"{name} {value}" for name, value in self.settings.items())))


CASES = (
    Case("cifar-18", 1, 0, {"epochs": 6, "batch_size": 8}),
    Case("small", 1, 0, {"epochs": 3, "batch_size": 16}),
    Case("small", 2, 0.005, {"epochs": 4, "batch_size": 16}),
    Case("cifar-18", 1, 0.002, {"recipe": "modern", "lr": 0.001, "epochs": 6, "batch_size": 8}),
    Case("cifar-11", 2, 0.005, {"epochs": 3, "batch_size": 16}),
    Case("cifar-18", 1, 10, {"recipe": "paper", "lr": 0.001, "epochs": 8, "batch_size": 8}),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    kills: int
    ends: int
    """How many runs came to their end."""
    whole_s: float
    """Of the run that was left alone."""
    differences: list[str]


def killed_and_resumed(
    case: Case, kills: int, images: Path, place: Path, seed: int = 0, device: str = "cpu"
) -> Outcome:
    """Kill runs of a case so many times.

    Args:
        place: folder for the runs and what they print.

    Raises:
        RuntimeError: a run failed by itself.
    """
    _ended(case, images, place / "whole", device)
    started = time.monotonic()
    _ended(case, images, place / "again", device)  # images are packed by now
    whole_s = time.monotonic() - started
    expected, again, drawn = contents(place / "whole"), contents(place / "again"), random.Random(f"{seed} {case}")
    differences = [f"without a kill: {what}" for what in expected if again[what] != expected[what]]
    done = ends = 0
    while done < kills:
        run, ended = place / f"{ends}", False
        while not ended:
            ended = _ended(case, images, run, device, drawn.uniform(0, whole_s) if done < kills else None)
            done += not ended
        found, ends = contents(run), ends + 1
        differences += [f"{run.name}: {what}" for what in expected if found.get(what) != expected[what]]
    return Outcome(done, ends, whole_s, differences)


def contents(run: Path) -> dict[str, object]:
    """What must be the same in two runs: tensors by their sums, journals by their lines without times."""
    from safetensors.numpy import load_file

    found: dict[str, object] = {}
    for path in sorted(run.glob("*st.safetensors")):  # best and last
        for key, tensor in load_file(path).items():
            found[f"{path.name} {key}"] = hashlib.sha256(tensor.tobytes()).hexdigest()
    for path in sorted(run.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return found


def write_images(folder: Path, count: int = 40) -> Path:
    """Noisy squares of three colors, a folder each."""
    drawn = np.random.default_rng(0)
    for name, color in (("blue", (40, 60, 200)), ("green", (40, 180, 60)), ("red", (210, 50, 40))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.array(color) + drawn.normal(0, 60, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


def _ended(case: Case, images: Path, run: Path, device: str, kill_after_s: float | None = None) -> bool:
    """Start a run, or go on with it; whether it came to its end, or was killed before."""
    process = FORKS.Process(target=_train, args=(case, images, run, device))
    process.start()
    process.join(kill_after_s)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{case} failed:\n{run.with_suffix('.log').read_text()}")
    return process.exitcode == 0


def _train(case: Case, images: Path, run: Path, device: str) -> None:
    """What a process of its own does."""
    import torch

    from alexnet import Classifier

    run.parent.mkdir(parents=True, exist_ok=True)
    os.environ["ALEXNET_CACHE"] = str(run.parent / "cache")
    with run.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(case.threads)
    how = dict(case.settings) | {"checkpoint_minutes": case.minutes, "workers": case.threads}
    classifier = Classifier(case.variant, device, "fp32")
    classifier.fit(images, **how, output=run, resume=(run / "run.json").exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print("| training | threads | minutes | a whole run | kills | runs ended | differences |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder) / "images")
        for number, case in enumerate(CASES):
            kills = (arguments.kills + number) // len(CASES)  # adds up to all
            place = Path(folder) / f"{number}"
            found = killed_and_resumed(case, kills, images, place, arguments.seed, arguments.device)
            failed |= bool(found.differences)
            cells = case, case.threads, case.minutes, f"{found.whole_s:.1f} s", found.kills, found.ends
            print(f"| {' | '.join(map(str, cells))} | {'; '.join(found.differences) or 'none'} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
