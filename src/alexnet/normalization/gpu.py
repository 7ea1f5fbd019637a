"""Both response normalizations, forward and backward, as Triton kernels: one reading of memory, float32 sums.

The formulas are those of `response.py`, with `a` for alpha divided by the window. Nothing is added atomically, so two
runs give the same bits. Names in capitals are known when a kernel is compiled.

Over channels, the window slides along registers: a thread holds a strip of neighboring channels of one place, and the
few around it, as a tuple of tensors, so that a shift is another index, known to the compiler, and no move. Memory is
read in whole vectors; shifted loads would go element by element. What lies around a strip was just read as somebody's
own and comes from a cache. The backward pass forms the sums around its strip again, which is cheaper than to hand them
from thread to thread.

Over places, the window slides along registers from row to row. Along a row its places are loads from the cache, whole
vectors again where channels lie side by side.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

THREADS = 128
OPTIONS = {"num_warps": THREADS // 32, "enable_fp_fusion": True}
"""Of every launch. A product and the sum it goes into are one instruction, which not all versions do unasked."""


def response_norm(x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    """Divide by the energy of neighboring channels: y = x · s^(−beta), s = k + a · Σ_j x[j]² (section 3.3).

    Args:
        x: (N, C, H, W), contiguous or channels last; float32, bfloat16 or float16.
        size: channels summed, c − size // 2 ≤ j < c − size // 2 + size, of which those count that are in c's group.
        a: alpha / size.
        k: above 0.
        groups: parts of the channels that do not see each other, a divisor of C.
        relu: whether max(x, 0) takes the place of x.

    Returns:
        The shape, type and strides of x.

    Raises:
        ValueError: x is neither contiguous nor channels last.
    """
    return _over_channels(_response_norm, (x,), size, a, beta, k, groups, relu)


def response_norm_backward(
    g: Tensor, x: Tensor, size: int, a: float, beta: float, k: float, groups: int, relu: bool
) -> Tensor:
    """The gradient of `response_norm` for x, given g, that for y: of the shape, type and strides of x.

        dx = g · s^(−β) − 2 a β · x · M(g · x · s^(−β−1)),   M sums over those whose neighbor one is

    With relu, 0 where x ≤ 0.

    Raises:
        ValueError: g and x are neither both contiguous nor both channels last.
    """
    return _over_channels(_response_norm_backward, (g, x), size, a, beta, k, groups, relu)


def spatial_norm(x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
    """Divide by the energy of the surroundings in the same map: y = x · s^(−beta), s = k + a · Σ_q x[q]².

    Args:
        x: (N, C, H, W), contiguous or channels last; float32, bfloat16 or float16.
        size: side of the window, which begins size // 2 places above and left and is clipped at the border.
        a: alpha / size².
        k: above 0.

    Returns:
        The shape, type and strides of x.

    Raises:
        ValueError: x is neither contiguous nor channels last.
    """
    return _over_places(_spatial_norm, (x, None), torch.empty_like(x), size, a, beta, k)


def spatial_norm_backward(g: Tensor, x: Tensor, size: int, a: float, beta: float, k: float) -> Tensor:
    """The gradient of `spatial_norm` for x, given g, that for y: of the shape, type and strides of x.

    The formula is that of `response_norm_backward`. In two passes, with g · x · s^(−β−1) between them in float32: to
    form it again for every window that holds it would take a window of windows.

    Raises:
        ValueError: g and x are neither both contiguous nor both channels last.
    """
    shared = _over_places(_spatial_norm, (x, g), torch.empty_like(x, dtype=torch.float32), size, a, beta, k)
    return _over_places(_spatial_norm_backward, (g, x, shared), torch.empty_like(x), size, a, beta, k)


def _over_channels(kernel, inputs: tuple[Tensor, ...], size, a, beta, k, groups, relu) -> Tensor:
    """Run a kernel with x seen as (parts, channels, inner): a part is a group of one image, or of one place of it."""
    x = inputs[-1]
    last = _channels_last(*inputs)
    images, channels, height, width = x.shape
    parts, inner = (images * height * width, 1) if last else (images, height * width)
    parts, channels = parts * groups, channels // groups
    # Where channels lie side by side, a strip is the 16 bytes that a thread reads at once. Where they lie apart, the
    # longer it is, the fewer channels are read for two.
    strip = 16 // x.element_size() if last else 16
    vector = math.gcd(strip, channels) if last else 1
    lanes = parts * triton.cdiv(channels, strip) * inner
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(lanes, THREADS),)](
            *inputs, y, parts, inner, a, k, beta, size, channels, relu, strip, vector, THREADS, **OPTIONS
        )
    return y


def _over_places(kernel, inputs: tuple[Tensor | None, ...], y: Tensor, size, a, beta, k) -> Tensor:
    """Run a kernel with x seen as (maps, height, width · step): a map is of one channel, or of all side by side."""
    last = _channels_last(*(each for each in inputs if each is not None))
    images, channels, height, width = y.shape
    maps, step = (images, channels) if last else (images * channels, 1)
    # A thread keeps the sums of all rows that its strip's windows reach: of 8, and half as many again if size is 5.
    strips = triton.cdiv(height, 8)
    strip = triton.cdiv(height, strips)
    vector = math.gcd(4, step)  # with 8, the sums of both kinds would not fit into the registers of a thread
    blocks = triton.cdiv(maps * width * step // vector, THREADS)
    with torch.cuda.device_of(y):
        kernel[(blocks * strips,)](
            *inputs, y, maps, height, width, a, k, beta, size, step, strips, strip, vector, THREADS, **OPTIONS
        )
    return y


def _channels_last(*tensors: Tensor) -> bool:
    """Whether channels lie side by side in all of them, or else in none."""
    for layout in (torch.channels_last, torch.contiguous_format):
        if all(each.is_contiguous(memory_format=layout) for each in tensors):
            return layout == torch.channels_last
    raise ValueError(
        f"strides are {', '.join(str(each.stride()) for each in tensors)}; all tensors may be contiguous, or all "
        "channels last"
    )


@triton.jit
def _response_norm(
    x,
    y,
    parts,
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
    MARGIN: tl.constexpr = (SIZE - 1 + VECTOR - 1) // VECTOR * VECTOR
    offset, channel, inside = _lanes(parts, inner, CHANNELS, STRIP, LANES)
    values = _strip(x + offset, channel, inside, inner, CHANNELS, RELU, MARGIN, STRIP, VECTOR)
    squares = _squares(values)
    results = ()
    for c in tl.static_range(STRIP):
        s = k + a * _sum(squares, MARGIN + c - SIZE // 2, SIZE)
        results += (values[MARGIN + c] * _inverse_powers(s, BETA)[0],)
    _store(y + offset, results, channel, inside, inner, CHANNELS, VECTOR)


@triton.jit
def _response_norm_backward(
    g,
    x,
    dx,
    parts,
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
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = SIZE - 1 - BEFORE
    MARGIN: tl.constexpr = (SIZE - 1 + VECTOR - 1) // VECTOR * VECTOR
    offset, channel, inside = _lanes(parts, inner, CHANNELS, STRIP, LANES)
    values = _strip(x + offset, channel, inside, inner, CHANNELS, RELU, MARGIN, STRIP, VECTOR)
    gradients = _strip(g + offset, channel, inside, inner, CHANNELS, False, MARGIN, STRIP, VECTOR)
    squares = _squares(values)
    scaled = ()
    shared = ()
    for c in tl.static_range(MARGIN - AFTER, MARGIN + STRIP + BEFORE):
        power, inverse = _inverse_powers(k + a * _sum(squares, c - BEFORE, SIZE), BETA)
        scaled += (gradients[c] * power,)
        shared += (gradients[c] * power * inverse * values[c],)
    results = ()
    for c in tl.static_range(STRIP):
        value = values[MARGIN + c]
        result = scaled[AFTER + c] - 2 * BETA * a * value * _sum(shared, c, SIZE)
        results += (tl.where(value <= 0, 0.0, result) if RELU else result,)
    _store(dx + offset, results, channel, inside, inner, CHANNELS, VECTOR)


@triton.jit
def _spatial_norm(
    x,
    g,
    y,
    maps,
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
    """y = x · s^(−β); where g is given, g · x · s^(−β−1) for the backward pass."""
    row = width * STEP
    offset, line, place, inside = _rows(maps, height, width, STEP, STRIPS, STRIP, VECTOR, LANES)
    sums = _row_sums(x + offset, line, place, inside, height, row, STEP, SIZE, SIZE // 2, STRIP, True)
    for h in tl.static_range(STRIP):
        here = inside & (place < _end(line + h, height, row))
        power, inverse = _inverse_powers(k + a * _sum(sums, h, SIZE), BETA)
        result = tl.load(x + offset + h * row, here, 0.0).to(tl.float32) * power
        if g is not None:
            result *= tl.load(g + offset + h * row, here, 0.0).to(tl.float32) * inverse
        tl.store(y + offset + h * row, result, here)


@triton.jit
def _spatial_norm_backward(
    g,
    x,
    shared,
    dx,
    maps,
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
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = SIZE - 1 - BEFORE
    row = width * STEP
    offset, line, place, inside = _rows(maps, height, width, STEP, STRIPS, STRIP, VECTOR, LANES)
    sums = _row_sums(x + offset, line, place, inside, height, row, STEP, SIZE, BEFORE, STRIP, True)
    shares = _row_sums(shared + offset, line, place, inside, height, row, STEP, SIZE, AFTER, STRIP, False)
    for h in tl.static_range(STRIP):
        here = inside & (place < _end(line + h, height, row))
        power, _ = _inverse_powers(k + a * _sum(sums, h, SIZE), BETA)
        scaled = tl.load(g + offset + h * row, here, 0.0).to(tl.float32) * power
        value = tl.load(x + offset + h * row, here, 0.0).to(tl.float32)
        tl.store(dx + offset + h * row, scaled - 2 * BETA * a * value * _sum(shares, h, SIZE), here)


@triton.jit
def _lanes(parts, inner, CHANNELS, STRIP, LANES):
    """Where each lane's strip begins, its first channel, and whether there is such a strip; (LANES,) each."""
    STRIPS = (CHANNELS + STRIP - 1) // STRIP
    part, within = _divided(tl.program_id(0), STRIPS * inner, LANES)
    channel = within // inner * STRIP
    return (part * CHANNELS + channel) * inner + within % inner, channel, part < parts


