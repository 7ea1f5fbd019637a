"""Small data sets, made on the spot."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small, and threads of several programs wait for one another

import contextlib
import faulthandler
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import Classifier
from alexnet.data.pack import workers
from alexnet.kernels import library
from alexnet.runs.checkpoints import Checkpoints
from alexnet.session import Finish
from alexnet.training.loop import Step

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


@pytest.fixture(autouse=True)
def few_images_need_no_processes(monkeypatch):
    """Starting some takes half a second, a hundred times over."""
    monkeypatch.setattr(workers, "MAX_INLINE", 200)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Packs of a test are kept apart from the user's and from other tests'."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def must_end():
    """Ends the process of a test that hangs, with a traceback, after half an hour."""
    faulthandler.dump_traceback_later(1800, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def folder(tmp_path):
    """A folder with a folder per color, 20 noisy squares of 40 × 36 pixels in each."""
    return write_colors(tmp_path / "colors", 20)


@pytest.fixture
def split_folder(tmp_path):
    """train/, val/ and test/ with a folder per color."""
    for split, count in (("train", 16), ("val", 4), ("test", 5)):
        write_colors(tmp_path / "colors" / split, count, seed=count)
    return tmp_path / "colors"


def write_colors(root: Path, count: int, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise = generator.normal(0, 25, (36, 40, 3))
            pixels = (np.array(color) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


def fit(classifier: Classifier, data, act_at: int | None = None, act: Callable = lambda: None, **settings):
    """Train as `Classifier.fit` does, and after that many steps do something, such as press Ctrl-C; the history."""
    steps, settings = 0, {"keep_checkpoints": True} | settings
    with contextlib.closing(classifier.fit_events(data, **settings)) as events:
        for event in events:
            steps += isinstance(event, Step)
            if isinstance(event, Step) and steps == act_at:
                act()
            if isinstance(event, Finish):
                return event.history


def train(data, **settings):
    """A small classifier that was trained for a few steps, and its history."""
    classifier = Classifier("cifar-18", "cpu", "fp32")
    return classifier, classifier.fit(data, **{"epochs": 3, "batch_size": 16, "verbose": False} | settings)


class Killed(BaseException):
    """Stands for the end of the process."""


def fit_until_killed(classifier: Classifier, data, steps: int, **settings) -> None:
    """Train with a checkpoint after every step, and be killed, as it were, after so many: nothing is saved any more."""

    def die():
        patch.setattr(Checkpoints, "save", lambda self: None)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        fit(classifier, data, steps, die, **{"checkpoint_minutes": 0} | settings)


@pytest.fixture(params=["any processor", "AVX2", "AVX-512"])
def each_processor(request):
    """The test runs with the C kernels for each kind of processor that this one is."""
    kind = ["any processor", "AVX2", "AVX-512"].index(request.param)
    if library() is None or library().use_processor(kind) != kind:
        pytest.skip(f"no kernels for {request.param} here")
    yield request.param
    library().use_processor(2)


@pytest.fixture(params=["kernels in C", "plain torch"])
def each_way(request, monkeypatch):
    """The test runs twice: with the kernels, where they were compiled, and without them."""
    monkeypatch.setenv("ALEXNET_KERNELS", "1" if request.param == "kernels in C" else "0")
    library.cache_clear()
    if request.param == "kernels in C" and library() is None:
        pytest.skip("the kernels were not compiled: there was no C compiler when the package was installed")
    yield request.param
    library.cache_clear()
