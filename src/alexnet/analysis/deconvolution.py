"""Deconvolution (Zeiler and Fergus 2013): what in an image made a unit active, projected back to the pixels.

The signal runs through the layers backwards. Three choices make it what it is:

- Rectification: at a ReLU, the signal itself is rectified, whatever the activation was. (A gradient is kept where the
  activation was positive; guided backpropagation does both.)
- Switches: at max pooling, the signal goes to the position of each window's maximum in this image. Where windows
  overlap and share a maximum, signals add up.
- Normalization: the denominators of LRN are held fixed at what they are for this image, and the signal is divided by
  them. (A gradient has a further term, by which neighbors inhibit each other.)

Everything else is the transposed operation, that is its vector-Jacobian product: convolutions have no bias on the way
back, means are spread evenly, tanh is multiplied by its slope.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.layers import ResponseNorm, SpatialResponseNorm
from ..model.network import AlexNet


@torch.no_grad()
def deconvolve(network: AlexNet, images: Tensor, layer: str, signal: Tensor) -> Tensor:
    """Project a signal in a layer back to the pixels, (N, channels, side, side).

    Args:
        images: inputs of the network, (N, channels, side, side).
        signal: in the shape of the layer's output, such as its activations with all but one set to 0.
    """
    outputs = network.features(images)
    names = list(outputs)
    inputs = dict(zip(names, [images, *outputs.values()], strict=False))
    for name in reversed(names[: names.index(layer) + 1]):
        signal = _backward(network.get_submodule(name), inputs[name], signal)
    return signal


def _backward(module: nn.Module, x: Tensor, signal: Tensor) -> Tensor:
    if isinstance(module, nn.ReLU):
        return signal.relu()
    if isinstance(module, ResponseNorm):
        return signal * norm_factors(module, x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(module(x), x, signal)[0]


def norm_factors(module: ResponseNorm, x: Tensor) -> Tensor:
    """What a local response normalization multiplies each activation by, (k + alpha / size · Σ x²)^(−beta)."""
    norm, squares = module.norm, x.square()
    before, after = norm.size // 2, (norm.size - 1) // 2
    if isinstance(module, SpatialResponseNorm):
        means = F.avg_pool2d(F.pad(squares, (before, after) * 2), norm.size, 1)
        return (norm.k + norm.alpha * means) ** -norm.beta
    squares = F.pad(squares.unflatten(1, (norm.groups, -1)), (0, 0, 0, 0, before, after))
    means = squares.unfold(2, norm.size, 1).mean(-1).flatten(1, 2)
    return (norm.k + norm.divided_alpha * means) ** -norm.beta
