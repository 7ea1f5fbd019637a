"""Declared things as JSON and back, so that an architecture travels with its weights and a recipe with its run."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from . import architecture, recipe, schedules

KNOWN = {
    kind.__name__: kind
    for module in (architecture, schedules, recipe)
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind)
}

FORMER_FIELDS = {
    "Recipe": {
        "averaging": "ema_decay",
        "largest_gradient": "max_grad_norm",
        "layer_scale": "lr_scale",
        "least_steps": "min_steps",
        "mirror": "flip",
        "rate_scale": "lr_factor",
        "stretch": "crop_ratio",
        "zoom": "crop_scale",
    }
}
"""Names of fields in files of version 0.1, by kind, and today's."""


def to_json(value: Any) -> Any:
    """Dataclasses of `specs` as objects with their kind under "is"; tuples as lists, NumPy's numbers as Python's."""
    if is_dataclass(value):
        return {"is": type(value).__name__} | {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, Real) and not isinstance(value, (bool, int, float)):
        return int(value) if isinstance(value, Integral) else float(value)
    return [to_json(each) for each in value] if isinstance(value, (list, tuple)) else value


def from_json(value: Any) -> Any:
    """What `to_json` was given.

    Raises:
        ValueError: an object is of an unknown kind, or has other fields than its kind.
    """
    if isinstance(value, list):
        return tuple(from_json(each) for each in value)
    if not isinstance(value, dict):
        return value
    if "is" not in value:
        return {key: from_json(each) for key, each in value.items()}
    if value["is"] not in KNOWN:
        raise ValueError(f"{value['is']!r} is not known; it may be one of {', '.join(KNOWN)}")
    today = FORMER_FIELDS.get(value["is"], {})
    try:
        return KNOWN[value["is"]](
            **{today.get(key, key): from_json(each) for key, each in value.items() if key != "is"}
        )
    except TypeError as error:
        raise ValueError(f"a stored {value['is']} does not fit this version: {error}") from error
