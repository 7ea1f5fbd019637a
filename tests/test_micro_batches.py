"""Gradient accumulation over micro-batches takes the same step."""

import errno
from dataclasses import replace

import kills
import numpy as np
import pytest
import torch

from alexnet import Classifier, create
from alexnet.data.batches import Batch
from alexnet.device import is_out_of_memory
from alexnet.model.bundle import read_notes
from alexnet.model.network import AlexNet
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.preprocessing.augmentation import draw_mix
from alexnet.runs.run import LAST
from alexnet.specs.recipes import recipe
from alexnet.specs.settings import TrainSettings
from alexnet.training.optimizer import optimizer_of
from alexnet.training.step import MicroBatches, OutOfMemory

SMALL = recipe("small")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def stepper_of(network, micro_batch=None, chosen=SMALL):
    optimizer = optimizer_of(network.train(), chosen)
    optimizer.set_learning_rates(chosen.learning_rates(0.5, []))
    return MicroBatches(DataParallel(network, Group(), micro_batch is not None), optimizer, chosen, "fp32", micro_batch)


def after_a_step(name, chosen, micro_batch=None):
    """Loss, number correct and weights after one step of ten images, in float64."""
    network = create(name, num_classes=5, input_size=67 if name == "original" else None, seed=1).double()
    drawn = torch.Generator().manual_seed(0)
    views = torch.randn(10, 3, network.input_size, network.input_size, generator=drawn, dtype=torch.float64)
    batch = Batch(None, torch.arange(10) % 5, np.arange(10), 0)
    torch.manual_seed(7)
    mix = draw_mix(batch, network.input_size, chosen, 0, 0)
    loss, correct = stepper_of(network, micro_batch, chosen).step(views, batch, mix)
    return loss, correct, network.state_dict()


@pytest.mark.parametrize("name", ["small", "cifar-18", "original"])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_step_in_micro_batches_is_the_step(name, size):
    """With mixed images, label smoothing, gradient clipping and, on the CPU, the very same dropout masks."""
    chosen = replace(recipe("modern"), max_grad_norm=1.0)
    loss, correct, weights = after_a_step(name, chosen)
    split_loss, split_correct, split_weights = after_a_step(name, chosen, size)
    assert split_loss == pytest.approx(loss, rel=1e-6) and split_correct == correct
    for parameter, expected in weights.items():
        torch.testing.assert_close(split_weights[parameter], expected, rtol=1e-9, atol=1e-12)


def test_dropout_of_micro_batches_drops_half_of_the_units_and_doubles_the_others():
    network, activations = create("small", num_classes=5), []
    network.drop6.register_forward_hook(lambda module, inputs, output: activations.append((inputs[0], output)))
    batch = Batch(None, torch.arange(64) % 5, np.arange(64), 0)
    stepper_of(network, 16).step(torch.randn(64, 3, 56, 56), batch)
    assert [len(inputs) for inputs, _ in activations] == [16] * 4
    ratios = torch.cat([(output / inputs)[inputs > 0] for inputs, output in activations])
    assert ratios.unique().tolist() == [0, 2] and ratios.mean().item() == pytest.approx(1, abs=0.03)
    network.eval()
    assert torch.equal(network.drop6(torch.ones(3)), torch.ones(3)), "evaluation drops nothing"


@pytest.fixture
def little_memory(monkeypatch):
    """More than six images at a time do not fit."""
    forward = AlexNet.forward

    def limited(network, views):
        if network.training and len(views) > 6:
            raise OUT_OF_MEMORY
        return forward(network, views)

    monkeypatch.setattr(AlexNet, "forward", limited)


def test_auto_finds_what_fits_says_so_once_and_takes_the_same_steps(little_memory, monkeypatch, tmp_path, capsys):
    images = kills.write_images(tmp_path / "images", 20)
    how = {"epochs": 2, "batch_size": 16, "lr": 0.01, "keep_checkpoints": True}
    Classifier("small", "cpu", "fp32").fit(images, **how, micro_batch="auto", output=tmp_path / "split")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("split into micro-batches of 4, for the same steps") == 1
    assert read_notes(tmp_path / "split" / LAST)["progress"]["micro_batch_size"] == 4
    monkeypatch.undo()
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    entire = Classifier("small", "cpu", "fp32").fit(images, **how, verbose=False)
    epochs = read_notes(tmp_path / "split" / LAST)["progress"]["epochs"]
    assert [epoch["train_loss"] for epoch in epochs] == pytest.approx(entire["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("micro_batch", "message"),
    [(None, r"10 images .* do not fit, but 5 do: use micro_batch=5 or auto"), (8, r"8 images .* 4 do")],
)
def test_otherwise_it_says_what_fits(little_memory, micro_batch, message):
    with pytest.raises(OutOfMemory, match=message):
        after_a_step("small", SMALL, micro_batch)


def test_where_not_even_one_image_fits_it_says_so(monkeypatch):
    def fail(network, views):
        raise OUT_OF_MEMORY

    monkeypatch.setattr(AlexNet, "forward", fail)
    with pytest.raises(OutOfMemory, match=r"cpu is out of memory: not even one image fits"):
        after_a_step("small", SMALL, "auto")


def test_batch_norm_is_not_split(little_memory):
    network = create("batch-norm", num_classes=5, input_size=67)
    with pytest.raises(ValueError, match=r"batch-norm has batch norm, .* so batches cannot be split"):
        stepper_of(network, 4)
    batch = Batch(None, torch.arange(10) % 5, np.arange(10), 0)
    with pytest.raises(OutOfMemory, match=r"5 do: use batch_size=5, as batch norm cannot be split"):
        stepper_of(network, "auto").step(torch.randn(10, 3, 67, 67), batch)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, float("nan"), "foo", "7", True, [1]])
def test_a_micro_batch_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError) as error:
        TrainSettings(micro_batch=wrong)
    assert str(error.value) == f"micro_batch must be an integer >= 1, or 'auto', got {wrong!r}"


def test_an_integer_of_numpy_is_a_micro_batch():
    stepper = stepper_of(create("small", num_classes=5), np.int64(7))
    assert stepper.micro_batch_size == 7 and type(stepper.micro_batch_size) is int


def test_other_errors_pass(monkeypatch):
    def fail(network, views):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(AlexNet, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        after_a_step("small", SMALL, "auto")


@pytest.mark.parametrize("make", [lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, np.uint8)])
def test_what_torch_and_numpy_say_of_the_memory_of_the_machine_is_recognized(make):
    with pytest.raises((RuntimeError, MemoryError)) as error:
        make()
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize(
    ("error", "is_meant"),
    [
        (RuntimeError("could not create a primitive"), True),  # oneDNN, under a limit of the address space
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("unable to mmap 8 bytes from file <last.safetensors>: Cannot allocate memory (12)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("cpu is out of memory: 8 images at a time do not fit"), False),  # our own, which says what to do
    ],
)
def test_what_others_say_is_recognized(error, is_meant):
    assert is_out_of_memory(error) == is_meant
