"""Runs a task on many images, in worker processes.

Threads would wait for Python's lock; and a decoder that crashes or hangs on a broken image ends only its own process,
so that the image can be named and skipped. The processes are started here rather than by `multiprocessing`, which would
run the user's script again in each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from ...device import share_memory
from ..progress import ahead

CHUNK = 16
"""Images sent to a process at a time."""
MAX_INLINE = 0
"""Up to this many images are done in this process, without the safety of others; tests raise it to save time."""
TIMEOUT_S = 120.0
"""Seconds for a chunk, after which its process is killed and each of its images is given as many: the disk hangs."""
IMAGE_CPU_S = 30
"""Seconds of processor time for an image, after which its process ends."""
PR_SET_PDEATHSIG = 1
"""Linux's `prctl` number of the signal that ends a process with the thread that started it."""
START = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

spec = PathFinder.find_spec("alexnet", [sys.argv[1]])
sys.modules["alexnet"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["alexnet"])
from alexnet.data.pack.workers import serve

serve(int(sys.argv[2]))
"""
"""What a process runs: this package and not another of its name, and nothing from the current folder, whose files may
be named as modules are (Python is started with -P)."""


class Task(Protocol):
    """What is done with each image; pickled once for each process."""

    def run(self, index: int, location: Any) -> Any:
        """The result for an image, or Failed if the image is to blame; any exception ends the work."""


@dataclass(frozen=True)
class Failed:
    """Why there is no result for an image."""

    reason: str
    is_passing: bool = False
    """Whether the system is to blame rather than the image, so that another attempt may succeed."""

    @classmethod
    def of(cls, error: Exception) -> Failed:
        if isinstance(error, MemoryError):
            return cls("it needs more memory than a process may use; use fewer workers", is_passing=True)
        # Decoders raise OSError without a number, and EINVAL is what is no file, or a position that a header claims.
        is_passing = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        return cls(str(error) or type(error).__name__, is_passing)


def run_task(task: Task, images: Iterable[tuple[int, Any]], count: int, workers: int) -> Iterator[list]:
    """The results of a task for all images, in order, some at a time.

    Args:
        images: indices and locations.
        count: how many images there are.

    Raises:
        OSError: a process cannot be started.
    """
    images = iter(images)
    chunks = iter(lambda: list(itertools.islice(images, CHUNK)), [])
    if count <= MAX_INLINE:
        yield from ([task.run(*image) for image in chunk] for chunk in chunks)
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    workers = min(workers, -(-count // CHUNK))
    processes = [_Worker(task, workers) for _ in range(workers)]
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


def serve(processes: int) -> None:
    """The main function of one of so many worker processes: runs the chunks that it is sent, until there are no more.

    It first replies that it is ready.
    """
    if sys.platform == "linux":  # elsewhere it finishes its chunk first
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that output of libraries is not mistaken for a reply
    task = pickle.load(requests)
    share_memory(processes)
    pickle.dump(None, replies)
    replies.flush()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        while True:
            chunk = pickle.load(requests)
            try:
                reply = [_timed(task, image) for image in chunk]
            except Exception as error:
                reply = error
            pickle.dump(reply, replies)
            replies.flush()


def _timed(task: Task, image: tuple[int, Any]) -> Any:
    """The result for an image; ends the process after IMAGE_CPU_S."""
    if not hasattr(signal, "setitimer"):  # Windows
        return task.run(*image)
    signal.setitimer(signal.ITIMER_PROF, IMAGE_CPU_S)
    try:
        return task.run(*image)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Worker:
    """A process that runs a task, one of several, restarted when it dies."""

    def __init__(self, task: Task, processes: int):
        self.task, self.processes = pickle.dumps(task), processes
        self.process: subprocess.Popen | None = None
        self.killed = False

    def run(self, chunk: Sequence[tuple[int, Any]]) -> list:
        process, started = self._started(), time.monotonic()
        try:
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
            return [_failure(code, timed_out)] * len(chunk)
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
            path = os.pathsep.join(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, root, str(self.processes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},  # else one per processor in each
                start_new_session=True,  # Ctrl-C is for the parent, which ends its processes itself
            )
            try:
                self.process.stdin.write(self.task)
                self.process.stdin.flush()
                pickle.load(self.process.stdout)
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                raise OSError(f"a process that decodes images cannot start (exit code {self.close()})") from None
        return self.process


def _failure(code: int | None, timed_out: bool) -> Failed:
    """Why there is no result from a process that ended with this code when it had one image alone."""
    if timed_out:
        return Failed(f"the process that decoded it timed out after {TIMEOUT_S:.0f} seconds", is_passing=True)
    if code == -getattr(signal, "SIGPROF", 0):
        return Failed(f"it takes more than {IMAGE_CPU_S} seconds to decode")
    # Killed from outside, as by the system when memory runs out; a crash has another signal.
    is_passing = code in (-getattr(signal, name, 0) for name in ("SIGKILL", "SIGTERM", "SIGHUP"))
    return Failed(f"the process that decoded it crashed (exit code {code})", is_passing)
