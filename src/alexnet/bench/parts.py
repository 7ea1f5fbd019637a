"""The parts of `alexnet bench`: each gives rows of ours beside its peers, and notes on what was not measured."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ..data.augmentation import Preprocessing, training_views
from ..data.batches import Batch, batches, epoch_order
from ..data.packing import Pack, pack
from ..data.sources import open_source
from ..data.statistics import statistics
from ..evaluation.views import probabilities
from ..kernels import library
from ..model.device import TYPES, Precision, autocast
from ..model.network import AlexNet, create
from ..model.trained import Trained
from ..normalization import response_norm
from ..specs.geometry import place
from ..specs.recipes import recipe
from ..specs.variants import variant
from ..training.loop import train_step
from ..training.optimizer import paper_update
from . import peers
from .measure import Row, compare, median_seconds


@dataclass(frozen=True)
class Settings:
    device: torch.device
    precision: Precision
    batch_size: int = 128
    rounds: int = 5
    images: int = 400
    """JPEGs of 500 × 375 for packing and reading."""


TIMES = 10
"""Epochs that ours reads while the peer reads one."""

Result = Row | str
"""A string is a note: what was not measured and why, or a fact beside the rows."""


def machine(settings: Settings) -> Iterator[Result]:
    """What the machine can do at most: products of matrices, and copies."""
    yield f"kernels in C: {'used' if library() else 'not there (no C compiler when installed), plain torch instead'}"
    yield f"products of matrices: {peak_flops(settings) / 1e9:,.0f} GFLOP/s in {settings.precision}"
    values = torch.empty(64_000_000, device=settings.device).normal_()
    target = torch.empty_like(values)
    seconds = median_seconds(lambda: (target.copy_(values), _finish(settings)), settings.rounds)
    yield f"copies: {2 * values.nbytes / seconds / 1e9:,.1f} GB/s, read and written"


def norm(settings: Settings) -> Iterator[Result]:
    """Forward and backward, against `nn.LocalResponseNorm`."""
    for channels, side in ((96, 55), (256, 27)):
        x = torch.randn(32, channels, side, side, device=settings.device, dtype=TYPES[settings.precision])
        g = torch.randn_like(x)
        last, g_last = (each.contiguous(memory_format=torch.channels_last) for each in (x, g))
        stock = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)

        def run(norm, x, g):
            x = x.detach().requires_grad_()
            norm(x).backward(g)
            _finish(settings)

        yield compare(
            f"norm, forward and backward, {channels} × {side} × {side}, batch 32",
            lambda x=last, g=g_last: run(response_norm, x, g),
            "nn.LocalResponseNorm",
            lambda x=x, g=g, norm=stock: run(norm, x, g),
            "images/s",
            32,
            settings.rounds,
        )


def step(settings: Settings) -> Iterator[Result]:
    """One update of `original`, against stock modules with `torch.optim.SGD`."""
    size = settings.batch_size
    images = torch.randn(size, 224, 224, 3, device=settings.device).mul_(60).permute(0, 3, 1, 2)
    labels = torch.randint(1000, (size,), device=settings.device)
    ours = _our_step("original", images, labels, settings)
    for name, theirs in (
        ("nn modules, SGD", _stock_step(peers.stock_network(), images, labels, settings)),
        ("torchvision's layers (no norm), SGD", _stock_step(peers.torchvision_layers(), images, labels, settings)),
        ("nn modules by torch.compile, SGD", _stock_step(peers.stock_network(), images, labels, settings, True)),
    ):
        try:
            row = compare(
                f"training step of original, batch {size}", ours, name, theirs, "images/s", size, settings.rounds
            )
        except Exception as error:  # whatever a compiler that is not there makes torch raise
            yield f"{name}: not measured ({type(error).__name__}: {str(error).splitlines()[0][:100]})"
        else:
            yield row
    seconds, peak = median_seconds(ours, settings.rounds), peak_flops(settings)
    reached = flops_of_a_step("original") * size / seconds
    yield f"the step reaches {reached / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s: {reached / peak:.0%} of the matrix peak"


def inference(settings: Settings) -> Iterator[Result]:
    """Class probabilities of stored images by the center view, against networks that are handed views."""
    trained = _trained("original", settings)
    stored = torch.randint(256, (settings.batch_size, 256, 256, 3), dtype=torch.uint8, device=settings.device)
    stock = peers.stock_network().to(settings.device).eval()
    for count in (settings.batch_size, 1):
        images = stored[:count]
        views = trained.inputs.center(images).contiguous()

        def ours(images=images):
            probabilities(trained, images, all_views=False, precision=settings.precision)
            _finish(settings)

        def by_torch(views=views):
            with torch.inference_mode(), autocast(settings.device, settings.precision):
                stock(views).float().softmax(1)
            _finish(settings)

        what = f"original, {count} images, one view each" if count > 1 else "original, one image, one view"
        unit, amount = ("images/s", count) if count > 1 else ("ms", 1)
        rounds = settings.rounds if count > 1 else 10 * settings.rounds
        yield compare(what, ours, "nn modules", by_torch, unit, amount, rounds)
        if settings.device.type == "cpu":
            try:
                runtime = _onnx_runtime(trained.network)
            except ImportError as error:
                yield f"ONNX Runtime: not measured ({error}; pip install onnx onnxruntime)"
                continue
            array = views.numpy()
            yield compare(what, ours, "ONNX Runtime, fp32", lambda run=runtime, x=array: run(x), unit, amount, rounds)


def packing(settings: Settings) -> Iterator[Result]:
    """JPEGs to squares of 256, on all cores, against a pool of processes that do it with Pillow."""
    with _photos(settings.images) as folder:
        paths = sorted(folder.rglob("*.jpg"))
        source = open_source(folder)
        cores = os.cpu_count() or 1
        target = folder / "squares"
        np.memmap(target, np.uint8, "w+", shape=(len(paths), 256, 256, 3)).flush()
        parts = [(paths[first : first + 16], first, 256, target) for first in range(0, len(paths), 16)]
        packs: list[Pack] = []

        def ours():
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                packs[:] = [pack(source, 256, Path(cache))]

        with multiprocessing.get_context("spawn").Pool(cores) as pool:
            yield compare(
                f"packing {len(paths)} JPEGs of 500 × 375",
                ours,
                f"Pillow in {cores} processes",
                lambda: pool.map(peers.pack_some, parts, chunksize=1),
                "images/s",
                len(paths),
                settings.rounds,
            )
        theirs = np.memmap(target, np.uint8, "r", shape=(len(paths), 256, 256, 3))
        place_of = {path.relative_to(folder).as_posix(): number for number, path in enumerate(paths)}
        same = all((packs[0].images[n] == theirs[place_of[name]]).all() for n, name in enumerate(packs[0].names))
        yield f"packing: {'the same pixels' if same else 'OTHER PIXELS'} as the peer's"


def reading(settings: Settings) -> Iterator[Result]:
    """Batches of crops of 224 with mirror and color shift, against a `DataLoader` over the files."""
    with _photos(settings.images) as folder:
        paths = sorted(folder.rglob("*.jpg"))
        packed = pack(open_source(folder), 256, folder / "cache")
        everything = np.arange(len(packed.labels))
        found = statistics(packed.images, everything)
        chosen = replace(recipe("original"), crop_group=1)
        inputs = Preprocessing.of(chosen, found, 256, 224).to(settings.device)
        size = min(settings.batch_size, len(paths))
        loader = peers.PillowFolder(paths).loader(size)
        epoch = 0

        def ours():
            nonlocal epoch
            for _ in range(TIMES):
                epoch += 1
                for batch in batches(packed, epoch_order(everything, 0, epoch, "epoch"), size, settings.device):
                    training_views(batch, chosen, inputs, found, 0, epoch, dtype=TYPES[settings.precision])
            _finish(settings)

        def theirs():
            for _ in loader:
                pass

        what = "batches of crops of 224, mirrored, color shifted"
        peer = "DataLoader, Pillow, 2 workers"
        yield compare(what, ours, peer, theirs, "images/s", len(paths), settings.rounds, TIMES)


def keras(settings: Settings) -> Iterator[Result]:
    """Steps of `cifar-keras` at batch 32, against Keras with TensorFlow."""
    try:
        network = peers.keras_cifar()
    except ImportError as error:
        yield f"Keras: not measured ({error}; pip install keras tensorflow)"
        return
    count = 6400
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, count)
    given = (pixels.astype(np.float32) - 120) / 60
    chosen = recipe("cifar-keras")
    trained, found = _trained("cifar-keras", settings), statistics(pixels, np.arange(count))
    optimizer = _optimizer(trained.network, "cifar-keras")
    trained.network.train()

    def ours():
        for first in range(0, count, 32):
            numbers = np.arange(first, first + 32)
            images = torch.from_numpy(pixels[numbers]).to(settings.device)
            batch = Batch(images, torch.from_numpy(labels[numbers]).to(settings.device), numbers, first)
            views = training_views(batch, chosen, trained.inputs, found, 0, 0, dtype=TYPES[settings.precision])
            train_step(trained.network, optimizer, views, batch, chosen, settings.precision)

    yield compare(
        "epoch of cifar-keras, batch 32",
        ours,
        "Keras with TensorFlow, fp32",
        lambda: network.fit(given, labels, batch_size=32, epochs=1, shuffle=True, verbose=0),
        "images/s",
        count,
        settings.rounds,
    )


PARTS: dict[str, Callable[[Settings], Iterator[Result]]] = {
    part.__name__: part for part in (machine, norm, step, inference, packing, reading, keras)
}


def peak_flops(settings: Settings) -> float:
    """Multiplications and additions a second of a product of large matrices."""
    side = 4096
    a, b = (torch.randn(side, side, device=settings.device, dtype=TYPES[settings.precision]) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: (a @ b, _finish(settings)), settings.rounds)


def flops_of_a_step(name: str) -> float:
    """Multiplications and additions of one image: forward, and twice as many backward but for the image's gradient."""
    placed = place(variant(name))
    return 2 * (3 * sum(each.multiply_adds for each in placed) - placed[0].multiply_adds)


