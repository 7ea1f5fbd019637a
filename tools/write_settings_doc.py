"""Write docs/settings.md and specs/overrides.py from the declaration of the settings, `alexnet.specs.settings`.

    python tools/write_settings_doc.py

A test compares the files with what this would write.
"""

import ast
import builtins
import inspect
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from alexnet.specs import settings as declaration
from alexnet.specs.recipe import Recipe
from alexnet.specs.settings import EvaluationSettings, TrainSettings, help_of

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "settings.md"
OVERRIDES = ROOT / "src" / "alexnet" / "specs" / "overrides.py"
HEAD = [
    '"""The keywords of `Classifier.fit`, for type checkers; written by `python tools/write_settings_doc.py`."""',
    "",
]
CLASS = ["", "", "class Overrides(TypedDict, total=False):"]
PAGE = """# Settings

Written by `python tools/write_settings_doc.py`; edit `src/alexnet/specs/settings.py` or `recipe.py` instead. Section
numbers are those of the paper.

## Training

Flags of `alexnet train`; keywords of `Classifier.fit` and `Classifier.fit_events`; fields of `alexnet.TrainSettings`.
`alexnet train photos --epochs 5 --lr 0.02` does what `classifier.fit("photos", epochs=5, lr=0.02)` does.

{training}

## Evaluation and prediction

Flags of `alexnet evaluate` and, but for the last two, of `alexnet predict`, and keywords of `alexnet.load`.

{inference}

## Recipes

Fields of `alexnet.specs.recipe.Recipe`. `alexnet describe --recipe NAME` prints those of a recipe. `--set FIELD=VALUE`
replaces them; [training.md](training.md#changing-a-recipe) has examples.

{recipe}
"""


def page() -> str:
    """The contents of docs/settings.md."""
    return PAGE.format(
        training=settings_table(TrainSettings), inference=settings_table(EvaluationSettings), recipe=recipe_table()
    )


def overrides_module() -> str:
    """The contents of specs/overrides.py: the fields of TrainSettings with their types, as they are declared."""
    module = ast.parse(inspect.getsource(declaration))
    classes = {node.name: node.body for node in module.body if isinstance(node, ast.ClassDef)}
    lines_of = (classes.get(parent.__name__, ()) for parent in reversed(TrainSettings.__mro__))
    declared = [node for lines in lines_of for node in lines if isinstance(node, ast.AnnAssign)]
    used = {name.id for node in declared for name in ast.walk(node.annotation) if isinstance(name, ast.Name)}
    imports = [node for node in module.body if isinstance(node, ast.ImportFrom)]
    origins = {alias.name: "." * node.level + node.module for node in imports for alias in node.names}
    names: dict[str, list[str]] = {"typing": ["TypedDict"]}
    for name in used - set(dir(builtins)):
        names.setdefault(origins.get(name, ".settings"), []).append(name)
    lines = [f"from {origin} import {', '.join(sorted(names[origin]))}" for origin in sorted(names, key=_import_order)]
    lines.insert(sum(not origin.startswith(".") for origin in names), "")
    fields = (f"    {node.target.id}: {ast.unparse(node.annotation)}" for node in declared)
    return "\n".join([*HEAD, *lines, *CLASS, *fields, ""]).replace("'", '"')


def _import_order(origin: str) -> tuple[bool, str]:
    return origin.startswith("."), origin


def settings_table(settings: type) -> str:
    rows = [("setting", "flag", "what it does")]
    for name, text in help_of(settings).items():
        default = default_of(settings, name)
        shown = f" Default: {default}." if default and "default:" not in text else ""
        flag = f"`--{name.replace('_', '-')}`" if name != "augment" else "Python only"
        rows.append((f"`{name}`", flag, text + shown))
    return table(rows)


def recipe_table() -> str:
    helps = help_of(Recipe)
    rows = [("field", "default", "what it is")]
    for field in fields(Recipe)[3:]:  # after name, about and schedule
        rows.append((f"`{field.name}`", default_of(Recipe, field.name), helps.get(field.name, "")))
    return table(rows)


def default_of(settings: type, name: str) -> str:
    """A default that is a number or a word; empty for all others."""
    (default,) = (field.default for field in fields(settings) if field.name == name)
    if isinstance(default, bool) or default in (None, MISSING):
        return {True: "on", False: "off"}.get(default, "")
    if isinstance(default, (int, float)):
        return f"{default:g}"
    return default if isinstance(default, str) else ""


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    OVERRIDES.write_text(overrides_module(), encoding="utf-8")
