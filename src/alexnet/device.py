"""Device, precision, processors and memory.

torch is imported inside functions, because processes that only decode images do not need it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .specs.names import counted

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]
MEMORY_FRACTION = 0.8
"""Largest pack that is shuffled image by image, as a fraction of the memory; larger ones are shuffled by blocks, so
that reads are sequential. Also what all processes that decode may use."""
OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|Cannot allocate memory|bad_?alloc|ALLOC_FAILED|"
    "could not create a primitive$"
)
"""How torch's allocators, the system, C++, CUDA's libraries and oneDNN say so. (What oneDNN does not support is "a
primitive descriptor for" something.)"""
ROOT = Path("/")
"""Where proc and sys are mounted."""
_sharers = 0
"""Processes that share the memory, if this is one of several; else its threads do."""
_threads_are_set = False
BY_USER = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
"""Environment variables by which users say how many threads there are."""
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
"""Parameters of glibc's `mallopt`, from malloc.h."""
SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long a thread of OpenMP waits at full speed for its next work before it sleeps: rounds (GNU's OpenMP, as in
PyTorch's wheels) and milliseconds (Intel's and LLVM's). Their defaults, 300,000 rounds and 200 ms, are longer than the
system's time slices: when another program has one of the processors, the threads on the others wait at full speed for
the one that it took, and keep that program from finishing. Tenths of a millisecond bridge the gaps between layers."""
OF_COMMAND: dict[str, str] = {}
"""Environment variables that the command has set, and the user has not."""


def pick_device(name: str = "auto") -> torch.device:
    """A device by name; "auto" is a GPU if there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which "meta" cannot
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """A precision by name; "auto" is bf16 on devices with units for it (GPUs, and processors with AMX).

    In bf16, convolutions and matrix products are of bfloat16; weights, updates and accumulation stay float32.

    Raises:
        ValueError: the name is not auto, fp32 or bf16.
    """
    import torch

    if name == "auto":
        if device.type == "cuda":
            with torch.cuda.device(device):  # older GPUs emulate it, slowly
                return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        return "bf16" if capabilities.get("amx_bf16") else "fp32"
    if name not in ("fp32", "bf16"):
        raise ValueError(f"precision must be auto, fp32 or bf16, got {name!r}")
    return name


def torch_dtype(precision: Precision) -> torch.dtype:
    """The dtype of convolutions and matrix products."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def autocast(device: torch.device, precision: Precision):
    """A context in which convolutions and matrix products have this precision."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def keep_freed_memory() -> None:
    """Make the C library keep freed memory instead of returning large blocks to the system.

    Every step allocates the same large blocks; when fetched anew, the system first clears every page of them. This
    affects the whole process, so it is for commands, not for users of the library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Make the C library return what is free after all, as when a step did not fit: others, such as oneDNN, get theirs
    from the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc
        trim(0)


def describe_device(device: torch.device, precision: Precision, processes: int = 1) -> str:
    """ "cpu, 2 threads, fp32"; with a word if there are no C kernels, which are several times faster.

    Args:
        processes: how many are about to be started on this machine.
    """
    import torch

    from .kernels import library

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    if device.type != "cpu":
        return f"{device.type}, {precision}"
    count = threads(processes) if processes > 1 and not BY_USER & {*os.environ} else torch.get_num_threads()
    processes = max(processes, _local_processes())
    each = f" in each of {processes} processes" if processes > 1 else ""
    return f"cpu, {counted(count, 'thread')}{each}, {precision}{', no C kernels' if library() is None else ''}"


def processors() -> int:
    """Number of processors that this process may use, also in a container."""
    count = len(_affinity())
    for folder in _control_groups("cpu"):
        files = ("cpu.max",) if (folder / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = [number for name in files for number in _numbers(folder / name)] or (math.inf, 1)
        if 0 <= quota < math.inf:  # version 1 has -1 for no limit
            count = min(count, math.ceil(quota / period))
    return max(1, count)


def decoders() -> int:
    """How many threads or processes of this process decode images: its part of the processors."""
    return max(1, processors() // _sharing_processes())


def threads(processes: int | None = None) -> int:
    """How many threads of a process calculate: its part of the cores, as two threads of a core share its units.

    Args:
        processes: how many share the cores; if None, those of this training that torchrun has started here.
    """
    return max(1, min(processors(), _cores()) // (processes or _sharing_processes()))


def set_threads() -> None:
    """Let torch use `threads()`, at the first call in this process, unless the user has said how many."""
    global _threads_are_set
    import torch

    if _threads_are_set:
        return
    _threads_are_set = True
    defaults = {len(_affinity()), _cores()}
    if (not BY_USER & {*os.environ} and torch.get_num_threads() in defaults) or _is_torchruns_default():
        torch.set_num_threads(threads())


def set_environment() -> None:
    """For a command that has not imported torch yet: what libraries read when they are loaded, unless the user set it.

    See SPINNING. OpenBLAS, which numpy loads, does not know of control groups.
    """
    by_command = {} if "OMP_WAIT_POLICY" in os.environ else dict(SPINNING)
    if "OMP_NUM_THREADS" not in os.environ:
        by_command["OPENBLAS_NUM_THREADS"] = str(threads())
    OF_COMMAND.update((name, value) for name, value in by_command.items() if name not in os.environ)
    os.environ.update(OF_COMMAND)


@contextlib.contextmanager
def users_environment() -> Iterator[None]:
    """The environment without what `set_environment` has set, for other software that is started here."""
    for name in OF_COMMAND:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.update(OF_COMMAND)


def _affinity() -> set[int]:
    """Indices of the processors on which the system may run this process."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {*range(os.cpu_count() or 1)}


def _cores() -> int:
    """Number of cores that these processors are; as many as processors where that is unknown."""
    files = {index: ROOT / f"sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list" for index in _affinity()}
    return len({file.read_text() if file.exists() else index for index, file in files.items()})


def _local_processes() -> int:
    """Processes of this training on this machine, as torchrun tells each of them."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(count)) if count.isdecimal() else 1


def _sharing_processes() -> int:
    """How many of them share the processors of this one: fewer than all if the launcher bound them to its parts."""
    count = _local_processes()
    if count > 1 and hasattr(os, "sched_getaffinity"):
        with contextlib.suppress(OSError):  # the launcher has ended
            count = round(count * min(1, len(_affinity()) / len(os.sched_getaffinity(os.getppid()))))
    return max(1, count)


def _is_torchruns_default() -> bool:
    """Whether OMP_NUM_THREADS is torchrun's 1 for any machine, not the user's: torchrun was started without it."""
    if _local_processes() == 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        return False
    try:
        return b"\0OMP_NUM_THREADS=" not in b"\0" + (ROOT / f"proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return False


def memory() -> float:
    """Memory that this process may use, bytes, also in a container; infinity if unknown."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = math.inf
    files = [folder / name for folder in _control_groups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
    return min([physical, *(limit for file in files for limit in _numbers(file))])


def share_memory(processes: int) -> None:
    """Make this one of so many processes that share the memory; on Linux, it cannot take more than its part."""
    global _sharers
    _sharers = processes
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # that it has by now
        limit = pages * resource.getpagesize() + memory_share()
        if limit < math.inf:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit), resource.getrlimit(resource.RLIMIT_DATA)[1]))


def memory_share() -> float:
    """Memory that this process, or one of its threads, may use for an image, bytes."""
    return MEMORY_FRACTION * memory() / (_sharers or decoders()) / _local_processes()


def fits_memory(size: float) -> bool:
    """Whether a pack of this many bytes can be read in random order."""
    return size <= MEMORY_FRACTION * memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine ran out of memory."""
    is_meant = isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(is_meant) or getattr(error, "errno", None) == errno.ENOMEM


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups (Linux, version 1 or 2) whose limits hold for this process: its own and parents."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)  # "0::/path" in version 2, "4:memory:/path" in version 1
        if controllers and controller not in controllers.split(","):
            continue
        for name in {controller, controllers} if controllers else {""}:
            mount = ROOT / "sys/fs/cgroup" / name
            folder = mount / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(mount))


def _numbers(file: Path) -> list[float]:
    """The numbers in a file of a control group, "max" as infinity; none if it does not exist."""
    try:
        return [math.inf if word == "max" else float(word) for word in file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []
