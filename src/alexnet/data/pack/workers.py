"""Runs a task on many images, in worker processes.

Threads would wait for Python's lock; and a decoder that crashes or hangs on a broken image ends only its own process,
so that the image can be named and skipped. The processes are started here rather than by `multiprocessing`, which would
run the user's script again in each of them.
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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from ..progress import ahead

CHUNK = 16
"""Images sent to a process at a time."""
MAX_INLINE = 0
"""Up to this many images are done in this process, without the safety of others; tests raise it to save time."""
TIMEOUT_S = 120.0
"""Seconds for a chunk, after which its process is killed and each of its images is given as many."""
START = "from alexnet.data.pack.workers import serve; serve()"


class Task(Protocol):
    """What is done with each image; pickled once for each process."""

    def run(self, index: int, location: Any) -> Any:
        """The result for an image, or Failed if the image is to blame; any exception ends the work."""


@dataclass(frozen=True)
class Failed:
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Failed:
        return cls(str(error) or type(error).__name__)


def run_task(task: Task, images: Iterable[tuple[int, Any]], count: int, workers: int) -> Iterator[list]:
    """The results of a task for all images, in order, some at a time.

    Args:
        images: indices and locations.
        count: how many images there are.
    """
    images = iter(images)
    chunks = iter(lambda: list(itertools.islice(images, CHUNK)), [])
    if count <= MAX_INLINE:
        yield from ([task.run(*image) for image in chunk] for chunk in chunks)
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    processes = [_Worker(task) for _ in range(min(workers, -(-count // CHUNK)))]
    for process in processes:
        idle.put(process)

    def run_chunk(chunk: list) -> list:
        process = idle.get()
        try:
            return process.run(chunk)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(len(processes))
    submitted = (pool.submit(run_chunk, chunk) for chunk in chunks)
    try:
        for future in ahead(submitted, 4 * len(processes)):  # a short queue, however many images there are
            yield future.result()
    finally:
        for process in processes:  # all chunks are done, or their results are not wanted
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


def serve() -> None:
    """The main function of a worker process: runs the chunks that it is sent, until there are no more."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that output of libraries is not mistaken for a reply
    task = pickle.load(requests)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        while True:
            chunk = pickle.load(requests)
            try:
                reply = [task.run(*image) for image in chunk]
            except Exception as error:
                reply = error
            pickle.dump(reply, replies)
            replies.flush()


class _Worker:
    """A process that runs a task, restarted when it dies."""

    def __init__(self, task: Task):
        self.task = pickle.dumps(task)
        self.process: subprocess.Popen | None = None
        self.killed = False

    def run(self, chunk: Sequence[tuple[int, Any]]) -> list:
        started = time.monotonic()
        try:
            process = self._started()
            timer = threading.Timer(TIMEOUT_S, process.kill)
            timer.daemon = True
            timer.start()
            try:
                pickle.dump(chunk, process.stdin)
                process.stdin.flush()
                reply = pickle.load(process.stdout)
            finally:
                timer.cancel()
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code, timed_out = self.close(), time.monotonic() - started >= TIMEOUT_S
            if len(chunk) > 1 and not self.killed:
                return [result for image in chunk for result in self.run([image])]  # one of them is the cause
            reason = f"timed out after {TIMEOUT_S:.0f} seconds" if timed_out else f"crashed (exit code {code})"
            return [Failed(f"the process that decoded it {reason}")] * len(chunk)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def kill(self) -> None:
        self.killed = True
        if self.process is not None:
            self.process.kill()

    def close(self) -> int | None:
        """Wait for the process to end; its exit code."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError, ValueError):  # nobody is left to read what is buffered
                pipe.close()
        return process.wait()

    def _started(self) -> subprocess.Popen:
        if self.process is None:
            root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
            path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            self.process = subprocess.Popen(
                [sys.executable, "-c", START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent, which ends its processes itself
            )
            self.process.stdin.write(self.task)
        return self.process
