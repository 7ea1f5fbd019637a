"""Declarations from files and from text: recipes and settings that a user writes, or that a run wrote.

A file is JSON or TOML, and holds fields by name. A recipe may say on which one it is based:

    base = "modern"
    mixup = 0
    color_shift = {std = 0.2}
    schedule = "cosine"
"""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from . import recipes
from .checks import FITS, in_words
from .names import did_you_mean, not_one_of
from .recipe import Input, Recipe
from .schedules import SCHEDULES, MultiStepDecay, Schedule
from .settings import ResolvedSettings, TrainSettings, spoken
from .storage import from_json

SUFFIXES = (".json", ".toml")
NAMED_ELSEWHERE = {"learning_rate": "lr", "lr0": "lr", "wd": "weight_decay", "bs": "batch_size", "num_epochs": "epochs"}
"""Names of settings in other libraries, and here."""
TEXTS = {"True": True, "False": False, "None": None, "none": None}


def find_recipe(recipe: str | Path | Recipe | Mapping[str, Any]) -> Recipe:
    """A recipe by name, of a file of its fields or of a run.json, of a table of its fields, or as it is.

    Raises:
        ValueError: there is none of that name, or a field is unknown or of another type.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return _based(recipe, "a recipe of your own")
    if Path(recipe).suffix not in SUFFIXES:
        return recipes.recipe(str(recipe))
    table = read_table(recipe)
    table = table.get("recipe", table) if "architecture" in table else table  # what a run wrote
    try:
        return from_json(table) if "is" in table else _based(table, Path(recipe).stem)
    except ValueError as error:
        raise ValueError(f"{recipe}: {error}") from error


def read_table(path: str | Path) -> dict[str, Any]:
    """The contents of a JSON or TOML file.

    Raises:
        ValueError: it does not exist, has another suffix, or is neither.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be a .json or .toml file")
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path} must hold fields by name, got {str(table)[:40]}")
    return table


def settings_with(settings: TrainSettings | None, overrides: Mapping[str, Any]) -> TrainSettings:
    """Settings with some replaced by keyword arguments; both override those of the file that `config` names.

    Raises:
        TypeError: there is no setting of a name.
        ValueError: a value is out of range.
    """
    known, default = [field.name for field in fields(TrainSettings)], vars(TrainSettings())
    for name in overrides.keys() - set(known):
        meant = NAMED_ELSEWHERE.get(name, name)
        raise TypeError(f"there is no setting {name!r}{did_you_mean(meant, known) or ', only ' + ', '.join(known)}")
    if not isinstance(settings, TrainSettings | None):
        kind = type(settings).__name__
        raise TypeError(f"settings must be TrainSettings, got {kind}; images and labels are one pair, fit((X, y))")
    settings = settings or TrainSettings()
    given = {name: value for name, value in vars(settings).items() if value != default[name]} | overrides
    if given.get("config") is None:
        return replace(settings, **overrides)
    return replace(read_settings(given["config"]), **given | {"config": None})


