"""Starts processes on this machine, by the launcher of torch.distributed, and yields what the first of them yields.

The processes are new interpreters, so that this works from a script without `if __name__ == "__main__"`, and from a
notebook. They get their work, and return what comes of it, over a local socket to the process that launched them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from . import is_launched
from .group import LostProcess, joined

ADDRESS, KEY = "ALEXNET_LAUNCHER", "ALEXNET_LAUNCHER_KEY"
"""Environment variables that tell a process where its launcher listens."""
WORK = "from alexnet.parallel.launch import work; work()"
FINAL = (ValueError, TypeError, OSError, KeyboardInterrupt)
"""What would fail again if it were started anew; not what dies, or has a fault."""
POLL_S = 0.2
"""Seconds between looks whether to stop."""
ENDED_S = 10.0
"""Seconds that the others have to end when one process has failed, before they are killed."""


class Killed(ChildProcessError):
    """A process was killed, or ended without a word."""


def launch(
    function: Callable[..., Iterator],
    arguments: tuple,
    processes: int,
    max_restarts: int = 0,
    stops: Callable[[], bool] = lambda: False,
) -> Generator[Any, None, None]:
    """Run `function(stop, *arguments)` on new processes of this machine, which find one another by
    `parallel.group.join`, and yield what it yields on the first of them.

    `stop()` says, on the first process, whether the work is to end where it can be resumed: when `stops()` says so
    here, and when this generator is closed, which then waits for the end of all processes.

    Args:
        function: a generator of a module that can be imported; it and what it takes and yields are pickled.
        max_restarts: how often all processes are started anew when one of them dies.

    Raises:
        ValueError: this process was itself launched, or something cannot be sent to others.
        Killed: a process was killed; or whatever the function raises on a process.
    """
    if is_launched():
        raise ValueError("processes must be left out under torchrun, which starts them")
    try:
        task = pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        must_be = "functions that several processes use must be in a module that can be imported, and no lambda"
        raise ValueError(f"{must_be} ({error})") from None
    with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
        key = secrets.token_hex(16)
        address = str(Path(folder) / "launcher") if os.name == "posix" else None
        with Listener(address, authkey=key.encode()) as listener:
            job = _Job(task, listener)
            threading.Thread(target=job.serve, daemon=True).start()
            environment = {
                ADDRESS: str(listener.address),
                KEY: key,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            agent = threading.Thread(target=job.run, args=(processes, max_restarts, environment), daemon=True)
            agent.start()
            try:
                yield from job.results(stops)
            finally:
                job.stop()
                agent.join()


class _Job:
    """Processes under way, seen from the one that launched them."""

    def __init__(self, task: bytes, listener: Listener):
        self.task, self.listener = task, listener
        self.received: queue.Queue = queue.Queue()
        self.first: Connection | None = None
        self.error: BaseException | None = None
        self.is_stopped = False

    def serve(self) -> None:
        """Give the processes their work, and receive what comes of it."""
        while True:
            try:
                connection = self.listener.accept()
            except (OSError, EOFError):
                return
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: Connection) -> None:
        try:
            rank = _receive(connection)
            is_over = self.is_stopped or (isinstance(self.error, FINAL) and not isinstance(self.error, LostProcess))
            connection.send_bytes(pickle.dumps(None) if is_over else self.task)
            if rank == 0:
                self.first, self.error = connection, self.error if is_over else None
            while True:
                kind, value = _receive(connection)
                if kind == "error":
                    self.error = value
                else:
                    self.received.put((kind, value))
        except (OSError, EOFError):
            pass

    def run(self, processes: int, max_restarts: int, environment: dict[str, str]) -> None:
        """Launch the processes, and wait for their end."""
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it ourselves
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=secrets.token_hex(8),
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=max_restarts,
        )
        failure: BaseException | None = None
        before = {name: os.environ.get(name) for name in (*environment, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")}
        os.environ.update(environment | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(ENDED_S))})
        try:
            elastic_launch(config, sys.executable)("-c", WORK)
        except ChildFailedError as error:
            rank, first = error.get_first_failure()
            failure = Killed(_in_words(rank, processes, first.exitcode))
        except BaseException as error:
            failure = error
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({} if value is None else {name: value})
        self.received.put(("end", failure))

    def results(self, stops: Callable[[], bool]) -> Iterator[Any]:
        """What the first process yields, until all have ended."""
        while True:
            if stops() and not self.is_stopped:
                self.stop()
            try:
                kind, value = self.received.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if kind == "result":
                yield value
            elif self.error and not (isinstance(self.error, LostProcess) and isinstance(value, Killed)):
                raise self.error
            elif value:
                raise value
            else:
                return

    def stop(self) -> None:
        """Ask the first process to end; asked again, it ends at once."""
        self.is_stopped = True
        with contextlib.suppress(OSError, AttributeError):  # it has ended, or has not begun
            _send(self.first, "stop")


def work() -> None:
    """In a launched process: do the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher has it, and says so
    rank = int(os.environ["RANK"])
    try:
        connection = Client(os.environ[ADDRESS], authkey=os.environ[KEY].encode())
        _send(connection, rank)
        task = _receive(connection)
    except (OSError, EOFError):  # the launcher is gone
        raise SystemExit(1) from None
    if task is None:
        return
    asked, over = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(connection, asked, over), daemon=True).start()
    function, arguments = task
    try:
        with joined():
            for result in function(asked.is_set, *arguments):
                if rank == 0:
                    _send(connection, ("result", result))
    except SystemExit:  # another process says why
        raise
    except BaseException as error:
        _send(connection, ("error", _sendable(error)))
        raise SystemExit(1) from None
    finally:
        over.set()


def _listen(connection: Connection, asked: threading.Event, over: threading.Event) -> None:
    """Wait until the launcher asks this process to end; end at once if it asks again, or is gone."""
    with contextlib.suppress(OSError, EOFError):
        _receive(connection)
        asked.set()
        _receive(connection)
    if not over.is_set():
        os._exit(1)


def _send(connection: Connection, value: Any) -> None:
    """As bytes: `connection.send` would put tensors into memory that the two processes share."""
    connection.send_bytes(pickle.dumps(value))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def _sendable(error: BaseException) -> BaseException:
    """An error as it can be sent, with what led to it."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _in_words(rank: int, processes: int, exit_code: int) -> str:
    """How a process ended."""
    what = f"process {rank} of {processes} "
    if exit_code < 0:
        return f"{what}was killed by {signal.Signals(-exit_code).name}"
    return f"{what}ended with status {exit_code}"
