"""Both response normalizations, forward and backward, in plain torch on any device.

Only x is kept for the backward pass; the sums are formed again. For odd windows of the paper's β = 0.75 the power is
two square roots, which costs a tenth of `pow`.
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
    return _Normalize.apply(
        x, _channel_sum(size, groups), _channel_sum(size, groups, mirrored=True), alpha / size, beta, k
    )


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
    return _Normalize.apply(x, _window_sum(size), _window_sum(size, mirrored=True), alpha / size**2, beta, k)


class _Normalize(torch.autograd.Function):
    """y = x · (k + a · S(x²))^(−β), where S sums over neighbors and M over those whose neighbor one is.

    dx = g · s^(−β) − 2 a β · x · M(g · x · s^(−β−1)),   s = k + a · S(x²)
    """

    @staticmethod
    def forward(ctx, x, neighbor_sum, mirrored_sum, a, beta, k):
        ctx.save_for_backward(x)
        ctx.constants = neighbor_sum, mirrored_sum, a, beta, k
        wide = _wide(x)
        return (wide * _inverse_power(neighbor_sum(wide.square()).mul_(a).add_(k), beta)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, g = _wide(ctx.saved_tensors[0]), _wide(g)
        neighbor_sum, mirrored_sum, a, beta, k = ctx.constants
        s = neighbor_sum(x.square()).mul_(a).add_(k)
        scaled = g * _inverse_power(s, beta)
        shared = mirrored_sum(scaled.mul(x).div_(s))
        dx = scaled.addcmul_(x, shared, value=-2 * a * beta).to(ctx.saved_tensors[0].dtype)
        return dx, None, None, None, None, None


def _wide(x: Tensor) -> Tensor:
    """x in a type in which squares may be summed: 16-bit types become float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _inverse_power(s: Tensor, beta: float) -> Tensor:
    if beta == 0.75:
        return s.rsqrt().mul_(s.rsqrt().sqrt_())
    return s.pow(-beta)


def _channel_sum(size: int, groups: int, mirrored: bool = False):
    before = size // 2  # channels summed on the left; as many fewer one on the right where size is even
    after = size - 1 - before
    if mirrored:
        before, after = after, before

    def channel_sum(energy: Tensor) -> Tensor:
        width = energy.shape[1] // groups
        energy = energy.unflatten(1, (groups, width))
        total = energy.clone(memory_format=torch.preserve_format)
        for offset in range(1, max(before, after) + 1):
            if offset >= width:
                break
            if offset <= before:
                total[:, :, offset:] += energy[:, :, :-offset]
            if offset <= after:
                total[:, :, :-offset] += energy[:, :, offset:]
        return total.flatten(1, 2)

    return channel_sum


def _window_sum(size: int, mirrored: bool = False):
    before = size // 2
    after = size - 1 - before
    if mirrored:
        before, after = after, before

    def window_sum(energy: Tensor) -> Tensor:
        padded = F.pad(energy, (before, after, before, after))
        return F.avg_pool2d(padded, size, stride=1, divisor_override=1)

    return window_sum