def _our_step(name: str, views: torch.Tensor, labels: torch.Tensor, settings: Settings) -> Callable[[], None]:
    network = create(name).to(settings.device, memory_format=torch.channels_last).train()
    optimizer, chosen = _optimizer(network, name), recipe(variant(name).recipe)
    batch = Batch(views, labels, np.arange(len(labels)), 0)

    def run() -> None:
        train_step(network, optimizer, views, batch, chosen, settings.precision)

    return run


def _optimizer(network: AlexNet, name: str):
    chosen = recipe(variant(name).recipe)
    optimizer = paper_update(network, chosen)
    optimizer.set_rates(chosen.rates(0, []))
    return optimizer


def _stock_step(
    network: nn.Module, views: torch.Tensor, labels: torch.Tensor, settings: Settings, compiled: bool = False
) -> Callable[[], None]:
    network = network.to(settings.device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.001, 0.9, weight_decay=0.0005)
    called = torch.compile(network) if compiled else network
    views = views.contiguous()

    def run() -> None:
        with autocast(settings.device, settings.precision):
            scores = called(views)
        optimizer.zero_grad()
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()
        _finish(settings)

    return run


def _trained(name: str, settings: Settings) -> Trained:
    """An untrained network with preprocessing of some mean color."""
    network = create(name).to(settings.device, memory_format=torch.channels_last)
    architecture = network.architecture
    mean, std = torch.full((1, 1, 3), 120.0), torch.ones(3)
    inputs = Preprocessing(architecture.stored_size, architecture.input_size, mean, std).to(settings.device)
    return Trained(network, inputs, tuple(map(str, range(network.num_classes))))


def _onnx_runtime(network: AlexNet) -> Callable[[np.ndarray], object]:
    import onnxruntime

    from ..model.export import write_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = write_onnx(network, Path(folder) / "network.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda views: session.run(None, {"images": views})


@contextmanager
def _photos(count: int) -> Iterator[Path]:
    """A folder of JPEGs of 500 × 375 pixels with the spectrum of photos, in two classes."""
    generator, height, width = np.random.default_rng(0), 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            noise = np.fft.irfft2(
                np.fft.rfft2(generator.normal(size=(3, height, width))) / frequency**1.3, (height, width)
            )
            mixed = noise.mean(0) / noise.mean(0).std() * 40 + noise / noise.std() * 20
            pixels = (mixed + 128).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            path = folder / f"class{number % 2}" / f"{number:05}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path, quality=90)
        yield folder


def _finish(settings: Settings) -> None:
    """Wait for a GPU, which works behind the program."""
    if settings.device.type == "cuda":
        torch.cuda.synchronize()
