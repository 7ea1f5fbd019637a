"""Checks of settings: what a field must be, and the words of the error message for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

Check = tuple[Callable[[Any], bool], str]
"""Whether a value is valid, and what it must be, as in "lr must be > 0"."""


def is_integer(value: object, least: int) -> bool:
    """Whether a value is an integer, Python's or NumPy's, and large enough."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def is_real(value: object) -> bool:
    """Whether a value is a finite number, Python's or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
