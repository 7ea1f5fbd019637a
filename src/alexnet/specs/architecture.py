"""A network as a table of layers, and what the words in its rows mean.

A row reads like a sentence of section 3.5. `then` names, in their order, the steps that follow the row's weights:

    Conv("conv2", channels=256, kernel=5, pad=2, groups=2, bias=1, then=("relu", "norm", "pool"))

The words "relu", "norm", "spatial_norm", "pool" and "dropout" stand for what the architecture has under `activation`,
`norm` and so on, so that replacing one field changes them everywhere (`replace(PAPER, norm=None)` has no
normalization). An operation written out in a row, such as `Pool("mean")`, holds for that row alone.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal, Self

from .checks import check_fields
from .names import not_one_of, printable
from .operations import Activation, BatchNorm, Dropout, Layer, Norm, Operation, Pool, SpatialNorm

WORDS = ("relu", "norm", "spatial_norm", "pool", "dropout")
"""Words that a row may use: fields of an architecture, which say what they mean; "relu" is its `activation`."""
MAX_POOL, DROPOUT = Pool(), Dropout()
MAX_SIDE, MAX_CLASSES, MAX_STEPS = 20_000, 1_000_000, 1000
"""Largest images, most classes, and most operations of a network."""


@dataclass(frozen=True)
class Architecture:
    """A network as a table of layers, and what the words in its rows mean."""

    name: str
    about: str
    """One sentence: what it is and where it comes from."""
    layers: tuple[Layer, ...]
    input_size: int = 224
    """Side of the square crops that it sees, pixels."""
    stored_size: int = 256
    """Side of the square images that crops are cut from, pixels."""
    activation: Literal["relu", "tanh"] | Operation = "relu"
    norm: Norm | BatchNorm | Operation | None = None
    spatial_norm: SpatialNorm | Operation | None = None
    pool: Pool | Operation = MAX_POOL
    dropout: Dropout | Operation | None = DROPOUT
    classes: int = 1000
    """Classes of the data set that it was made for."""
    recipe: str = "original"
    """The recipe that trains it by default."""

    def __post_init__(self):
        owner = printable(str(self.name))[:80]
        sides = dict.fromkeys(("input_size", "stored_size"), (1, MAX_SIDE))
        check_fields(self, sides | {"classes": (1, MAX_CLASSES)}, owner)
        steps = sum(1 + len(layer.then) for layer in self.layers)
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"{owner}: layers must have 1 to {MAX_STEPS:,} steps in all, got {steps:,}")
        for layer in self.layers:
            if not layer.name or not re.fullmatch(r"\w{1,80}", f"{layer.name}{layer.suffix}"):
                parts = f"{layer.name!r} and {layer.suffix!r}"[:200]
                raise ValueError(f"{owner}: name and suffix of a layer must be letters, digits and _, got {parts}")
            for step in layer.then:
                if not isinstance(step, Operation) and step not in WORDS:
                    must_be = f"must be an operation or one of {', '.join(WORDS)}"
                    raise ValueError(f"{self.name}: what follows {layer.name} {must_be}, got {step!r}")
        names = [name for layer in self.layers for name, _ in self.operations(layer)]
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(f"{self.name}: names must be unique, got {', '.join(repeated)} more than once")

    def operations(self, layer: Layer) -> list[tuple[str, Operation]]:
        """A row and the steps that follow it, under the names that they have in the network: conv1, relu1, norm1 …"""
        meanings = [step if isinstance(step, Operation) else self.meaning(step) for step in layer.then]
        suffix = layer.suffix or "".join(filter(str.isdigit, layer.name))
        return [(layer.name, layer), *((f"{step.prefix}{suffix}", step) for step in meanings if step is not None)]

    def meaning(self, word: str) -> Operation | None:
        """What a word in a row stands for; None where the network leaves that step out."""
        value = getattr(self, "activation" if word == "relu" else word)
        return Activation(value) if isinstance(value, str) else value

    def layer(self, name: str) -> Layer:
        """The row of that name.

        Raises:
            KeyError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(not_one_of(f"a layer of {self.name}", name, [layer.name for layer in self.layers]))

    def with_layers(self, **changes: dict) -> Self:
        """This network with fields of the named layers replaced: `with_layers(conv2={"pad": 1})`."""
        for name in changes:
            self.layer(name)
        return replace(self, layers=tuple(replace(row, **changes.get(row.name, {})) for row in self.layers))

    def with_input(self, size: int) -> Self:
        """This network for crops of that size, from images that are larger in proportion."""
        return replace(self, input_size=size, stored_size=round(self.stored_size * size / self.input_size))

    def without(self, *names: str) -> Self:
        """This network without the named layers and the steps that follow them."""
        for name in names:
            self.layer(name)
        return replace(self, layers=tuple(row for row in self.layers if row.name not in names))

    def insert_after(self, name: str, layer: Layer) -> Self:
        """This network with another row after the one of that name."""
        index = self.layers.index(self.layer(name)) + 1
        return replace(self, layers=(*self.layers[:index], layer, *self.layers[index:]))
