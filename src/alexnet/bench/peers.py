"""Other software for the same tasks: functions that are called in a process of their own and return what to measure."""

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..device import autocast, decoders, keep_freed_memory
from .measure import Settings, Work


def norm(settings: Settings, channels: int, side: int) -> Work:
    """`nn.LocalResponseNorm`, forward and backward, on 32 images."""
    module = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)
    x = torch.randn(32, channels, side, side, device=settings.device, dtype=settings.dtype, requires_grad=True)
    g = torch.randn_like(x)

    def run() -> None:
        with autocast(settings.device, settings.precision):  # accumulates in float32
            y = module(x)
        y.backward(g.to(y.dtype))
        x.grad = None

    return run


def onednn_norm(settings: Settings, channels: int, side: int) -> Work:
    """oneDNN's LRN primitive, forward and backward, channels last, on 32 images (`pip install onednn-cpu-gomp`).

    The oneDNN within torch has it, too, but torch does not call it.

    Raises:
        ModuleNotFoundError: oneDNN is not installed.
        RuntimeError: oneDNN refuses a call, or its values are not those of torch.
    """
    path = Path(sys.prefix) / "lib" / "libdnnl.so"
    if not path.exists():
        raise ModuleNotFoundError("needs pip install onednn-cpu-gomp")
    library = ctypes.CDLL(str(path))

    def created(name: str, *arguments) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        if status := getattr(library, name)(ctypes.byref(handle), *arguments):
            raise RuntimeError(f"{name} returns {status}")
        return handle

    x, g = (torch.randn(32, side, side, channels, dtype=settings.dtype).permute(0, 3, 1, 2) for _ in range(2))
    y, dx = torch.empty_like(x), torch.empty_like(x)
    dtype = {torch.bfloat16: 2, torch.float32: 3}[settings.dtype]
    engine = created("dnnl_engine_create", 1, ctypes.c_size_t(0))
    stream = created("dnnl_stream_create", engine, 1)
    shape, strides = ((ctypes.c_int64 * 4)(*numbers) for numbers in (x.shape, x.stride()))
    layout = created("dnnl_memory_desc_create_with_strides", 4, shape, dtype, strides)
    across_channels, constants = 0xAFF, (ctypes.c_int64(5), *map(ctypes.c_float, (1e-4, 0.75, 2.0)))
    forward = created(
        "dnnl_lrn_forward_primitive_desc_create", engine, 64, across_channels, layout, layout, *constants, None
    )
    backward = created(
        "dnnl_lrn_backward_primitive_desc_create",
        *(engine, across_channels, layout, layout, layout, *constants, forward, None),
    )
    library.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
    workspace = ctypes.c_void_p(library.dnnl_primitive_desc_query_md(forward, 135, 0))
    buffers = {1: x, 17: y, 129: dx, 145: g}  # source, destination, and their gradients
    memory = {
        kind: created("dnnl_memory_create", layout, engine, ctypes.c_void_p(tensor.data_ptr()))
        for kind, tensor in buffers.items()
    }
    memory[64] = created("dnnl_memory_create", workspace, engine, ctypes.c_void_p(-1))  # oneDNN allocates it
    calls = []
    for description, kinds in ((forward, (1, 17, 64)), (backward, (1, 145, 129, 64))):
        arguments = (_Argument * len(kinds))(*[_Argument(kind, memory[kind]) for kind in kinds])
        calls.append((created("dnnl_primitive_create", description), stream, len(kinds), arguments))

    def run(kept: tuple = (x, g, y, dx)) -> None:  # the handles hold addresses alone
        for call in calls:
            if status := library.dnnl_primitive_execute(*call):
                raise RuntimeError(f"dnnl_primitive_execute returns {status}")
        library.dnnl_stream_wait(stream)

    run()
    wide = x[:2].float().requires_grad_()
    expected = F.local_response_norm(wide, 5, 1e-4, 0.75, 2.0)
    expected.backward(g[:2].float())
    if not all(torch.allclose(a[:2].float(), b, 0.02, 0.02) for a, b in ((y, expected), (dx, wide.grad))):
        raise RuntimeError("its values are not those of torch")
    return run


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("memory", ctypes.c_void_p))


