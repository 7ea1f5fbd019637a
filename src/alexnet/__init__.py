"""The whole of AlexNet: every network of the family, trained, evaluated, used and explained.

    import alexnet

    classifier = alexnet.Classifier()
    classifier.fit("photos", epochs=5).plot("curves.png")
    classifier.predict_n("cat.jpg", 3)

Nothing here is imported before it is used, because importing torch takes seconds. Only the operators of the norms are
known to torch as soon as both are imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .operators import register_with_torch

if TYPE_CHECKING:  # the same names as in _MODULES, for type checkers and editors
    from . import optim as optim
    from . import schedules as schedules
    from .classifier import Classifier as Classifier
    from .classifier import compare as compare
    from .classifier import evaluate_together as evaluate_together
    from .classifier import find_lr as find_lr
    from .classifier import load as load
    from .evaluation.prediction import Prediction as Prediction
    from .interchange.exporting import export_weights as export_weights
    from .interchange.importing import import_weights as import_weights
    from .normalization import response_norm as response_norm
    from .normalization import spatial_norm as spatial_norm
    from .preprocessing.transform import transform as transform
    from .session import Finish as Finish
    from .session import Start as Start
    from .session import create as create
    from .specs.settings import TrainSettings as TrainSettings
    from .training.loop import Epoch as Epoch
    from .training.loop import Step as Step

__version__ = "0.2.0"
_MODULES = {
    **dict.fromkeys(("Classifier", "compare", "evaluate_together", "find_lr", "load"), "classifier"),
    **dict.fromkeys(("Start", "Finish", "create"), "session"),
    **dict.fromkeys(("Step", "Epoch"), "training.loop"),
    **dict.fromkeys(("response_norm", "spatial_norm"), "normalization"),
    **dict.fromkeys(("optim", "schedules")),
    "transform": "preprocessing.transform",
    "Prediction": "evaluation.prediction",
    "export_weights": "interchange.exporting",
    "import_weights": "interchange.importing",
    "TrainSettings": "specs.settings",
}
__all__ = ["recipes", "variants", *_MODULES]


register_with_torch()


def variants() -> list[str]:
    """Names of all networks; `create` builds one of them."""
    from .specs.variants import VARIANTS

    return list(VARIANTS)


def recipes() -> list[str]:
    """Names of all recipes, that is ways of training."""
    from .specs.recipes import RECIPES

    return list(RECIPES)


if not TYPE_CHECKING:  # else a type checker would take any name for one of ours

    def __getattr__(name: str):
        if name not in _MODULES:
            raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
        module = import_module(f".{_MODULES[name] or name}", __name__)
        return getattr(module, name) if _MODULES[name] else module


def __dir__() -> list[str]:
    return __all__
