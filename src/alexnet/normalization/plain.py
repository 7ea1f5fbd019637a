"""Both response normalizations in plain PyTorch, for every device and dtype.

A sum over neighboring channels is a product with a band matrix of ones, one pass over memory instead of one per shift;
a sum over a spatial window is one over rows, then one over columns. For the paper's β = 0.75 the power is two square
roots instead of `pow`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

NeighborSum = Callable[[Tensor], Tensor]


def response_norm(
    x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool, g: Tensor | None = None
) -> Tensor:
    """The normalized x or, given the gradient g of that, the gradient of x."""
    band, positive = _band(x, size, groups), x.relu() if relu else x
    sums = (lambda squares: _channel_product(squares, band)), (lambda terms: _channel_product(terms, band.T))
    y = _normalized(positive, *sums, a, beta, k, g)
    return y if g is None or not relu else y.masked_fill_(x <= 0, 0)


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float, g: Tensor | None = None) -> Tensor:
    """As `response_norm`, over positions."""
    before, after = size // 2, size - 1 - size // 2
    sums = (lambda squares: _window_sums(squares, size, before)), (lambda terms: _window_sums(terms, size, after))
    return _normalized(x, *sums, a, beta, k, g)


def _normalized(
    x: Tensor, neighbor_sum: NeighborSum, transposed_sum: NeighborSum, a: float, beta: float, k: float, g: Tensor | None
) -> Tensor:
    """y = x · s^(−β), s = k + a · S(x²); given g, dx = g · s^(−β) − 2 a β · x · Sᵀ(g · x · s^(−β−1)).

    Sᵀ sums over the positions in whose window one is.
    """
    wide = _at_least_float32(x)
    s = neighbor_sum(wide.square()).mul_(a).add_(k)
    if g is None:
        return _inverse_power(s, beta).mul_(wide).to(x.dtype)
    scaled = _inverse_power(s, beta).mul_(_at_least_float32(g))
    terms = transposed_sum(s.reciprocal_().mul_(scaled).mul_(wide))
    return scaled.addcmul_(wide, terms, value=-2 * a * beta).to(x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _inverse_power(s: Tensor, beta: float) -> Tensor:
    if beta == 0.75:
        root = s.rsqrt()
        return root.sqrt().mul_(root)
    return s.pow(-beta)


def _band(x: Tensor, size: int, groups: int) -> Tensor:
    """Ones where channel j (column) is a neighbor of channel c (row): 0 ≤ j − c + size // 2 < size, in one group."""
    channels = x.shape[1]
    channel = torch.arange(channels, device=x.device)
    offset = channel - channel[:, None] + size // 2
    group = channel // (channels // groups)
    return ((offset >= 0) & (offset < size) & (group == group[:, None])).to(_at_least_float32(x).dtype)


def _channel_product(x: Tensor, matrix: Tensor) -> Tensor:
    """(N, C, H, W) times a (C, C) matrix, at every position."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return (x.permute(0, 2, 3, 1) @ matrix.T).permute(0, 3, 1, 2)
    return (matrix @ x.flatten(2)).view_as(x)


def _window_sums(x: Tensor, size: int, before: int) -> Tensor:
    """Sums over size × size windows that begin `before` positions above and left, clipped at the border."""
    if size % 2:  # symmetric padding, which pooling does itself
        rows = F.avg_pool2d(x, (size, 1), stride=1, padding=(before, 0), divisor_override=1)
        return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, before), divisor_override=1)
    after = size - 1 - before
    return F.avg_pool2d(F.pad(x, (before, after, before, after)), size, stride=1, divisor_override=1)