def training_step(
    settings: Settings, network: Callable[[], nn.Module], compiled: bool = False, freed_kept: bool = False
) -> Work:
    """A training step with `torch.optim.SGD`, eager or by `torch.compile`.

    Args:
        freed_kept: whether the C library keeps freed memory, as in our commands.
    """
    if freed_kept:
        keep_freed_memory()
    module = network().to(settings.device).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.001, 0.9, weight_decay=0.0005)
    forward = torch.compile(module) if compiled else module
    views = torch.randn(settings.batch_size, 3, 224, 224, device=settings.device)
    labels = torch.randint(1000, (settings.batch_size,), device=settings.device)

    def run() -> None:
        with autocast(settings.device, settings.precision):
            scores = forward(views)
        optimizer.zero_grad()
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()

    return run


def probabilities(settings: Settings, view_count: int) -> Work:
    """The softmax of the stock modules' scores."""
    module = stock_network().to(settings.device).eval()
    views = torch.randn(view_count, 3, 224, 224, device=settings.device)

    def run() -> None:
        with torch.inference_mode(), autocast(settings.device, settings.precision):
            module(views).float().softmax(1)

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
    pool = multiprocessing.get_context("spawn").Pool(decoders())

    def run() -> None:
        np.memmap(target, np.uint8, "w+", shape=(len(paths), side, side, 3))
        pool.map(_pack_some, tasks, chunksize=1)

    return run


def reading(paths: list[Path], batch_size: int) -> Work:
    """An epoch of a `DataLoader` with two workers over the files."""
    loader = DataLoader(_PillowFolder(paths), batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    return lambda: [None for _ in loader]


def keras_epoch(settings: Settings, images: int) -> Work:
    """An epoch of `cifar-keras` at batch 32 by Keras with TensorFlow."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from keras import layers

    if settings.precision == "bf16":
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
            layers.Dense(10, dtype="float32"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.001, 0.9, weight_decay=0.004), loss)
    generator = np.random.default_rng(0)
    pixels = generator.normal(size=(images, 32, 32, 3)).astype(np.float32)
    labels = generator.integers(0, 10, images)
    return lambda: network.fit(pixels, labels, batch_size=32, epochs=1, shuffle=True, verbose=0)


def stock_network() -> nn.Sequential:
    """AlexNet of stock modules: two groups, ReLU, `nn.LocalResponseNorm`, pooling."""
    return nn.Sequential(
        *_layer(3, 96, 11, 4, 2, norm=True, pool=True),
        *_layer(96, 256, 5, 1, 2, groups=2, norm=True, pool=True),
        *_layer(256, 384, 3, 1, 1),
        *_layer(384, 384, 3, 1, 1, groups=2),
        *_layer(384, 256, 3, 1, 1, groups=2, pool=True),
        *_fully_connected(),
    )


def torchvision_layers() -> nn.Sequential:
    """The layers of torchvision's AlexNet, which has no normalization."""
    return nn.Sequential(
        *_layer(3, 64, 11, 4, 2, pool=True),
        *_layer(64, 192, 5, 1, 2, pool=True),
        *_layer(192, 384, 3, 1, 1),
        *_layer(384, 256, 3, 1, 1),
        *_layer(256, 256, 3, 1, 1, pool=True),
        nn.AdaptiveAvgPool2d(6),
        *_fully_connected(),
    )


def _layer(*convolution, groups: int = 1, norm: bool = False, pool: bool = False) -> list[nn.Module]:
    modules: list[nn.Module] = [nn.Conv2d(*convolution, groups=groups), nn.ReLU(inplace=True)]
    modules += [nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)] if norm else []
    return modules + ([nn.MaxPool2d(3, 2)] if pool else [])


def _fully_connected() -> list[nn.Module]:
    hidden = [nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True)]
    return [nn.Flatten(), *hidden, nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, 1000)]


def _square(path: Path, side: int = 256) -> np.ndarray:
    """Decode and resize the center square, by Pillow."""
    with Image.open(path) as image:
        shorter = min(image.size)
        left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box))


def _pack_some(task: tuple[list[Path], int, int, Path]) -> None:
    paths, first, side, target = task
    squares = np.memmap(target, np.uint8, "r+").reshape(-1, side, side, 3)
    for index, path in enumerate(paths, first):
        squares[index] = _square(path, side)


class _PillowFolder(Dataset):
    """Images decoded in every epoch: center square of 256, random crop of 224, random flip, a color added."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        top, left, flipped = (int(torch.randint(n, ())) for n in (33, 33, 2))
        pixels = _square(self.paths[index])[top : top + 224, left : left + 224][:, :: -1 if flipped else 1]
        view = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float()
        return view - 120 + torch.randn(3, 1, 1), 0
