"""An image at a time, for a `Dataset` and a training loop of one's own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..specs.architecture import Architecture
from ..specs.reading import find_recipe, with_colors
from ..specs.recipe import Recipe
from ..specs.recipes import TORCHVISION
from ..specs.variants import variant
from .augmentation import random_windows
from .crops import Crops
from .images import ImageLike, stored_image
from .preprocessing import Preprocessing


class Transform:
    """From an image to what a network sees, (3, crop_size, crop_size), float32; can be pickled for workers.

    The image is resized so that its shorter side is `stored_size`, and its center square is cut out. For evaluation,
    the network sees the center crop of that; for training, a random crop (of random size, if the recipe has
    `crop_scale`), flipped with probability one half. Draws are from torch's generator, which a `DataLoader` seeds.
    """

    def __init__(self, preprocessing: Preprocessing, train: bool, recipe: Recipe):
        self.preprocessing, self.train, self.recipe = preprocessing, train, recipe

    def __call__(self, image: ImageLike) -> Tensor:
        inputs = self.preprocessing
        stored = torch.tensor(stored_image(image, inputs.stored_size, inputs.squares))[None]
        if not self.train:
            return inputs.center_crop(stored)[0]
        drawn = torch.rand(1, 5, dtype=torch.float64)
        flipped = drawn[:, 2] < 0.5 if inputs.flip else torch.zeros(1, dtype=torch.bool)
        if scale := self.recipe.crop_scale:
            windows = torch.from_numpy(random_windows(drawn.numpy(), scale, self.recipe.crop_ratio)).float()
            return inputs.resized_crops(stored, windows, flipped)[0]
        top, left = (drawn[:, :2] * (inputs.margin + 1)).long().unbind(1)
        return inputs.normalized_crops(stored, Crops(top, left, flipped))[0]

    def __repr__(self) -> str:
        inputs = self.preprocessing
        return f"Transform(stored_size={inputs.stored_size}, crop_size={inputs.crop_size}, train={self.train})"


def transform(
    network: str | Architecture | Any,
    train: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Transform:
    """What turns images into inputs of a network, for a `Dataset` of one's own.

        dataset = torchvision.datasets.ImageFolder("photos/train", alexnet.transform("original", train=True))
        images, labels = next(iter(torch.utils.data.DataLoader(dataset, batch_size=128, num_workers=4)))

    The result is called with a Pillow image (or a path, array …), and returns float32, (3, crop_size, crop_size). The
    color shift and other augmentation of recipes, which need statistics of all images, are not part of it.

    Args:
        network: the name of a variant, whose recipe says how inputs are normalized; or a trained `Classifier`, for the
            inputs that it was trained with.
        train: random crops and flips instead of the center crop.
        mean, std: of red, green and blue, for colors of 0 … 255, or of 0 … 1 if none is above 1. By default those of
            the recipe; where that computes them from the training images, those of ImageNet.

    Raises:
        ValueError: no variant has that name; or the classifier is not trained, or mean or std is given with it.
    """
    if isinstance(network, (str, Architecture)):
        architecture = variant(network)
        recipe = find_recipe(architecture.recipe)
        inputs, imagenet = with_colors(recipe.input, mean, std), TORCHVISION.input
        means = imagenet.mean if isinstance(inputs.mean, str) else inputs.mean
        stds = {"one": (1.0, 1.0, 1.0), "channel": imagenet.std}.get(inputs.std, inputs.std)
        sizes = architecture.stored_size, architecture.input_size
        inputs = Preprocessing(*sizes, torch.tensor(means).view(1, 1, 3), torch.tensor(stds), flip=recipe.flip)
    else:
        if hasattr(network, "architecture"):
            raise TypeError(f"network must be a name or a Classifier, got a module; pass {network.architecture.name!r}")
        bundle = getattr(network, "bundle", network)
        if bundle is None:
            raise ValueError("the classifier must be trained before its transform is made")
        if mean or std:
            raise ValueError("mean and std must not be given with a classifier, which has its own")
        inputs, recipe = bundle.preprocessing.to("cpu"), find_recipe(bundle.network.architecture.recipe)
    return Transform(inputs, train, recipe)
