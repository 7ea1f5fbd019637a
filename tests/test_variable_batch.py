"""Several steps of the fully connected layers in one of the convolutions, against a plain formulation of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run
from test_parallel import Case, after_steps, differences, plan_of

from alexnet import create
from alexnet.data.batches import Batch
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.specs.recipes import RECIPES
from alexnet.training.optimizer import optimizer_of
from alexnet.training.variable_batch import VariableBatch

RATE, MOMENTUM, DECAY = 0.01, 0.9, 0.0005
CASES = {
    "small": Case("small", {"recipe": "modern", "lr": 0.01}, {"fc_batch_size": 3, "max_grad_norm": 0.5}),
    "original": Case("original", {"crop_size": 67, "lr": 0.001, "freeze": ("conv1",)}, {"fc_batch_size": 4}),
    "small-towers": Case("small-towers", {"lr": 0.01}, {"fc_batch_size": 3}),
}


def plain(network, batches, fc_batch_size):
    """SGD by autograd alone: two optimizers, one for each half, on explicit lists of images."""
    modules = dict(network.named_children())
    cut = [*modules].index("fc6")
    first, rest = torch.nn.Sequential(*[*modules.values()][:cut]), torch.nn.Sequential(*[*modules.values()][cut:])
    velocities = {}

    def update(half):
        for parameter in half.parameters():
            decay = DECAY if parameter.dim() > 1 else 0
            velocity = MOMENTUM * velocities.get(parameter, 0) - RATE * (parameter.grad + decay * parameter.detach())
            velocities[parameter] = velocity
            with torch.no_grad():
                parameter += velocity
            parameter.grad = None

    for images, labels in batches:
        rounds = -(-len(images) // fc_batch_size)
        features = first(images)
        total = torch.zeros_like(features)
        for number in range(rounds):
            chosen = [index for index in range(len(images)) if index % rounds == number]
            seen = features.detach()[chosen].requires_grad_()
            F.cross_entropy(rest(seen), labels[chosen]).backward()
            total[chosen] = seen.grad * len(chosen) / len(images)
            update(rest)
        features.backward(total)
        update(first)


def test_it_takes_the_steps_of_the_plain_formulation():
    """Batches of 10 and 7 images in rounds of at most 4, so that rounds and batches have different sizes."""
    ours, theirs = (create("small", 5, input_size=24, seed=2).double().train() for _ in range(2))
    for network in (ours, theirs):
        for name, module in network.named_children():
            if "drop" in name:
                module.p = 0.0
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(count, 3, 24, 24, generator=generator, dtype=torch.float64), torch.arange(count) % 5)
        for count in (10, 10, 7)
    ]
    changes = {"momentum": MOMENTUM, "weight_decay": DECAY, "label_smoothing": 0, "max_grad_norm": None}
    recipe = replace(RECIPES["small"], fc_batch_size=4, **changes)
    optimizer = optimizer_of(ours, recipe)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    stepper = VariableBatch(DataParallel(ours, Group(), True), optimizer, recipe, "fp32")
    for images, labels in batches:
        batch = Batch(images, labels, np.arange(len(labels)), 0)
        stepper.step(images, batch)
    plain(theirs, batches, 4)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


def test_one_round_is_an_ordinary_step(tmp_path):
    case = CASES["small"]
    plan = plan_of(case, tmp_path)
    whole = replace(plan, recipe=replace(plan.recipe, fc_batch_size=None, max_grad_norm=None))
    one_round = replace(plan, recipe=replace(plan.recipe, fc_batch_size=10, max_grad_norm=None))
    expected = after_steps(Group(), whole, 100)  # whose dropout masks are drawn for the whole batch, too
    assert max(differences(after_steps(Group(), one_round, None), expected).values()) < 1e-10


def test_it_needs_undivided_batches_and_fully_connected_layers(tmp_path):
    plan = plan_of(CASES["small"], tmp_path)
    with pytest.raises(ValueError, match=r"^micro_batch must be None with fc_batch_size, got 2$"):
        after_steps(Group(), plan, 2)
    with pytest.raises(ValueError, match=r"fc_batch_size must be an integer >= 1, or None, got 0"):
        replace(plan.recipe, fc_batch_size=0)


@pytest.mark.parametrize(
    ("name", "way", "size"),
    [("small", "data", 3), ("small", "hybrid", 2), ("original", "hybrid", 4), ("small-towers", "towers", 2)],
)
def test_any_way_of_dividing_it_takes_the_same_steps(name, way, size, tmp_path):
    plan = plan_of(CASES[name], tmp_path)
    expected = after_steps(Group(), plan, None)
    for results in run(size, after_steps, plan, None, way):
        assert max(differences(results, expected).values()) < 1e-10
        np.testing.assert_allclose(results["losses"], expected["losses"], rtol=1e-5)
