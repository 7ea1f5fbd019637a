"""Work on images on all cores, in processes of their own.

Threads would wait for one another's Python; and a decoder that a broken image brings down, or never lets go, takes only
its own process along, so that the image can be named and left out. The processes are started here rather than by
`multiprocessing`, which would run the user's script again in each.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

CHUNK = 16
"""Images that a process takes at a time."""
ALONE = 0
"""Up to so many images are done in this process, without the safety of others; tests do so, as it is quicker."""
PATIENCE_S = 120.0
"""Seconds for a chunk; then its process is ended, and each of its images gets as long."""
START = "from alexnet.data.pack.workers import serve; serve()"


class Task(Protocol):
    """What is done with each image; pickled once for every process."""

    def do(self, number: int, place: Any) -> Any:
        """The result for an image, or Failed where the image is to blame; anything that is raised ends the work."""


@dataclass(frozen=True)
class Failed:
    reason: str


def run_task(task: Task, images: Iterable[tuple[int, Any]], count: int, workers: int) -> Iterator[list]:
    """What a task gives for every image, in their order, some at a time.

    Args:
        images: numbers and places.
        count: how many of them there are.
    """
    images = iter(images)
    chunks = iter(lambda: list(itertools.islice(images, CHUNK)), [])
    if count <= ALONE:
        yield from ([task.do(*image) for image in chunk] for chunk in chunks)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    processes = [_Process(task) for _ in range(min(workers, -(-count // CHUNK)))]
    for process in processes:
        idle.put(process)

    def with_some_process(chunk: list) -> list:
        process = idle.get()
        try:
            return process.do(chunk)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(len(processes))
    under_way: deque[Future] = deque()
    try:
        for chunk in chunks:
            under_way.append(pool.submit(with_some_process, chunk))
            if len(under_way) > 4 * len(processes):  # a million are not put in line at once
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for process in processes:  # all chunks are done, or are of no use
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.end()


def serve() -> None:
    """What a process does: the chunks that it is sent, until there are no more."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not taken for a reply
    task = pickle.load(requests)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the other side has ended, or died
        while True:
            chunk = pickle.load(requests)
            try:
                reply = [task.do(*image) for image in chunk]
            except Exception as error:
                reply = error
            pickle.dump(reply, replies)
            replies.flush()


class _Process:
    """A process that does a task, begun anew when it dies."""

    def __init__(self, task: Task):
        self.work = pickle.dumps(task)
        self.process: subprocess.Popen | None = None
        self.unwanted = False

    def do(self, chunk: Sequence[tuple[int, Any]]) -> list:
        started = time.monotonic()
        try:
            process = self._running()
            with _ended_after(PATIENCE_S, process):
                pickle.dump(chunk, process.stdin)
                process.stdin.flush()
                reply = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code, late = self.end(), time.monotonic() - started >= PATIENCE_S
            if len(chunk) > 1 and not self.unwanted:
                return [result for image in chunk for result in self.do([image])]  # one of them is the cause
            why = f"was not done after {PATIENCE_S:.0f} seconds" if late else f"died ({code})"
            return [Failed(f"the process that decoded it {why}")] * len(chunk)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def kill(self) -> None:
        self.unwanted = True
        if self.process is not None:
            self.process.kill()

    def end(self) -> int | None:
        """End the process; its exit code."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError, ValueError):  # what was still to be written has nobody to read it
                pipe.close()
        return process.wait()

    def _running(self) -> subprocess.Popen:
        if self.process is None:
            here = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
            path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
            self.process = subprocess.Popen(
                [sys.executable, "-c", START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the run, which ends its processes itself
            )
            self.process.stdin.write(self.work)
        return self.process


@contextlib.contextmanager
def _ended_after(seconds: float, process: subprocess.Popen) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
