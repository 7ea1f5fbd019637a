"""Several processes take the steps of one: the same weights, whatever their number and the way they divide the work."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from conftest import write_colors
from processes import run

from alexnet.data.batches import epoch_order
from alexnet.data.sources.detection import open_source
from alexnet.parallel.group import Group
from alexnet.specs.settings import TrainSettings
from alexnet.specs.variants import variant
from alexnet.training import loop
from alexnet.training.plan import Plan, make_plan

STEPS = 10
NARROW = {f"conv{layer}": {"channels": channels} for layer, channels in enumerate((16, 16, 24, 24, 16), 1)}
NARROW |= {"fc6": {"units": 32}, "fc7": {"units": 32}}


@dataclass(frozen=True)
class Case:
    """A training on 48 images in batches of 10, so that the last batch of an epoch has 8."""

    variant: str
    settings: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    micro_batch: int | str | None = None
    sizes: tuple[int, ...] = (3,)
    ways: dict[str, int] = field(default_factory=dict)
    """How else the processes may divide the work, and how many they are."""


CASES = {
    "everything": Case(
        "small",
        {"recipe": "modern", "lr": 0.01, "class_weights": {"red": 3.0, "blue": 0.5}},
        {"max_grad_norm": 0.5, "color_shift": {"std": 0.1, "divide": False}},
        sizes=(2, 3, 4),
        ways={"hybrid": 3},
    ),
    "the dropout, crops and freezing of 2012": Case(
        "original",
        {"crop_size": 67, "freeze": ("conv1",), "lr": 0.001},
        {"crop_group": 3},
        ways={"towers": 2, "hybrid": 4},
    ),
    "batch norm and LARS": Case(
        "batch-norm",
        {"crop_size": 67, "lr": 0.5, "freeze": ("norm1",)},  # which keeps its running statistics
        {"mixup": 0.4, "lars_trust_coefficient": 0.01, "ema_decay": 0.9},
        ways={"towers": 2, "hybrid": 2},
    ),
    "micro-batches": Case("small", {"lr": 0.01}, {"cutmix": 1.0}, 2, ways={"hybrid": 2}),
    "everything in towers": Case(
        "small-towers",
        {"recipe": "modern", "lr": 0.01, "class_weights": {"red": 3.0, "blue": 0.5}, "freeze": ("conv2", "fc7")},
        {"max_grad_norm": 0.5, "lr_scale": {"conv3": 0.3, "fc6": 0.5}},
        3,
        sizes=(),
        ways={"towers": 2},
    ),
    "as many as fit": Case("small", {"lr": 0.01}, {}, "auto"),
}


def plan_of(case: Case, folder) -> Plan:
    images = write_colors(folder / "images" / "train", 16).parent
    architecture = variant(case.variant).with_layers(**NARROW)
    settings = TrainSettings(variant=architecture, batch_size=10, epochs=9, set=case.recipe, **case.settings)
    return make_plan(open_source(images, 0, None, lambda folder: False), settings)


def after_steps(group: Group, plan: Plan, micro_batch, way: str = "data", double: bool = True) -> dict[str, np.ndarray]:
    """Weights, velocities, averages and statistics after ten steps."""
    views_of = loop.training_views
    if double:
        torch.set_default_dtype(torch.float64)
        loop.training_views = lambda *arguments: views_of(*arguments).double()
    try:
        training = loop.Training(plan, seed=3, micro_batch=micro_batch, group=group, way=way)
        training.train()
        losses = []
        while len(losses) < STEPS:
            order = epoch_order(plan.packed.indices("train"), 3, training.progress.epoch, "epoch")
            with training.channels_last(), training.ema.showing(average=False):
                for batch in training.read(order):
                    assert len(batch.images) <= len(batch.labels)
                    loss, correct, _ = training.take_step(batch, training.learning_rates(training.progress.batch))
                    losses.append((loss, correct))
                    training.ema.update(len(losses))
                    training.progress.count(loss, correct, len(batch.labels))
            training.progress = training.progress.next_epoch({})
    finally:
        torch.set_default_dtype(torch.float32)
        loop.training_views = views_of
    kept = {"weights": training.strategy.gathered(training.strategy.module.state_dict())}
    kept |= {
        "velocity": training.strategy.gathered(training.optimizer.velocities()),
        "ema": training.strategy.gathered(training.ema.hidden),
    }
    tensors = {f"{kind} {name}": value for kind, values in kept.items() for name, value in values.items()}
    return {name: value.numpy().copy() for name, value in tensors.items()} | {"losses": np.array(losses)}


def differences(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each tensor, relative to its largest value."""
    assert results.keys() == expected.keys()
    return {
        name: np.abs(results[name] - value).max() / max(np.abs(value).max(), 1e-6)  # a bias before batch norm stays 0
        for name, value in expected.items()
        if name != "losses"
    }


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_processes_takes_the_steps_of_one(name, tmp_path):
    case = CASES[name]
    plan = plan_of(case, tmp_path)
    expected = after_steps(Group(), plan, case.micro_batch)
    for way, size in [*(("data", size) for size in case.sizes), *case.ways.items()]:
        for results in run(size, after_steps, plan, case.micro_batch, way):
            assert max(differences(results, expected).values()) < 1e-10
            np.testing.assert_allclose(results["losses"], expected["losses"], rtol=1e-5)
