"""The paper's update rule (section 5; `weights.cu` of the 2012 code).

    v ← momentum · v − rate · decay · w − rate · g
    w ← w + v

The rate is inside the velocity: when it drops, the old velocity keeps its size, which `torch.optim.SGD` does not do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..kernels import library, triton_is_here
from ..specs.recipe import Recipe
from ..specs.schedules import LearningRates


class PaperSGD(torch.optim.Optimizer):
    """Momentum with the rate inside the velocity and decay through it; a rate of 0 skips a parameter wholly.

    A group is one parameter: its `name`, `lr` and `weight_decay`; and, where its rate follows its size, its `trust`.
    """

    def __init__(self, groups: list[dict], momentum: float = 0.9):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it may be 0 to below 1")
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "trust": None})

    @torch.no_grad()
    def step(self, closure=None):
        """Move every parameter that has a gradient and a rate."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alike: dict[tuple[float, float, float], tuple[list, list, list]] = {}
        for group in self.param_groups:
            (w,) = group["params"]
            if group["lr"] == 0 or w.grad is None:
                continue
            settings = group["lr"] * _share(w, group), group["weight_decay"], group["momentum"]
            if _update_in_one_pass(w, w.grad, self.velocity(w), *settings):
                continue
            weights, gradients, velocities = alike.setdefault(settings, ([], [], []))
            weights.append(w)
            gradients.append(w.grad)
            velocities.append(self.velocity(w))
        for (rate, decay, momentum), (weights, gradients, velocities) in alike.items():
            torch._foreach_mul_(velocities, momentum)
            if decay:
                torch._foreach_add_(velocities, weights, alpha=-rate * decay)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            torch._foreach_add_(weights, velocities)
        return loss

    def velocity(self, parameter: torch.Tensor) -> torch.Tensor:
        """The velocity of a parameter, of its shape; zeros before its first step."""
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["velocity"]

    def velocities(self) -> dict[str, torch.Tensor]:
        """All velocities by name of parameter."""
        return {group["name"]: self.velocity(group["params"][0]) for group in self.param_groups}

    def load_velocities(self, velocities: Mapping[str, torch.Tensor]) -> None:
        for group in self.param_groups:
            self.velocity(group["params"][0]).copy_(velocities[group["name"]])

    def set_learning_rates(self, rates: LearningRates) -> None:
        for group in self.param_groups:
            layer, _, kind = group["name"].rpartition(".")
            group["lr"] = rates.of(layer)[kind == "bias"]


def _share(w: torch.Tensor, group: dict) -> float:
    """What LARS multiplies the rate of a layer's weights by; 1 without it, and where there is nothing to divide."""
    if group["trust"] is None:
        return 1.0
    size, gradient = torch.stack([w.norm(), w.grad.norm()]).tolist()
    below = gradient + group["weight_decay"] * size
    return group["trust"] * size / below if size and below else 1.0


def _update_in_one_pass(w, g, v, rate: float, decay: float, momentum: float) -> bool:
    """Do what `step` says by a kernel, where there is one for such tensors; whether there was."""
    alike = w.stride() == g.stride() == v.stride() and {w.dtype, g.dtype, v.dtype} == {torch.float32}
    dense = w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last)
    if not (alike and dense):
        return False
    if w.device.type == "cpu" and library():
        addresses = (each.data_ptr() for each in (w, g, v))
        library().paper_update(*addresses, w.numel(), momentum, rate, decay, torch.get_num_threads())
    elif w.is_cuda and triton_is_here():
        from . import gpu

        gpu.paper_update(w, g, v, momentum, rate, decay)
    else:
        return False
    torch.autograd.graph.increment_version((w, v))  # torch did not see them change
    return True


def paper_optimizer(network: nn.Module, recipe: Recipe) -> PaperSGD:
    """The optimizer of a network: decay on weights, and on biases and the scales of batch norm only where the recipe
    says so."""
    groups = []
    for name, parameter in network.named_parameters():
        layer = name.rpartition(".")[0]
        is_weight = parameter.dim() > 1 and name.endswith(".weight")
        decay = recipe.weight_decay_of(layer) if is_weight or recipe.decay_biases else 0.0
        trust = recipe.lars_trust_coefficient if is_weight else None
        groups.append({"params": [parameter], "name": name, "weight_decay": decay, "trust": trust})
    return PaperSGD(groups, recipe.momentum)
