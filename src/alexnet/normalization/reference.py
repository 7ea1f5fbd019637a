"""Both response normalizations as their formulas say, slowly; torch differentiates them.

What every other implementation here is held to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def response_norm(x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    x = x.relu() if relu else x
    before, after = size // 2, size - 1 - size // 2
    parts = []
    for part in x.chunk(groups, 1):
        squares = F.pad(part.square(), (0, 0, 0, 0, before, after))
        parts.append(part / (k + a * squares.unfold(1, size, 1).sum(-1)) ** beta)
    return torch.cat(parts, 1)


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
    before, after = size // 2, size - 1 - size // 2
    squares = F.pad(x.square(), (before, after, before, after))
    return x / (k + a * squares.unfold(2, size, 1).unfold(3, size, 1).sum((-1, -2))) ** beta
