"""Registers our operators with torch, without importing it early.

Whoever loads a `torch.export` or TorchScript file that calls them imports `alexnet` for their sake, before torch or
after it.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def register_with_torch() -> None:
    """Register the operators now if torch was imported, else as soon as it is."""
    if "torch" in sys.modules:
        import_module(".normalization", __package__)
    else:
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch(MetaPathFinder):
    """Finds torch as ever, and has our operators registered once it was executed."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == "torch" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            import_module(".normalization", __package__)

        spec.loader.exec_module = exec_module
        return spec
