"""The parts of `alexnet bench`: each gives rows of ours beside its peers, and notes on what was not measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from ..device import Precision, torch_dtype
from ..evaluation.evaluation import probabilities
from ..interchange.programs import write_onnx
from ..kernels import library
from ..model.bundle import ModelBundle
from ..model.network import AlexNet, create
from ..normalization import response_norm
from ..preprocessing.augmentation import training_views
from ..preprocessing.preprocessing import Preprocessing
from ..specs.recipe import Recipe
from ..specs.recipes import recipe
from ..specs.shapes import infer_shapes
from ..specs.variants import variant
from ..training.optimizer import paper_optimizer
from ..training.step import MicroBatches
from . import peers
from .measure import PeerFailed, Row, compare, median_seconds


@dataclass(frozen=True)
class Settings:
    device: torch.device
    precision: Precision
    batch_size: int = 128
    rounds: int = 5
    images: int = 1000
    """JPEGs of 500 × 375 for packing and reading."""


DIFFERENT = 100
"""Photos that are made for packing and reading; more are copies of them."""
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
        x = torch.randn(32, side, side, channels, device=settings.device, dtype=torch_dtype(settings.precision))
        x = x.permute(0, 3, 1, 2).requires_grad_()
        g = torch.randn_like(x)

        def ours(x=x, g=g):
            response_norm(x).backward(g)
            x.grad = None
            _finish(settings)

        what = f"norm, forward and backward, {channels} × {side} × {side}, batch 32"
        given = channels, side, str(settings.device), settings.precision
        yield _row(what, ours, "nn.LocalResponseNorm", peers.norm, given, "images/s", 32, settings.rounds)


def step(settings: Settings) -> Iterator[Result]:
    """One update of `original`, against stock modules with `torch.optim.SGD`."""
    size, given = settings.batch_size, (settings.batch_size, str(settings.device), settings.precision)
    ours = _our_step("original", settings)
    what, counted = f"training step of original, batch {size}", ("images/s", size, settings.rounds)
    for name, *arguments in (
        ("nn modules, SGD", "stock", *given),
        ("torchvision's layers (no norm), SGD", "torchvision", *given),
        ("nn modules, torch.compile", "stock", *given, True),
        ("nn modules, SGD, our memory setting", "stock", *given, False, True),
        ("torchvision's layers, our memory setting", "torchvision", *given, False, True),
    ):
        yield _row(what, ours, name, peers.training_step, tuple(arguments), *counted)
    seconds, peak = median_seconds(ours, settings.rounds), peak_flops(settings)
    reached = flops_of_a_step("original") * size / seconds
    yield f"the step reaches {reached / 1e9:,.0f} of {peak / 1e9:,.0f} GFLOP/s: {reached / peak:.0%} of the matrix peak"


def inference(settings: Settings) -> Iterator[Result]:
    """Class probabilities of stored images by the center view, against networks that are handed views."""
    bundle = _trained("original", settings)
    stored = torch.randint(256, (settings.batch_size, 256, 256, 3), dtype=torch.uint8, device=settings.device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write_onnx(bundle.network, Path(folder) / "network.onnx")
        except ImportError as error:
            path = None
            yield f"ONNX Runtime: not measured ({error}; pip install onnx onnxruntime)"
        for number, connected in ((settings.batch_size, "same"), (1, "same"), (1, "int8")):
            used = replace(bundle, fc_precision=connected)

            def ours(used=used, images=stored[:number]):
                probabilities(used, images, all_views=False, precision=settings.precision)
                _finish(settings)

            what = f"original, {number} images, one view each" if number > 1 else "original, one image, one view"
            what += f", fc layers in {connected}" if connected != "same" else ""
            unit, amount, rounds = ("images/s", number, 1) if number > 1 else ("ms", 1, 10)
            given, rounds = (number, str(settings.device), settings.precision), rounds * settings.rounds
            yield _row(what, ours, "nn modules", peers.probabilities, given, unit, amount, rounds)
            if path and settings.device.type == "cpu":
                given = path, number, torch.get_num_threads()
                yield _row(what, ours, "ONNX Runtime, fp32", peers.onnx_runtime, given, unit, amount, rounds)


def packing(settings: Settings) -> Iterator[Result]:
    """JPEGs to squares of 256, on all cores, against a pool of processes that do it with Pillow."""
    with _photos(settings.images) as folder:
        paths, source, target = sorted(folder.rglob("*.jpg")), open_source(folder), folder / "squares"
        packs: list[Pack] = []

        def ours():
            packs.append(make_pack(source, 256, folder / f"cache{len(packs)}"))

        what, peer = f"packing {len(paths)} JPEGs of 500 × 375", f"Pillow in {os.cpu_count()} processes"
        yield _row(what, ours, peer, peers.packing, (paths, 256, target), "images/s", len(paths), settings.rounds)
        theirs = np.memmap(target, np.uint8, "r", shape=(len(paths), 256, 256, 3))
        place_of = {path.relative_to(folder).as_posix(): number for number, path in enumerate(paths)}
        same = all((packs[0].images[n] == theirs[place_of[name]]).all() for n, name in enumerate(packs[0].names))
        yield f"packing: {'the same pixels' if same else 'OTHER PIXELS'} as the peer's"


def reading(settings: Settings) -> Iterator[Result]:
    """Batches of crops of 224 with flip and color shift, against a `DataLoader` over the files."""
    with _photos(settings.images) as folder:
        paths = sorted(folder.rglob("*.jpg"))
        packed = make_pack(open_source(folder), 256, folder / "cache")
        everything = np.arange(len(packed.labels))
        found = compute_statistics(packed.images, everything)
        chosen = replace(recipe("original"), crop_group=1)
        inputs = Preprocessing.from_statistics(chosen.input, found, 256, 224).to(settings.device)
        size, epochs = min(settings.batch_size, len(paths)), count()

        def ours():
            for _ in range(TIMES):
                epoch = next(epochs)
                for batch in read_batches(packed, epoch_order(everything, 0, epoch, "epoch"), size, settings.device):
                    training_views(batch, chosen, inputs, found, 0, epoch, dtype=torch_dtype(settings.precision))
            _finish(settings)

        what, peer = "batches of crops of 224, flipped, color shifted", "DataLoader, Pillow, 2 workers"
        counted = "images/s", len(paths), settings.rounds, TIMES
        yield _row(what, ours, peer, peers.reading, (paths, size), *counted)


def keras(settings: Settings) -> Iterator[Result]:
    """Steps of `cifar-keras` at batch 32, against Keras with TensorFlow."""
    images, generator = 6400, np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, 10, images))
    chosen = recipe("cifar-keras")
    bundle, found = _trained("cifar-keras", settings), compute_statistics(pixels, np.arange(images))
    stepper = _stepper(bundle.network.train(), chosen, settings)

    def ours():
        for first in range(0, images, 32):
            numbers = np.arange(first, first + 32)
            batch = Batch(torch.from_numpy(pixels[numbers]), labels[numbers], numbers, first).to(settings.device)
            views = training_views(
                batch, chosen, bundle.preprocessing, found, 0, 0, dtype=torch_dtype(settings.precision)
            )
            stepper.step(views, batch)

    what, given = "epoch of cifar-keras, batch 32", (images, settings.precision)
    yield _row(what, ours, "Keras with TensorFlow", peers.keras_epoch, given, "images/s", images, settings.rounds)


PARTS: dict[str, Callable[[Settings], Iterator[Result]]] = {
    part.__name__: part for part in (machine, norm, step, inference, packing, reading, keras)
}


def peak_flops(settings: Settings) -> float:
    """Multiplications and additions a second of a product of large matrices."""
    side = 4096
    a, b = (torch.randn(side, side, device=settings.device, dtype=torch_dtype(settings.precision)) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: (a @ b, _finish(settings)), settings.rounds)


def flops_of_a_step(name: str) -> float:
    """Multiplications and additions of one image: forward, and twice as many backward but for the image's gradient."""
    placed = infer_shapes(variant(name))
    return 2 * (3 * sum(each.multiply_adds for each in placed) - placed[0].multiply_adds)


