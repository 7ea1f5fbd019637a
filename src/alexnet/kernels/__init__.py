"""The optional library of C kernels, and its threads.

It is compiled at installation if there is a C compiler; without it `library()` is None and everything runs in plain
PyTorch. The library does not depend on torch: it takes addresses, shapes and a number of threads.
"""

import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from ctypes import c_float, c_int, c_long, c_void_p
from pathlib import Path

_TENSORS = [c_void_p, c_void_p, c_void_p, c_int, c_int]  # g, x, out, is bfloat16, is channels last
SIGNATURES = {
    "response_norm": [*_TENSORS, *[c_long] * 4, c_int, *[c_float] * 3, c_int, c_int],
    "spatial_norm": [*_TENSORS, *[c_long] * 4, c_int, *[c_float] * 3, c_int],
    "crops": [*[c_void_p] * 9, c_int, c_int, *[c_long] * 3, c_int],
    "resize": [c_void_p, c_void_p, c_long, c_long, *[*[c_void_p] * 3, c_long] * 2],
    "products_of_rows": [*[c_void_p] * 3, c_int, *[c_long] * 3, c_int],
    "paper_update": [*[c_void_p] * 3, c_long, *[c_float] * 3, c_int],
}
"""Types of the arguments of every function, all of which return 0 if they were out of memory."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The C kernels; None if they were not compiled, or if the environment variable ALEXNET_KERNELS is 0."""
    spec = importlib.util.find_spec("alexnet._kernels")
    if spec is None or os.environ.get("ALEXNET_KERNELS") == "0":
        return None
    kernels = ctypes.CDLL(spec.origin)
    for name, argument_types in SIGNATURES.items():
        function = getattr(kernels, name)
        function.argtypes, function.restype, function.errcheck = argument_types, c_int, _check_memory
    kernels.use_team(_gomp_parallel())
    return kernels


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, which compiles the GPU kernels at their first use."""
    return importlib.util.find_spec("triton") is not None


def _check_memory(succeeded: int, function: Callable, arguments: tuple) -> None:
    if not succeeded:
        raise MemoryError(f"out of memory in the C kernel {function.__name__}")


def _gomp_parallel() -> c_void_p | None:
    """Address of GOMP_parallel in the OpenMP library that torch has loaded."""
    if "torch" not in sys.modules:  # as in a process that only decodes images
        return None
    try:
        memory_map = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    for path in dict.fromkeys(re.findall(r"/\S*/lib(?:gomp|omp|iomp5)\S*\.so\S*", memory_map)):
        function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        if function is not None:
            return ctypes.cast(function, c_void_p)
    return None
