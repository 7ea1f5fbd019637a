"""The processes that work together, by torch.distributed.

Whoever has a `Group` asks it for sums and for what the others have, and need not know whether there are others: a lone
process is a group of one, whose sums are its own values.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from . import ENVIRONMENT, is_launched
from .parts import parts

T = TypeVar("T")
FREED_S = 0.1
"""Seconds at the end of a process in which the backend's threads free what they have moved."""
TIMEOUT_S = 600.0
"""Seconds after which a process that does not answer is given up; $ALEXNET_TIMEOUT_S overrides it."""
PATIENCE = timedelta(days=7)
"""How long `Group.barrier` waits: others may still be packing images. A process that dies ends the wait elsewhere, as
its launcher stops the others."""
FAILED, FAILURES, TOLD_S = "alexnet/failed", "alexnet/failures", 2.0
"""Keys under which a process that fails tells the others, and for how many seconds they wait for it to do so."""
PORT = "alexnet/port"
"""Key of the port of the first process."""
ORPHAN_S = 0.3
"""Seconds between looks whether the launcher is still there."""


class LostProcess(ConnectionError):
    """Another process ended, or did not answer in time."""


@dataclass
class Traffic:
    """What was moved by one kind of collective."""

    calls: int = 0
    bytes: int = 0
    """The size of the tensors that are summed (all_reduce), what this process receives from others (gather), or what
    it sends to them (scatter_sum)."""


