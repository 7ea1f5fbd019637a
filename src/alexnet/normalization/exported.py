"""Both response normalizations in operations that other programs know, for graphs that leave this process."""

import torch
import torch.nn.functional as F
from torch import Tensor


def is_leaving() -> bool:
    """Whether a graph is being recorded for other programs: by torch.export, torch.onnx or torch.jit."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    """As the public function; in an ONNX file, it is one operator, LRN, which divides alpha by its window as ours."""
    if relu:
        x = x.relu()
    if groups > 1:
        return torch.cat([response_norm(tower, size, alpha, beta, k, 1, False) for tower in x.chunk(groups, 1)], 1)
    by_export = torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting()
    if not by_export or size % 2 == 0:  # ONNX's even windows lie one channel further
        return F.local_response_norm(x, size, alpha, beta, k)
    attributes = {"size": size, "alpha": float(alpha), "beta": float(beta), "bias": float(k)}
    return torch.onnx.ops.symbolic("LRN", (x,), attributes, dtype=x.dtype, shape=x.shape)


def spatial_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """As the public function, without `divisor_override`, which exporters ignore."""
    before, after = size // 2, size - 1 - size // 2
    mean_square = F.avg_pool2d(F.pad(x * x, (before, after, before, after)), size, stride=1)
    return x * (k + alpha * mean_square) ** -beta
