"""Decode and resize images on all cores, in processes of their own.

Threads would wait for one another's Python; and a decoder that a broken image brings down takes only its own process
along, so that the image can be named and left out. The processes are started here rather than by `multiprocessing`,
which would run the user's script again in each.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from .resizing import square
from .sources import Source

CHUNK = 16
"""Images that a process takes at a time."""
ALONE = 200
"""Up to so many images are done sooner than a process is started."""
START = "from alexnet.data.decoding import serve; serve()"


@dataclass(frozen=True)
class Squares:
    """A part of a file into which images are written, (count, side, side, 3), uint8."""

    path: Path
    offset: int
    count: int
    side: int

    def open(self) -> FileIO:
        return FileIO(self.path, "r+")

    def write(self, file: FileIO, number: int, square: np.ndarray) -> None:
        """Through an open file: a mapped one would be fetched page by page first."""
        file.seek(self.offset + number * square.nbytes)
        file.write(square.data)


Unread = dict[int, str]
"""Numbers of images that could not be read, and why."""


def decode(source: Source, squares: Squares, workers: int) -> Iterator[tuple[int, Unread]]:
    """Write every image of a source into its place; gives, as they are done, how many and which could not be read."""
    chunks = [range(first, min(first + CHUNK, squares.count)) for first in range(0, squares.count, CHUNK)]
    if workers == 1 or squares.count <= ALONE:
        with squares.open() as file:
            yield from ((len(chunk), _decode_some(source, squares, file, chunk)) for chunk in chunks)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    processes = [_Process(source, squares) for _ in range(min(workers, len(chunks)))]
    for process in processes:
        idle.put(process)

    def with_some_process(chunk: range) -> tuple[int, Unread]:
        process = idle.get()
        try:
            return len(chunk), process.decode(chunk)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(len(processes))
    try:
        yield from pool.map(with_some_process, chunks)
    finally:
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


def serve() -> None:
    """What a process does: decode the chunks that it is sent, until there are no more."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not taken for a reply
    source, squares = pickle.load(requests)
    with squares.open() as file, contextlib.suppress(EOFError):
        while True:
            chunk = pickle.load(requests)
            pickle.dump(_decode_some(source, squares, file, chunk), replies)
            replies.flush()


class _Process:
    """A process that decodes, begun anew when it dies."""

    def __init__(self, source: Source, squares: Squares):
        self.work = pickle.dumps((source, squares))
        self.process: subprocess.Popen | None = None

    def decode(self, chunk: Sequence[int]) -> Unread:
        try:
            process = self._running()
            pickle.dump(chunk, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self.close()
        if len(chunk) == 1:
            return {chunk[0]: f"the process that decoded it died ({code})"}
        unread: Unread = {}
        for number in chunk:  # one of them is the cause
            unread |= self.decode([number])
        return unread

    def close(self) -> int | None:
        """End the process; its exit code."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what was still to be written has nobody to read it
                pipe.close()
        return process.wait()

    def _running(self) -> subprocess.Popen:
        if self.process is None:
            here = str(Path(__file__).parents[2])
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


def _decode_some(source: Source, squares: Squares, file: FileIO, numbers: Sequence[int]) -> Unread:
    unread: Unread = {}
    for number in numbers:
        try:
            with source.open(number) as image:
                squares.write(file, number, square(image, squares.side))
        except Exception as error:  # whatever a broken file makes a decoder raise
            unread[number] = f"{source.entries[number].name}: {error}"
    return unread
