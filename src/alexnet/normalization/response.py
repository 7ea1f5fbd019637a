"""Local response normalization: the public functions, and the operators under which torch knows them.

`torch.ops.alexnet.response_norm` and `.spatial_norm` run a C kernel on the CPU, a Triton kernel on a GPU, and plain
PyTorch otherwise. Only x is saved for the backward pass, which forms the sums again. The gradient is a kernel as well;
any other derivative is that of the formula in `plain.py`, taken by torch. Under autocast they keep the dtype of x,
because they sum in float32 in any case.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..kernels import has_triton
from . import cpu, exported, plain

DTYPES = torch.float32, torch.float64, torch.bfloat16, torch.float16
MAX_SIZE = 63
"""Largest window of the kernels, whose time and buffers grow with it."""


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
        x: activations, (N, C, *), as for `torch.nn.LocalResponseNorm`; float32, float64, bfloat16 or float16.
        size: channels summed, >= 1. The paper's n.
        groups: groups of channels normalized apart; 2 for the two towers of 2012.
        relu: normalize max(x, 0), in the same pass over memory.

    Raises:
        ValueError: x has fewer than three dimensions, size < 1, or groups does not divide C.
        NotImplementedError: x has another dtype.
    """
    if has_torch_function_unary(x):  # torch.fx, too, records a call here
        return handle_torch_function(response_norm, (x,), x, size, alpha, beta, k, groups, relu)
    if x.dim() < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {x.dim()} dimensions)")  # torch's words
    _check_windows(x, size, groups)
    if exported.is_leaving():
        return exported.response_norm(x, size, alpha, beta, k, groups, relu)
    if x.dim() == 4:
        return torch.ops.alexnet.response_norm(x, size, alpha / size, beta, k, groups, relu)
    return response_norm(x.flatten(2).unsqueeze(3), size, alpha, beta, k, groups, relu).reshape(x.shape)


