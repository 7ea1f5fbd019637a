"""Declared things as JSON and back, so that an architecture travels with its weights and a recipe with its run."""

from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from . import recipe, schedules
from .architecture import Architecture
from .operations import Operation

DECLARED = {"Architecture": Architecture} | {
    kind.__name__: kind
    for module in (schedules, recipe)
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind)
}
"""Everything that can be stored, by name, besides the operations (`Operation.kinds`)."""

FORMER_KINDS = {
    "Drops": "StepDecay",
    "Fall": "SmoothDecay",
    "Levels": "DiscretizedExponential",
    "Plateau": "ReduceOnPlateau",
    "Rates": "LearningRates",
    "Stage": "Segment",
    "Stages": "Piecewise",
    "Switched": "LateChanges",
    "WarmThenLinear": "LinearWarmupDecay",
}
"""Names of kinds in files of version 0.1, and today's."""


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
    """The inverse of `to_json`.

    Raises:
        ValueError: an object is of an unknown kind, or has other fields than its kind.
    """
    if isinstance(value, list):
        return tuple(from_json(each) for each in value)
    if not isinstance(value, dict):
        return value
    if "is" not in value:
        return {key: from_json(each) for key, each in value.items()}
    kind = FORMER_KINDS.get(value["is"], value["is"])
    kinds = Operation.kinds | DECLARED
    if kind not in kinds:
        raise ValueError(f"{value['is']!r} is not known here; kinds are {', '.join(kinds)}")
    fields_today = getattr(kinds[kind], "former_names", {})
    settings = {fields_today.get(key, key): from_json(each) for key, each in value.items() if key != "is"}
    if kind == "SmoothDecay" and settings.get("shape") == "line":  # in files of version 0.1
        settings["shape"] = "linear"
    try:
        return kinds[kind](**settings)
    except TypeError as error:
        raise ValueError(f"a stored {value['is']} does not fit this version: {error}") from error
