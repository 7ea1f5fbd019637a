"""Checks of declared fields: their types, by their annotations, and the bounds that a declaration states.

A declaration may come from a stranger's file, and what is built from it is as large as its numbers say.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .recipe import Check, is_integer, is_real

FITS: dict[type, Check] = {
    int: (lambda value: is_integer(value, -(2**63)), "an integer"),
    float: (is_real, "a number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "text"),
    NoneType: (lambda value: value is None, "none"),
}
"""Whether a value of a file or of text is of a type, and that type in words."""


def check_fields(declared: Any, bounds: Mapping[str, tuple[float, float]], owner: str) -> None:
    """Raise ValueError, which begins with the owner, for a field of another type or out of its bounds, both allowed."""
    for name, hint in _hints(type(declared)).items():
        value = getattr(declared, name)
        if not _fits(hint, value):
            raise ValueError(f"{owner}: {name} must be {in_words(hint)}, got {str(value)[:80]!r}")
        least, most = bounds.get(name, (-math.inf, math.inf))
        if is_real(value) and not least <= value <= most:
            limit = f">= {least:g}" if value < least else f"<= {most:g}"
            raise ValueError(f"{owner}: {name} must be {limit}, got {value}")


def in_words(hint: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(in_words(each) for each in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return "a list" if arguments[-1] is ... else f"{len(arguments)} values"
    if origin is Mapping:
        return "values by name"
    return FITS[hint][1] if hint in FITS else f"a {getattr(hint, '__name__', 'value')}"


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        hints = get_type_hints(kind)
    except NameError:  # annotations as text, of names that only their own function knows
        return {}
    return {each.name: hints[each.name] for each in fields(kind)}


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(each, value) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple and arguments[-1] is ...:
        return isinstance(value, (tuple, list)) and all(_fits(arguments[0], each) for each in value)
    if hint in FITS:
        return FITS[hint][0](value)
    return isinstance(value, hint) if isinstance(hint, type) else True
