"""Kill trainings at random moments, resume them, and compare the results with those of an uninterrupted run.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--device cpu]

Each case is a training on small generated images. It is started, killed (SIGKILL) at a random moment within the time
that an uninterrupted run takes, resumed, killed again, and so on. Whenever a run finishes, its files are compared with
those of the uninterrupted run: all tensors of the last checkpoint and of the best weights, and every row of history
except for times. Prints a table; the exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
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
from typing import Any, Literal

import numpy as np
from PIL import Image

TIMES = ("images_per_s", "waiting", "elapsed_s")
"""Times in the rows of history, which always differ."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["alexnet.classifier", "torch.utils.tensorboard"])  # so that torch is imported once


@dataclass(frozen=True)
class Case:
    variant: str
    threads: int
    minutes: float
    """Minutes between checkpoints; 0 is after every step."""
    settings: Mapping[str, Any]
    """Settings for `Classifier.fit`."""
    victim: int | None = None
    """Index of the launched process that is killed; None: the one that was started, which is the launcher."""
    also: Literal["", "packing", "pretrained"] = ""
    """Whether each run packs the images anew, so that kills meet the packing; or starts from the weights of another."""

    def __str__(self) -> str:
        victim = () if self.victim is None else (f"process {self.victim} is killed",)
        settings = (f"{name} {value}" for name, value in self.settings.items())
        return ", ".join(filter(None, (self.variant, self.also, *settings, *victim)))


CASES = (
    Case("cifar-18", 1, 0, {"epochs": 6, "batch_size": 8}),
    Case("small", 1, 0, {"epochs": 3, "batch_size": 16}),
    Case("small", 2, 0.005, {"epochs": 4, "batch_size": 16}),
    Case("cifar-18", 1, 0.002, {"recipe": "modern", "lr": 0.001, "epochs": 6, "batch_size": 8}),
    Case("cifar-11", 2, 0.005, {"epochs": 3, "batch_size": 16}),
    Case("cifar-18", 1, 10, {"recipe": "paper", "lr": 0.001, "epochs": 8, "batch_size": 8}),
    Case("cifar-18", 2, 0.002, {"epochs": 4, "batch_size": 8}, also="packing"),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 8, "freeze": ("conv1", "conv2")}, also="pretrained"),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 16, "micro_batch": 5}),
    Case("cifar-18", 1, 0.002, {"epochs": 6, "batch_size": 8, "schedule": "plateau"}),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 8, "set": {"lars_trust_coefficient": 0.01}}),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 8, "set": {"ema_decay": 0.99}}),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 8, "set": {"mixup": 0.3}}),
    Case("cifar-18", 1, 0.002, {"epochs": 30, "batch_size": 8, "patience": 2}),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 8, "class_weights": "balanced"}),
    Case("cifar-18", 1, 0.002, {"epochs": 5, "batch_size": 8, "label_smoothing": 0.1, "schedule": "cosine"}),
    Case("cifar-18", 1, 0, {"epochs": 8, "batch_size": 8, "processes": 2}),
    Case("cifar-18", 1, 0, {"epochs": 8, "batch_size": 8, "processes": 2}, victim=0),
    Case("cifar-18", 1, 0, {"epochs": 8, "batch_size": 8, "processes": 2}, victim=1),
)


@dataclass(frozen=True)
class Outcome:
    """The result of a case."""

    kills: int
    finished: int
    """Runs that finished."""
    uninterrupted_s: float
    """Seconds of the uninterrupted run."""
    differences: list[str]


def killed_and_resumed(
    case: Case, kills: int, images: Path, folder: Path, seed: int = 0, device: str = "cpu"
) -> Outcome:
    """Start and resume runs of a case until they were killed `kills` times.

    Args:
        folder: for the runs and their output.

    Raises:
        RuntimeError: a run failed by itself.
    """
    _run(case, images, folder / "uninterrupted", device)
    started = time.monotonic()
    _run(case, images, folder / "repeated", device)  # images are packed by now
    uninterrupted_s = time.monotonic() - started
    expected, repeated = contents(folder / "uninterrupted"), contents(folder / "repeated")
    differences = [f"without a kill: {name}" for name in expected if repeated[name] != expected[name]]
    generator, killed, finished = random.Random(f"{seed} {case}"), 0, 0
    while killed < kills:
        run, is_finished = folder / f"{finished}", False
        while not is_finished:
            kill_after_s = generator.uniform(0, uninterrupted_s) if killed < kills else None
            is_finished = _run(case, images, run, device, kill_after_s)
            killed += not is_finished
        results, finished = contents(run), finished + 1
        differences += [f"{run.name}: {name}" for name in expected if results.get(name) != expected[name]]
    return Outcome(killed, finished, uninterrupted_s, differences)


