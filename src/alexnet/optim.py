"""The paper's optimizer, for training loops of your own.

optimizer = alexnet.optim.PaperSGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
optimizer = alexnet.optim.paper_optimizer(network, "original")  # biases without weight decay, twice as fast
"""

from torch import nn

from .specs.reading import find_recipe
from .specs.recipe import Recipe
from .training.optimizer import PaperSGD, optimizer_of

__all__ = ["PaperSGD", "paper_optimizer"]


def paper_optimizer(network: nn.Module, recipe: str | Recipe = "original") -> PaperSGD:
    """The optimizer of a network, with the highest learning rates of a recipe, on which `alexnet.schedules.lr_factor`
    builds; biases and batch norm have no weight decay unless the recipe says so."""
    return optimizer_of(network, find_recipe(recipe))
