"""Imports point one way: each place uses only what stands before it."""

import ast
from pathlib import Path

import alexnet

ORDER = [
    *(
        "specs",
        "compat",
        "files",
        "restricted_pickle",
        "device",
        "counter_rng",
        "kernels",
        "normalization",
        "data",
        "preprocessing",
        "model",
    ),
    *("parallel", "interchange", "evaluation", "training", "runs", "diagnosis", "analysis", "session", "experiments"),
    *("bench", "console", "classifier", "cli"),
]
ROOT = Path(alexnet.__file__).parent


def test_imports_point_one_way():
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if place == "__init__":
            continue
        for target in imported_places(path):
            assert ORDER.index(target) <= ORDER.index(place), f"{path.relative_to(ROOT)} imports {target}"


def test_specs_use_the_standard_library_alone():
    import sys

    for path in sorted((ROOT / "specs").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def imported_places(path):
    """The places of this package that a file imports from."""
    package = ["alexnet", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            full = [*base, *(node.module or "").split(".")] if node.module else base
            if len(full) > 1:
                yield full[1]
            else:
                yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alexnet":
            raise AssertionError(f"{path} imports alexnet by its full name")
