"""The paper's optimizer, SGD with momentum and weight decay (section 5; `weights.cu` of the 2012 code), and the EMA.

    v ← momentum · v − lr · weight_decay · w − lr · g
    w ← w + v

The learning rate is inside the velocity: when it drops, the velocity so far keeps its size. In `torch.optim.SGD` it is
outside, so that a drop scales all of the velocity.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import has_triton, library
from ..specs.recipe import Recipe
from ..specs.schedules import LearningRates


class PaperSGD(torch.optim.Optimizer):
    """SGD with momentum, the learning rate inside the velocity.

    Parameters whose learning rate is 0 are skipped: no gradient, velocity or weight decay is applied. The schedulers of
    `torch.optim.lr_scheduler` work as with torch's optimizers.

    Args:
        params: parameters, or groups of them with settings of their own, as for torch's optimizers.
        trust_coefficient: that of LARS; None is off.

    Attributes:
        total_norms: takes a parameter and norms of it and of its gradient, which a process may have a part of, and
            returns those of all of it.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0005,
        trust_coefficient: float | None = None,
    ):
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be >= 0 and < 1, got {momentum}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"trust_coefficient": trust_coefficient})
        self.total_norms: Callable[[Tensor, Tensor], Tensor] = lambda parameter, norms: norms

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient and a learning rate > 0."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"] if group["lr"] else ():
                if w.grad is not None:
                    self._update(w, group)
        return loss

    def _update(self, w: Tensor, group: dict) -> None:
        v, lr, weight_decay = self.velocity(w), group["lr"] * self._lars_factor(w, group), group["weight_decay"]
        if not _fused_update(w, w.grad, v, lr, weight_decay, group["momentum"]):
            v.mul_(group["momentum"])
            if weight_decay:
                v.add_(w, alpha=-lr * weight_decay)
            v.add_(w.grad, alpha=-lr)
            w.add_(v)

    def _lars_factor(self, w: Tensor, group: dict) -> float:
        """The factor of LARS on the learning rate of a layer's weights; 1 without LARS, and where a norm is 0."""
        if group["trust_coefficient"] is None:
            return 1.0
        weight_norm, gradient_norm = self.total_norms(w, torch.stack([w.norm(), w.grad.norm()])).tolist()
        denominator = gradient_norm + group["weight_decay"] * weight_norm
        return group["trust_coefficient"] * weight_norm / denominator if weight_norm and denominator else 1.0

    def velocity(self, parameter: Tensor) -> Tensor:
        """The velocity of a parameter, of its shape; zeros before its first step."""
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["velocity"]

    def velocities(self) -> dict[str, Tensor]:
        """All velocities, by the parameter's name."""
        return {group["name"]: self.velocity(group["params"][0]) for group in self.param_groups}

    def load_velocities(self, velocities: Mapping[str, Tensor]) -> None:
        """Copy velocities, by the parameter's name."""
        for group in self.param_groups:
            self.velocity(group["params"][0]).copy_(velocities[group["name"]])

    def set_learning_rates(self, rates: LearningRates) -> None:
        for group in self.param_groups:
            layer, _, tensor = group["name"].rpartition(".")
            group["lr"] = rates.of(layer)[tensor == "bias"]


def optimizer_of(network: nn.Module, recipe: Recipe) -> PaperSGD:
    """The optimizer of a network, with the highest learning rates of a recipe."""
    groups = []
    for name, parameter in network.named_parameters():
        layer = name.rpartition(".")[0]
        is_weight = parameter.dim() > 1 and name.endswith(".weight")
        group = {"params": [parameter], "name": name}
        group["weight_decay"] = recipe.weight_decay_of(layer) if is_weight or recipe.decay_biases else 0.0
        group["trust_coefficient"] = recipe.lars_trust_coefficient if is_weight else None
        groups.append(group)
    optimizer = PaperSGD(groups, momentum=recipe.momentum)
    optimizer.set_learning_rates(recipe.peak_rates())
    return optimizer


class WeightEMA:
    """Exponential moving average (EMA) of the weights, often better than the weights (Polyak and Juditsky 1992):
    average ← d · average + (1 − d) · weights after each step t, with d = min(decay, (1 + t) / (10 + t)).

    The average starts from the initial weights; with `decay` in the first steps, too, they would spoil the average of a
    short run. TensorFlow's ExponentialMovingAverage does the same with `num_updates`. The running statistics of batch
    norm are averaged too, its counters are copied.

    The network holds either the weights or the average, at first the average, and `hidden` the other of the two. With
    decay None there is no average, and nothing is done.
    """

    def __init__(self, network: nn.Module, decay: float | None):
        self.network, self.decay = network, decay
        self.hidden = {} if decay is None else {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._shows_average = True

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights, which the network holds.

        Args:
            step: the step within the run, from 1.
        """
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = self.network.state_dict()
        for name in [name for name, tensor in weights.items() if not tensor.is_floating_point()]:
            self.hidden[name].copy_(weights.pop(name))
        torch._foreach_lerp_([self.hidden[name] for name in weights], list(weights.values()), 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights, while the network holds the average."""
        for name, tensor in self.hidden.items():
            tensor.copy_(weights[name])

    @contextlib.contextmanager
    def showing(self, average: bool) -> Iterator[None]:
        """The network holds the average, or the weights, within this context, and after it what it held before."""
        showed_average = self._shows_average
        self._show(average)
        try:
            yield
        finally:
            self._show(showed_average)

    @torch.no_grad()
    def _show(self, average: bool) -> None:
        if average == self._shows_average:
            return
        self._shows_average, shown = average, self.network.state_dict()
        for name, hidden in self.hidden.items():
            kept = hidden.clone()
            hidden.copy_(shown[name])
            shown[name].copy_(kept)


def _fused_update(w: Tensor, g: Tensor, v: Tensor, lr: float, weight_decay: float, momentum: float) -> bool:
    """Update in one pass over memory, if there is a kernel for such tensors; whether there was."""
    same_layout = w.stride() == g.stride() == v.stride() and {w.dtype, g.dtype, v.dtype} == {torch.float32}
    is_dense = w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last)
    if not (same_layout and is_dense):
        return False
    if w.device.type == "cpu" and library():
        addresses = (tensor.data_ptr() for tensor in (w, g, v))
        library().paper_update(*addresses, w.numel(), momentum, lr, weight_decay, torch.get_num_threads())
    elif w.is_cuda and has_triton():
        from . import gpu

        gpu.paper_update(w, g, v, momentum, lr, weight_decay)
    else:
        return False
    torch.autograd.graph.increment_version((w, v))  # torch did not see them change
    return True
