"""The paper's update (section 5) as one Triton kernel, in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def paper_update(w: Tensor, g: Tensor, v: Tensor, momentum: float, rate: float, decay: float) -> None:
    """v ← momentum · v − rate · decay · w − rate · g,  w ← w + v, in place.

    Args:
        w, g, v: float32, dense, of the same strides.
    """
    with torch.cuda.device_of(w):
        _update[(triton.cdiv(w.numel(), BLOCK),)](w, g, v, w.numel(), momentum, rate, decay, BLOCK)


@triton.jit
def _update(w, g, v, count, momentum, rate, decay, BLOCK: tl.constexpr):
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    weight = tl.load(w + number, inside)
    velocity = tl.load(v + number, inside) * momentum - rate * decay * weight - rate * tl.load(g + number, inside)
    tl.store(v + number, velocity, inside)
    tl.store(w + number, weight + velocity, inside)
