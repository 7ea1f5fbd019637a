"""From signatures and dataclasses to flags, by tyro; flags of version 0.1; JSON on standard output."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ..specs.architecture import MAX_SIDE
from ..specs.reading import parsed, settings_with
from ..specs.settings import TrainSettings, help_of

FORMER_FLAGS = {
    "train": {"--from": "--pretrained", "--slow": "--lr-scale", "--mirror": "--flip", "--no-mirror": "--no-flip"},
    "evaluate": {"--connected": "--fc-precision"},
    "predict": {"--connected": "--fc-precision"},
}
"""Flags of version 0.1, and today's."""
METAVARS = {"data": "DATA", "run": "RUN", "freeze": "LAYER ...", "output": "PATH", "pretrained": "WEIGHTS"}
METAVARS |= dict.fromkeys(("name", "variant", "schedule"), "NAME") | dict.fromkeys(("mean", "std"), "R G B")
METAVARS |= {"recipe": "NAME|FILE", "config": "FILE", "lr_scale": "LAYER=FACTOR ...", "set": "FIELD=VALUE ..."}
METAVARS |= dict.fromkeys(("labels", "label_indices"), "FILE|URL")
METAVARS |= {"milestones": "EPOCH ...", "log": "LOGGER ...", "class_weights": "balanced|CLASS=FACTOR ..."}
"""What stands for the value of a flag or argument in the help, where its type says too little."""
_OF_RUNS = "output log resume allow_changes keep_checkpoints checkpoint_minutes"
WITHOUT = {"find_lr": f"epochs lr schedule milestones gamma patience {_OF_RUNS}"}
"""By command: the fields of its settings that are no flags of it; those that hold functions are flags of none."""
FLAG_TYPES = ConstructorRegistry()


def print_json(value: dict) -> None:
    print(json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf")))


def as_command(function: Callable, arguments: Sequence[str] = ()) -> Callable:
    """The function with annotations that tyro makes flags of: a dataclass becomes a flag per field, described by the
    docstring below it, and no default is printed where it is None.

    Args:
        arguments: what was typed, for `with_config`.
    """
    hints = {name: hint for name, hint in _declared_hints(function).items() if name != "return"}
    function.__annotations__ = {
        name: Annotated[_flags_of(hint, arguments, WITHOUT.get(function.__name__, "")), tyro.conf.arg(name="")]
        if dataclasses.is_dataclass(hint)
        else _flag(name, hint)
        for name, hint in hints.items()
    }
    return function


@cache
def _declared_hints(function: Callable) -> dict[str, Any]:
    """The annotations as they were written: `as_command` replaces them, each time that a process calls `main`."""
    return get_type_hints(function, include_extras=True)


def with_config(settings: TrainSettings) -> TrainSettings:
    """The settings, over those of the file that --config names if their flags were typed, also with a default value."""
    typed = {name: getattr(settings, name) for name in type(settings).typed}
    return settings_with(None, typed) if settings.config else settings


def check_size(size: int) -> None:
    """Raise ValueError for what is no side of stored images."""
    if not 1 <= size <= MAX_SIDE:
        raise ValueError(f"--size must be 1 to {MAX_SIDE:,}, got {size:,}")


def check_picture(path: Path, flag: str = "--output") -> None:
    """Raise ValueError for a file without a suffix, which tells the format of a picture."""
    if not path.suffix:
        raise ValueError(f"{flag} must be a file that ends in .png, .svg, .pdf ..., got {path}")


def check_table(path: Path) -> None:
    """Raise ValueError for a CSV file that cannot be written, before there is anything to write."""
    if path.is_dir():
        raise ValueError(f"--csv must be a file, got the folder {path}")
    if not path.parent.is_dir():
        raise ValueError(f"--csv must be in an existing folder, got {path}")


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


def _flags_of(settings: type, arguments: Sequence[str], without: str) -> type:
    """A subclass whose fields are annotated for tyro, and which knows the flags that were `typed`."""
    hints, helps = get_type_hints(settings), help_of(settings)
    hints = {
        name: Annotated[hint, tyro.conf.Fixed, tyro.conf.Suppress]
        if name in without.split() or Callable in map(get_origin, get_args(hint))
        else _flag(name, _typed(hint), helps[name])
        for name, hint in hints.items()
    }
    declared = dataclasses.fields(settings)
    fields = [(each.name, hints[each.name], dataclasses.field(default=each.default)) for each in declared]
    flags = {argument.partition("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")}
    space = {"typed": [name for name in hints if flags & {f"__{name}", f"__no_{name}"}]}
    return dataclasses.make_dataclass(settings.__name__, fields, bases=(settings,), namespace=space, frozen=True)


def _flag(name: str, hint: Any, help: str | None = None) -> Any:
    def default_hint(default: str) -> str:
        return "" if default in ("None", "", "False") else f"(default: {default})"

    conf = tyro.conf.arg(help=help, help_behavior_hint=default_hint, metavar=METAVARS.get(name))
    if bool in (hint, getattr(hint, "__origin__", None)):  # off by default: no --no-… beside it
        return Annotated[hint, conf, tyro.conf.FlagCreatePairsOff]
    return Annotated[hint, conf]


def _typed(hint: Any) -> Any:
    """The part of a union that can be typed on a command line: not a declaration, and text alone where it will do."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kinds = [kind for kind in get_args(hint) if not dataclasses.is_dataclass(kind)]
    origins = [get_origin(kind) for kind in kinds]
    if origins == [Literal, None]:  # the settings say what is wrong, and which word is nearest
        return str | None
    others = (str,) if tuple in origins else (Path, Mapping) if str in kinds else ()
    return reduce(or_, [kind for kind in kinds if kind not in others and get_origin(kind) not in others])


@FLAG_TYPES.primitive_rule
def _values_by_name(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """conv3=0.1 conv4=0.5, or a word alone that stands for such values: balanced"""
    kinds = get_args(info.type) if get_origin(info.type) in (Union, UnionType) else [info.type]
    mapping = next((kind for kind in kinds if get_origin(kind) is Mapping), None)
    if mapping is None:
        return None
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    _, value_type = get_args(mapping)

    def parse(texts: list[str]) -> dict[str, Any] | str:
        if len(texts) == 1 and texts[0] in words:
            return texts[0]
        pairs = [text.partition("=") for text in texts]
        try:
            if not all(equals for _, equals, _ in pairs):
                raise ValueError
            return {name: float(value) if value_type is float else parsed(value) for name, _, value in pairs}
        except ValueError:
            shape = "NAME=NUMBER, as in cat=0.1" if value_type is float else "FIELD=VALUE, as in mixup=0.2"
            raise ValueError(f"must be {' or '.join([*words, shape])}, got {' '.join(texts)}") from None

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="|".join([*words, "NAME=VALUE ..."]),
        instance_from_str=parse,
        is_instance=lambda value: value is None or value in words or isinstance(value, Mapping),
        str_from_instance=lambda values: [f"{name}={value}" for name, value in (values or {}).items()],
    )
