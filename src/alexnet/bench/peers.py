"""Other software for the same tasks: functions that are called in a process of their own and return what to measure."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..device import Precision, autocast, keep_freed_memory, torch_dtype
from .measure import Work


def norm(channels: int, side: int, device: str, precision: Precision) -> Work:
    """`nn.LocalResponseNorm`, forward and backward, on 32 images."""
    module = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    x = torch.randn(32, channels, side, side, device=device, dtype=torch_dtype(precision), requires_grad=True)
    g = torch.randn_like(x)

    def run() -> None:
        with autocast(torch.device(device), precision):  # accumulates in float32
            y = module(x)
        y.backward(g.to(y.dtype))
        x.grad = None
        _finish(device)

    return run


def training_step(
    network: str, batch_size: int, device: str, precision: Precision, compiled: bool = False, freed_kept: bool = False
) -> Work:
    """A training step of NETWORKS[network] with `torch.optim.SGD`, eager or by `torch.compile`.

    Args:
        freed_kept: whether the C library keeps freed memory, as in our commands.
    """
    if freed_kept:
        keep_freed_memory()
    module = NETWORKS[network]().to(device).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.001, 0.9, weight_decay=0.0005)
    forward = torch.compile(module) if compiled else module
    views = torch.randn(batch_size, 3, 224, 224, device=device)
    labels = torch.randint(1000, (batch_size,), device=device)

    def run() -> None:
        with autocast(torch.device(device), precision):
            scores = forward(views)
        optimizer.zero_grad()
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()
        _finish(device)

    return run


def probabilities(view_count: int, device: str, precision: Precision) -> Work:
    """The softmax of the stock modules' scores."""
    module = stock_network().to(device).eval()
    views = torch.randn(view_count, 3, 224, 224, device=device)

    def run() -> None:
        with torch.inference_mode(), autocast(torch.device(device), precision):
            module(views).float().softmax(1)
        _finish(device)

    return run


def onnx_runtime(path: Path, view_count: int, threads: int) -> Work:
    """The scores of an ONNX file by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    views = np.random.default_rng(0).normal(0, 60, (view_count, 3, 224, 224)).astype(np.float32)
    return lambda: session.run(None, {"images": views})


def packing(paths: list[Path], side: int, target: Path) -> Work:
    """Decode and resize by Pillow in a process per processor, into a new file of squares."""
    tasks = [(paths[first : first + 16], first, side, target) for first in range(0, len(paths), 16)]
    pool = multiprocessing.get_context("spawn").Pool(os.cpu_count())

    def run() -> None:
        np.memmap(target, np.uint8, "w+", shape=(len(paths), side, side, 3))
        pool.map(_pack_some, tasks, chunksize=1)

    return run


def reading(paths: list[Path], batch_size: int) -> Work:
    """An epoch of a `DataLoader` with two workers over the files."""
    loader = DataLoader(_PillowFolder(paths), batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    return lambda: [None for _ in loader]


def keras_epoch(images: int, precision: Precision, classes: int = 10) -> Work:
    """An epoch of `cifar-keras` at batch 32 by Keras with TensorFlow."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from keras import layers

    if precision == "bf16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")

    class ResponseNorm(layers.Layer):
        def call(self, x):
            wide = tf.cast(x, tf.float32)  # TensorFlow supports no other type
            normed = tf.nn.local_response_normalization(wide, depth_radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)
            return tf.cast(normed, x.dtype)

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
            layers.Dense(classes, dtype="float32"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.001, 0.9, weight_decay=0.004), loss)
    generator = np.random.default_rng(0)
    pixels = generator.normal(size=(images, 32, 32, 3)).astype(np.float32)
    labels = generator.integers(0, classes, images)
    return lambda: network.fit(pixels, labels, batch_size=32, epochs=1, shuffle=True, verbose=0)


def stock_network(classes: int = 1000) -> nn.Sequential:
    """AlexNet of stock modules: two groups, ReLU, `nn.LocalResponseNorm`, pooling."""

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
    """The layers of torchvision's AlexNet, which has no normalization."""
    channels = 3, 64, 192, 384, 256, 256
    kernels, strides, pads, pools = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (1, 1, 0, 0, 1)
    modules: list[nn.Module] = []
    for i, kernel in enumerate(kernels):
        modules.append(nn.Conv2d(channels[i], channels[i + 1], kernel, strides[i], pads[i]))
        modules += [nn.ReLU(inplace=True), *([nn.MaxPool2d(3, 2)] if pools[i] else [])]
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(6), *_head(256 * 6 * 6, classes))


NETWORKS = {"stock": stock_network, "torchvision": torchvision_layers}


def pillow_square(path: Path, side: int) -> np.ndarray:
    """Decode and resize the center square, by Pillow."""
    with Image.open(path) as image:
        shorter = min(image.size)
        left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box))


def _head(inputs: int, classes: int) -> list[nn.Module]:
    hidden = [nn.Dropout(), nn.Linear(inputs, 4096), nn.ReLU(inplace=True)]
    return [nn.Flatten(), *hidden, nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, classes)]


def _pack_some(task: tuple[list[Path], int, int, Path]) -> None:
    paths, first, side, target = task
    squares = np.memmap(target, np.uint8, "r+").reshape(-1, side, side, 3)
    for index, path in enumerate(paths, first):
        squares[index] = pillow_square(path, side)


class _PillowFolder(Dataset):
    """Images decoded in every epoch: center square of 256, random crop of 224, random flip, a color added."""

    def __init__(self, paths: list[Path], crop: int = 224, side: int = 256):
        self.paths, self.crop, self.side = paths, crop, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = pillow_square(self.paths[index], self.side)
        top, left, flipped = (int(torch.randint(n, ())) for n in (*(self.side - self.crop + 1,) * 2, 2))
        pixels = pixels[top : top + self.crop, left : left + self.crop][:, :: -1 if flipped else 1]
        view = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float()
        return view - 120 + torch.randn(3, 1, 1), 0


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
