"""The front: checks, and the operators under which torch knows both normalizations.

`torch.ops.alexnet.response_norm` and `.spatial_norm` run a kernel in C on the CPU, one in Triton on a GPU, and plain
torch for everything else. Only x is kept for the backward pass; the sums are formed again. Under autocast they keep the
type of x, for they sum in float32 whatever it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import has_triton
from . import cpu, plain

_NO_FLOOR = "k is {}; it may be above 0, so that zeros are not divided by zero"


def response_norm(
    x: Tensor,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
    relu: bool = False,
) -> Tensor:
    """Divide each activation by the energy of its neighboring channels (section 3.3).

        y[n, c] = x[n, c] / (k + alpha / size · Σ_j x[n, j]²)^beta,   c − size // 2 ≤ j < c − size // 2 + size

    As PyTorch, Caffe and the 2012 code do (`cmrnorm` in `layer.py`), alpha is divided by size, also at the edges, where
    fewer channels are summed. The printed formula does not divide: pass `alpha=1e-4 * 5` for it.

    Args:
        x: activations, (N, C, H, W).
        size: channels summed, 1 or more. The paper's n.
        groups: parts of the channels that do not see each other; 2 for the two towers of 2012.
        relu: normalize max(x, 0), in the same pass over memory.

    Raises:
        ValueError: x has another shape, size is below 1, k is not above 0, or groups do not divide C.
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it may be (N, C, H, W)")
    if size < 1:
        raise ValueError(f"size is {size}; it counts channels, so it may be 1 or more")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups is {groups}; it may be a divisor of the {x.shape[1]} channels")
    if k <= 0:
        raise ValueError(_NO_FLOOR.format(k))
    return torch.ops.alexnet.response_norm(x, size, alpha / size, beta, k, groups, relu)


def spatial_norm(x: Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divide each activation by the energy of its size × size surroundings in the same map.

        y[n, c, p] = x[n, c, p] · (k + alpha / size² · Σ_q x[n, c, q]²)^(−beta)

    The window is clipped at the border without changing the divisor (layer type `rnorm` of the 2012 code, where k is
    1). Configuration 145 has it after the second response normalization; the paper does not mention it.

    Args:
        x: activations, (N, C, H, W).
        size: side of the window, 1 or more.

    Raises:
        ValueError: x has another shape, size is below 1, or k is not above 0.
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it may be (N, C, H, W)")
    if size < 1:
        raise ValueError(f"size is {size}; it counts pixels, so it may be 1 or more")
    if k <= 0:
        raise ValueError(_NO_FLOOR.format(k))
    return torch.ops.alexnet.spatial_norm(x, size, alpha / size**2, beta, k)


def implementation(x: Tensor):
    """The module that normalizes such a tensor: `cpu`, `gpu` or `plain`."""
    if cpu.takes(x):
        return cpu
    if x.is_cuda and x.dtype != torch.float64 and has_triton():
        from . import gpu

        return gpu
    return plain


def _dense(x: Tensor) -> Tensor:
    """x in a layout that kernels know."""
    known = x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()
    return x if known else x.contiguous()


def _like(g: Tensor, x: Tensor) -> Tensor:
    """A gradient in the layout of its activations; nothing is copied where it has it already."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return g.to(x.dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


_library = torch.library.Library("alexnet", "DEF")
_CONSTANTS = {
    "response_norm": "int size, float a, float beta, float k, int groups, bool relu",
    "spatial_norm": "int size, float a, float beta, float k",
}


def _define(name: str) -> None:
    """Give torch an operator, its gradient, its shapes for tracing, and its rule for a batch of batches."""
    _library.define(f"{name}(Tensor x, {_CONSTANTS[name]}) -> Tensor")
    _library.define(f"{name}_backward(Tensor g, Tensor x, {_CONSTANTS[name]}) -> Tensor")

    def forward(x, *constants):
        x = _dense(x)
        return getattr(implementation(x), name)(x, *constants)

    def backward(g, x, *constants):
        x = _dense(x)
        return getattr(implementation(x), f"{name}_backward")(_like(g, x), x, *constants)

    _library.impl(name, forward, "CompositeExplicitAutograd")
    _library.impl(f"{name}_backward", backward, "CompositeExplicitAutograd")
    qualified = f"alexnet::{name}"
    torch.library.register_fake(qualified, lambda x, *constants: torch.empty_like(_dense(x)), lib=_library)
    torch.library.register_fake(
        f"{qualified}_backward", lambda g, x, *constants: torch.empty_like(_dense(x)), lib=_library
    )
    operator, gradient = getattr(torch.ops.alexnet, name), getattr(torch.ops.alexnet, f"{name}_backward")

    def keep(ctx, inputs, output):
        x, *ctx.constants = inputs
        ctx.save_for_backward(x)

    def differentiate(ctx, g):
        (x,) = ctx.saved_tensors
        return gradient(g, x, *ctx.constants), *[None] * len(ctx.constants)

    torch.library.register_autograd(qualified, differentiate, setup_context=keep, lib=_library)

    def many(info, dimensions, *inputs):
        """A batch of batches is a longer batch: no image sees another."""
        tensors = [
            (each.movedim(at, 0) if at is not None else each.expand(info.batch_size, *each.shape)).flatten(0, 1)
            for each, at in zip(inputs, dimensions, strict=True)
            if isinstance(each, Tensor)
        ]
        called = operator if len(tensors) == 1 else gradient
        out = called(*tensors, *inputs[len(tensors) :])
        return out.unflatten(0, (info.batch_size, -1)), 0

    torch.library.register_vmap(qualified, many, lib=_library)
    torch.library.register_vmap(f"{qualified}_backward", many, lib=_library)


for _name in _CONSTANTS:
    _define(_name)
