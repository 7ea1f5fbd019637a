"""Long work: it yields counts, which whoever started it may watch, and is begun ahead of its use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

Track = Callable[[Iterable[int], int | None], Iterable[int]]
"""Wraps an iterable of counts, given (counts, total), to show progress; total is None if unknown."""


def run_tracked(counts: Iterable[int], total: int | None, track: Track | None) -> None:
    """Run work to its end, shown by `track`, if any."""
    for _ in track(counts, total) if track else counts:
        pass


def ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """The items in order, drawn `count` ahead of their use, as of work that begins when it is drawn."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
