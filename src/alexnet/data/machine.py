"""What this machine has: processors and memory."""

from __future__ import annotations

import math
import os

MEMORY_SHARE = 0.8
"""Of the memory that a pack may take; larger ones are shuffled by blocks, so that they are not read from everywhere at
once."""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> float:
    """Of the machine, bytes; endless where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def fits_memory(size: float) -> bool:
    """Whether a pack of so many bytes may be read from everywhere at once."""
    return size <= MEMORY_SHARE * memory()