@triton.jit
def _rows(maps, height, width, STEP, STRIPS, STRIP, VECTOR, LANES):
    """Where each lane's strip begins, its first row, places in a row, and whether there is such a map.

    A lane has a vector of places; offsets and places are (LANES, VECTOR), the last (LANES, 1).
    """
    line = tl.program_id(0) % STRIPS * STRIP
    number, place = _divided(tl.program_id(0) // STRIPS, width * (STEP // VECTOR), LANES)
    place = place[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    return (number[:, None] * height + line) * (width * STEP) + place, line, place, number[:, None] < maps


@triton.jit
def _divided(block, length, LANES):
    """The numbers of a block's lanes divided by length: quotient (int64) and rest.

    Numbers may need 64 bits; so that only one division of such a number is done, the block's first is divided alone.
    """
    first = block.to(tl.int64) * LANES
    lane = (first % length).to(tl.int32) + tl.arange(0, LANES)
    return first // length + lane // length, lane % length


@triton.jit
def _strip(start, channel, inside, inner, CHANNELS, RELU, MARGIN, STRIP, VECTOR):
    """A strip of channels and MARGIN on either side, 0 outside the part: a tuple of (lanes,), float32.

    What is not used of it is not read: the compiler drops such loads.
    """
    values = ()
    for at in tl.static_range(-MARGIN, STRIP + MARGIN, VECTOR):
        ahead = at + tl.arange(0, VECTOR)[None, :]
        there = channel[:, None] + ahead
        tile = tl.load(start[:, None] + ahead * inner, inside[:, None] & (there >= 0) & (there < CHANNELS), 0.0)
        tile = tile.to(tl.float32)
        if RELU:
            tile = tl.maximum(tile, 0.0, tl.PropagateNan.ALL)
        values += _columns(tile, VECTOR)
    return values


@triton.jit
def _store(start, values, channel, inside, inner, CHANNELS, VECTOR):
    for at in tl.static_range(0, len(values), VECTOR):
        ahead = at + tl.arange(0, VECTOR)[None, :]
        there = channel[:, None] + ahead
        tile = _tile(values, at, VECTOR)
        tl.store(start[:, None] + ahead * inner, tile, inside[:, None] & (there < CHANNELS))


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
    """The reverse of `_columns`, for COUNT columns from FIRST on."""
    if COUNT == 1:
        return columns[FIRST][:, None]
    else:
        left, right = _tile(columns, FIRST, COUNT // 2), _tile(columns, FIRST + COUNT // 2, COUNT // 2)
        return tl.join(left, right).permute(0, 2, 1).reshape(left.shape[0], COUNT)


@triton.jit
def _row_sums(start, line, place, inside, height, row, STEP, SIZE, BEFORE, STRIP, SQUARES):
    """Sums, or sums of squares, over SIZE places of a row, for all rows that the windows of a strip reach."""
    sums = ()
    for down in tl.static_range(-BEFORE, STRIP + SIZE - 1 - BEFORE):
        total = tl.zeros(place.shape, tl.float32)
        for across in tl.static_range(-BEFORE, SIZE - BEFORE):
            there = place + across * STEP
            here = inside & (there >= 0) & (there < _end(line + down, height, row))
            value = tl.load(start + down * row + across * STEP, here, 0.0).to(tl.float32)
            total += value * value if SQUARES else value
        sums += (total,)
    return sums


@triton.jit
def _end(line, height, row):
    """Where a row ends: at once if there is no such row."""
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
