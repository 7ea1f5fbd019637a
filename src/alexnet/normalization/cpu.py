"""Both response normalizations by the C kernels (`kernels.c`), for float32 and bfloat16."""

import torch
from torch import Tensor

from ..kernels import library


def supports(x: Tensor) -> bool:
    """Whether there is a kernel for the device and dtype of a tensor."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and library() is not None


def response_norm(
    x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool, g: Tensor | None = None
) -> Tensor:
    """The normalized x or, given the gradient g of that, the gradient of x."""
    out, tensors = _tensor_arguments(g, x)
    images, channels, height, width = x.shape
    shape = images, channels, height * width, groups
    library().response_norm(*tensors, *shape, size, a, beta, k, relu, torch.get_num_threads())
    return out


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float, g: Tensor | None = None) -> Tensor:
    """As `response_norm`, over positions."""
    out, tensors = _tensor_arguments(g, x)
    library().spatial_norm(*tensors, *x.shape, size, a, beta, k, torch.get_num_threads())
    return out


def _tensor_arguments(g: Tensor | None, x: Tensor) -> tuple[Tensor, tuple]:
    """An output in the memory format of x, and the first arguments of a kernel: addresses, dtype, memory format."""
    out = torch.empty_like(x)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    addresses = g.data_ptr() if g is not None else None, x.data_ptr(), out.data_ptr()
    return out, (*addresses, x.dtype == torch.bfloat16, channels_last)
