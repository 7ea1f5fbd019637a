"""Both response normalizations in plain torch, for every device and type.

A sum over neighboring channels is a product with a matrix that has ones in a band, one pass over memory where shifted
additions are many; a sum over a window of places is one over rows, then one over columns. For the paper's β = 0.75 the
power is two square roots instead of `pow`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def response_norm(x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    band = _band(x, size, groups)
    return _normalized(x.relu() if relu else x, lambda squares: _times(squares, band), a, beta, k)


def response_norm_backward(
    g: Tensor, x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool
) -> Tensor:
    band = _band(x, size, groups)
    sums = (lambda squares: _times(squares, band)), (lambda shared: _times(shared, band.T))
    if not relu:
        return _gradient(g, x, *sums, a, beta, k)
    return _gradient(g, x.relu(), *sums, a, beta, k).masked_fill_(x <= 0, 0)


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
    return _normalized(x, lambda squares: _windows(squares, size, size // 2), a, beta, k)


def spatial_norm_backward(g: Tensor, x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
    before, after = size // 2, size - 1 - size // 2
    sums = (lambda squares: _windows(squares, size, before)), (lambda shared: _windows(shared, size, after))
    return _gradient(g, x, *sums, a, beta, k)


Sum = Callable[[Tensor], Tensor]


def _normalized(x: Tensor, neighbors: Sum, a: float, beta: float, k: float) -> Tensor:
    """y = x · s^(−β),   s = k + a · S(x²)"""
    wide = _wide(x)
    s = neighbors(wide.square()).mul_(a).add_(k)
    return _inverse_power(s, beta).mul_(wide).to(x.dtype)


def _gradient(g: Tensor, x: Tensor, neighbors: Sum, transposed: Sum, a: float, beta: float, k: float) -> Tensor:
    """dx = g · s^(−β) − 2 a β · x · M(g · x · s^(−β−1)), where M sums over those whose neighbor one is."""
    dtype, x, g = x.dtype, _wide(x), _wide(g)
    s = neighbors(x.square()).mul_(a).add_(k)
    scaled = _inverse_power(s, beta).mul_(g)
    shared = transposed(s.reciprocal_().mul_(scaled).mul_(x))
    return scaled.addcmul_(x, shared, value=-2 * a * beta).to(dtype)


def _wide(x: Tensor) -> Tensor:
    """x in a type in which squares may be summed: 16-bit types become float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _inverse_power(s: Tensor, beta: float) -> Tensor:
    if beta == 0.75:
        root = s.rsqrt()
        return root.sqrt().mul_(root)
    return s.pow(-beta)


def _band(x: Tensor, size: int, groups: int) -> Tensor:
    """Ones where channel j (column) is a neighbor of channel c (row): 0 ≤ j − c + size // 2 < size, in one group."""
    channels = x.shape[1]
    number = torch.arange(channels, device=x.device)
    offset = number - number[:, None] + size // 2
    part = number // (channels // groups)
    return ((offset >= 0) & (offset < size) & (part == part[:, None])).to(_wide(x).dtype)


def _times(x: Tensor, band: Tensor) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        return (x.permute(0, 2, 3, 1) @ band.T).permute(0, 3, 1, 2)
    return (band @ x.flatten(2)).view_as(x)


def _windows(x: Tensor, size: int, before: int) -> Tensor:
    """Sums over size × size windows that begin `before` places above and left, clipped at the border."""
    if size % 2:  # as many on each side, which pooling can pad by itself
        rows = F.avg_pool2d(x, (size, 1), stride=1, padding=(before, 0), divisor_override=1)
        return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, before), divisor_override=1)
    after = size - 1 - before
    return F.avg_pool2d(F.pad(x, (before, after, before, after)), size, stride=1, divisor_override=1)
