"""The optional library of kernels in C: where it is, and its threads.

It is compiled when the package is installed and a C compiler is at hand; without it `library()` is None and everything
runs in plain torch. It knows nothing of torch: it is given addresses, shapes and a number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import sys
from ctypes import c_float, c_int, c_long, c_void_p
from pathlib import Path

_TENSOR = [c_void_p, c_void_p, c_void_p, c_int, c_int]  # g, x, out, whether bfloat16, whether channels last
SIGNATURES = {
    "response_norm": [*_TENSOR, *[c_long] * 4, c_int, *[c_float] * 3, c_int, c_int],
    "spatial_norm": [*_TENSOR, *[c_long] * 4, c_int, *[c_float] * 3, c_int],
    "crops": [*[c_void_p] * 9, c_int, c_int, *[c_long] * 3, c_int],
    "resize": [c_void_p, c_void_p, c_long, c_long, *[*[c_void_p] * 3, c_long] * 2],
    "paper_update": [*[c_void_p] * 3, c_long, *[c_float] * 3, c_int],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they were not compiled or ALEXNET_KERNELS=0 asks to do without them."""
    found = importlib.util.find_spec("alexnet._kernels")
    if found is None or os.environ.get("ALEXNET_KERNELS") == "0":
        return None
    opened = ctypes.CDLL(found.origin)
    for name, arguments in SIGNATURES.items():
        function = getattr(opened, name)
        function.argtypes, function.restype = arguments, c_int if name == "resize" else None
    opened.use_team(_team_of_torch())
    return opened


@functools.cache
def triton_is_here() -> bool:
    """Whether the kernels for GPUs, which are compiled when they are first used, can be."""
    return importlib.util.find_spec("triton") is not None


def _team_of_torch() -> c_void_p | None:
    """GOMP_parallel of the OpenMP library that torch has loaded."""
    if "torch" not in sys.modules:  # as in a process that only decodes images
        return None
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    for path in dict.fromkeys(re.findall(r"/\S*/lib(?:gomp|omp|iomp5)\S*\.so\S*", mapped)):
        function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if function is not None:
            return ctypes.cast(function, c_void_p)
    return None
