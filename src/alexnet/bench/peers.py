"""What others would use for the same work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset


def stock_network(classes: int = 1000) -> nn.Sequential:
    """AlexNet as most modules on the net have it: two groups, ReLU, `nn.LocalResponseNorm`, pooling."""

    def layer(*convolution, groups: int = 1, norm: bool = False, pool: bool = False) -> list[nn.Module]:
        modules: list[nn.Module] = [nn.Conv2d(*convolution, groups=groups), nn.ReLU(inplace=True)]
        modules += [nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)] if norm else []
        return modules + ([nn.MaxPool2d(3, 2)] if pool else [])

    return nn.Sequential(
        *layer(3, 96, 11, 4, 2, norm=True, pool=True),
        *layer(96, 256, 5, 1, 2, groups=2, norm=True, pool=True),
        *layer(256, 384, 3, 1, 1),
        *layer(384, 384, 3, 1, 1, groups=2),
        *layer(384, 256, 3, 1, 1, groups=2, pool=True),
        *_head(256 * 6 * 6, classes),
    )


def torchvision_layers(classes: int = 1000) -> nn.Sequential:
    """The layers of torchvision's alexnet, which has no normalization."""
    maps = 3, 64, 192, 384, 256, 256
    kernels, strides, pads, pools = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (1, 1, 0, 0, 1)
    modules: list[nn.Module] = []
    for number, kernel in enumerate(kernels):
        modules.append(nn.Conv2d(maps[number], maps[number + 1], kernel, strides[number], pads[number]))
        modules += [nn.ReLU(inplace=True), *([nn.MaxPool2d(3, 2)] if pools[number] else [])]
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(6), *_head(256 * 6 * 6, classes))


def _head(inputs: int, classes: int) -> list[nn.Module]:
    hidden = [nn.Dropout(), nn.Linear(inputs, 4096), nn.ReLU(inplace=True)]
    return [nn.Flatten(), *hidden, nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, classes)]


def pillow_square(path: Path, side: int) -> np.ndarray:
    """Decode, shorter side to `side`, central square, in one call of Pillow."""
    with Image.open(path) as image:
        shorter = min(image.size)
        left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box))


def pack_some(work: tuple[list[Path], int, int, Path]) -> None:
    """What one process of a pool does: write some images into their places in a file of squares."""
    paths, first, side, target = work
    squares = np.memmap(target, np.uint8, "r+").reshape(-1, side, side, 3)
    for place, path in enumerate(paths, first):
        squares[place] = pillow_square(path, side)


class PillowFolder(Dataset):
    """Images decoded anew each epoch: shorter side to 256, a random crop, mirrored or not, a color added."""

    def __init__(self, paths: list[Path], crop: int = 224, side: int = 256):
        self.paths, self.crop, self.side = paths, crop, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        pixels = pillow_square(self.paths[number], self.side)
        top, left, mirrored = (int(torch.randint(n, ())) for n in (self.side - self.crop + 1,) * 2 + (2,))
        pixels = pixels[top : top + self.crop, left : left + self.crop, :: -1 if mirrored else 1]
        view = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float()
        return view - 120 + torch.randn(3, 1, 1), 0

    def loader(self, batch_size: int, workers: int = 2) -> DataLoader:
        return DataLoader(self, batch_size, shuffle=True, num_workers=workers, persistent_workers=True)


def keras_cifar(classes: int = 10):
    """The network `cifar-keras` with the layers of Keras and TensorFlow, compiled for training with momentum.

    Raises:
        ImportError: Keras or TensorFlow is not installed.
    """
    import os

    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from keras import layers

    class ResponseNorm(layers.Layer):
        def call(self, x):
            return tf.nn.local_response_normalization(x, depth_radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)

    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(3, 2, padding="same"),
            ResponseNorm(),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            ResponseNorm(),
            layers.MaxPooling2D(3, 2, padding="same"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.001, 0.9, weight_decay=0.004), loss)
    return network