class Group:
    """Processes that call the same methods in the same order.

    Attributes:
        rank: index of this process, from 0. Process 0 alone writes and prints.
        size: number of processes.
        counts: what was moved so far, by kind: "all_reduce", "gather", "scatter_sum", "broadcast", and "object" for
            small Python objects, of which calls alone are counted.
        waited_s: seconds spent in calls that wait for others.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self.counts: defaultdict[str, Traffic] = defaultdict(Traffic)
        self.waited_s = 0.0
        self._reports: bool | None = None

    @staticmethod
    def current() -> Group:
        """The group of this process; alone where torch.distributed was not initialized."""
        global _current
        if not (dist.is_available() and dist.is_initialized()):
            return _LONE
        if _current is _LONE or (_current.rank, _current.size) != (dist.get_rank(), dist.get_world_size()):
            _current = Group(dist.get_rank(), dist.get_world_size())
        return _current

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where small tensors that are sent must be."""
        only_gpus = self.size > 1 and dist.get_backend() == "nccl"
        return torch.device("cuda" if only_gpus else "cpu")

    def part(self, count: int) -> slice:
        """The part of `count` things that is this process's."""
        return parts(count, self.size)[self.rank]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place; on all of them the same bits."""
        return self.start_all_reduce(tensor)()

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin to sum a tensor over all processes in place; calling what is returned waits for the end."""
        if self.size == 1:
            return lambda: tensor
        self._count("all_reduce", tensor.nbytes)
        with self._waiting():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> Tensor:
            with self._waiting():
                work.wait()
            return tensor

        return wait

    def gather(self, tensor: Tensor, dim: int = 0, sizes: Sequence[int] | None = None) -> Tensor:
        """The tensors of all processes, one after the other along a dimension.

        Args:
            sizes: along that dimension, by process; they are asked for if None.
        """
        sizes = self.gather_objects(tensor.shape[dim]) if sizes is None else sizes
        return self.start_gather(tensor, dim, sizes)()

    def start_gather(self, tensor: Tensor, dim: int, sizes: Sequence[int]) -> Callable[[], Tensor]:
        """Begin to gather; calling what is returned waits for the end."""
        if self.size == 1:
            return lambda: tensor
        largest = max(sizes)
        order = _memory_order(tensor) if min(sizes) == largest else (dim, *_others(tensor, dim))
        sent, along = tensor.permute(order).contiguous(), order.index(dim)
        bytes_each = tensor.element_size() * math.prod(tensor.shape[axis] for axis in _others(tensor, dim))
        self._count("gather", (sum(sizes) - sizes[self.rank]) * bytes_each)
        if sent.shape[along] < largest:  # not all backends move tensors of different sizes
            sent = torch.cat([sent, sent.new_zeros(largest - sent.shape[along], *sent.shape[1:])])
        gathered = [torch.empty_like(sent) for _ in sizes]
        with self._waiting():
            work = dist.all_gather(gathered, sent, async_op=True)

        def wait() -> Tensor:
            with self._waiting():
                work.wait()
            pieces = [each.narrow(along, 0, size) for each, size in zip(gathered, sizes, strict=True)]
            return torch.cat(pieces, along).permute(_inverse(order))

        return wait

    def scatter_sum(self, tensor: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """The part of this process, along a dimension, of the sum of a tensor over all processes (reduce-scatter).

        Args:
            sizes: of the parts along that dimension, by process.
        """
        own, wait = self.start_scatter_sum(tensor, dim, sizes)
        wait()
        return own

    def start_scatter_sum(self, tensor: Tensor, dim: int, sizes: Sequence[int]) -> tuple[Tensor, Callable[[], None]]:
        """Begin to sum and scatter: the tensor that receives the part, and what waits until it has."""
        if self.size == 1:
            return tensor, lambda: None
        order = _memory_order(tensor)
        pieces = [piece.permute(order).contiguous() for piece in tensor.split(list(sizes), dim)]
        own = torch.empty_like(pieces[self.rank])
        self._count("scatter_sum", tensor.nbytes - own.nbytes)
        with self._waiting():
            work = dist.reduce_scatter(own, pieces, async_op=True)

        def wait() -> None:
            with self._waiting():
                work.wait()

        return own.permute(_inverse(order)), wait

    def gather_objects(self, value: T) -> list[T]:
        """A small object of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._count("object", 0)
        with self._waiting():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The small object of process 0."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        self._count("object", 0)
        with self._waiting():
            dist.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        """Wait until all processes are here, for hours if need be."""
        if self.size == 1:
            return
        self._count("barrier", 0)
        name = f"alexnet/barrier {self.counts['barrier'].calls}"
        with self._waiting():
            _store().set(f"{name} {self.rank}", "")
            _store().wait([f"{name} {rank}" for rank in range(self.size)], PATIENCE)

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        """The tensors of process 0, by name; the others may pass None."""
        if self.size == 1:
            return tensors or {}
        kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in (tensors or {}).items()}
        received = {}
        for name, (shape, dtype) in self.broadcast(kinds).items():
            first = tensors[name].contiguous() if self.is_first else torch.empty(shape, dtype=dtype, device=self.device)
            received[name] = first.to(self.device)
            self._count("broadcast", first.nbytes)
            with self._waiting():
                dist.broadcast(received[name], 0)
        return received

    def may_report(self, error: BaseException) -> bool:
        """Whether this process is the one that reports why all of them end: the first that fails by itself."""
        if self.size > 1 and self._reports is None:
            self._reports = self._is_first_to_fail(isinstance(error, LostProcess))
        return self._reports is not False

    def _is_first_to_fail(self, is_lost: bool) -> bool:
        try:
            if is_lost:
                with contextlib.suppress(dist.DistStoreError):  # nobody says why within that time
                    _store().wait([FAILED], timedelta(seconds=TOLD_S))
            is_first = _store().add(FAILURES, 1) == 1
            _store().set(FAILED, "")
            return is_first
        except RuntimeError:  # the store is gone, with the process that kept it
            return self.is_first or not is_lost

    def _count(self, kind: str, moved: int) -> None:
        self.counts[kind].calls += 1
        self.counts[kind].bytes += moved

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count the time, and say in one sentence what torch says in many."""
        started = time.perf_counter()
        try:
            yield
        except RuntimeError as error:  # torch's DistBackendError is one
            waited_s = time.perf_counter() - started
            is_timeout = "timed out" in str(error).lower() or "timeout" in str(error).lower()
            what = f"did not answer within {waited_s:.0f} s" if is_timeout else "ended"
            raise LostProcess(f"another of the {self.size} processes {what}") from error
        finally:
            self.waited_s += time.perf_counter() - started


_LONE = _current = Group()


def join() -> Group:
    """Make a process that torchrun started a member of the group of all, until it ends; others stay alone.

    The backend is nccl for GPUs, of which a process takes that of its index on its machine, and gloo for CPUs.

    Raises:
        LostProcess: the others do not come.
    """
    if not is_launched() or dist.is_initialized():
        return Group.current()
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    timeout_s = float(os.environ.get("ALEXNET_TIMEOUT_S") or TIMEOUT_S)
    try:
        store, rank, size = _meet(timedelta(seconds=timeout_s))
        dist.init_process_group(store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ[name] for name in ENVIRONMENT[2:])
        raise LostProcess(f"the processes do not find one another at {where} ({str(error).splitlines()[0]})") from error
    atexit.register(_leave)
    return Group.current()


def _leave() -> None:
    """Leave the group at the end of the process.

    A thread of gloo that has summed a tensor then frees it, for which it needs Python's lock; if the interpreter ends
    meanwhile, the process is aborted although all went well. So the lock is left to the threads for a moment.
    """
    time.sleep(FREED_S)
    dist.destroy_process_group()


def _meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """A store that all processes share, the rank of this one, and how many they are.

    Where a launcher of torch keeps the store, it still holds what was written before a restart, such as the addresses
    of processes that are gone; a new one is then kept by the first process, which writes its port there.
    """
    kept, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return kept, rank, size
    if rank == 0:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], 0, None, True, timeout, wait_for_workers=False)
        kept.set(PORT, str(store.port))
        return store, rank, size
    started = time.monotonic()
    while True:
        address = os.environ["MASTER_ADDR"], int(kept.get(PORT))
        try:  # the port may be that of a process that is gone, of which a store would say much
            socket.create_connection(address, ORPHAN_S).close()
            return dist.TCPStore(*address, None, False, timeout), rank, size
        except OSError as error:
            if time.monotonic() - started > timeout.total_seconds():
                raise RuntimeError(f"nobody listens there: {error}") from error
            time.sleep(ORPHAN_S)


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """The group of this process, which it joins. What goes wrong within this context is raised by one process; the
    others end without a word."""
    group = join()
    try:
        yield group
    except (GeneratorExit, SystemExit):
        raise
    except BaseException as error:
        if not group.may_report(error):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
        raise


def _end_with_launcher(launcher: int) -> None:
    """End this process when what started it is gone, so that nobody is left behind."""
    while os.getppid() == launcher:
        time.sleep(ORPHAN_S)
    os._exit(1)


def _store() -> dist.Store:
    """Keys and values that all processes share."""
    return dist.distributed_c10d._get_default_store()


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions in the order in which they lie in memory, so that nothing is copied to be sent."""
    is_last = tensor.dim() == 4 and not tensor.is_contiguous()
    is_last = is_last and tensor.is_contiguous(memory_format=torch.channels_last)
    return (0, 2, 3, 1) if is_last else tuple(range(tensor.dim()))


def _others(tensor: Tensor, dim: int) -> list[int]:
    return [axis for axis in range(tensor.dim()) if axis != dim]


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]
