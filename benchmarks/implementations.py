"""Whether training depends on the implementation of LRN, crops and updates: C kernels or plain PyTorch.

    python benchmarks/implementations.py [--steps 200] [--variant small] [--precision fp32]

Trains on the bundled drawings three times: with the C kernels, in plain PyTorch, and in plain PyTorch from another
seed. Prints the loss curves, means over 20 steps, and their largest differences.
"""

from __future__ import annotations

import argparse
import os
from itertools import islice

import numpy as np

from alexnet.data.sources.detection import open_source
from alexnet.kernels import library
from alexnet.specs.settings import TrainSettings
from alexnet.training.loop import Step, Training, train
from alexnet.training.plan import make_plan


def loss_curve(variant: str, steps: int, precision: str, kernels: bool, seed: int) -> np.ndarray:
    """Losses of the first steps, means over 20."""
    os.environ["ALEXNET_KERNELS"] = "1" if kernels else "0"
    library.cache_clear()
    if kernels and library() is None:
        raise SystemExit("the C kernels were not compiled")
    events = train(Training(make_plan(open_source("emoji"), TrainSettings(variant=variant)), seed, "cpu", precision))
    losses = islice((event.step_loss for event in events if isinstance(event, Step)), steps // 20 * 20)
    return np.array(list(losses)).reshape(-1, 20).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--variant", default="small")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    runs = {"C kernels": (True, 0), "plain PyTorch": (False, 0), "another seed": (False, 1)}
    curves = {}
    for name, (kernels, seed) in runs.items():
        curves[name] = loss_curve(arguments.variant, arguments.steps, arguments.precision, kernels, seed)
        print(f"{name:>13}: " + " ".join(f"{loss:.4f}" for loss in curves[name]), flush=True)
    for name in ("plain PyTorch", "another seed"):
        largest = np.abs(curves["C kernels"] - curves[name]).max()
        print(f"C kernels and {name} differ by at most {largest:.4f}")


if __name__ == "__main__":
    main()
