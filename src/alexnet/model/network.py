"""A declared architecture as a module, operation by operation.

A network is a plain sequence of named modules: conv1, norm1, pool1, relu1 … fc6, relu6, drop6, fc7, … fc8. Their order
is that in which they run, and a name means the same in every variant.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from ..specs.architecture import Architecture
from ..specs.names import not_one_of
from ..specs.operations import Layer, Linear
from ..specs.shapes import infer_shapes
from .layers import build_module, initialize

TORCHVISION_NAMES = {
    f"{part}.{index}": name
    for part, names in {
        "features": "conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5",
        "classifier": "drop5 fc6 relu6 drop6 fc7 relu7 fc8",
    }.items()
    for index, name in enumerate(names.split())
}
"""Names of layers in torchvision, and here."""


FREE = nn.ReLU, nn.Dropout
"""Modules whose settings change no prediction."""


class AlexNet(nn.Module):
    """A network of the family.

    `forward` takes (N, in_channels, input_size, input_size), in the units of its recipe, and returns class scores
    before the softmax, (N, num_classes).

    Modules run in the order of `named_children()`, and any of them may be replaced, deleted or hooked. One shortcut is
    taken where nobody can see it: a ReLU and the max pooling after it change places, because the largest value of a
    window stays the largest, so that scores and gradients are the same with a quarter of the work.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int | None = None,
        in_channels: int = 3,
        input_size: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.image_range: tuple[float, float] | None = None
        """What the darkest and the brightest pixels become for its weights, if known; None once it was compared."""
        self.architecture = architecture
        self.num_classes = architecture.classes if num_classes is None else num_classes
        self.in_channels = in_channels
        self.input_size = architecture.input_size if input_size is None else input_size
        self.placed = infer_shapes(architecture, self.num_classes, in_channels, self.input_size)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # the user's generator stays as it is
            torch.random.default_generator.manual_seed(seed)
            for step in self.placed:
                is_row = isinstance(step.operation, Layer)
                with torch.device("meta" if is_row else "cpu"):  # the weights of rows are drawn below, once
                    module = build_module(step)
                if is_row:
                    fan_in = step.operation.fan_in(step.input_shape)
                    initialize(module.to_empty(device="cpu"), step.operation, fan_in, generator)
                self.add_module(step.name, module)
        self.to(torch.get_default_device())  # weights are the same on all

    def train(self, mode: bool = True) -> AlexNet:
        """As for every module, except that batch norm with a frozen scale and shift keeps its statistics, too."""
        super().train(mode)
        for module in self.children():
            if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        modules = [module for _, module in self._named_steps()]
        if is_traced(x):
            for module in modules:
                x = module(x)
            return x
        with self._explaining_errors(x):
            self._check_images(x)
            # Whoever looks may take activations for contiguous, as Opacus does without a word.
            x = x if are_watched(modules) else _channels_last(x)
            for module in _pool_before_relu(modules):
                x = module(x)
        return x

    @contextmanager
    def _explaining_errors(self, images: Tensor) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError):
            self._check_shape(tuple(images.shape))
            raise

    def _check_images(self, images: Tensor) -> None:
        """Check what no layer would complain about."""
        if images.dim() != 4:
            self._check_shape(tuple(images.shape))
        if self.image_range and not self.training:
            self._check_range(images)

    def _check_range(self, images: Tensor) -> None:
        """Warn, once, of pixels of 0 … 1 where the weights were learned on others."""
        (low, high), self.image_range = self.image_range, None
        try:
            is_small = images.numel() and 0 <= images.min() < images.max() <= 1
        except RuntimeError:  # within torch.func.vmap, or on the meta device, there are no values
            return
        if high - low > 20 and is_small:
            warnings.warn(
                f"the images are from 0 to 1, but {self.architecture.name} was trained on pixels from {low:.4g} to "
                f"{high:.4g}; Classifier.inputs prepares images for its network",
                stacklevel=6,
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError, naming the layer, for images that a network of this declaration cannot take."""
        name, channels, side = self.architecture.name, self.in_channels, self.input_size
        if len(shape) != 4 or shape[1] != channels:
            remedy = "; a single image needs a batch dimension: images[None]" if len(shape) == 3 else ""
            got = f"({', '.join(map(str, shape))})"
            raise ValueError(f"{name}: images must be (N, {channels}, {side}, {side}), got {got}{remedy}")
        shape = shape[1:]
        for size in sorted(shape[1:]):  # too small for a layer, which is named, or else for one after the flatten
            given = infer_shapes(self.architecture, self.num_classes, channels, size)
            for ours, theirs in zip(self.placed, given, strict=True):
                if isinstance(ours.operation, Linear) and ours.input_shape != theirs.input_shape:
                    sizes = f"images must have {side} × {side} pixels, got {shape[1]} × {shape[2]}"
                    remedy = "Resize them, or create the network with their input_size"
                    raise ValueError(f"{name}: {sizes}, of which {ours.name} would read too many or too few. {remedy}")

    def alteration(self) -> str | None:
        """What was replaced, added or deleted first, so that `architecture` does not describe it; None if nothing was.

        Hooks, and settings that change no prediction, do not count.
        """
        modules, declared = dict(self._named_steps()), [step.name for step in self.placed]
        if list(modules) != declared:
            changes = [f"{name} was added" for name in modules if name not in declared]
            changes += [f"{name} was deleted" for name in declared if name not in modules]
            return [*changes, "its layers are in another order"][0]
        for step in self.placed:
            module = modules[step.name]
            with torch.device("meta"):
                original = build_module(step)
            if "forward" in module.__dict__:
                return f"{step.name} has a forward of its own"
            shapes, expected = ({k: v.shape for k, v in each.state_dict().items()} for each in (module, original))
            if shapes.keys() != expected.keys():
                return f"{step.name} holds {', '.join(shapes) or 'no tensors'}, not {', '.join(expected) or 'none'}"
            is_known = type(module).__module__.startswith(("torch.", "alexnet.")) and not isinstance(module, FREE)
            same_settings = not is_known or repr(module) == repr(original)
            if type(module) is not type(original) or shapes != expected or not same_settings:
                return f"{step.name} is {module}, not {original}"
        return None

    def features(self, x: Tensor, layers: str | Iterable[str] | None = None) -> dict[str, Tensor]:
        """Activations by layer, in the order in which they are computed: conv1, …, relu1, pool1, … fc6, relu6, … fc8.

        Args:
            x: images, (N, in_channels, input_size, input_size).
            layers: the one or those to return, all by default; nothing after the last of them is computed.
                torchvision's names (`features.0`, `classifier.6`) are understood and returned as given.

        Raises:
            KeyError: the network has no layer of that name.
            ValueError: the images have another shape.
        """
        wanted: dict[str, list[str]] = {}
        if isinstance(layers, str):
            layers = [layers]
        for name in dict(self._named_steps()) if layers is None else layers:
            wanted.setdefault(self._own_name(name), []).append(name)
        activations: dict[str, Tensor] = {}
        with nullcontext() if is_traced(x) else self._explaining_errors(x):
            if not is_traced(x):
                self._check_images(x)
            for name, module in self._named_steps():
                if not wanted:
                    break
                x = module(x)
                activations |= dict.fromkeys(wanted.pop(name, ()), x)
        return activations

    def _named_steps(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules there are now. (`named_children` would name a module that is used twice only once.)"""
        return ((name, module) for name, module in self._modules.items() if module is not None)

    def _own_name(self, name: str) -> str:
        own = TORCHVISION_NAMES.get(name, name)
        if own not in (names := dict(self._named_steps())):
            raise KeyError(not_one_of(f"a layer of {self.architecture.name}", name, names))
        return own


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where torch keeps the hooks of a module; it has no public way to ask for them."""


def are_watched(modules: Iterable[nn.Module]) -> bool:
    """Whether running any of these modules does more than its class says: hooks, or a `forward` of its own."""
    attributes = (module.__dict__ for module in modules)
    return _has_any_global_hook() or any("forward" in each or any(map(each.get, HOOKS)) for each in attributes)


def _channels_last(images: Tensor) -> Tensor:
    """The same images in the memory format in which convolutions are fastest; activations then have it, too.

    The weights stay contiguous, as most tools expect: torch reorders them in any case.
    """
    if images.stride(1) == 1:
        return images
    rows = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return rows.permute(0, 3, 1, 2)


def is_traced(x: Tensor) -> bool:
    """Whether the run is being recorded: by a compiler or exporter, by torch.jit or torch.fx."""
    # A proxy of torch.fx is no tensor; a subclass may see what is done with it.
    return type(x) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing()


def _pool_before_relu(modules: list[nn.Module]) -> list[nn.Module]:
    """The modules with each max pooling before the ReLU that it follows, if nobody watches either of the two."""
    for index, pair in enumerate(pairwise(modules)):
        are_usual = [type(module) for module in pair] == [nn.ReLU, nn.MaxPool2d] and not pair[1].return_indices
        if are_usual and not are_watched(pair):
            modules[index : index + 2] = reversed(pair)
    return modules
