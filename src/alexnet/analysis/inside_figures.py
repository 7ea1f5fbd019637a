"""Pictures of what the layers of a network have learned; what they show is computed elsewhere in this room."""

import math

import numpy as np
from PIL import Image

from ..notebook import Figure
from .patches import Patch, Patches

PATCH, GAP, BETWEEN = 56, 2, 10
"""Side of a patch as it is drawn, white between patches, and between a block of patches and the next; pixels."""
UNITS_IN_A_ROW = 4
HEADING = 18
"""Height of the line above a unit, pixels."""
DPI = 100


def patches_figure(patches: Patches, title: str = "") -> Figure:
    """The strongest patches of each unit, left, and their deconvolutions, right (Zeiler and Fergus 2013, Figure 2)."""
    active = [(unit, each) for unit, each in zip(patches.units, patches.by_unit, strict=True) if each]
    columns = math.ceil(math.sqrt(max((len(each) for _, each in active), default=1)))
    block = columns * (PATCH + GAP)
    width, height = 2 * block + 2 * BETWEEN, block + HEADING + BETWEEN
    rows = math.ceil(len(active) / UNITS_IN_A_ROW) or 1
    canvas = np.full((rows * height, UNITS_IN_A_ROW * width, 3), 255, np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI + 0.6), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, canvas.shape[0] / DPI / figure.get_figheight()))
    axes.set_axis_off()
    for index, (unit, each) in enumerate(active):
        row, column = divmod(index, UNITS_IN_A_ROW)
        top, left = row * height + HEADING, column * width + BETWEEN
        for rank, patch in enumerate(each):
            y, x = top + rank // columns * (PATCH + GAP), left + rank % columns * (PATCH + GAP)
            canvas[y : y + PATCH, x : x + PATCH] = _drawn(patch, patch.pixels, patches.field)
            x += block + BETWEEN // 2
            canvas[y : y + PATCH, x : x + PATCH] = _drawn(patch, _as_gray(patch.deconvolution), patches.field)
        strongest = f"unit {unit}: activations up to {each[0].activation:.3g}"
        axes.text(left, top - 5, strongest, fontsize=8, va="bottom")
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    figure.suptitle(title or str(patches), fontsize=10, y=1 - 0.15 / figure.get_figheight(), parse_math=False)
    return figure


def _as_gray(signal: np.ndarray) -> np.ndarray:
    """A signal as pixels: its 0 as middle gray, and the 99th percentile of its size as black or white."""
    scale = np.percentile(np.abs(signal), 99) or np.abs(signal).max() or 1
    return (127.5 + 127.5 * (signal / scale).clip(-1, 1)).round().astype(np.uint8)


def _drawn(patch: Patch, pixels: np.ndarray, field: int) -> np.ndarray:
    """A patch at the scale of all, (PATCH, PATCH, 3); light where the border of the image cut its receptive field."""
    drawn = np.full((PATCH, PATCH, 3), 235, np.uint8)
    sides = [max(1, min(PATCH, round(PATCH * side / field))) for side in pixels.shape[:2]]
    how = Image.Resampling.LANCZOS if pixels.shape[0] > sides[0] else Image.Resampling.NEAREST
    image = Image.fromarray(pixels).resize(sides[::-1], how)
    starts = [PATCH - side if first == 0 else 0 for side, first in zip(sides, patch.window[:2], strict=True)]
    drawn[starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]] = image
    return drawn
