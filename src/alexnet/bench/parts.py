"""The parts of `alexnet bench`: each yields rows of ours against a peer, and notes."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.batches import Batch, epoch_order, read_batches
from ..data.pack.packing import make_pack
from ..data.pack.reading import Pack
from ..data.pack.statistics import compute_statistics
from ..data.sources.detection import open_source
from ..device import decoders
from ..evaluation.inference import probabilities
from ..interchange.programs import write_onnx
from ..kernels import library
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..normalization import response_norm
from ..parallel.group import Group
from ..parallel.strategy import DataParallel
from ..preprocessing.augmentation import training_views
from ..preprocessing.preprocessing import Preprocessing
from ..specs.recipes import recipe
from ..specs.shapes import infer_shapes
from ..specs.variants import variant
from ..training.optimizer import optimizer_of
from ..training.step import MicroBatches
from . import peers
from .measure import Result, Settings, compare, median_seconds

DISTINCT_PHOTOS = 100
"""Photos made for packing and reading; the others are copies."""
OUR_EPOCHS = 10
"""Epochs that ours reads while the peer reads one."""


def machine(settings: Settings) -> Iterator[Result]:
    """The machine's limits: matrix products and copies."""
    yield f"C kernels: {'used' if library() else 'not compiled (no C compiler at installation), plain torch is used'}"
    yield f"matrix products: {peak_flops(settings) / 1e9:,.0f} GFLOP/s in {settings.precision}"
    values = torch.empty(64_000_000, device=settings.device).normal_()
    target = torch.empty_like(values)
    seconds = median_seconds(lambda: target.copy_(values), settings.rounds)
    yield f"copies: {2 * values.nbytes / seconds / 1e9:,.1f} GB/s, read and written"


def norm(settings: Settings) -> Iterator[Result]:
    """LRN, forward and backward, against `nn.LocalResponseNorm` and, on CPUs, oneDNN's own primitive."""
    for channels, side in ((96, 55), (256, 27)):
        x = torch.randn(32, side, side, channels, device=settings.device, dtype=settings.dtype)
        x = x.permute(0, 3, 1, 2).requires_grad_()
        g = torch.randn_like(x)

        def ours(x=x, g=g):
            response_norm(x).backward(g)
            x.grad = None

        task = f"norm, forward and backward, {channels} × {side} × {side}, batch 32"
        theirs = partial(peers.norm, settings, channels, side)
        yield compare(settings, task, ours, "nn.LocalResponseNorm", theirs, count=32)
        if settings.device.type == "cpu" and library():
            y, dx, is_bf16 = torch.empty_like(x), torch.empty_like(x), x.dtype == torch.bfloat16
            numbers = 32, channels, side * side, 1, 5, 1e-4 / 5, 0.75, 2.0, False, torch.get_num_threads()

            def kernels(x=x, g=g, y=y, dx=dx, is_bf16=is_bf16, numbers=numbers):
                library().response_norm(None, x.data_ptr(), y.data_ptr(), is_bf16, True, *numbers)
                library().response_norm(g.data_ptr(), x.data_ptr(), dx.data_ptr(), is_bf16, True, *numbers)

            theirs = partial(peers.onednn_norm, settings, channels, side)
            yield compare(settings, f"{task}, into given memory", kernels, "oneDNN's primitive", theirs, count=32)