def read_settings(path: str | Path) -> TrainSettings:
    """The settings of a .json or .toml file, or those of a run, by its run.json, which repeat it.

    Raises:
        ValueError: there is no such file or setting, or a value does not fit.
    """
    table = read_table(path)
    try:
        return settings_of_run(table) if "architecture" in table else with_fields(TrainSettings(), table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def settings_of_run(record: Mapping[str, Any]) -> TrainSettings:
    """The settings that repeat a run, by what its run.json says."""
    shared = (vars(TrainSettings()).keys() & get_type_hints(ResolvedSettings)) - {
        "variant",
        "device",
        "processes",
        "parallel",
    }
    same = {name: from_json(record[name]) for name in shared & record.keys()}
    return TrainSettings(variant=from_json(record["architecture"]), **same)


def with_settings(recipe: Recipe, settings: TrainSettings) -> Recipe:
    """A recipe with all that the settings replace in it.

    Raises:
        ValueError: what they ask for does not fit together, or a field is unknown or of another type.
    """
    shared = {field.name for field in fields(TrainSettings)} & {field.name for field in fields(Recipe)}
    asked = {name: getattr(settings, name) for name in shared - {"schedule", "lr_scale"}}
    recipe = replace(recipe, **{name: value for name, value in asked.items() if value is not None})
    recipe = with_schedule(recipe, settings.schedule, settings.milestones, settings.gamma)
    recipe = with_fields(recipe, settings.set or {})
    recipe = replace(recipe, input=with_colors(recipe.input, settings.mean, settings.std))
    if settings.lr_factors:
        recipe = replace(recipe, lr_scale=settings.lr_factors)
    peak_lr = recipe.peak_lr()
    if settings.lr is not None and not math.isclose(settings.lr, peak_lr, rel_tol=1e-9):  # rounding is no new recipe
        recipe = replace(recipe, lr_factor=recipe.lr_factor * settings.lr / peak_lr)
    return recipe


def check_names(recipe: Recipe, layers: Iterable[str], classes: Sequence[str]) -> None:
    """Refuse factors of layers or of classes that do not exist, and those that freeze all layers; ValueError."""
    if unknown := [name for name in recipe.lr_scale if name not in layers]:
        near = did_you_mean(unknown[0], layers)
        names = f"{spoken('freeze')} and {spoken('lr_scale')}"
        raise ValueError(f"{names} must name layers ({', '.join(layers)}), got {unknown[0]!r}{near}")
    if all(recipe.lr_scale.get(name, 1) == 0 for name in layers):
        raise ValueError("at least one layer must be trained, but all are frozen")
    for name in recipe.class_weights if isinstance(recipe.class_weights, Mapping) else ():
        if name not in classes:
            raise ValueError(f"{spoken('class_weights')} must name classes, got {name!r}{did_you_mean(name, classes)}")


def with_fields(declared: Any, changes: Mapping[str, Any], prefix: str = "") -> Any:
    """A recipe, or a part of one, with fields replaced by name; `color_shift.std` is a field of a field.

    Args:
        changes: values by field; a schedule may be one of SCHEDULES, with the learning rate that there was.
        prefix: what stands before the names of fields in error messages.

    Raises:
        ValueError: there is no such field, or the value is of another type or out of range.
    """
    hints = get_type_hints(type(declared))
    for path, value in changes.items():
        name, _, inner = path.partition(".")
        if name not in hints:
            raise ValueError(f"{type(declared).__name__} has no field {name!r}{did_you_mean(name, hints)}")
        current = getattr(declared, name)
        if inner or (isinstance(value, Mapping) and "is" not in value and _kind_in(hints[name], current)):
            kind = _kind_in(hints[name], current)
            if kind is None:
                raise ValueError(f"{prefix}{name} has no fields, got {prefix}{path}")
            parts = {inner: value} if inner else value
            value = with_fields(current if is_dataclass(current) else kind(), parts, f"{prefix}{name}.")
        if name == "schedule" and isinstance(value, str):
            declared = with_schedule(declared, value)
        else:
            declared = replace(declared, **{name: typed(hints[name], value, prefix + name)})
    return declared


def with_schedule(
    recipe: Recipe, name: str | None, milestones: Sequence[float] = (), gamma: float | None = None
) -> Recipe:
    """A recipe with a schedule by name, or with drops at milestones, that starts from the learning rates of its own.

    Args:
        milestones: epochs at which the learning rate is multiplied by gamma.

    Raises:
        ValueError: there is no such schedule, or the three do not fit together.
    """
    own = replace(recipe, lr_factor=1.0, lr_scale={})
    peak_lr, biases = own.peak_lr(), own.bias_lr_factor
    if name is not None and name not in SCHEDULES:
        raise ValueError(not_one_of("schedule", name, SCHEDULES))
    if milestones and name not in (None, "step"):
        raise ValueError(f"milestones must be given without schedule, or with schedule step, got {name}")
    if gamma is not None and not milestones and name not in ("step", "plateau"):
        raise ValueError("gamma must be given with milestones, or with schedule step or plateau")
    factor = 0.1 if gamma is None else gamma
    if milestones:
        return replace(recipe, schedule=MultiStepDecay(peak_lr, tuple(milestones), recipe.epochs, factor, biases))
    return replace(recipe, schedule=SCHEDULES[name](peak_lr, biases, factor)) if name else recipe


def with_colors(inputs: Input, *colors: Sequence[float] | None) -> Input:
    """Inputs with another mean or std of red, green and blue or both, if any: for colors of 0 … 255 or, where no value
    of the first is above 1, for colors of 0 … 1."""
    first = next(filter(None, colors), (1.0,))
    unit = 255.0 if max(first) <= 1 else 1.0
    mean, std = (values and tuple(unit * value for value in values) for values in colors)
    return Input(mean or inputs.mean, std or inputs.std)


def parsed(text: str) -> Any:
    """What a text on the command line stands for: JSON, or values with commas between them, or itself."""
    try:
        return TEXTS[text] if text in TEXTS else json.loads(text)
    except ValueError:
        return [parsed(each.strip()) for each in text.split(",")] if "," in text else text


def typed(hint: Any, value: Any, name: str) -> Any:
    """A value of a file or of text as the type of a field.

    Raises:
        ValueError: it is of another type.
    """
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]:
        try:
            return _typed(kind, value, name)
        except TypeError:
            continue
    raise ValueError(f"{name} must be {in_words(hint)}, got {repr(value)[:80]}")


def _typed(kind: Any, value: Any, name: str) -> Any:
    """As `typed`, for a type that is not a union; TypeError if it is of another type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, (list, tuple)):
        arguments = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(value) == len(arguments):
            return tuple(_typed(each, part, name) for each, part in zip(arguments, value, strict=True))
    elif origin is Mapping and isinstance(value, Mapping) and "is" not in value:
        return {str(key): typed(arguments[1], part, name) for key, part in value.items()}
    elif origin is Literal:
        if not isinstance(value, (list, dict)) and value in arguments:
            return value
    elif kind is Any or (kind in FITS and FITS[kind][0](value)):
        return value
    elif isinstance(kind, type) and kind not in FITS:
        value = from_json(value) if isinstance(value, dict) and "is" in value else value
        if isinstance(value, kind):
            return value
    raise TypeError


def _kind_in(hint: Any, current: Any) -> type | None:
    """The dataclass whose fields a value has; None for what takes a table as it is."""
    kinds = [type(current), *get_args(hint), hint] if Mapping not in map(get_origin, get_args(hint)) else []
    return next((kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)), None)


def _based(table: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from its fields, which may replace those of another one."""
    known = [*get_type_hints(Recipe), "base"]
    for field in table:
        if field.partition(".")[0] not in known:
            raise ValueError(f"Recipe has no field {field!r}{did_you_mean(field, known)}")
    about = f"Your own, based on {table.get('base', 'nothing')}."
    changes = {"name": name, "about": about} | {field: table[field] for field in table if field != "base"}
    if "base" in table:
        if not isinstance(table["base"], (str, Path, Recipe)):
            raise ValueError(f"base must be the name of a recipe, got {str(table['base'])[:80]}")
        return with_fields(find_recipe(table["base"]), changes)
    if not isinstance(table.get("schedule"), Mapping):
        raise ValueError("a recipe must have a base, the name of another one, or a schedule with all of its fields")
    return with_fields(Recipe(name, "", typed(Schedule, table["schedule"], "schedule")), changes)
