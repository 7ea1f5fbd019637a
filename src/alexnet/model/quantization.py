"""Copies of a network with other weights, of fewer bits or in another layout, for inference alone.

For one image, the time of the fully connected layers is that of reading their weights, 96% of all in 2012.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..kernels import library
from .layers import BATCH_NORMS, RoundedUpConv2d
from .network import AlexNet, are_watched, is_traced

FcPrecision = Literal["same", "bf16", "int8"]

SUMMED_FROM = 2**17
"""Tensors of at least as many elements are compared by sums of blocks of their bits."""
BLOCK = 2 * 61
"""float32 values in such a block. It divides no usual size, so that whoever moves rows or columns moves values between
blocks."""


FEW_ROWS = {torch.bfloat16: 4, torch.int8: 8}
"""Images up to which our own product is faster than torch's, by dtype of the weights. (In float32, torch's reads the
weights as fast, and scores are those of the network to the bit.)"""


class InferenceCopies:
    """Makes copies of a network whose weights have another type or layout, and keeps what was converted.

    Modules, settings and hooks of a copy are those that the network has when it is made, which is cheap. A converted
    weight is used again while the weight that it was made from is the same.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple, _Converted] = {}

    def copy_of(
        self, network: AlexNet, dtype: torch.dtype, fc_precision: FcPrecision = "same", private: bool = False
    ) -> AlexNet:
        """The network with weights of another type, and convolutions channels last.

        Modules that need no copy are shared with the network: those without weights, and batch norm, which stays in
        float32.

        Args:
            private: nobody else has the network, so that its weights change only where torch notices. Otherwise their
                bits are compared, because torch does not notice what is done to `weight.data`, or with NumPy.
        """
        converter = _Converter(self._kept, dtype, fc_precision, private)
        copied = converter.module(network)
        self._kept = converter.used
        return copied


@dataclass
class _Converted:
    sources: list[Tensor | None]
    """Held so that no other tensors get their identities."""
    state: list
    value: Any


@dataclass
class _Converter:
    kept: dict[tuple, _Converted]
    dtype: torch.dtype
    fc_precision: FcPrecision
    private: bool

    def __post_init__(self) -> None:
        self.used: dict[tuple, _Converted] = {}

    def module(self, module: Any) -> Any:
        """A module with converted tensors, or itself if there is nothing to convert."""
        has_tensors = module._parameters or module._buffers or module._modules
        if not has_tensors or isinstance(module, BATCH_NORMS):
            return module
        has_own_forward = "forward" in module.__dict__
        is_plain = "weight" in module._parameters and not has_own_forward  # not computed by a hook, as in pruning
        if type(module) is nn.Linear and self.fc_precision != "same" and is_plain:
            return self._smaller_linear(module)
        last = type(module) in (nn.Conv2d, RoundedUpConv2d)
        tensors = {
            kind: {name: self._tensor(tensor, last) for name, tensor in module.__dict__[kind].items()}
            for kind in ("_parameters", "_buffers")
        }
        children = {name: child and self.module(child) for name, child in module._modules.items()}
        changed = [
            (old, new)
            for kind, converted in (*tensors.items(), ("_modules", children))
            for old, new in zip(module.__dict__[kind].values(), converted.values(), strict=True)
            if old is not new
        ]
        only_layout = all(isinstance(old, Tensor) and old.dtype == new.dtype for old, new in changed)
        if not changed or (only_layout and are_watched([module])):  # whoever watches a layer sees the layer itself
            return module
        if has_own_forward:
            return _InFloat32(module)
        is_linear = type(module) is nn.Linear and is_plain and self.dtype == torch.bfloat16
        return _replica(module, tensors | {"_modules": children}, FewRowsLinear if is_linear else type(module))

    def _tensor(self, tensor: Tensor | None, last: bool) -> Tensor | None:
        if tensor is None or not tensor.is_floating_point():
            return tensor
        last = last and tensor.dim() == 4
        if tensor.dtype == self.dtype and (not last or tensor.is_contiguous(memory_format=torch.channels_last)):
            return tensor
        layout = torch.channels_last if last else torch.preserve_format
        convert = partial(tensor.detach().to, self.dtype, memory_format=layout, copy=True)
        return self._converted((self.dtype, layout), [tensor], convert)

    def _smaller_linear(self, linear: nn.Linear) -> nn.Module:
        make = {"bf16": Bf16Linear, "int8": Int8Linear}[self.fc_precision]
        smaller = self._converted(make, [linear.weight, linear.bias], partial(make, linear))
        hooks = {name: value for name, value in linear.__dict__.items() if "_hooks" in name}
        return _replica(smaller, hooks, type(smaller))

    def _converted(self, kind: Any, sources: list[Tensor | None], convert: Callable[[], Any]) -> Any:
        key = kind, *map(id, sources)
        state = [fact for source in sources if source is not None for fact in self._state(source)]
        known = self.used.get(key) or self.kept.get(key)
        if known is None or not _are_equal(known.state, state):
            known = _Converted(sources, state, convert())
        self.used[key] = known
        return known.value

    def _state(self, tensor: Tensor) -> tuple:
        """What is compared in order to know whether a tensor is the same."""
        facts = tensor.device, tensor.dtype, tensor.shape, tensor.stride()
        if self.private:
            return *facts, tensor.data_ptr(), None if tensor.is_inference() else tensor._version
        return *facts, *_bits(tensor.detach())


