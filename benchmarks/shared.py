"""What the benchmarks that train networks on a data set share: their arguments, and networks for smaller images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from alexnet.device import Precision, describe_device, keep_freed_memory, pick_device, pick_precision
from alexnet.specs.architecture import Architecture
from alexnet.specs.variants import variant


def argument_parser(description: str, variants: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of DATA [VARIANT ...] [--side] [--precision]."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what `alexnet train` takes")
    parser.add_argument("variants", nargs="*", default=list(variants))
    parser.add_argument("--side", type=int, help="input size, pixels, for networks with a larger one, to save time")
    parser.add_argument("--precision", default="auto")
    return parser


def start(precision: str) -> tuple[torch.device, Precision]:
    """The device and the precision, which are printed."""
    keep_freed_memory()
    device = pick_device()
    picked = pick_precision(precision, device)
    print(f"{describe_device(device, picked)}, torch {torch.__version__}\n", flush=True)
    return device, picked


def sized(name: str, side: int | None) -> Architecture:
    """A variant with another input size, if its own is larger; the stored size changes in proportion."""
    architecture = variant(name)
    if side is None or side >= architecture.input_size:
        return architecture
    stored = round(side * architecture.stored_size / architecture.input_size)
    return replace(architecture, input_size=side, stored_size=stored)
