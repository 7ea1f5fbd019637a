"""Both response normalizations and their gradients as Triton kernels: one pass over memory, float32 sums.

The formulas are those of `response.py`, with `a` for alpha divided by the window size. No atomic additions, so results
are deterministic. Names in capitals are compile-time constants.

Across channels, the window slides along registers: a thread holds a strip of neighboring channels of one position, and
the few around it, as a tuple of tensors, so that a shift is another index, known to the compiler, and moves nothing.
Memory is read in entire vectors; shifted loads would go element by element. What is around a strip was just read as
another thread's strip and comes from a cache. The backward pass forms the sums around its strip again, which is cheaper
than exchanging them between threads.

Over positions, the window slides along registers from row to row. Along a row its positions are loads from the cache,
again entire vectors if the memory format is channels last.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

THREADS = 128
OPTIONS = {"num_warps": THREADS // 32, "enable_fp_fusion": True}
"""Options of every launch. Fused multiply-adds are not the default in all versions of Triton."""


def response_norm(
    x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool, g: Tensor | None = None
) -> Tensor:
    """LRN across channels (section 3.3), y; or, given the gradient g of y, that of x.

        y = x · s^(−β),   s = k + a · Σ_j x[j]²
        dx = g · s^(−β) − 2 a β · x · Sᵀ(g · x · s^(−β−1)),   Sᵀ sums over the channels in whose window one is

    Args:
        x: (N, C, H, W), contiguous or channels last; float32, bfloat16 or float16. So is g, and the result.
        size: channels summed, c − size // 2 ≤ j < c − size // 2 + size, as far as they are in the group of c.
        a: alpha / size.
        k: > 0.
        groups: groups of channels normalized apart, a divisor of C.
        relu: normalize max(x, 0); the gradient is 0 where x ≤ 0.

    Raises:
        ValueError: the tensors are neither all contiguous nor all channels last.
    """
    last = _channels_last(x, g)
    images, channels, height, width = x.shape
    # The kernel sees x as (outer, channels, inner): outer runs over the groups of each image or position.
    outer, inner = (images * height * width, 1) if last else (images, height * width)
    outer, channels = outer * groups, channels // groups
    # Channels last, a strip is the 16 bytes that a thread reads at once. Contiguous, a longer strip reads fewer
    # channels twice.
    strip = 16 // x.element_size() if last else 16
    vector = math.gcd(strip, channels) if last else 1
    lanes = outer * triton.cdiv(channels, strip) * inner
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _response_norm[(triton.cdiv(lanes, THREADS),)](
            *(g, x, y, outer, inner, a, k, beta, size, channels, relu, strip, vector, THREADS), **OPTIONS
        )
    return y


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float, g: Tensor | None = None) -> Tensor:
    """LRN over positions of the same channel, or its gradient, as in `response_norm`.

    The gradient takes two passes, with the terms g · x · s^(−β−1) between them in float32: forming them again for every
    window that holds them would take a window of windows.

    Args:
        size: side of the window, which begins size // 2 positions above and left and is clipped at the border.
        a: alpha / size².
    """
    if g is None:
        return _over_positions(None, x, None, torch.empty_like(x), size, a, beta, k)
    terms = _over_positions(g, x, None, torch.empty_like(x, dtype=torch.float32), size, a, beta, k)
    return _over_positions(g, x, terms, torch.empty_like(x), size, a, beta, k)


def _over_positions(g: Tensor | None, x: Tensor, terms: Tensor | None, y: Tensor, size, a, beta, k) -> Tensor:
    """Run the kernel with x as (planes, height, width · step): a plane has one channel, or all if channels last."""
    last = _channels_last(x, g)
    images, channels, height, width = y.shape
    planes, step = (images, channels) if last else (images * channels, 1)
    # A thread keeps the sums of all rows that the windows of its strip reach: 8, and 4 more if size is 5.
    strips = triton.cdiv(height, 8)
    strip = triton.cdiv(height, strips)
    vector = math.gcd(4, step)  # with 8, the two kinds of sums would not fit into the registers of a thread
    blocks = triton.cdiv(planes * width * step // vector, THREADS)
    with torch.cuda.device_of(y):
        _spatial_norm[(blocks * strips,)](
            *(g, x, terms, y, planes, height, width, a, k, beta, size, step, strips, strip, vector, THREADS), **OPTIONS
        )
    return y


def _channels_last(x: Tensor, g: Tensor | None) -> bool:
    """Whether all that are given are channels last; if not, all are contiguous."""
    tensors = [x] if g is None else [g, x]
    for layout in (torch.channels_last, torch.contiguous_format):
        if all(each.is_contiguous(memory_format=layout) for each in tensors):
            return layout == torch.channels_last
    strides = ", ".join(str(each.stride()) for each in tensors)
    raise ValueError(f"all tensors must be contiguous, or all channels last, got strides {strides}")


@triton.jit
def _response_norm(
    g,
    x,
    y,
    outer,
    inner,
    a,
    k,
    BETA: tl.constexpr,
    SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
    RELU: tl.constexpr,
    STRIP: tl.constexpr,
    VECTOR: tl.constexpr,
    LANES: tl.constexpr,
):
    """y = x · s^(−β); with g, the gradient of x."""
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = SIZE - 1 - BEFORE
    MARGIN: tl.constexpr = (SIZE - 1 + VECTOR - 1) // VECTOR * VECTOR
    offset, channel, inside = _lanes(outer, inner, CHANNELS, STRIP, LANES)
    values = _strip(x + offset, channel, inside, inner, CHANNELS, RELU, MARGIN, STRIP, VECTOR)
    squares = _squares(values)
    results = ()
    if g is None:
        for c in tl.static_range(STRIP):
            s = k + a * _sum(squares, MARGIN + c - BEFORE, SIZE)
            results += (values[MARGIN + c] * _inverse_powers(s, BETA)[0],)
    else:
        gradients = _strip(g + offset, channel, inside, inner, CHANNELS, False, MARGIN, STRIP, VECTOR)
        scaled = ()
        terms = ()
        for c in tl.static_range(MARGIN - AFTER, MARGIN + STRIP + BEFORE):
            power, inverse = _inverse_powers(k + a * _sum(squares, c - BEFORE, SIZE), BETA)
            scaled += (gradients[c] * power,)
            terms += (gradients[c] * power * inverse * values[c],)
        for c in tl.static_range(STRIP):
            value = values[MARGIN + c]
            result = scaled[AFTER + c] - 2 * BETA * a * value * _sum(terms, c, SIZE)
            results += (tl.where(value <= 0, 0.0, result) if RELU else result,)
    _store(y + offset, results, channel, inside, inner, CHANNELS, VECTOR)


@triton.jit
def _spatial_norm(
    g,
    x,
    terms,
    y,
    planes,
    height,
    width,
    a,
    k,
    BETA: tl.constexpr,
    SIZE: tl.constexpr,
    STEP: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
    VECTOR: tl.constexpr,
    LANES: tl.constexpr,
):
    """y = x · s^(−β); with g, the terms g · x · s^(−β−1) of the gradient; with both, the gradient of x."""
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = SIZE - 1 - BEFORE
    row = width * STEP
    offset, line, position, inside = _rows(planes, height, width, STEP, STRIPS, STRIP, VECTOR, LANES)
    sums = _row_sums(x + offset, line, position, inside, height, row, STEP, SIZE, BEFORE, STRIP, True)
    if terms is not None:
        term_sums = _row_sums(terms + offset, line, position, inside, height, row, STEP, SIZE, AFTER, STRIP, False)
    for h in tl.static_range(STRIP):
        mask = inside & (position < _end(line + h, height, row))
        power, inverse = _inverse_powers(k + a * _sum(sums, h, SIZE), BETA)
        value = tl.load(x + offset + h * row, mask, 0.0).to(tl.float32)
        if terms is not None:
            scaled = tl.load(g + offset + h * row, mask, 0.0).to(tl.float32) * power
            result = scaled - 2 * BETA * a * value * _sum(term_sums, h, SIZE)
        else:
            result = value * power
            if g is not None:
                result *= tl.load(g + offset + h * row, mask, 0.0).to(tl.float32) * inverse
        tl.store(y + offset + h * row, result, mask)


@triton.jit
def _lanes(outer, inner, CHANNELS, STRIP, LANES):
    """Offset of each lane's strip, its first channel, and whether it is inside the tensor; (LANES,) each."""
    STRIPS = (CHANNELS + STRIP - 1) // STRIP
    index, rest = _divmod(tl.program_id(0), STRIPS * inner, LANES)
    channel = rest // inner * STRIP
    return (index * CHANNELS + channel) * inner + rest % inner, channel, index < outer


