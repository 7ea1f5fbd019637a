"""A network drawn as in Figure 2 of the paper: boxes of activations, the kernels between them, and the two towers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon

from ..notebook import Figure
from ..specs.operations import Conv, Layer, Local, Pool
from ..specs.shapes import Placed, count_towers

SIDE, CHANNEL, GAP = 0.27, 0.085, 0.8
"""Lengths are the square roots of sizes, times these: beside 224 pixels, 13 would else be too small to see."""
RECEDE = np.array([0.38, 0.28])
"""Where the depth of a box goes, for a side of 1."""
INK = "#30343b"
MAPS, VECTOR = ("#dfe9f5", "#c3d5ea", "#a9c1dd"), ("#f6e3c5", "#ecd0a2", "#dfbd85")
"""Colors of front, top and right side."""
LINE = {"color": INK, "linewidth": 0.6, "linestyle": (0, (4, 2)), "alpha": 0.7, "zorder": 3}


@dataclass(frozen=True)
class _Box:
    """The activations of a layer, or of a tower's half of it."""

    channels: int
    side: int
    """0 for a vector."""
    x: float = 0.0
    y: float = 0.0
    """Its center."""

    @property
    def size(self) -> tuple[float, float, np.ndarray]:
        """Width, height and where the depth goes."""
        long = CHANNEL * math.sqrt(self.channels)
        if not self.side:
            return 0.22, long / 2, 0.3 * RECEDE
        height = SIDE * math.sqrt(self.side)
        return long, height, height * RECEDE

    @property
    def corner(self) -> np.ndarray:
        """Lower left of the front."""
        width, height, depth = self.size
        return np.array([self.x - (width + depth[0]) / 2, self.y - (height + depth[1]) / 2])

    def on_right(self, across: float, up: float) -> np.ndarray:
        """A point of the right side, by fractions of its depth and height."""
        width, height, depth = self.size
        return self.corner + [width, up * height] + across * depth

    def draw(self, axes: Axes) -> None:
        (width, height, depth), corner = self.size, self.corner
        x, y = np.array([width, 0]), np.array([0, height])
        faces = (corner, x, y), (corner + y, x, depth), (corner + x, depth, y)
        for color, (start, one, other) in zip(MAPS if self.side else VECTOR, faces, strict=True):
            points = [start, start + one, start + one + other, start + other]
            axes.add_patch(Polygon(points, facecolor=color, edgecolor=INK, linewidth=0.8, zorder=2))
        text = f"{self.side} × {self.side} × {self.channels}" if self.side else f"{self.channels:,}"
        above = corner + [width / 2, height + 0.1] + depth * [0.5, 1]
        axes.text(*above, text, ha="center", va="bottom", fontsize=10, color=INK)


def network_figure(placed: Sequence[Placed], title: str = "", notes: Mapping[str, str] | None = None) -> Figure:
    """Layers with weights as boxes: height and depth for the sides of feature maps, width for channels (Figure 2).

    A network with layers in two groups has two rows, the towers: a layer reads its own tower or, where lines cross,
    both.

    Args:
        placed: the operations of the network, from `infer_shapes`.
        notes: lines to write below some layers, by name.
    """
    notes = notes or {}
    layers = [step for step in placed if isinstance(step.operation, Layer)]
    towers = count_towers(layers)
    halves = [
        _Box(channels // (towers if 0 < index < len(layers) else 1), *sides[:1] or [0])
        for index, (channels, *sides) in enumerate([placed[0].input_shape, *(step.output_shape for step in layers)])
    ]
    row = max(box.size[1] + box.size[2][1] for box in halves[1:-1] or halves) / 2 + GAP / 2
    columns: list[list[_Box]] = []
    right = 0.0
    for index, half in enumerate(halves):
        breadth = half.size[0] + half.size[2][0]
        rows = (row, -row) if towers == 2 and 0 < index < len(layers) else (0.0,)
        columns.append([replace(half, x=right + breadth / 2, y=y) for y in rows])
        right += breadth + GAP
    boxes = [box for column in columns for box in column]
    bottom = min(box.corner[1] for box in boxes)
    top = max(box.corner[1] + box.size[1] + box.size[2][1] for box in boxes)
    figure = Figure(figsize=(0.8 * (right + 0.3), 0.8 * (top - bottom + 2.1)), layout="constrained")
    axes = figure.subplots()
    room = 1.1 + 0.3 * (1 + max(each.count("\n") for each in notes.values()) if notes else 0)
    axes.set(xlim=(-0.5, right - GAP + 0.5), ylim=(bottom - room, top + 0.5), aspect="equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=13, parse_math=False)
    for (before, after), step in zip(pairwise(columns), layers, strict=True):
        _connect(axes, before, after, step)
    for box in boxes:
        box.draw(axes)
    for column, step in zip(columns, [None, *layers], strict=True):
        words = _words(step, placed) + (f"\n\n{notes[step.name]}" if step and step.name in notes else "")
        axes.text(column[0].x, bottom - 0.2, words, ha="center", va="top", fontsize=11)
    return figure


def _connect(axes: Axes, before: Sequence[_Box], after: Sequence[_Box], step: Placed) -> None:
    """A kernel on each box that a layer reads, and lines to where it is applied; from a vector, lines only."""
    in_towers = len(before) == len(after) and count_towers([step]) == 2
    for index, target in enumerate(after):
        end = target.corner + np.array([0, target.size[1] / 2])
        for source in [before[index]] if in_towers else before:
            points = [source.on_right(0.5, 0.02), source.on_right(0.5, 0.98)]
            if isinstance(step.operation, Conv | Local):
                half = min(0.5, step.operation.kernel / step.input_shape[1] / 2)
                corners = (-half, -half), (half, -half), (half, half), (-half, half)
                points = [source.on_right(0.5 + across, 0.5 + up) for across, up in corners]
                axes.add_patch(Polygon(points, facecolor="white", edgecolor=INK, linewidth=0.7, zorder=3))
            for point in points:
                axes.plot(*zip(point, end, strict=True), **LINE)


def _words(step: Placed | None, placed: Sequence[Placed]) -> str:
    """Below a box: the layer, its kernel, and the pooling that follows."""
    if step is None:
        return "input"
    lines = [step.name]
    if isinstance(step.operation, Conv | Local):
        stride = getattr(step.operation, "stride", 1)
        kernel = f"{step.operation.kernel} × {step.operation.kernel}"
        lines.append(f"{kernel}, stride {stride}" if stride > 1 else kernel)
    pools = [each.operation for each in placed if each.row == step.name and isinstance(each.operation, Pool)]
    return "\n".join(lines + [f"{pool.kind} pooling" for pool in pools])