def step(settings: Settings) -> Iterator[Result]:
    """A training step of `original`, against stock modules with `torch.optim.SGD`."""
    size, network_side = settings.batch_size, variant("original").input_size
    bundle, stepper = trained("original", settings)
    views = torch.randn(size, network_side, network_side, 3, device=settings.device).mul_(60).permute(0, 3, 1, 2)
    labels = torch.randint(len(bundle.classes), (size,), device=settings.device)
    ours = partial(stepper.step, views.to(settings.dtype), Batch(views, labels, np.arange(size), 0))
    stock = partial(peers.training_step, settings, peers.stock_network)
    torchvision = partial(peers.training_step, settings, peers.torchvision_layers)
    for name, theirs in (
        ("nn modules, SGD", stock),
        ("torchvision's layers (no norm), SGD", torchvision),
        ("nn modules, torch.compile", partial(stock, compiled=True)),
        ("nn modules, SGD, our memory setting", partial(stock, freed_kept=True)),
        ("torchvision's layers, our memory setting", partial(torchvision, freed_kept=True)),
    ):
        yield compare(settings, f"training step of original, batch {size}", ours, name, theirs, count=size)
    peak, reached = peak_flops(settings), flops_per_image("original") * size / median_seconds(ours, settings.rounds)
    yield f"the step reaches {reached / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s: {reached / peak:.0%} of the matrix peak"


def inference(settings: Settings) -> Iterator[Result]:
    """Class probabilities of stored images by the center crop, against networks that are given crops."""
    bundle, _ = trained("original", settings)
    stored = torch.randint(256, (settings.batch_size, 256, 256, 3), dtype=torch.uint8, device=settings.device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_onnx(bundle, path := Path(folder) / "network.onnx")
        except ImportError as error:
            path = None
            yield f"ONNX Runtime: not measured ({error}; pip install onnx onnxruntime)"
        for size, fc_precision in ((settings.batch_size, "same"), (1, "same"), (1, "int8")):
            used = replace(bundle, fc_precision=fc_precision).set_private(True)  # as when it was loaded
            ours = partial(probabilities, used, stored[:size], all_views=False, precision=settings.precision)
            task = f"original, {size} images, one view each" if size > 1 else "original, one image, one view"
            task += f", fc layers in {fc_precision}" if fc_precision != "same" else ""
            options = {"count": size} if size > 1 else {"unit": "ms", "rounds": 10}
            yield compare(settings, task, ours, "nn modules", partial(peers.probabilities, settings, size), **options)
            if path and settings.device.type == "cpu":
                theirs = partial(peers.onnx_runtime, path, size, torch.get_num_threads())
                yield compare(settings, task, ours, "ONNX Runtime, fp32", theirs, **options)


def packing(settings: Settings) -> Iterator[Result]:
    """JPEGs to squares of 256 on all processors, against a pool of processes with Pillow."""
    with _photos(settings.images) as folder:
        paths, source, target = sorted(folder.rglob("*.jpg")), open_source(folder), folder / "squares"
        packs: list[Pack] = []

        def ours():
            packs.append(make_pack(source, 256, folder / f"cache{len(packs)}"))

        task, peer = f"packing {len(paths)} JPEGs of 500 × 375", f"Pillow in {decoders()} processes"
        yield compare(settings, task, ours, peer, partial(peers.packing, paths, 256, target), count=len(paths))
        squares = np.memmap(target, np.uint8, "r", shape=(len(paths), 256, 256, 3))
        indices = {path.relative_to(folder).as_posix(): index for index, path in enumerate(paths)}
        same = all((packs[0].images[n] == squares[indices[name]]).all() for n, name in enumerate(packs[0].names))
        yield f"packing: {'the same pixels as' if same else 'PIXELS THAT DIFFER FROM'} the peer's"


def reading(settings: Settings) -> Iterator[Result]:
    """Batches of crops of 224 with flip and color shift, against a `DataLoader` over the files."""
    with _photos(settings.images) as folder:
        paths = sorted(folder.rglob("*.jpg"))
        packed = make_pack(open_source(folder), 256, folder / "cache")
        indices = np.arange(len(packed.labels))
        statistics = compute_statistics(packed.images, indices)
        chosen = replace(recipe("original"), crop_group=1)
        preprocessing = Preprocessing.from_statistics(chosen.input, statistics, 256, 224).to(settings.device)
        size, epochs = min(settings.batch_size, len(paths)), count()

        def ours():
            for _ in range(OUR_EPOCHS):
                epoch = next(epochs)
                for batch in read_batches(packed, epoch_order(indices, 0, epoch, "epoch"), size, settings.device):
                    training_views(batch, chosen, preprocessing, statistics, 0, epoch, dtype=settings.dtype)

        task, peer = "batches of crops of 224, flipped, color shifted", "DataLoader, Pillow, 2 workers"
        options = {"count": len(paths), "repeats": OUR_EPOCHS}
        yield compare(settings, task, ours, peer, partial(peers.reading, paths, size), **options)


def keras(settings: Settings) -> Iterator[Result]:
    """An epoch of `cifar-keras` at batch 32, against Keras with TensorFlow."""
    images, generator, chosen = 6400, np.random.default_rng(0), recipe("cifar-keras")
    pixels = generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, 10, images))
    statistics = compute_statistics(pixels, np.arange(images))
    bundle, stepper = trained("cifar-keras", settings)

    def ours():
        for first in range(0, images, 32):
            indices = np.arange(first, first + 32)
            batch = Batch(torch.from_numpy(pixels[indices]), labels[indices], indices, first).to(settings.device)
            views = training_views(batch, chosen, bundle.preprocessing, statistics, 0, 0, dtype=settings.dtype)
            stepper.step(views, batch)

    task, theirs = "epoch of cifar-keras, batch 32", partial(peers.keras_epoch, settings, images)
    yield compare(settings, task, ours, "Keras with TensorFlow", theirs, count=images)


