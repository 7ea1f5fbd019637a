"""The whole of AlexNet: every network of the family, trained, evaluated, used and explained.

    import alexnet

    classifier = alexnet.Classifier()
    classifier.fit("photos", epochs=5).plot("curves.png")
    classifier.predict_n("cat.jpg", 3)

Nothing here is imported before it is used, because importing torch takes seconds.
"""

from importlib import import_module

__version__ = "0.2.0"
_MODULES = {
    "Classifier": "classifier",
    "evaluate_together": "classifier",
    "load": "classifier",
    "create": "session",
    "export_weights": "interchange.exporting",
    "import_weights": "interchange.importing",
    "response_norm": "normalization",
    "spatial_norm": "normalization",
    "TrainSettings": "specs.settings",
    "Start": "session",
    "Step": "training.loop",
    "Epoch": "training.loop",
    "Finish": "session",
}
__all__ = ["recipes", "variants", *_MODULES]


def variants() -> list[str]:
    """Names of all networks; `create` builds one of them."""
    from .specs.variants import VARIANTS

    return list(VARIANTS)


def recipes() -> list[str]:
    """Names of all recipes, that is ways of training."""
    from .specs.recipes import RECIPES

    return list(RECIPES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
