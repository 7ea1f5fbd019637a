"""How much other programs slow a training step and a prediction down, by how long OpenMP's threads wait at full speed.

    python benchmarks/busy.py [--variant original] [--batch-size 16] [--seconds 20] [--competitors 0 1 2]

Each row is a process of its own, with settings that it must read before torch is loaded. A competitor is a process
that calculates without end on one thread. Prints a Markdown table of medians, with the fastest and the slowest run.
Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from alexnet.device import SPINNING, processors

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
SETTINGS = {
    "all threads, the libraries' defaults": {},
    "all threads, as the command sets it": SPINNING,
    "all threads, a tenth of that": {"GOMP_SPINCOUNT": "1000"},
    "all threads, passive": PASSIVE,
    "one thread": {"OMP_NUM_THREADS": "1"},
}
COMPETITOR = "while True: sum(range(100_000))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="original")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20, help="for each number, after warmup")
    parser.add_argument("--competitors", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        return print(json.dumps(measure(given.variant, given.batch_size, given.seconds)))
    print(f"{processors()} processors, {given.variant}, fp32\n")
    print("| competing processes | threads and waiting | step, ms | one image, one view, ms |")
    print("|---|---|---|---|", flush=True)
    for count in given.competitors:
        for name, settings in SETTINGS.items():
            with competitors(count):
                command = [sys.executable, *sys.argv, "--run"]
                output = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=True)
            print(f"| {count} | {name} | {' | '.join(json.loads(output.stdout))} |", flush=True)


def environment(settings: dict[str, str]) -> dict[str, str]:
    names = {name for each in SETTINGS.values() for name in each}
    return {name: value for name, value in os.environ.items() if name not in names} | settings


@contextlib.contextmanager
def competitors(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", COMPETITOR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(variant: str, batch_size: int, seconds: float) -> list[str]:
    """Times of a training step and of a prediction, in words."""
    import numpy as np
    import torch

    from alexnet.bench.measure import Settings
    from alexnet.bench.parts import trained
    from alexnet.data.batches import Batch
    from alexnet.device import keep_freed_memory
    from alexnet.evaluation.inference import probabilities

    keep_freed_memory()
    torch.manual_seed(0)
    settings = Settings(torch.device("cpu"), "fp32", batch_size)
    bundle, stepper = trained(variant, settings)
    inputs = bundle.preprocessing
    stored = torch.randint(256, (batch_size, inputs.stored_size, inputs.stored_size, 3), dtype=torch.uint8)
    labels = torch.randint(len(bundle.classes), (batch_size,))
    views, batch = inputs.center_crop(stored), Batch(stored, labels, np.arange(batch_size), 0)
    image = stored[:1]
    return [
        timed(lambda: stepper.step(views, batch), seconds),
        timed(lambda: probabilities(bundle, image, all_views=False), seconds),
    ]


def timed(work, seconds: float) -> str:
    work(), work()
    durations, until = [], time.perf_counter() + seconds
    while not durations or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        durations.append(1e3 * (time.perf_counter() - started))
    return f"{median(durations):.3g} ({min(durations):.3g} … {max(durations):.3g})"


if __name__ == "__main__":
    main()
