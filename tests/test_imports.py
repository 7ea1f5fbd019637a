"""Imports point one way: each place uses only what stands before it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import alexnet

ORDER = [
    *("operators", "__version__"),
    *("compat", "specs", "files", "notebook", "restricted_pickle", "kernels", "device", "counter_rng"),
    *("normalization", "data", "preprocessing", "model", "parallel", "interchange", "evaluation", "training", "runs"),
    *("diagnosis", "analysis", "session", "experiments", "bench", "console", "classifier"),
    *("optim", "schedules", "cli", "__main__"),
]
INSIDE = {
    "model": ["layers", "network", "quantization", "bundle"],
    "data": ["progress", "storage", "source", "labels", "sources", "pack", "check", "batches"],
}
"""The order inside of some places."""
ROOT = Path(alexnet.__file__).parent


def test_imports_point_one_way():
    for file in sorted(ROOT.rglob("*.py")):
        check_imports(file, (), ORDER)


@pytest.mark.parametrize("package", INSIDE)
def test_imports_inside_a_place_point_one_way(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        check_imports(file, (package,), INSIDE[package])


def test_no_file_imports_itself_by_way_of_others():
    files = {module_of(file): file for file in ROOT.rglob("*.py")}
    graph = {
        module: {target for target in imported_modules(file) if target in files} - {module}
        for module, file in files.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(files)  # raises CycleError otherwise


def check_imports(file, package, order):
    """A file in a package imports nothing of the package that stands behind its own place in the order."""
    depth = len(package)
    place = module_of(file)[depth : depth + 1]
    if not place:  # the package itself
        return
    for target in imported_modules(file):
        if target[:depth] == package and len(target) > depth:
            name = file.relative_to(ROOT)
            assert order.index(target[depth]) <= order.index(place[0]), f"{name} imports {'.'.join(target)}"


def test_specs_use_the_standard_library_alone():
    import sys

    for path in sorted((ROOT / "specs").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def module_of(file):
    """The parts of the name of a module, without the first one."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_modules(file):
    """The modules of this package that a file imports, as parts of their names without the first one."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *node.module.split(".")) if node.module else base
            yield from ((*module, alias.name) for alias in node.names) if is_package(module) else [module]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alexnet":
            raise AssertionError(f"{file} imports alexnet by its full name")


def is_package(module):
    """Whether names imported from it may be modules."""
    return ROOT.joinpath(*module).is_dir()
