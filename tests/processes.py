"""Several processes of one test, on gloo."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["alexnet.classifier"])  # so that torch is imported once
LIMIT_S = 60.0


def run(size: int, function: Callable, *arguments, timeout_s: float = 30.0) -> list:
    """What `function(group, *arguments)` returns on each of so many processes, by rank; a single process is this one.

    The function and what it takes and returns must be picklable: tensors are returned as arrays or lists.
    """
    from alexnet.parallel.group import Group

    if size == 1:
        return [function(Group(), *arguments)]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the server that forks inherits it
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            receiver, sender = FORKS.Pipe(duplex=False)
            task = sender, rank, size, Path(folder) / "store", timeout_s, function, arguments
            processes.append(FORKS.Process(target=_work, args=task, daemon=True))
            processes[-1].start()
            sender.close()
            pipes.append(receiver)
        try:
            results = [_received(pipe, rank) for rank, pipe in enumerate(pipes)]
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    failures = [failure for failure, _ in results if failure]
    for failure in sorted(failures, key=lambda failure: "LostProcess: " in failure):  # the cause first
        raise AssertionError(failure)
    return [value for _, value in results]


def _received(pipe, rank: int) -> tuple:
    """What a process reports: how it failed, or what it returns."""
    if not pipe.poll(LIMIT_S):
        return f"process {rank} did not end within {LIMIT_S:.0f} s", None
    try:
        return pipe.recv()
    except EOFError:
        return f"process {rank} died", None


def _work(sender, rank, size, store, timeout_s, function, arguments) -> None:
    import torch
    import torch.distributed as dist

    from alexnet.parallel.group import Group

    torch.set_num_threads(1)
    try:
        how = {"rank": rank, "world_size": size, "timeout": timedelta(seconds=timeout_s)}
        dist.init_process_group("gloo", init_method=f"file://{store}", **how)
        sender.send((None, function(Group.current(), *arguments)))
    except BaseException:
        sender.send((traceback.format_exc(), None))
    finally:
        sender.close()
        if dist.is_initialized():
            dist.destroy_process_group()
