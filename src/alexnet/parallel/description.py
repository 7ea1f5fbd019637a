"""The two towers on two devices in words and numbers: what lies on which, and what they exchange."""

from ..specs.names import counted
from ..specs.operations import Layer, Linear
from .placement import VALUE_BYTES, Exchange, Placement

BATCH_SIZES = 64, 128, 256, 512, 1024, 2048
"""Whole batches for which the bytes of a step are shown."""
LIES_HEAD = "layer", "tower a", "tower b", "output of each", "parameters of each", "reads"
EXCHANGE_HEAD = "before", "what", "values each way", "bytes forward", "bytes backward"
STEP_HEAD = "batch size", "towers MB", "data parallel MB", "ratio"


def lies_rows(placement: Placement) -> list[tuple[str, ...]]:
    """A row for each layer with weights: what each tower has of it, and which feature maps or units it reads."""
    rows = []
    for division in placement.divisions:
        step = division.step
        if not isinstance(step.operation, Layer):
            continue
        first, *others = (division.local(rank) for rank in range(placement.processes))
        each = " × ".join(map(str, first.output_shape))
        reads = "both towers" if division.exchange else "its own tower"
        reads = reads if len(rows) else "the image"
        of = "units" if isinstance(step.operation, Linear) else "kernels"
        own = [f"{local.output_shape[0]:,} {of}" for local in (first, *others)]
        rows.append((step.name, *own, each, f"{first.parameters:,}", reads))
    return rows


def exchange_rows(placement: Placement) -> list[tuple[str, ...]]:
    """A row for each exchange of activations, for one image, then their sum."""
    return [
        *(_exchange_row(each.reader, _what(each, placement), [each], placement) for each in placement.exchanges),
        _exchange_row("sum", "", placement.exchanges, placement),
    ]


def _exchange_row(name: str, what: str, exchanges: list[Exchange], placement: Placement) -> tuple[str, ...]:
    forward, backward = (
        sum(each.sent(placement.processes) for each in exchanges if each.backward or is_forward)
        for is_forward in (True, False)
    )
    return name, what, f"{forward:,.0f}", f"{VALUE_BYTES * forward:,.0f}", f"{VALUE_BYTES * backward:,.0f}"


def _what(exchange: Exchange, placement: Placement) -> str:
    if exchange.reader == "scores":
        return f"{exchange.parts[0]:,} scores, for the loss"
    shape = next(each.step.input_shape for each in placement.divisions if each.step.name == exchange.reader)
    if len(shape) == 1:
        return f"{exchange.parts[0]:,} units"
    edge = " at the edge," if exchange.kind == "neighbors" else " of"
    return f"{counted(exchange.parts[0], 'feature map')}{edge} {' × '.join(map(str, shape[1:]))}"


def figure_notes(placement: Placement) -> dict[str, str]:
    """By layer: what is written below its box in a drawing of the network."""
    return {
        each.reader: f"{each.sent(placement.processes):,.0f}\nvalues\neach way"
        for each in placement.exchanges
        if each.kind == "channels"
    }


def step_rows(placement: Placement, data: Placement) -> list[tuple[str, ...]]:
    """A row for each of some batch sizes: what a process sends in a step, beside data parallel on as many."""
    rows = []
    for batch_size in BATCH_SIZES:
        own, theirs = placement.step_bytes(batch_size), data.step_bytes(batch_size)
        rows.append((f"{batch_size:,}", f"{own / 1e6:,.1f}", f"{theirs / 1e6:,.1f}", f"{own / theirs:.2f}"))
    return rows


def summary(placement: Placement) -> str:
    """The exchange between the towers in a sentence or two."""
    layers = [each for each in placement.exchanges if each.backward]
    values = sum(each.sent(placement.processes) for each in layers)
    both_ways = placement.exchanged_bytes(layers)
    before = f"Before {', '.join(each.reader for each in layers)}: {values:,.0f} values an image each way"
    even, without_scores = placement.breaks_even_at(), placement.breaks_even_at(layers)
    return (
        f"{before}, {both_ways:,.0f} bytes forward and backward; the scores of the other's classes are for the loss "
        f"alone. No gradient is summed. Towers send less than data parallel up to a batch of {even:,.0f} images "
        f"({without_scores:,.0f} without the scores)."
    )


def traffic(placement: Placement, data: Placement, batch_size: int) -> str:
    """What a process sends in a step, beside data parallel on as many, and from which batch on that sends less."""
    own, theirs = (f"{each.step_bytes(batch_size) / 1e6:,.1f} MB" for each in (placement, data))
    even = f"less from a batch size of {placement.breaks_even_at():,.0f} on"
    return f"each process sends {own} a step; data parallel would send {theirs}, and {even}"
