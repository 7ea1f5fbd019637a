"""One thing beside another, in turns, so that what else the machine does hits both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A measure of ours beside a peer's."""

    measure: str
    ours: str
    peer: str
    theirs: str
    ratio: float
    """How many times faster ours is: the median over all rounds."""
    least: float
    most: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.measure,
            self.ours,
            self.peer,
            self.theirs,
            f"{self.ratio:.2f}",
            f"{self.least:.2f} … {self.most:.2f}",
        )


HEAD = "measure", "ours", "peer", "the peer's", "ratio", "least … most"
RIGHT = 1, 3, 4, 5
"""Columns of numbers."""


def compare(
    measure: str,
    ours: Callable[[], object],
    peer: str,
    theirs: Callable[[], object],
    unit: str,
    count: float = 1,
    rounds: int = 5,
    times: int = 1,
) -> Row:
    """Run both in turns, after one run of each that is not counted.

    Args:
        unit: of the rates shown: "images/s"; or "ms", for the time of one.
        count: how many of the unit one run does.
        times: how often ours does it in a run, where it is so much faster that one would be too short to measure.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_number in range(rounds + 1):
        for work, found in zip((ours, theirs), seconds, strict=True):
            gc.collect()
            started = time.perf_counter()
            work()
            if round_number:
                found.append(time.perf_counter() - started)
    each = [second / times / count for second in seconds[0]], [second / count for second in seconds[1]]
    ratios = [b / a for a, b in zip(*each, strict=True)]
    shown = [_shown(statistics.median(found), unit) for found in each]
    return Row(measure, shown[0], peer, shown[1], statistics.median(ratios), min(ratios), max(ratios))


def median_seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Of one run, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def _shown(seconds: float, unit: str) -> str:
    if unit == "ms":
        return f"{seconds * 1e3:.3g} ms"
    return f"{1 / seconds:,.0f} {unit}" if seconds < 0.01 else f"{1 / seconds:.3g} {unit}"
