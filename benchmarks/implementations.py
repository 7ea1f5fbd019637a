"""Whether training depends on how normalization, crops and updates are computed: with the kernels in C and without.

    python benchmarks/implementations.py [--steps 200] [--variant small] [--precision fp32]

Trains on the bundled drawings three times: with kernels, in plain torch, and in plain torch from another seed. Prints
the largest difference between the curves of the loss, means over 20 steps.
"""

from __future__ import annotations

import argparse
import contextlib
import os

import numpy as np
import torch

from alexnet.kernels import library
from alexnet.specs.variants import variant
from alexnet.training.loop import train
from alexnet.training.plan import make_plan


class Enough(Exception):
    """As many steps as were asked for."""


def curve(name: str, steps: int, precision: str, kernels: bool, seed: int) -> np.ndarray:
    """Losses of so many steps, means over 20."""
    os.environ["ALEXNET_KERNELS"] = "1" if kernels else "0"
    library.cache_clear()
    if kernels and library() is None:
        raise SystemExit("the kernels were not compiled")
    plan = make_plan("emoji", variant(name))
    losses = []

    def on_step(report) -> None:
        losses.append(report.step_loss)
        if len(losses) == steps:
            raise Enough

    with contextlib.suppress(Enough):
        train(plan.untrained(seed, torch.device("cpu")), plan, seed=seed, precision=precision, on_step=on_step)
    return np.array(losses)[: steps // 20 * 20].reshape(-1, 20).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--variant", default="small")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    runs = {"kernels": (True, 0), "plain torch": (False, 0), "another seed": (False, 1)}
    curves = {name: curve(arguments.variant, arguments.steps, arguments.precision, *run) for name, run in runs.items()}
    for name, found in curves.items():
        print(f"{name:>12}: " + " ".join(f"{loss:.4f}" for loss in found))
    for name in ("plain torch", "another seed"):
        print(f"kernels and {name} differ by {np.abs(curves['kernels'] - curves[name]).max():.4f} at most")


if __name__ == "__main__":
    main()
