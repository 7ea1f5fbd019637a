"""Progress of long work: the work yields counts, and whoever started it may watch them."""

from collections.abc import Callable, Iterable

Track = Callable[[Iterable[int], int | None], Iterable[int]]
"""Wraps an iterable of counts, given (counts, total), to show progress; total is None if unknown."""


def run_tracked(counts: Iterable[int], total: int | None, track: Track | None) -> None:
    """Run work to its end, shown by `track`, if any."""
    for _ in track(counts, total) if track else counts:
        pass
