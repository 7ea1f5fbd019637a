"""Ours against a peer, measured in alternation, so that whatever else the machine does affects both.

A peer runs in a process of its own, as it would for its users: with its own threads and the system's memory settings
rather than ours.
"""

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median

Work = Callable[[], object]
"""One run of what is measured."""


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
RIGHT = 1, 3, 4, 5
"""Right-aligned columns."""


def compare(
    task: str,
    ours: Work,
    peer: str,
    theirs: Callable[[], Work],
    *,
    count: int = 1,
    unit: str = "images/s",
    rounds: int = 5,
    repeats: int = 1,
) -> Row:
    """Run ours and the peer alternately, after one warmup run of each.

    Args:
        theirs: called in the peer's process, returns its work; must be picklable.
        count: images per run.
        unit: "images/s", or "ms" for the time of one run.
        repeats: how often ours does the task per run, for tasks that it does too fast to measure.

    Raises:
        PeerFailed: the peer cannot be set up or run.
    """
    our_seconds: list[float] = []
    peer_seconds: list[float] = []
    with _peer_process(theirs) as run_peer:
        for _ in range(rounds + 1):
            gc.collect()
            our_seconds.append(_seconds(ours) / repeats)
            gc.collect()
            peer_seconds.append(run_peer())
    our_seconds, peer_seconds = our_seconds[1:], peer_seconds[1:]
    speedups = [b / a for a, b in zip(our_seconds, peer_seconds, strict=True)]
    shown = [_shown(median(seconds) / count, unit) for seconds in (our_seconds, peer_seconds)]
    return Row(task, shown[0], peer, shown[1], median(speedups), min(speedups), max(speedups))


def median_seconds(work: Work, rounds: int = 5) -> float:
    """Median time of a run, after one warmup run."""
    return median([_seconds(work) for _ in range(rounds + 1)][1:])


class PeerFailed(Exception):
    """A peer cannot be set up or run; the message says why."""


@contextmanager
def _peer_process(factory: Callable[[], Work]) -> Iterator[Callable[[], float]]:
    """A function that runs a peer once, in a process of its own, and returns the seconds that the run took there."""
    context = multiprocessing.get_context("spawn")
    pipe, peer_pipe = context.Pipe()
    process = context.Process(target=_serve, args=(peer_pipe, factory))
    process.start()
    peer_pipe.close()

    def run() -> float:
        with suppress(OSError):  # the process may have failed already and sent its error
            pipe.send("run")
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            process.join()
            raise PeerFailed(f"its process ended with exit code {process.exitcode}") from None
        if isinstance(answer, str):
            raise PeerFailed(answer)
        return answer

    try:
        yield run
    finally:
        pipe.close()
        process.join()


def _serve(pipe, factory: Callable[[], Work]) -> None:
    try:
        work = factory()
        while pipe.recv():
            pipe.send(_seconds(work))
    except EOFError:  # the other end is closed
        return
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}")


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _shown(seconds: float, unit: str) -> str:
    if unit == "ms":
        return f"{seconds * 1e3:.3g} ms"
    return f"{1 / seconds:,.0f} {unit}" if seconds < 0.01 else f"{1 / seconds:.3g} {unit}"
