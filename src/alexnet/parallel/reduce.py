"""The sum of gradients over processes, while the backward pass still computes the others.

DistributedDataParallel would do it, but it wants the same layout of weights in all epochs, and takes the mean over
processes where a batch that does not divide needs the sum over images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .group import Group

BUCKET_BYTES = 25_000_000
"""Gradients are summed in buckets of about this size, the last layers' first; DistributedDataParallel's default."""


@dataclass
class _Bucket:
    parameters: list[Tensor]
    waiting: set[int] = field(default_factory=set)
    """Identities of those whose gradients are not computed yet."""
    finish: Callable[[], None] | None = None
    """Waits for the sum, once it has started."""


class GradientSum:
    """Sums the gradients of parameters over all processes, 4 bytes a parameter in fp32.

    Args:
        parameters: in the order of the forward pass; those that are frozen are left out.
        compress: whether gradients are sent and added as bf16, in half of the bytes.
    """

    def __init__(self, parameters: Sequence[Tensor], group: Group, compress: bool = False):
        self.group, self.compress, self.armed = group, compress, False
        self.buckets: list[_Bucket] = []
        size = BUCKET_BYTES
        for parameter in reversed([each for each in parameters if each.requires_grad] if group.size > 1 else []):
            if size + parameter.nbytes > BUCKET_BYTES:
                self.buckets.append(_Bucket([]))
                size = 0
            size += parameter.nbytes
            self.buckets[-1].parameters.append(parameter)
            parameter.register_post_accumulate_grad_hook(self._note)

    def arm(self) -> None:
        """From now on, buckets are summed as soon as their gradients are computed: the next backward pass is the last
        of the step."""
        self.armed = True
        for bucket in self.buckets:
            bucket.waiting, bucket.finish = {id(each) for each in bucket.parameters}, None

    def finish(self) -> None:
        """Start what has not been started, and wait for all sums."""
        for bucket in self.buckets:
            bucket.finish = bucket.finish or self._start(bucket)
        for bucket in self.buckets:
            bucket.finish()
            bucket.finish = None
        self.armed = False

    def _note(self, parameter: Tensor) -> None:
        """A gradient is complete. Buckets start in the same order on all processes."""
        if not self.armed:
            return
        for bucket in self.buckets:
            bucket.waiting.discard(id(parameter))
            if bucket.waiting:
                return
            bucket.finish = bucket.finish or self._start(bucket)

    @torch.no_grad()
    def _start(self, bucket: _Bucket) -> Callable[[], None]:
        gradients = [each.grad for each in bucket.parameters if each.grad is not None]
        if not gradients:
            return lambda: None
        if len(gradients) == 1 and gradients[0].is_contiguous() and not self.compress:  # the large ones, in place
            return self.group.start_all_reduce(gradients[0])
        # Copied in the order of their indices: their layouts may differ from process to process.
        flat = torch.cat([each.reshape(-1) for each in gradients])
        wait = self.group.start_all_reduce(flat.bfloat16() if self.compress else flat)

        def finish() -> None:
            pieces = wait().split([each.numel() for each in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view(gradient.shape))

        return finish
