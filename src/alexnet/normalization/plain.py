"""Both response normalizations and their gradients in plain PyTorch, for every device and dtype.

Every operation is one that torch can differentiate, any number of times and in both modes: where the kernels know no
derivative, these are it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WindowSum = Callable[[Tensor, int, int], Tensor]
"""Sums over windows from so many values before each one to so many after it, as far as there are any."""


def response_norm(
    x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool, g: Tensor | None = None
) -> Tensor:
    """The normalized x or, given the gradient g of that, the gradient of x."""

    def over_channels(values: Tensor, before: int, after: int) -> Tensor:
        return _window_sums(values.unflatten(1, (groups, -1)), 2, before, after).flatten(1, 2)

    y = _normalized(x.relu() if relu else x, over_channels, size, a, beta, k, g)
    return y if g is None or not relu else y.masked_fill(x <= 0, 0)


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float, g: Tensor | None = None) -> Tensor:
    """As `response_norm`, over positions."""

    def over_positions(values: Tensor, before: int, after: int) -> Tensor:
        return _window_sums(_window_sums(values, 2, before, after), 3, before, after)

    return _normalized(x, over_positions, size, a, beta, k, g)


def _normalized(x: Tensor, sums: WindowSum, size: int, a: float, beta: float, k: float, g: Tensor | None) -> Tensor:
    """y = x · s^(−β), s = k + a · S(x²); given g, dx = g · s^(−β) − 2 a β · x · Sᵀ(g · x · s^(−β−1)).

    Sᵀ sums over the positions in whose window one is, which is the reversed window.
    """
    before, after = size // 2, size - 1 - size // 2
    wide = _at_least_float32(x)
    s = sums(wide.square(), before, after).mul_(a).add_(k)
    if g is None:
        return (_inverse_power(s, beta) * wide).to(x.dtype)
    scaled = _inverse_power(s, beta) * _at_least_float32(g)
    terms = sums(scaled * wide / s, after, before)
    return torch.addcmul(scaled, wide, terms, value=-2 * a * beta).to(x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _inverse_power(s: Tensor, beta: float) -> Tensor:
    if beta == 0.75:
        root = s.rsqrt()
        return root * root.sqrt()
    return s.pow(-beta)


def _window_sums(values: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Sums of the values from `before` before each to `after` after it, clipped at the border.

    A window is made of windows of 1, 2, 4 … values, which need few passes over memory. A product with a band matrix
    would carry infinity and NaN beyond their windows (0 · ∞).
    """
    length = values.shape[dim]
    before, after = min(before, length - 1), min(after, length - 1)
    doubled = F.pad(values, (*[0, 0] * (values.dim() - 1 - dim), before, after))
    size, start, width, total = before + 1 + after, 0, 1, None
    while True:
        if size & width:
            part = doubled.narrow(dim, start, length)
            total, start = part if total is None else total + part, start + width
        if 2 * width > size:
            return total
        places = doubled.shape[dim] - width
        doubled = doubled.narrow(dim, 0, places) + doubled.narrow(dim, width, places)
        width *= 2
