from copy import deepcopy

import pytest
import torch
from torch import nn

from alexnet.specs.recipes import RECIPES
from alexnet.specs.schedules import LearningRates
from alexnet.training.optimizer import PaperSGD, optimizer_of


def one_weight(value, lr, weight_decay, momentum=0.9):
    weight = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    groups = [{"params": [weight], "name": "conv1.weight", "weight_decay": weight_decay, "lr": lr}]
    return weight, PaperSGD(groups, momentum=momentum)


def test_two_steps_by_hand():
    """v ← 0.9 v − 0.0005 · lr · w − lr · g; w ← w + v (section 5), with lr divided by 10 in between."""
    weight, optimizer = one_weight(2.0, lr=0.01, weight_decay=0.0005)
    weight.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    v = 0.9 * 0.0 - 0.0005 * 0.01 * 2.0 - 0.01 * 3.0
    w = 2.0 + v
    assert weight.item() == pytest.approx(w, rel=1e-14)
    optimizer.param_groups[0]["lr"] = 0.001
    weight.grad = torch.tensor([-1.0], dtype=torch.float64)
    optimizer.step()
    v = 0.9 * v - 0.0005 * 0.001 * w - 0.001 * -1.0
    assert weight.item() == pytest.approx(w + v, rel=1e-14)


def test_equals_sgd_while_the_learning_rate_is_constant():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    theirs.load_state_dict(ours.state_dict())
    groups = [{"params": [p], "name": n, "weight_decay": 0.01, "lr": 0.1} for n, p in ours.named_parameters()]
    optimizers = [
        (ours, PaperSGD(groups)),
        (theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)),
    ]
    for _ in range(5):
        x = torch.randn(8, 4, dtype=torch.float64)
        for network, optimizer in optimizers:
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_float32_follows_float64(each_way):
    """All of original's shapes and layouts, ten steps with changing learning rates."""
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Conv2d(3, 96, 11), nn.Conv2d(96, 256, 5, groups=2), nn.Linear(300, 1001))
    narrow = narrow.to(memory_format=torch.channels_last)
    wide = deepcopy(narrow).double()
    optimizers = [PaperSGD([{"params": [p], "weight_decay": 0.01} for p in n.parameters()]) for n in (narrow, wide)]
    for step in range(10):
        for ours, exact in zip(narrow.parameters(), wide.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            exact.grad = ours.grad.double()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimizer.step()
    for ours, exact in zip(narrow.parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def test_lars_scales_learning_rates_by_layer():
    """You et al. 2017: lr · trust coefficient · ‖w‖ / (‖g‖ + weight decay · ‖w‖)."""
    network = nn.Sequential()
    network.add_module("fc8", nn.Linear(3, 1))
    optimizer = optimizer_of(network, RECIPES["lars"])
    optimizer.set_learning_rates(LearningRates(2.0, 0.5))
    with torch.no_grad():
        network.fc8.weight.copy_(torch.tensor([[3.0, 0.0, 4.0]]))
        network.fc8.bias.fill_(1.0)
    network.fc8.weight.grad, network.fc8.bias.grad = torch.tensor([[0.0, 6.0, 8.0]]), torch.tensor([2.0])
    optimizer.step()
    lr, decay = 2.0 * 0.001 * 5 / (10 + 0.0005 * 5), 0.0005
    expected = torch.tensor([[3 - lr * decay * 3, -lr * 6, 4 - lr * (decay * 4 + 8)]])
    torch.testing.assert_close(network.fc8.weight.detach(), expected)
    assert network.fc8.bias.item() == pytest.approx(1 - 0.5 * 2)


def test_a_gradient_in_another_layout_is_not_misread(each_way):
    weight = nn.Parameter(torch.zeros(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    weight.grad = torch.arange(48.0).view(4, 3, 2, 2)
    PaperSGD([{"params": [weight], "lr": 1.0}]).step()
    assert torch.equal(weight.detach(), -torch.arange(48.0).view(4, 3, 2, 2))


def test_a_learning_rate_of_zero_skips_a_parameter_and_its_velocity():
    weight, optimizer = one_weight(2.0, lr=0.01, weight_decay=0.0005)
    weight.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    before, velocity = weight.item(), optimizer.velocity(weight).item()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert (weight.item(), optimizer.velocity(weight).item()) == (before, velocity)


def test_biases_have_their_own_learning_rate_and_no_weight_decay():
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 4, 3))
    network.add_module("fc8", nn.Linear(4, 2))
    optimizer = optimizer_of(network, RECIPES["original"])
    optimizer.set_learning_rates(LearningRates(0.01, 0.02, {"conv1": (0.001, 0.0)}))
    settings = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert settings == {
        "conv1.weight": (0.001, 0.0005),
        "conv1.bias": (0.0, 0.0),
        "fc8.weight": (0.01, 0.0005),
        "fc8.bias": (0.02, 0.0),
    }
    decays = {group["name"]: group["weight_decay"] for group in optimizer_of(network, RECIPES["cifar-18"]).param_groups}
    assert decays == {"conv1.weight": 0.004, "conv1.bias": 0.0, "fc8.weight": 1.0, "fc8.bias": 0.0}
    decays = {g["name"]: g["weight_decay"] for g in optimizer_of(network, RECIPES["torchvision"]).param_groups}
    assert set(decays.values()) == {0.0001}


def test_momentum_out_of_range_is_named():
    with pytest.raises(ValueError, match="momentum must be >= 0 and < 1, got 1"):
        one_weight(1.0, 0.1, 0, momentum=1)
