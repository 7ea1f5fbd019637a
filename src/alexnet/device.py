"""Device, precision, processors and memory.

torch is imported inside functions, because processes that only decode images do not need it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]
MEMORY_FRACTION = 0.8
"""Largest pack that is shuffled image by image, as a fraction of the memory; larger ones are shuffled by blocks, so
that reads are sequential. Also what all processes that decode may use."""
ROOT = Path("/")
"""Where proc and sys are mounted."""
_sharers = 0
"""Processes that share the memory, if this is one of several; else its threads do."""
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
"""Parameters of glibc's `mallopt`, from malloc.h."""


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
        torch.empty(1, device=device)
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


def describe_device(device: torch.device, precision: Precision) -> str:
    """ "cpu, 2 threads, fp32"; with a word if there are no C kernels, which are several times faster."""
    import torch

    from .kernels import library

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' * (count > 1)}" if device.type == "cpu" else ""
    kernels = ", no C kernels" if device.type == "cpu" and library() is None else ""
    return f"{device.type}{threads}, {precision}{kernels}"


def processors() -> int:
    """Number of processors that this process may use, also in a container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        files = ("cpu.max",) if (folder / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period = [number for name in files for number in _numbers(folder / name)] or (math.inf, 1)
        if 0 <= quota < math.inf:  # version 1 has -1 for no limit
            count = min(count, math.ceil(quota / period))
    return max(1, count)


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
    return MEMORY_FRACTION * memory() / (_sharers or processors())


def fits_memory(size: float) -> bool:
    """Whether a pack of this many bytes can be read in random order."""
    return size <= MEMORY_FRACTION * memory()


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
        mount = ROOT / "sys/fs/cgroup" / (controller if controllers else "")
        folder = mount / path.lstrip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(mount))


def _numbers(file: Path) -> list[float]:
    """The numbers in a file of a control group, "max" as infinity; none if it does not exist."""
    try:
        return [math.inf if word == "max" else float(word) for word in file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        return []