@triton.jit
def _rows(planes, height, width, STEP, STRIPS, STRIP, VECTOR, LANES):
    """Offset of each lane's strip, its first row, its positions in a row, and whether it is inside the tensor.

    A lane has a vector of positions; offsets and positions are (LANES, VECTOR), the last (LANES, 1).
    """
    line = tl.program_id(0) % STRIPS * STRIP
    plane, position = _divmod(tl.program_id(0) // STRIPS, width * (STEP // VECTOR), LANES)
    position = position[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    return (plane[:, None] * height + line) * (width * STEP) + position, line, position, plane[:, None] < planes


@triton.jit
def _divmod(block, length, LANES):
    """The indices of a block's lanes divided by length: quotient (int64) and remainder.

    Indices may need 64 bits; only the first of the block is divided in 64 bits, which is slow.
    """
    first = block.to(tl.int64) * LANES
    lane = (first % length).to(tl.int32) + tl.arange(0, LANES)
    return first // length + lane // length, lane % length


@triton.jit
def _strip(start, channel, inside, inner, CHANNELS, RELU, MARGIN, STRIP, VECTOR):
    """A strip of channels and MARGIN on either side, 0 outside of the group: a tuple of (lanes,), float32.

    Values that are not used are not loaded: the compiler drops such loads.
    """
    values = ()
    for first in tl.static_range(-MARGIN, STRIP + MARGIN, VECTOR):
        shift = first + tl.arange(0, VECTOR)[None, :]
        shifted = channel[:, None] + shift
        tile = tl.load(start[:, None] + shift * inner, inside[:, None] & (shifted >= 0) & (shifted < CHANNELS), 0.0)
        tile = tile.to(tl.float32)
        if RELU:
            tile = tl.maximum(tile, 0.0, tl.PropagateNan.ALL)
        values += _columns(tile, VECTOR)
    return values


@triton.jit
def _store(start, values, channel, inside, inner, CHANNELS, VECTOR):
    for first in tl.static_range(0, len(values), VECTOR):
        shift = first + tl.arange(0, VECTOR)[None, :]
        shifted = channel[:, None] + shift
        tile = _tile(values, first, VECTOR)
        tl.store(start[:, None] + shift * inner, tile, inside[:, None] & (shifted < CHANNELS))


@triton.jit
def _columns(tile, COUNT):
    """The columns of a (lanes, COUNT) tile, a tuple of (lanes,)."""
    if COUNT == 1:
        return (tile.reshape(tile.shape[0]),)
    else:
        left, right = tl.split(tile.reshape(tile.shape[0], 2, COUNT // 2).permute(0, 2, 1))
        return _columns(left, COUNT // 2) + _columns(right, COUNT // 2)


@triton.jit
def _tile(columns, FIRST, COUNT):
    """The inverse of `_columns`, for COUNT columns from FIRST on."""
    if COUNT == 1:
        return columns[FIRST][:, None]
    else:
        left, right = _tile(columns, FIRST, COUNT // 2), _tile(columns, FIRST + COUNT // 2, COUNT // 2)
        return tl.join(left, right).permute(0, 2, 1).reshape(left.shape[0], COUNT)


@triton.jit
def _row_sums(start, line, position, inside, height, row, STEP, SIZE, BEFORE, STRIP, SQUARES):
    """Sums, or sums of squares, over SIZE positions of a row, for all rows that the windows of a strip reach."""
    sums = ()
    for down in tl.static_range(-BEFORE, STRIP + SIZE - 1 - BEFORE):
        total = tl.zeros(position.shape, tl.float32)
        for across in tl.static_range(-BEFORE, SIZE - BEFORE):
            shifted = position + across * STEP
            mask = inside & (shifted >= 0) & (shifted < _end(line + down, height, row))
            value = tl.load(start + down * row + across * STEP, mask, 0.0).to(tl.float32)
            total += value * value if SQUARES else value
        sums += (total,)
    return sums


@triton.jit
def _end(line, height, row):
    """Where a row ends: at 0 outside of the plane."""
    return row * ((line >= 0) & (line < height)).to(tl.int32)


@triton.jit
def _squares(values):
    squares = ()
    for i in tl.static_range(len(values)):
        squares += (values[i] * values[i],)
    return squares


@triton.jit
def _sum(values, FIRST, COUNT):
    total = values[FIRST]
    for i in tl.static_range(FIRST + 1, FIRST + COUNT):
        total += values[i]
    return total


@triton.jit
def _inverse_powers(s, BETA):
    """s^(−BETA) and 1 / s."""
    if BETA == 0.75:
        root = tl.rsqrt(s)
        return root * tl.sqrt(root), root * root
    else:
        return tl.exp(-BETA * tl.log(s)), 1 / s
