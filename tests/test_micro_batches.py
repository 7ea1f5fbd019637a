"""A step in parts is the same step."""

from dataclasses import replace

import kills
import numpy as np
import pytest
import torch

from alexnet import Classifier, create
from alexnet.data.batches import Batch
from alexnet.preprocessing.mixing import draw_mix
from alexnet.runs.checkpoints import LAST, read_notes
from alexnet.specs.recipes import recipe
from alexnet.training import step
from alexnet.training.optimizer import paper_optimizer
from alexnet.training.step import MicroBatches, OutOfMemory, train_step


def after_a_step(name, chosen, take, dtype=torch.float64):
    """Loss, right answers and weights after one step of ten images."""
    network = create(name, num_classes=5, input_size=67 if name == "original" else None, seed=1).to(dtype).train()
    optimizer = paper_optimizer(network, chosen)
    optimizer.set_learning_rates(chosen.learning_rates(0.5, []))
    drawn = torch.Generator().manual_seed(0)
    views = torch.randn(10, 3, network.input_size, network.input_size, generator=drawn, dtype=dtype)
    batch = Batch(None, torch.arange(10) % 5, np.arange(10), 0)
    torch.manual_seed(7)
    mix = draw_mix(batch, network.input_size, chosen, 0, 0)
    loss, right = take(network)(network, optimizer, views, batch, chosen, "fp32", mix)
    return loss, right, network.state_dict()


@pytest.mark.parametrize("name", ["small", "cifar-18", "original"])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_step_in_parts_is_the_step(name, size):
    """Mixed images, smoothed labels, shortened gradients, and on the processor the very draws of dropout."""
    chosen = replace(recipe("modern"), max_grad_norm=1.0)
    whole = after_a_step(name, chosen, lambda network: train_step)
    parts = after_a_step(name, chosen, lambda network: MicroBatches(network, size, None, print).train_step)
    assert parts[0] == pytest.approx(whole[0], rel=1e-6) and parts[1] == whole[1]
    for parameter, expected in whole[2].items():
        torch.testing.assert_close(parts[2][parameter], expected, rtol=1e-9, atol=1e-12)


def test_dropout_drawn_beforehand_silences_its_share(monkeypatch):
    network = create("small", num_classes=5).train()
    with MicroBatches(network, 4, None, print)._dropout_drawn(torch.zeros(1000, 1)):
        mask = network._modules["drop6"].mask
        assert mask.unique().tolist() == [0, 2] and mask.mean() == pytest.approx(1, abs=0.01)
    assert isinstance(network._modules["drop6"], torch.nn.Dropout)


@pytest.fixture
def little_memory(monkeypatch):
    """More than six images at a time are too many."""
    add_gradient = step.add_gradient

    def limited(scores_of, *rest):
        def within_limits(views):
            if len(views) > 6:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return scores_of(views)

        return add_gradient(within_limits, *rest)

    monkeypatch.setattr(step, "add_gradient", limited)


def test_auto_finds_what_fits_says_so_once_and_takes_the_same_steps(little_memory, monkeypatch, tmp_path, capsys):
    images = kills.write_images(tmp_path / "images", 20)
    how = {"epochs": 2, "batch_size": 16, "lr": 0.01}
    Classifier("small", "cpu", "fp32").fit(images, **how, micro_batch="auto", output=tmp_path / "parts")
    assert capsys.readouterr().out.count("taken in parts of 4, with the same mathematics") == 1
    assert read_notes(tmp_path / "parts" / LAST)["progress"]["at_a_time"] == 4
    monkeypatch.undo()
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    whole = Classifier("small", "cpu", "fp32").fit(images, **how, verbose=False)
    parts = [read_notes(tmp_path / "parts" / LAST)["progress"]["epochs"][at]["train_loss"] for at in range(2)]
    assert parts == pytest.approx(whole["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "said"), [(None, r"10 images .* do not fit .*; 5 do: --micro-batch 5 or auto"), (8, r"8 images .*; 4 do")]
)
def test_otherwise_it_says_what_fits(little_memory, asked, said):
    chosen = recipe("small")
    with pytest.raises(OutOfMemory, match=said):
        after_a_step("small", chosen, lambda network: MicroBatches(network, asked, None, print).train_step)


def test_batch_norm_is_not_split(little_memory):
    network = create("batch-norm", num_classes=5, input_size=67)
    with pytest.raises(ValueError, match=r"batch-norm has batch norm, whose means are over the whole batch"):
        MicroBatches(network, 4, None, print)


@pytest.mark.parametrize("asked", [0, -1, 2.5, float("nan"), "foo", "7", True, [1]])
def test_a_size_of_parts_that_cannot_be_is_refused(asked):
    with pytest.raises(ValueError, match=r"micro_batch is .*; it may be 1 or more, whole, or 'auto'"):
        MicroBatches(create("small", num_classes=5), asked, None, print)


def test_a_number_of_numpy_is_a_size_of_parts():
    parts = MicroBatches(create("small", num_classes=5), np.int64(7), None, print)
    assert parts.at_a_time == 7 and type(parts.asked) is int


def test_other_errors_pass(monkeypatch):
    def fail(*args):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(step, "add_gradient", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        after_a_step("small", recipe("small"), lambda network: MicroBatches(network, "auto", None, print).train_step)


def test_the_words_of_torch_about_the_memory_of_the_machine_are_understood():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert step.is_out_of_memory(error.value)
