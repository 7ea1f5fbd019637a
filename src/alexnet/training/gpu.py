"""The paper's update (section 5) as a Triton kernel, in one pass over memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def paper_update(w: Tensor, g: Tensor, v: Tensor, momentum: float, lr: float, weight_decay: float) -> None:
    """v ← momentum · v − lr · weight_decay · w − lr · g,  w ← w + v, in place.

    Args:
        w, g, v: float32, dense, with the same strides.
    """
    with torch.cuda.device_of(w):
        _update[(triton.cdiv(w.numel(), BLOCK),)](w, g, v, w.numel(), momentum, lr, weight_decay, BLOCK)


@triton.jit
def _update(w, g, v, count, momentum, lr, weight_decay, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    weight = tl.load(w + index, inside)
    velocity = tl.load(v + index, inside) * momentum - lr * weight_decay * weight - lr * tl.load(g + index, inside)
    tl.store(v + index, velocity, inside)
    tl.store(w + index, weight + velocity, inside)
