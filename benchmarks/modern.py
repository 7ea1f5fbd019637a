"""Networks, each by its own recipe, on the same images: mean and deviation of the accuracy over seeds.

    python benchmarks/modern.py DATA [VARIANT ...] [--side 99] [--epochs 40] [--seeds 0 1 2] [--precision auto]

original (the recipe of 2012) and batch-norm (the recipe modern) where none is named. Errors are counted on test, or on
val where there is no test, of the last weights, which nothing chose. `--side` has networks see crops of that many
pixels, to save time; `--epochs` stretches every schedule.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import mean, stdev

import torch

from alexnet.device import describe_device, keep_freed_memory, pick_device, pick_precision
from alexnet.evaluation.evaluation import evaluate
from alexnet.specs.variants import VARIANTS
from alexnet.training.loop import train
from alexnet.training.plan import evaluation_images, make_plan


def accuracy(name: str, data: str, side: int | None, epochs: int | None, seed: int, device, precision: str) -> float:
    """Top-1, by all views, after training from new weights."""
    architecture = VARIANTS[name]
    if side is not None:
        stored = round(side * architecture.stored_size / architecture.input_size)
        architecture = replace(architecture, input_size=side, stored_size=stored)
    plan = make_plan(data, architecture, changes={"epochs": epochs})
    bundle = plan.untrained(seed, device)
    train(bundle, plan, seed=seed, precision=precision)
    numbers = evaluation_images(plan.packed, None)
    return evaluate(bundle, plan.packed, numbers, precision=precision).all_views.top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("variants", nargs="*", default=["original", "batch-norm"])
    parser.add_argument("--side", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = pick_device()
    precision = pick_precision(arguments.precision, device)
    print(f"{describe_device(device, precision)}, torch {torch.__version__}\n", flush=True)
    for name in arguments.variants:
        sizes = arguments.side, arguments.epochs
        found = [accuracy(name, arguments.data, *sizes, seed, device, precision) for seed in arguments.seeds]
        spread = f" ± {stdev(found):.1%}" if found[1:] else ""
        each = ", ".join(f"{one:.1%}" for one in found)
        print(f"| `{name}` | `{VARIANTS[name].recipe}` | {mean(found):.1%}{spread} | {each} |", flush=True)


if __name__ == "__main__":
    main()