def _replica(module: nn.Module, changes: dict, of_type: type[nn.Module]) -> nn.Module:
    """A module with all attributes of another one, the same objects, but for these."""
    replica = object.__new__(of_type)  # `copy` refuses parametrized modules
    replica.__dict__ = module.__dict__ | changes
    return replica


def _bits(tensor: Tensor) -> tuple[Tensor, ...]:
    """A copy of a tensor or, of a large one, sums of blocks of its bits, 1% of its size.

    Integer sums are exact, so that one bit that differs is seen. What they miss are values that change places within a
    block, and sums that stay by intention.
    """
    summed = tensor.numel() // BLOCK * BLOCK
    aligned = tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.storage_offset() % 2 == 0
    if tensor.numel() < SUMMED_FROM or not aligned:
        return (tensor.clone(),)
    flat = tensor.view(-1)
    return flat[:summed].view(torch.int64).view(-1, BLOCK // 2).sum(1), flat[summed:].clone()


def _are_equal(state: list, other: list) -> bool:
    return len(state) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b
        for a, b in zip(state, other, strict=True)
    )


class _InFloat32(nn.Module):
    """A module whose `forward` somebody replaced, with its own weights."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.float()).to(x.dtype)


class FewRowsLinear(nn.Linear):
    """Reads each weight of bfloat16 once for few images, by the C kernel (`kernels.c`); sums are float32."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_for_kernel(x, self.weight):
            return super().forward(x)
        sums = _products(x.float(), self.weight, torch.float32)
        return (sums if self.bias is None else sums + self.bias).to(x.dtype)


class Bf16Linear(FewRowsLinear):
    """Weights and products in bfloat16, sums in float32."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight.detach().bfloat16()
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.bfloat16()).to(x.dtype)


class Int8Linear(nn.Module):
    """Integers of −127 … 127 times a scale per output (weights) and per image (inputs); sums are exact."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.scale = _to_int8(linear.weight.detach().float())
        self.bias = 0.0 if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = _to_int8(x.float())
        if _is_for_kernel(rows, self.weight):
            sums = _products(rows.short(), self.weight, torch.int32)
        else:
            if x.is_cuda and len(x) <= 16:  # the GPU's product needs at least 17 rows
                rows = nn.functional.pad(rows, (0, 0, 0, 17 - len(x)))
            sums = torch._int_mm(rows, self.weight.t())[: len(x)]
        return (sums * (scale * self.scale.t()) + self.bias).to(x.dtype)


def _is_for_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether the C kernel multiplies by these weights: nobody differentiates or records it, and images are few."""
    if torch.is_grad_enabled() or is_traced(x) or x.dim() != 2 or x.dtype != weight.dtype:
        return False
    are_few = 0 < len(x) <= FEW_ROWS.get(weight.dtype, 0) and x.shape[1] == weight.shape[1]
    return are_few and x.device.type == weight.device.type == "cpu" and weight.is_contiguous() and bool(library())


def _products(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """x · weightᵀ, (images, outputs), by the C kernel."""
    x, sums = x.contiguous(), torch.empty(len(x), len(weight), dtype=dtype)
    addresses, is_int8 = (x.data_ptr(), weight.data_ptr(), sums.data_ptr()), weight.dtype == torch.int8
    library().products_of_rows(*addresses, is_int8, *x.shape, len(weight), torch.get_num_threads())
    return sums


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as int8, and its scale, (rows, 1)."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round().to(torch.int8), scale
