"""How many steps each network needs, with its own recipe, to leave the loss of guessing.

A network that has learnt nothing answers with a loss of ln(classes). This trains each variant at the rates with which
its recipe starts until the mean loss of the last 20 steps is at most 0.8 · ln(classes), and prints a table.

    python benchmarks/plateau.py DATA [VARIANT ...] [--side 131] [--most 2000] [--precision auto] [--seed 0]

DATA is what `alexnet train` takes; all variants where none is named. `--side` has networks made for larger images see
crops of that many pixels, to save time.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections import deque
from dataclasses import replace

import torch

from alexnet.device import describe_device, keep_freed_memory, pick_device, pick_precision
from alexnet.specs.recipes import recipe
from alexnet.specs.variants import VARIANTS
from alexnet.training.loop import train
from alexnet.training.plan import make_plan

WINDOW = 20
SHARE = 0.8


class Left(Exception):
    """The plateau is behind."""


def steps_to_leave(
    name: str, data: str, side: int | None, most: int, device, precision: str, seed: int
) -> tuple[int | None, float]:
    """Steps until the loss is low enough, None where `most` did not do; and the loss then."""
    chosen = recipe(VARIANTS[name].recipe)
    if not getattr(chosen.schedule, "warm", 0):
        chosen = replace(chosen, epochs=100_000)  # so long that it stays at its first rates
    architecture = VARIANTS[name]
    if side is not None and side < architecture.input_size:
        stored = round(side * architecture.stored_size / architecture.input_size)
        architecture = replace(architecture, input_size=side, stored_size=stored)
    plan = make_plan(data, architecture, chosen)
    goal = SHARE * math.log(len(plan.packed.classes))
    losses: deque[float] = deque(maxlen=WINDOW)
    steps = 0

    def on_step(report) -> None:
        nonlocal steps
        steps += 1
        losses.append(report.step_loss)
        if steps % WINDOW == 0:
            print(f"{name}: {steps} steps, loss {sum(losses) / len(losses):.3f}", file=sys.stderr, flush=True)
        if (len(losses) == WINDOW and sum(losses) / WINDOW <= goal) or steps == most:
            raise Left

    with contextlib.suppress(Left):
        train(plan.untrained(seed, device), plan, seed=seed, precision=precision, on_step=on_step)
    mean = sum(losses) / len(losses)
    return (steps if mean <= goal else None), mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--side", type=int)
    parser.add_argument("--most", type=int, default=2000)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keep_freed_memory()
    device = pick_device()
    precision = pick_precision(arguments.precision, device)
    print(f"{describe_device(device, precision)}, torch {torch.__version__}\n", flush=True)
    for name in arguments.variants:
        limits = arguments.side, arguments.most
        steps, loss = steps_to_leave(name, arguments.data, *limits, device, precision, arguments.seed)
        shown = f"{steps}" if steps else f"more than {arguments.most}"
        print(f"| `{name}` | `{VARIANTS[name].recipe}` | {shown} | {loss:.3f} |", flush=True)


if __name__ == "__main__":
    main()
