"""From signatures and dataclasses to flags, by tyro; flags of version 0.1; JSON on standard output."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ..specs.settings import help_of

FORMER_FLAGS = {
    "train": {"--from": "--pretrained", "--slow": "--lr-scale", "--mirror": "--flip", "--no-mirror": "--no-flip"},
    "evaluate": {"--connected": "--fc-precision"},
    "predict": {"--connected": "--fc-precision"},
}
"""Flags of version 0.1, and today's."""
METAVARS = {"data": "DATA", "run": "RUN", "freeze": "LAYER ...", "output": "PATH", "pretrained": "WEIGHTS"}
METAVARS |= dict.fromkeys(("name", "variant", "recipe"), "NAME")
"""What stands for the value of a flag or argument in the help, where its type says too little."""
FLAG_TYPES = ConstructorRegistry()


def print_json(value: dict) -> None:
    print(json.dumps(value, ensure_ascii=False))


def as_command(function: Callable) -> Callable:
    """The function with annotations that tyro makes flags of: a dataclass becomes a flag per field, described by the
    docstring below it, and no default is printed where it is None."""
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    function.__annotations__ = {
        name: Annotated[_flags_of(hint), tyro.conf.arg(name="")]
        if dataclasses.is_dataclass(hint)
        else _flag(name, hint)
        for name, hint in hints.items()
    }
    return function


def with_todays_flags(arguments: Sequence[str]) -> list[str]:
    """Arguments in which flags of version 0.1 are replaced, with a warning."""
    former = FORMER_FLAGS.get(arguments[0], {}) if arguments else {}
    todays: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if todays and todays[-1] == "--flip" and argument in ("True", "False"):
            todays[-1] = "--flip" if argument == "True" else "--no-flip"
        elif flag in former:
            print(f"alexnet: {flag} is now called {former[flag]}", file=sys.stderr)
            todays.append(former[flag] + equals + value)
        else:
            todays.append(argument)
    return todays


def _flags_of(settings: type) -> type:
    """A subclass whose fields are annotated for tyro."""
    hints, helps = get_type_hints(settings), help_of(settings)
    fields = [
        (
            field.name,
            _flag(field.name, _typed(hints[field.name]), helps[field.name]),
            dataclasses.field(default=field.default),
        )
        for field in dataclasses.fields(settings)
    ]
    return dataclasses.make_dataclass(settings.__name__, fields, bases=(settings,), frozen=True)


def _flag(name: str, hint: Any, help: str | None = None) -> Any:
    def default_hint(default: str) -> str:
        return "" if default in ("None", "", "False") else f"(default: {default})"

    conf = tyro.conf.arg(help=help, help_behavior_hint=default_hint, metavar=METAVARS.get(name))
    if bool in (hint, getattr(hint, "__origin__", None)):  # off by default: no --no-… beside it
        return Annotated[hint, conf, tyro.conf.FlagCreatePairsOff]
    return Annotated[hint, conf]


def _typed(hint: Any) -> Any:
    """The part of a union that can be typed on a command line: not a declaration, and no path where text will do."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kinds = [kind for kind in get_args(hint) if not dataclasses.is_dataclass(kind)]
    return reduce(or_, [kind for kind in kinds if not (kind is Path and str in kinds)])


@FLAG_TYPES.primitive_rule
def _factors_by_layer(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """conv3=0.1 conv4=0.5"""
    if get_origin(info.type) is not Mapping:
        return None

    def parse(texts: list[str]) -> dict[str, float]:
        pairs = [text.partition("=")[::2] for text in texts]
        try:
            return {layer: float(factor) for layer, factor in pairs}
        except ValueError:
            raise ValueError(f"must be layers and factors, as in conv3=0.1, got {' '.join(texts)}") from None

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="LAYER=FACTOR",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda factors: [f"{layer}={factor}" for layer, factor in factors.items()],
    )
