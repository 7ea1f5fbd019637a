"""Ours against a peer, measured in alternation, so that whatever else the machine does affects both.

A peer runs in a process of its own, as it would for its users: with its own threads and the system's memory settings
rather than ours.
"""

import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from ..device import Precision, torch_dtype, users_environment

Work = Callable[[], object]
"""One run of what is measured."""


@dataclass(frozen=True)
class Settings:
    """Where and how much is measured."""

    device: torch.device
    precision: Precision
    batch_size: int = 128
    rounds: int = 5
    images: int = 1000
    """JPEGs of 500 × 375 for packing and reading."""

    @property
    def dtype(self) -> torch.dtype:
        return torch_dtype(self.precision)


@dataclass(frozen=True)
class Row:
    """Our speed at a task and a peer's."""

    task: str
    ours: str
    peer: str
    theirs: str
    speedup: float
    """How many times faster ours is, the median over all rounds."""
    min_speedup: float
    max_speedup: float

    def cells(self) -> tuple[str, ...]:
        extent = f"{self.min_speedup:.2f} … {self.max_speedup:.2f}"
        return self.task, self.ours, self.peer, self.theirs, f"{self.speedup:.2f}", extent


HEADER = "task", "ours", "peer", "the peer's", "speedup", "min … max"
Result = Row | str
"""A string is a note: what was not measured and why, or a number without a peer."""


def compare(
    settings: Settings,
    task: str,
    ours: Work,
    peer: str,
    theirs: Callable[[], Work],
    *,
    rounds: int = 1,
    count: int = 1,
    unit: str = "images/s",
    repeats: int = 1,
) -> Result:
    """Run ours and the peer alternately, after one warmup run of each; a note if the peer fails.

    Args:
        rounds: times those of the settings.
        theirs: called in the peer's process, returns its work; must be picklable.
        count: images per run.
        unit: "images/s", or "ms" for the time of one run.
        repeats: how often ours does the task per run, for tasks that it does too fast to measure.
    """
    our_seconds: list[float] = []
    peer_seconds: list[float] = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process, users_environment():
        for call in (partial(_set_up, theirs), *[_peer_seconds] * (rounds * settings.rounds + 1)):
            try:
                peer_seconds.append(process.submit(call).result())
            except Exception as error:
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
                return f"{task}, against {peer}: not measured ({reason})"
            gc.collect()
            our_seconds.append(_seconds(ours) / repeats)
    return summarized(task, our_seconds[2:], peer, peer_seconds[2:], count, unit)


def summarized(
    task: str, our_seconds: Sequence[float], peer: str, peer_seconds: Sequence[float], count: int, unit: str
) -> Row:
    speedups = [b / a for a, b in zip(our_seconds, peer_seconds, strict=True)]
    ours, theirs = (_shown(median(seconds) / count, unit) for seconds in (our_seconds, peer_seconds))
    return Row(task, ours, peer, theirs, median(speedups), min(speedups), max(speedups))


def median_seconds(work: Work, rounds: int) -> float:
    """Median time of a run, after one warmup run."""
    return median([_seconds(work) for _ in range(rounds + 1)][1:])


def _set_up(theirs: Callable[[], Work]) -> None:
    """In the peer's process, prepare its work."""
    global _peer
    _peer = theirs()


def _peer_seconds() -> float:
    return _seconds(_peer)


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_initialized():  # a GPU works asynchronously
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _shown(seconds: float, unit: str) -> str:
    if unit == "ms":
        return f"{seconds * 1e3:.3g} ms"
    return f"{1 / seconds:,.0f} {unit}" if seconds < 0.01 else f"{1 / seconds:.3g} {unit}"
