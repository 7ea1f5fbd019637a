"""One thing beside another, in turns, so that what else the machine does hits both.

A peer runs in a process of its own, as it would for its users: with its own threads, and with the memory settings of
the system rather than ours.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
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
    theirs: Callable[..., Callable[[], object]],
    arguments: tuple,
    unit: str,
    count: float = 1,
    rounds: int = 5,
    times: int = 1,
) -> Row:
    """Run both in turns, after one run of each that is not counted.

    Args:
        theirs: a function of a module that, called with `arguments` in the peer's process, gives what is to be run.
        unit: of the rates shown: "images/s"; or "ms", for the time of one.
        count: how many of the unit one run does.
        times: how often ours does it in a run, where it is so much faster that one would be too short to measure.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    with _elsewhere(theirs, arguments) as run_theirs:
        for round_number in range(rounds + 1):
            for run, found in ((lambda: _seconds(ours), seconds[0]), (run_theirs, seconds[1])):
                gc.collect()
                taken = run()
                if round_number:
                    found.append(taken)
    each = [second / times / count for second in seconds[0]], [second / count for second in seconds[1]]
    ratios = [b / a for a, b in zip(*each, strict=True)]
    shown = [_shown(statistics.median(found), unit) for found in each]
    return Row(measure, shown[0], peer, shown[1], statistics.median(ratios), min(ratios), max(ratios))


def median_seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Of one run, after one that is not counted."""
    return statistics.median([_seconds(work) for _ in range(rounds + 1)][1:])


class PeerFailed(Exception):
    """What a peer could not be made or run for."""


@contextmanager
def _elsewhere(factory: Callable[..., Callable[[], object]], arguments: tuple):
    """A function that runs a peer once, in a process of its own, and gives the seconds that it took there.

    Raises:
        PeerFailed: it could not be made, or not be run.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, factory, arguments))
    process.start()
    there.close()

    def run() -> float:
        with suppress(OSError):  # it may have failed already, and said why
            here.send("run")
        try:
            answer = here.recv()
        except (EOFError, OSError):
            process.join()
            raise PeerFailed(f"its process ended ({process.exitcode})") from None
        if isinstance(answer, str):
            raise PeerFailed(answer)
        return answer

    try:
        yield run
    finally:
        here.close()
        process.join()


def _serve(pipe, factory: Callable[..., Callable[[], object]], arguments: tuple) -> None:
    try:
        work = factory(*arguments)
        while pipe.recv():
            pipe.send(_seconds(work))
    except EOFError:  # nobody asks any more
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _shown(seconds: float, unit: str) -> str:
    if unit == "ms":
        return f"{seconds * 1e3:.3g} ms"
    return f"{1 / seconds:,.0f} {unit}" if seconds < 0.01 else f"{1 / seconds:.3g} {unit}"
