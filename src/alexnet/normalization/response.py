"""Local response normalization: the public functions, and the operators under which torch knows them.

`torch.ops.alexnet.response_norm` and `.spatial_norm` run a C kernel on the CPU, a Triton kernel on a GPU, and plain
PyTorch otherwise. Only x is saved for the backward pass, which forms the sums again. Under autocast they keep the dtype
of x, because they sum in float32 in any case.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..kernels import has_triton
from . import cpu, exported, plain


def response_norm(
    x: Tensor,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    groups: int = 1,
    relu: bool = False,
) -> Tensor:
    """Local response normalization (LRN): divide by the energy of neighboring channels (section 3.3).

        y[n, c] = x[n, c] / (k + alpha / size · Σ_j x[n, j]²)^beta,   c − size // 2 ≤ j < c − size // 2 + size

    As in PyTorch, Caffe and the 2012 code (`cmrnorm` in `layer.py`), alpha is divided by size, also at the edges, where
    fewer channels are summed. The printed formula does not divide: pass `alpha=1e-4 * 5` for it.

    Args:
        x: activations, (N, C, H, W).
        size: channels summed, >= 1. The paper's n.
        groups: groups of channels normalized apart; 2 for the two towers of 2012.
        relu: normalize max(x, 0), in the same pass over memory.

    Raises:
        ValueError: x has another shape, size < 1, k <= 0, or groups does not divide C.
    """
    _check(x, size, k)
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must divide the {x.shape[1]} channels, got {groups}")
    if exported.is_leaving():
        return exported.response_norm(x, size, alpha, beta, k, groups, relu)
    return torch.ops.alexnet.response_norm(x, size, alpha / size, beta, k, groups, relu)


def spatial_norm(x: Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Local response normalization over positions: divide by the energy of a window of the same channel.

        y[n, c, p] = x[n, c, p] · (k + alpha / size² · Σ_q x[n, c, q]²)^(−beta)

    The size × size window is clipped at the border without changing the divisor (layer type `rnorm` of the 2012 code,
    where k is 1). Configuration 145 has it after the second LRN; the paper does not mention it.

    Args:
        x: activations, (N, C, H, W).
        size: side of the window, >= 1.

    Raises:
        ValueError: x has another shape, size < 1, or k <= 0.
    """
    _check(x, size, k)
    if exported.is_leaving():
        return exported.spatial_norm(x, size, alpha, beta, k)
    return torch.ops.alexnet.spatial_norm(x, size, alpha / size**2, beta, k)


def implementation(x: Tensor):
    """The module that normalizes such a tensor: `cpu`, `gpu` or `plain`."""
    if cpu.supports(x):
        return cpu
    if x.is_cuda and x.dtype != torch.float64 and has_triton():
        from . import gpu

        return gpu
    return plain


def _check(x: Tensor, size: int, k: float) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}")
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    if k <= 0:
        raise ValueError(f"k must be > 0, so that nothing is divided by zero, got {k}")


def _dense(x: Tensor) -> Tensor:
    """x in a memory format that the kernels support."""
    supported = x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()
    return x if supported else x.contiguous()


def _like(g: Tensor, x: Tensor) -> Tensor:
    """A gradient in dtype and memory format of its activations, copied only if necessary."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return g.to(x.dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


_library = torch.library.Library("alexnet", "DEF")


def _define(name: str, constants: str) -> None:
    """Register an operator and its gradient with torch: kernels, shapes for tracing, and vmap."""

    def forward(x, *constants):
        x = _dense(x)
        return getattr(implementation(x), name)(x, *constants)

    def backward(g, x, *constants):
        x = _dense(x)
        return getattr(implementation(x), name)(x, *constants, _like(g, x))

    def shape(*inputs):
        x = [each for each in inputs if isinstance(each, Tensor)][-1]
        return torch.empty_like(_dense(x))

    operators = []
    for called, tensors, run in ((name, "Tensor x", forward), (f"{name}_backward", "Tensor g, Tensor x", backward)):
        _library.define(f"{called}({tensors}, {constants}) -> Tensor")
        _library.impl(called, run, "CompositeExplicitAutograd")
        operators.append(getattr(torch.ops.alexnet, called))
        torch.library.register_fake(f"alexnet::{called}", shape, lib=_library)
        torch.library.register_vmap(f"alexnet::{called}", _over_one_batch(operators[-1]), lib=_library)
    gradient = operators[1]

    def save(ctx, inputs, output):
        x, *ctx.constants = inputs
        ctx.save_for_backward(x)

    def differentiate(ctx, g):
        (x,) = ctx.saved_tensors
        return gradient(g, x, *ctx.constants), *[None] * len(ctx.constants)

    torch.library.register_autograd(f"alexnet::{name}", differentiate, setup_context=save, lib=_library)


def _over_one_batch(operator: Callable[..., Tensor]) -> Callable:
    """The vmap of an operator that treats images independently: a batch of batches becomes one batch."""

    def vmapped(info, dims, *inputs):
        tensors = [
            (each.movedim(dim, 0) if dim is not None else each.expand(info.batch_size, *each.shape)).flatten(0, 1)
            for each, dim in zip(inputs, dims, strict=True)
            if isinstance(each, Tensor)
        ]
        return operator(*tensors, *inputs[len(tensors) :]).unflatten(0, (info.batch_size, -1)), 0

    return vmapped


_define("response_norm", "int size, float a, float beta, float k, int groups, bool relu")
_define("spatial_norm", "int size, float a, float beta, float k")