def contents(run: Path) -> dict[str, object]:
    """What must be the same in two runs, by name: checksums of tensors, and rows of history without times."""
    from safetensors.numpy import load_file

    results: dict[str, object] = {}
    for path in sorted(run.glob("*st.safetensors")):  # best and last
        for key, tensor in load_file(path).items():
            results[f"{path.name} {key}"] = hashlib.sha256(tensor.tobytes()).hexdigest()
    for path in sorted(run.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        results[path.name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return results


def write_images(folder: Path, count: int = 40) -> Path:
    """Write noisy squares of three colors, a folder per color."""
    generator = np.random.default_rng(0)
    for name, color in (("blue", (40, 60, 200)), ("green", (40, 180, 60)), ("red", (210, 50, 40))):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.array(color) + generator.normal(0, 60, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index:02}.png")
    return folder


def _run(case: Case, images: Path, run: Path, device: str, kill_after_s: float | None = None) -> bool:
    """Start or resume a run; whether it finished before it was killed."""
    process = FORKS.Process(target=_train, args=(case, images, run, device))
    process.start()
    process.join(kill_after_s)
    launched, killed = [], process.is_alive()
    if killed:
        launched = children(process.pid)
        is_there = case.victim is not None and case.victim < len(launched)
        os.kill(launched[case.victim] if is_there else process.pid, signal.SIGKILL)
        process.join()
    while any(map(is_running, launched)):  # nobody is left behind
        time.sleep(0.01)
    if process.exitcode not in (0, -signal.SIGKILL) and not killed:
        raise RuntimeError(f"{case} failed:\n{run.with_suffix('.log').read_text()}")
    record = run / "run.json"
    return process.exitcode == 0 or (record.exists() and '"results"' in record.read_text())


def children(pid: int) -> list[int]:
    """Processes that a process has started, oldest first (Linux)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return sorted(child for child, parent in parents.items() if parent == pid)


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only remembered (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _train(case: Case, images: Path, run: Path, device: str) -> None:
    """Train in a process of its own."""
    import torch

    from alexnet import Classifier

    run.parent.mkdir(parents=True, exist_ok=True)
    os.environ["ALEXNET_CACHE"] = str(run.parent / "cache" / (run.name if case.also == "packing" else ""))
    with run.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(case.threads)
    settings = dict(case.settings) | {
        "checkpoint_minutes": case.minutes,
        "workers": case.threads,
        "keep_checkpoints": True,
    }
    if case.also == "pretrained":
        weights = run.parent / "pretrained"
        if not weights.exists():  # before the first kill
            Classifier(case.variant, device, "fp32").fit(images, epochs=1, batch_size=8, output=weights, verbose=False)
        settings["pretrained"] = weights
    classifier = Classifier(case.variant, device, "fp32")
    classifier.fit(images, **settings, output=run, resume=(run / "run.json").exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print("| training | threads | minutes | uninterrupted run | kills | runs finished | differences |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder) / "images")
        for index, case in enumerate(CASES):
            kills = (arguments.kills + index) // len(CASES)  # these sum to arguments.kills
            seed, device = arguments.seed, arguments.device
            outcome = killed_and_resumed(case, kills, images, Path(folder) / f"{index}", seed, device)
            failed |= bool(outcome.differences)
            seconds = f"{outcome.uninterrupted_s:.1f} s"
            cells = case, case.threads, case.minutes, seconds, outcome.kills, outcome.finished
            print(f"| {' | '.join(map(str, cells))} | {'; '.join(outcome.differences) or 'none'} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
