"""What a file of weights holds, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..specs.architecture import Architecture


@dataclass(frozen=True)
class WeightsFile:
    """Tensors in PyTorch's layout, and what the file says about the network and its images."""

    format: str
    tensors: dict[str, Tensor]
    """By name (`conv1.weight`), layers in the order of the network; the names may still be the file's own."""
    skipped: tuple[str, ...] = ()
    """Names of what is not a weight."""
    architecture: Architecture | None = None
    """If the file describes its network."""
    likely_variant: str | None = None
    """The usual variant of files in this format, if the shapes fit several."""
    inverted_dropout: bool = True
    """Whether the framework scales dropout during training, so that the weights are used as they are."""
    input_size: int | None = None
    """Side of the images, pixels."""
    mean: Tensor | None = None
    """Mean color, RGB, 0 to 255, (1, 1, 3)."""
    std: Tensor | None = None
    """Standard deviation of the colors, RGB, 0 to 255, (3,)."""
    classes: tuple[str, ...] | None = None