def spatial_norm(x: Tensor, size: int = 5, alpha: float = 1e-3, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Local response normalization over positions: divide by the energy of a window of the same channel.

        y[n, c, p] = x[n, c, p] · (k + alpha / size² · Σ_q x[n, c, q]²)^(−beta)

    The size × size window is clipped at the border without changing the divisor (layer type `rnorm` of the 2012 code,
    where k is 1). Configuration 145 has it after the second LRN; the paper does not mention it.

    Args:
        x: activations, (N, C, H, W) or (C, H, W); float32, float64, bfloat16 or float16.
        size: side of the window, >= 1.

    Raises:
        ValueError: x has another shape, or size < 1.
        NotImplementedError: x has another dtype.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(spatial_norm, (x,), x, size, alpha, beta, k)
    if x.dim() == 3:
        return spatial_norm(x.unsqueeze(0), size, alpha, beta, k).squeeze(0)
    _check_windows(x, size)
    if exported.is_leaving():
        return exported.spatial_norm(x, size, alpha, beta, k)
    return torch.ops.alexnet.spatial_norm(x, size, alpha / size**2, beta, k)


def implementation(x: Tensor, size: int, a: float, k: float):
    """The module that normalizes such a tensor with such constants: `cpu`, `gpu` or `plain`.

    The kernels rely on s = k + a · S(x²) being a normal number > 0, or infinity.
    """
    if size > MAX_SIZE or a < 0 or k < torch.finfo(torch.float32).tiny:
        return plain
    if cpu.supports(x):
        return cpu
    if x.is_cuda and x.dtype != torch.float64 and has_triton():
        from . import gpu

        return gpu
    return plain


def _check_windows(x: Tensor, size: int, groups: int = 1) -> None:
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    if groups != 1 and (groups < 1 or x.shape[1] % groups):
        raise ValueError(f"groups must divide the {x.shape[1]} channels, got {groups}")


def _check(
    name: str, x: Tensor, size: int, a: float, beta: float, k: float, groups: int = 1, relu: bool = False
) -> None:
    """What the kernels rely on; operators may be called without the functions above."""
    if x.dim() != 4:
        raise ValueError(f"x must have shape (N, C, H, W), got {tuple(x.shape)}")
    _check_windows(x, size, groups)
    if x.dtype not in DTYPES:  # in torch's words
        dtype = x.type().rpartition(".")[2].removesuffix("Tensor")
        raise NotImplementedError(f"\"{name}\" not implemented for '{dtype}'")


def _dense(x: Tensor) -> Tensor:
    """x in a memory format that the kernels support."""
    supported = x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()
    return x if supported else x.contiguous()


def _like(g: Tensor, x: Tensor) -> Tensor:
    """g in shape, dtype and memory format of x, copied only if necessary."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return g.to(x).expand_as(x).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


_library = torch.library.Library("alexnet", "DEF")


def _define(name: str, constants: str) -> None:
    """Define an operator and its gradient by their kernels and formula, which take that of the result last."""

    def run(*inputs):
        x, constants, g = _sorted(inputs)
        _check(name, x, *constants)
        x = _dense(x)
        if not x.numel():
            return torch.empty_like(x)
        size, a, _, k, *_ = constants
        kernel = getattr(implementation(x, size, a, k), name)
        return _like(kernel(x, *constants, *[_like(each, x) for each in g]), x)

    def formula(*inputs):
        x, constants, g = _sorted(inputs)
        _check(name, x, *constants)
        return getattr(plain, name)(x, *constants, *g)

    def shape(*inputs):
        x, constants, _ = _sorted(inputs)
        _check(name, x, *constants)
        return torch.empty_like(_dense(x))

    def derivative(v, *inputs):
        tensors, constants = inputs[:2], inputs[2:]
        return torch.func.vjp(lambda *tensors: formula(*tensors, *constants), *tensors)[1](v)

    _library.define(f"{name}_backward(Tensor g, Tensor x, {constants}) -> Tensor")
    _library.define(f"{name}(Tensor x, {constants}) -> Tensor")
    gradient = getattr(torch.ops.alexnet, f"{name}_backward")
    for called, backward in ((f"{name}_backward", derivative), (name, lambda v, *inputs: (gradient(v, *inputs),))):
        operator = getattr(torch.ops.alexnet, called)
        _library.impl(called, run, "CompositeExplicitAutograd")
        _library.impl(called, _differentiable(operator, formula, backward), "Autograd")
        torch.library.register_fake(f"alexnet::{called}", shape, lib=_library)
        torch.library.register_vmap(f"alexnet::{called}", _over_one_batch(operator), lib=_library)


def _sorted(inputs: tuple) -> tuple[Tensor, tuple, list[Tensor]]:
    """Inputs of an operator as x, the constants, and a list of g, if it is given."""
    *g, x = (each for each in inputs if isinstance(each, Tensor))
    return x, inputs[len(g) + 1 :], g


def _differentiable(operator: Callable[..., Tensor], formula: Callable[..., Tensor], backward: Callable) -> Callable:
    """An operator as autograd sees it.

    In reverse mode, it saves its inputs for `backward`; in forward mode, it is the formula, which torch differentiates.
    """

    # A function of this kind may run within the dispatcher also under the transforms of `torch.func`.
    class Differentiable(_SingleLevelFunction):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*(each for each in inputs if isinstance(each, Tensor)))
            ctx.constants = [each for each in inputs if not isinstance(each, Tensor)]
            # torch turns gradients off here, but those of an outer transform go on below.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
                return operator(*inputs)

        @staticmethod
        def backward(ctx, v):
            return *backward(v, *ctx.saved_tensors, *ctx.constants), *[None] * len(ctx.constants)

    def run(*inputs):
        tensors = [each for each in inputs if isinstance(each, Tensor)]
        # Without the level, it would be missed within compiled functions. There is only one.
        if any(forward_ad.unpack_dual(each, level=0).tangent is not None for each in tensors):
            return formula(*inputs)
        if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
            with enable_single_level_autograd_function():
                return Differentiable.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return run


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
