"""Device, precision, processors and memory.

torch is imported when it is needed, so that processes which only decode images do without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]
MEMORY_FRACTION = 0.8
"""Fraction of the memory that a pack may take; larger ones are shuffled by blocks, so that reads are sequential."""
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
"""Settings of glibc's `mallopt`, as malloc.h numbers them."""


def pick_device(name: str = "auto") -> torch.device:
    """A device by name; "auto" takes a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
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
    """ "auto" takes bfloat16 products where the device has units for them (GPUs, and processors with AMX).

    Weights, their updates and all sums stay float32.

    Raises:
        ValueError: the name is not auto, fp32 or bf16.
    """
    import torch

    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
        return "bf16" if capabilities.get("amx_bf16") else "fp32"
    if name not in ("fp32", "bf16"):
        raise ValueError(f"precision is {name!r}; it may be auto, fp32 or bf16")
    return name


def torch_dtype(precision: Precision) -> torch.dtype:
    """The type in which a network multiplies."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def autocast(device: torch.device, precision: Precision):
    """A context in which convolutions and matrix products are of that precision."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory instead of handing each large block back to the system.

    A step allocates the same large blocks again and again; fetched anew, every page of them is first cleared by
    the system. This changes the whole process, so it is for commands, not for callers of the library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def describe_device(device: torch.device, precision: Precision) -> str:
    """ "cpu, 2 threads, fp32" """
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type}{threads}, {precision}"


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> float:
    """Total memory, bytes; infinity if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def fits_memory(size: float) -> bool:
    """Whether a pack of this many bytes can be read in random order."""
    return size <= MEMORY_FRACTION * memory()
