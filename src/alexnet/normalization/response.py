"""Both response normalizations, forward and backward, in plain torch on any device.

Only x is kept for the backward pass; the sums are formed again. A sum over neighboring channels is a product with a
matrix that has ones in a band, one pass over memory where shifted additions are many; a sum over a window of places is
one over rows, then one over columns. For the paper's β = 0.75 the power is two square roots instead of `pow`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def response_norm(
    x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1
) -> Tensor:
    """Divide each activation by the energy of its neighboring channels (section 3.3).

        y[n, c] = x[n, c] / (k + alpha / size · Σ_j x[n, j]²)^beta,   c − size // 2 ≤ j < c − size // 2 + size

    As PyTorch, Caffe and the 2012 code do (`cmrnorm` in `layer.py`), alpha is divided by size, also at the edges, where
    fewer channels are summed. The printed formula does not divide: pass `alpha=1e-4 * 5` for it.

    Args:
        x: activations, (N, C, H, W).
        size: channels summed, 1 or more. The paper's n.
        groups: parts of the channels that do not see each other; 2 for the two towers of 2012.

    Raises:
        ValueError: x has another shape, size is below 1, or groups do not divide C.
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it may be (N, C, H, W)")
    if size < 1:
        raise ValueError(f"size is {size}; it counts channels, so it may be 1 or more")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups is {groups}; it may be a divisor of the {x.shape[1]} channels")
    return _Normalize.apply(x, _ChannelSum(x.shape[1], size, groups), alpha / size, beta, k)


def spatial_norm(x: Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divide each activation by the energy of its size × size surroundings in the same map.

        y[n, c, p] = x[n, c, p] · (k + alpha / size² · Σ_q x[n, c, q]²)^(−beta)

    The window is clipped at the border without changing the divisor (layer type `rnorm` of the 2012 code, where k is
    1). Configuration 145 has it after the second response normalization; the paper does not mention it.

    Args:
        x: activations, (N, C, H, W).
        size: side of the window, 1 or more.

    Raises:
        ValueError: x has another shape, or size is below 1.
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it may be (N, C, H, W)")
    if size < 1:
        raise ValueError(f"size is {size}; it counts pixels, so it may be 1 or more")
    return _Normalize.apply(x, _WindowSum(size), alpha / size**2, beta, k)


class _Normalize(torch.autograd.Function):
    """y = x · (k + a · S(x²))^(−β), where S sums over neighbors and its transpose M over those whose neighbor one is.

    dx = g · s^(−β) − 2 a β · x · M(g · x · s^(−β−1)),   s = k + a · S(x²)
    """

    @staticmethod
    def forward(ctx, x, neighbors, a, beta, k):
        ctx.save_for_backward(x)
        ctx.constants = neighbors, a, beta, k
        wide = _wide(x)
        s = neighbors.sum(wide.square()).mul_(a).add_(k)
        return _inverse_power(s, beta).mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (saved,) = ctx.saved_tensors
        neighbors, a, beta, k = ctx.constants
        x, g = _wide(saved), _wide(g)
        s = neighbors.sum(x.square()).mul_(a).add_(k)
        scaled = _inverse_power(s, beta).mul_(g)
        shared = neighbors.transposed_sum(s.reciprocal_().mul_(scaled).mul_(x))
        dx = scaled.addcmul_(x, shared, value=-2 * a * beta).to(saved.dtype)
        return dx, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    """x in a type in which squares may be summed: 16-bit types become float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _inverse_power(s: Tensor, beta: float) -> Tensor:
    if beta == 0.75:
        root = s.rsqrt()
        return root.sqrt().mul_(root)
    return s.pow(-beta)


class _ChannelSum:
    """Sums over `size` neighboring channels within each of `groups` parts; (N, C, H, W) to the same."""

    def __init__(self, channels: int, size: int, groups: int):
        self.channels, self.size, self.groups = channels, size, groups

    def sum(self, x: Tensor) -> Tensor:
        return self._times(x, self._band(x))

    def transposed_sum(self, x: Tensor) -> Tensor:
        return self._times(x, self._band(x).T)

    def _band(self, x: Tensor) -> Tensor:
        """Ones where channel j (column) is a neighbor of channel c (row): 0 ≤ j − c + size // 2 < size."""
        number = torch.arange(self.channels, device=x.device)
        offset = number - number[:, None] + self.size // 2
        part = number // (self.channels // self.groups)
        return ((offset >= 0) & (offset < self.size) & (part == part[:, None])).to(x.dtype)

    def _times(self, x: Tensor, band: Tensor) -> Tensor:
        if x.is_contiguous(memory_format=torch.channels_last):
            return (x.permute(0, 2, 3, 1) @ band.T).permute(0, 3, 1, 2)
        return (band @ x.flatten(2)).view_as(x)


class _WindowSum:
    """Sums over size × size places of each map, clipped at the border; (N, C, H, W) to the same."""

    def __init__(self, size: int):
        self.size = size

    def sum(self, x: Tensor) -> Tensor:
        return self._pooled(x, before=self.size // 2)

    def transposed_sum(self, x: Tensor) -> Tensor:
        return self._pooled(x, before=self.size - 1 - self.size // 2)

    def _pooled(self, x: Tensor, before: int) -> Tensor:
        """Windows that begin `before` places above and left."""
        if self.size % 2:  # as many on each side, which pooling can pad by itself
            rows = F.avg_pool2d(x, (self.size, 1), stride=1, padding=(before, 0), divisor_override=1)
            return F.avg_pool2d(rows, (1, self.size), stride=1, padding=(0, before), divisor_override=1)
        after = self.size - 1 - before
        return F.avg_pool2d(F.pad(x, (before, after, before, after)), self.size, stride=1, divisor_override=1)
