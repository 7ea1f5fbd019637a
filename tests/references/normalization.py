"""Both response normalizations as written in their formulas, slow and differentiated by torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def response_norm(x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    x = x.relu() if relu else x
    before, after = size // 2, size - 1 - size // 2
    normalized = []
    for group in x.chunk(groups, 1):
        squares = F.pad(group.square(), (0, 0, 0, 0, before, after))
        normalized.append(group / (k + a * squares.unfold(1, size, 1).sum(-1)) ** beta)
    return torch.cat(normalized, 1)


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
    before, after = size // 2, size - 1 - size // 2
    squares = F.pad(x.square(), (before, after, before, after))
    return x / (k + a * squares.unfold(2, size, 1).unfold(3, size, 1).sum((-1, -2))) ** beta