PARTS: dict[str, Callable[[Settings], Iterator[Result]]] = {
    part.__name__: part for part in (machine, norm, step, inference, packing, reading, keras)
}


def peak_flops(settings: Settings) -> float:
    """Floating-point operations per second of a product of large matrices."""
    side = 4096
    a, b = (torch.randn(side, side, device=settings.device, dtype=settings.dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, settings.rounds)


def flops_per_image(name: str) -> float:
    """Floating-point operations of a training step per image.

    The backward pass takes twice as many as the forward pass, without the gradient of the image.
    """
    placed = infer_shapes(variant(name))
    return 2 * (3 * sum(each.multiply_adds for each in placed) - placed[0].multiply_adds)


def trained(name: str, settings: Settings) -> tuple[ModelBundle, MicroBatches]:
    """A network with its initial weights, in training mode, and what takes steps with its own recipe."""
    architecture = variant(name)
    network, chosen = AlexNet(architecture).train(), recipe(architecture.recipe)
    network.to(settings.device, memory_format=torch.channels_last)  # as in training
    optimizer = optimizer_of(network, chosen)
    mean, std = torch.full((1, 1, 3), 120.0), torch.ones(3)
    preprocessing = Preprocessing(architecture.stored_size, architecture.input_size, mean, std).to(settings.device)
    bundle = ModelBundle(network, preprocessing, tuple(map(str, range(network.num_classes))))
    return bundle, MicroBatches(DataParallel(network, Group()), optimizer, chosen, settings.precision)


@contextmanager
def _photos(photo_count: int) -> Iterator[Path]:
    """A folder of JPEGs of 500 × 375 pixels with the spectrum of photos, in two classes."""
    generator, height, width = np.random.default_rng(0), 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    with tempfile.TemporaryDirectory() as name:
        for index in range(min(photo_count, DISTINCT_PHOTOS)):
            spectrum = np.fft.rfft2(generator.normal(size=(3, height, width))) / frequency**1.3
            noise = np.fft.irfft2(spectrum, (height, width))
            mixed = noise.mean(0) / noise.mean(0).std() * 40 + noise / noise.std() * 20
            pixels = (mixed + 128).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            encoded = BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG", quality=90)
            for copy in range(index, photo_count, DISTINCT_PHOTOS):
                path = Path(name) / f"class{copy % 2}" / f"{copy:05}.jpg"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(encoded.getvalue())
        yield Path(name)
