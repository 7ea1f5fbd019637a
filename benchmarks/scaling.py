"""Training steps on several processes against one: images per second, and the time spent waiting for one another.

    python benchmarks/scaling.py [original small] [--seconds 30] [--rounds 3]

On a CPU, two processes of one thread each, in each way that the network allows, against one process of two threads and
one of one thread. The whole batch is the same in all. They run in turns, each time in new processes; the table has the
medians over the rounds, with the lowest and the highest. Nothing else should run on the machine. `benchmarks/gpu.py`
measures several GPUs by the same function.

After backward: from the end of the backward pass to the end of the sum of gradients, as a fraction of the step. In all:
in every call that waits for other processes; also while the processor works on what they sent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Literal

from alexnet.device import SPINNING

Way = Literal["data", "towers", "hybrid"]
COLUMNS = "network", "batch size", "processes", "threads", "way", "images/s", "after backward", "in all", "MB sent"


@dataclass(frozen=True)
class Case:
    """What is measured."""

    variant: str
    batch_size: int
    """The whole batch, over all processes."""
    processes: int = 1
    threads: int = 1
    way: Way = "data"
    device: str = "cpu"
    precision: str = "fp32"
    seconds: float = 30.0
    """For each number, after warmup."""


@dataclass(frozen=True)
class Measured:
    images_per_s: float
    after_backward: float
    """Fraction of the time from the end of the backward pass to the end of the sum of gradients."""
    in_exchange: float
    """Fraction of the time in calls that wait for other processes; on a GPU, that the processor spends in them."""
    megabytes: float
    """Moved in a step, by process 0's counts."""


def measured(case: Case, timeout_s: float = 600) -> Measured:
    """Run a case in new processes.

    Raises:
        RuntimeError: it fails, or takes too long.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"]
    command = (command if case.processes > 1 else [sys.executable]) + [__file__, "--case", json.dumps(asdict(case))]
    environment = os.environ | SPINNING | {"OMP_NUM_THREADS": str(case.threads)}  # as the command sets it
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{case} did not finish within {timeout_s:.0f} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{case} failed:\n{done.stderr[-2000:]}")
    return Measured(**json.loads(lines[-1]))


def run(case: Case) -> None:
    """In one of the processes: take steps, and print what process 0 has measured."""
    from alexnet.parallel.group import joined

    with joined() as group:
        result = steps(group, case)
        if group.is_first:
            print(json.dumps(asdict(result)), flush=True)


def steps(group, case: Case) -> Measured:
    """Take steps with the processes of a group until the time is up."""
    import torch

    device = torch.device(case.device, torch.cuda.current_device() if case.device == "cuda" else None)
    torch.manual_seed(0)
    step, strategy = prepared(case, group, device)
    clock = Clock(device)
    strategy.sum_gradients = clock.timing(strategy.sum_gradients)
    for _ in range(3):
        step()
    group.counts.clear()
    clock.durations.clear()
    waited_before, count, moved = group.waited_s, 0, 0
    started = time.perf_counter()
    while count == 0 or not strategy.agree(time.perf_counter() - started > case.seconds):
        step()
        count += 1
        moved = moved or sum(each.bytes for each in group.counts.values())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed_s = time.perf_counter() - started
    waited_s = group.waited_s - waited_before
    return Measured(count * case.batch_size / elapsed_s, clock.total_s() / elapsed_s, waited_s / elapsed_s, moved / 1e6)


def prepared(case: Case, group, device):
    """A function that takes a step on images of this process, which stay the same, and what divides the work."""
    import numpy as np
    import torch

    from alexnet.data.batches import Batch
    from alexnet.device import keep_freed_memory, torch_dtype
    from alexnet.model.network import AlexNet
    from alexnet.parallel.divided import strategy_of
    from alexnet.specs.recipes import recipe
    from alexnet.specs.variants import variant
    from alexnet.training.optimizer import optimizer_of
    from alexnet.training.step import MicroBatches

    keep_freed_memory()
    architecture = variant(case.variant)
    network, chosen = AlexNet(architecture).train(), recipe(architecture.recipe)
    network.to(device)
    strategy = strategy_of(case.way, network, group)
    strategy.module.train().to(memory_format=torch.channels_last)
    stepper = MicroBatches(strategy, optimizer_of(strategy.module, chosen), chosen, case.precision)
    rows, side = strategy.rows(case.batch_size), architecture.input_size
    views = torch.randn(rows.stop - rows.start, side, side, 3, device=device).mul_(60).permute(0, 3, 1, 2)
    views = views.to(torch_dtype(case.precision))
    labels = torch.randint(network.num_classes, (case.batch_size,), device=device)
    batch = Batch(views, labels, np.arange(case.batch_size), 0)
    return lambda: stepper.step(views, batch), strategy


class Clock:
    """Sums up the time of a function, on a GPU that of the GPU."""

    def __init__(self, device):
        self.device, self.durations = device, []

    def timing(self, function: Callable[[], None]) -> Callable[[], None]:
        import torch

        def timed() -> None:
            if self.device.type == "cuda":
                before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                before.record()
                function()
                after.record()
                self.durations.append((before, after))
            else:
                started = time.perf_counter()
                function()
                self.durations.append(time.perf_counter() - started)

        return timed

    def total_s(self) -> float:
        if self.device.type == "cuda":
            return sum(before.elapsed_time(after) for before, after in self.durations) / 1e3
        return sum(self.durations)


def cases(variant: str, batch_size: int, seconds: float) -> list[Case]:
    """On two cores: one process with one and with two threads, and two processes with one thread, in each way."""
    from alexnet.specs.shapes import count_towers, infer_shapes
    from alexnet.specs.variants import VARIANTS

    ways = ["data", *(["towers"] if count_towers(infer_shapes(VARIANTS[variant])) == 2 else []), "hybrid"]
    alone = [Case(variant, batch_size, 1, threads, seconds=seconds) for threads in (1, 2)]
    return [*alone, *(Case(variant, batch_size, 2, 1, way, seconds=seconds) for way in ways)]


def row(case: Case, results: list[Measured]) -> tuple[str, ...]:
    speeds = sorted(each.images_per_s for each in results)
    speed = f"{median(speeds):,.1f} ({speeds[0]:,.1f} … {speeds[-1]:,.1f})"
    waiting = (f"{median(getattr(each, name) for each in results):.1%}" for name in ("after_backward", "in_exchange"))
    about = case.variant, f"{case.batch_size}", f"{case.processes}", f"{case.threads}", case.way
    return *about, speed, *waiting, f"{results[0].megabytes:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=["original", "small"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        return run(Case(**json.loads(given.case)))
    results: dict[Case, list[Measured]] = {}
    for _ in range(given.rounds):
        for variant in given.variants:
            for case in cases(variant, given.batch_size, given.seconds):
                results.setdefault(case, []).append(measured(case))
    print("\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS))))
    for case, each in results.items():
        print(f"| {' | '.join(row(case, each))} |")


if __name__ == "__main__":
    main()