def _row(measure: str, ours: Callable[[], object], peer: str, *rest) -> Result:
    try:
        return compare(measure, ours, peer, *rest)
    except PeerFailed as failure:
        return f"{measure}, against {peer}: not measured ({failure})"


def _our_step(name: str, settings: Settings) -> Callable[[], None]:
    network, chosen = _trained(name, settings).network.train(), recipe(variant(name).recipe)
    stepper, side = _stepper(network, chosen, settings), network.input_size
    views = torch.randn(settings.batch_size, side, side, 3, device=settings.device).mul_(60).permute(0, 3, 1, 2)
    views = views.to(torch_dtype(settings.precision))
    labels = torch.randint(network.num_classes, (settings.batch_size,), device=settings.device)
    batch = Batch(views, labels, np.arange(len(labels)), 0)
    return lambda: stepper.step(views, batch)


def _stepper(network: AlexNet, chosen: Recipe, settings: Settings) -> MicroBatches:
    optimizer = paper_optimizer(network, chosen)
    optimizer.set_learning_rates(chosen.learning_rates(0, []))
    return MicroBatches(network, optimizer, chosen, settings.precision)


def _trained(name: str, settings: Settings) -> ModelBundle:
    """An untrained network with preprocessing of some mean color."""
    architecture = variant(name)
    network = create(name, architecture.classes).to(settings.device)
    mean, std = torch.full((1, 1, 3), 120.0), torch.ones(3)
    inputs = Preprocessing(architecture.stored_size, architecture.input_size, mean, std).to(settings.device)
    return ModelBundle(network, inputs, tuple(map(str, range(network.num_classes))))


@contextmanager
def _photos(count: int) -> Iterator[Path]:
    """A folder of JPEGs of 500 × 375 pixels with the spectrum of photos, in two classes; DIFFERENT of them repeated."""
    generator, height, width = np.random.default_rng(0), 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(min(count, DIFFERENT)):
            noise = np.fft.irfft2(
                np.fft.rfft2(generator.normal(size=(3, height, width))) / frequency**1.3, (height, width)
            )
            mixed = noise.mean(0) / noise.mean(0).std() * 40 + noise / noise.std() * 20
            pixels = (mixed + 128).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            encoded = BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG", quality=90)
            for copy in range(number, count, DIFFERENT):
                path = folder / f"class{copy % 2}" / f"{copy:05}.jpg"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(encoded.getvalue())
        yield folder


def _finish(settings: Settings) -> None:
    """Wait for a GPU, which works behind the program."""
    if settings.device.type == "cuda":
        torch.cuda.synchronize()
