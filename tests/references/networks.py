"""Slow, plain versions of the networks, written without the package, for the tests to compare it with.

The networks of 2012 and those of Caffe are sums over channels, kernel offsets and windows, one after another, and
use none of PyTorch's layers; autograd supplies their gradients. Tensors are float64. All widths are read from the
parameters, a dict of `conv1.weight`, `conv1.bias` ... `fc8.weight`, `fc8.bias`, in the layout of a network on one
device, and all are in test mode. Only torchvision's network is a module of torch.nn.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import ceil, floor, isqrt

import torch
from torch import Tensor, nn, relu

Parameters = dict[str, Tensor]
Layer = Callable[[Tensor], Tensor]


def window_count(side: int, kernel: int, stride: int, padding: int = 0, rounding: Callable = ceil) -> int:
    """Windows along one axis; rounded up in the 2012 code (`layer.py`) and in Caffe's pooling, down in Caffe's conv."""
    return 1 + rounding((side + 2 * padding - kernel) / stride)


def on_zeros(x: Tensor, margin: int, height: int, width: int) -> Tensor:
    """(N, C, height, width) of zeros with x from row and column `margin` on; what would hang over the end is cut."""
    frame = x.new_zeros(*x.shape[:2], height, width)
    inside = x[:, :, : height - margin, : width - margin]
    frame[:, :, margin : margin + inside.shape[2], margin : margin + inside.shape[3]] = inside
    return frame


def conv(x: Tensor, weight: Tensor, bias: Tensor, *, stride=1, padding=0, rounding=ceil) -> Tensor:
    """Convolution as a sum over the offsets in the kernel; pixels outside of the image count as zero.

    The windows are placed first, then zeros put wherever they reach beyond the image. When their number is rounded
    up, the last ones can reach over the bottom and right edge: conv1 by three pixels for an image of 224.

    Args:
        x: (N, C, H, W).
        weight: (channels, C, kernel, kernel).
        bias: (channels,), the same at all positions.
    """
    kernel = weight.shape[-1]
    rows, columns = (window_count(side, kernel, stride, padding, rounding) for side in x.shape[2:])
    down, right = (rows - 1) * stride, (columns - 1) * stride  # from the first window to the last
    frame = on_zeros(x, padding, down + kernel, right + kernel)
    total = bias[:, None, None]
    for i in range(kernel):
        for j in range(kernel):
            pixels = frame[:, :, i : i + down + 1 : stride, j : j + right + 1 : stride]
            total = total + torch.einsum("nchw,mc->nmhw", pixels, weight[:, :, i, j])
    return total


def two_group_conv(x: Tensor, weight: Tensor, bias: Tensor, **options) -> Tensor:
    """Convolution whose first half of the outputs reads the first half of the channels, and the second the second."""
    halves = zip(x.chunk(2, dim=1), weight.chunk(2), bias.chunk(2), strict=True)
    return torch.cat([conv(channels, filters, biases, **options) for channels, filters, biases in halves], dim=1)


def local(x: Tensor, weight: Tensor, bias: Tensor, padding: int = 1) -> Tensor:
    """Convolution with other weights and biases at each output position, stride 1.

    Args:
        x: (N, C, H, W).
        weight: (channels, C * kernel * kernel, positions); positions run along the rows of the output.
        bias: (channels, positions).
    """
    channels, height, width = x.shape[1:]
    kernel = isqrt(weight.shape[1] // channels)
    rows, columns = (window_count(side, kernel, 1, padding) for side in (height, width))
    frame = on_zeros(x, padding, rows + kernel - 1, columns + kernel - 1)
    filters = weight.unflatten(1, (channels, kernel, kernel)).unflatten(-1, (rows, columns))
    total = bias.unflatten(1, (rows, columns))
    for i in range(kernel):
        for j in range(kernel):
            pixels = frame[:, :, i : i + rows, j : j + columns]
            total = total + torch.einsum("nchw,mchw->nmhw", pixels, filters[:, :, i, j])
    return total


def pool(x: Tensor, reduce: Callable, kernel: int = 3, stride: int = 2) -> Tensor:
    """Reduce each window, cut off at the border, to one value; (N, C, H, W) to (N, C, rows, columns).

    The number of windows is rounded up. A mean is over the pixels that a window really has.
    """
    rows, columns = (window_count(side, kernel, stride) for side in x.shape[2:])
    pooled = []
    for i in range(rows):
        strip = x[:, :, i * stride : i * stride + kernel]
        windows = [strip[:, :, :, j * stride : j * stride + kernel] for j in range(columns)]
        pooled.append(torch.stack([reduce(window, dim=(2, 3)) for window in windows], dim=-1))
    return torch.stack(pooled, dim=2)


max_pool = partial(pool, reduce=torch.amax)
average_pool = partial(pool, reduce=torch.mean)


def cross_channel_norm(x: Tensor, size: int = 5, scale: float = 1e-4, constant: float = 2.0) -> Tensor:
    """`cmrnorm` of the 2012 code: y[c] = x[c] / (constant + scale / size * sum_j x[j]^2)^0.75.

    j runs over `size` channels from c - floor(size / 2) on, fewer at both ends; an even window thus reaches one
    channel further down than up. The scale is divided by the full size everywhere.
    """
    squares = x.square().unbind(dim=1)
    energies = []
    for channel in range(len(squares)):
        start = channel - size // 2
        energies.append(sum(squares[max(start, 0) : start + size]))
    return x * (constant + scale / size * torch.stack(energies, dim=1)) ** -0.75


def spatial_norm(x: Tensor, size: int = 5, scale: float = 1e-3) -> Tensor:
    """`rnorm` of the 2012 code: y = x / (1 + scale / size^2 * sum of x^2 in a window of the same map)^0.75.

    Windows are size x size from floor(size / 2) above and left of the pixel on, and cut off at the border.
    """
    height, width = x.shape[2:]
    frame = on_zeros(x.square(), size // 2, height + size - 1, width + size - 1)
    energy = torch.zeros_like(x)
    for i in range(size):
        for j in range(size):
            energy = energy + frame[:, :, i : i + height, j : j + width]
    return x * (1 + scale / size**2 * energy) ** -0.75


def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Fully connected layer over (N, ...), flattened channel by channel."""
    return x.flatten(1) @ weight.T + bias


def with_parameters(parameters: Parameters, layer: Callable, name: str, **options) -> Layer:
    """The layer as a function of its input alone."""
    return partial(layer, weight=parameters[f"{name}.weight"], bias=parameters[f"{name}.bias"], **options)


def run(operations: list[Layer], x: Tensor) -> Tensor:
    """Apply the operations in turn."""
    for operation in operations:
        x = operation(x)
    return x


def tower(parameters: Parameters, which: str, keep: float) -> list[tuple[str, str, str, list[Layer]]]:
    """One of the two towers of config 145 of the 2012 code, as the rows of `layers/layers-145.cfg`.

    Tower "a" has the first half of the channels and units of every layer, "b" the second.

    Returns:
        for each layer its name, the layer it reads, in which towers it reads it, and its operations. A ReLU that the
        file writes at a layer follows that layer's output, so in layers 1 and 5 it comes after the pooling.
    """
    half = "ab".index(which)
    own = {name: values.chunk(2)[half] for name, values in parameters.items() if not name.startswith("fc8.")}
    layer = partial(with_parameters, own)
    return [
        ("conv1", "image", which, [layer(conv, "conv1", stride=4)]),
        ("rnorm1", "conv1", which, [cross_channel_norm]),
        ("pool1", "rnorm1", which, [max_pool, relu]),
        ("conv2", "pool1", which, [layer(conv, "conv2", padding=2), relu]),
        ("rnorm2", "conv2", which, [cross_channel_norm]),
        ("cnorm2", "rnorm2", which, [spatial_norm]),  # of type rnorm in spite of its name
        ("pool2", "cnorm2", which, [max_pool]),
        ("conv3", "pool2", "ab", [layer(conv, "conv3", padding=1), relu]),
        ("conv4", "conv3", which, [layer(conv, "conv4", padding=1), relu]),
        ("conv5", "conv4", which, [layer(conv, "conv5", padding=1)]),
        ("pool3", "conv5", which, [max_pool, relu]),
        ("fc2048", "pool3", "ab", [layer(dense, "fc6"), relu]),
        ("hs1", "fc2048", which, [lambda x: x * keep]),  # dropout: no factor in training, `keep` in every test
        ("fc2048b", "hs1", "ab", [layer(dense, "fc7"), relu]),
        ("hs2", "fc2048b", which, [lambda x: x * keep]),
    ]


def original_2012(parameters: Parameters, images: Tensor, keep: float = 0.5) -> Tensor:
    """Config 145 of the 2012 code (`layers/layers-145.cfg`) in test mode, as two towers.

    Args:
        parameters: at full width `conv1.weight` (96, 3, 11, 11), `conv2.weight` (256, 48, 5, 5), `conv3.weight`
            (384, 256, 3, 3), `conv4.weight` (384, 192, 3, 3), `conv5.weight` (256, 192, 3, 3), `fc6.weight`
            (4096, 9216), `fc7.weight` (4096, 4096), `fc8.weight` (classes, 4096), and a bias for each.
        images: (N, 3, 224, 224), or another size that fits fc6; pixels of 0 to 255, less the mean.
        keep: probability with which dropout kept a unit in training.

    Returns:
        logits, (N, classes).
    """
    outputs = {("image", "a"): images, ("image", "b"): images}
    for rows in zip(tower(parameters, "a", keep), tower(parameters, "b", keep), strict=True):
        for which, (name, source, towers, operations) in zip("ab", rows, strict=True):
            outputs[name, which] = run(operations, torch.cat([outputs[source, each] for each in towers], dim=1))
    hidden = torch.cat([outputs["hs2", "a"], outputs["hs2", "b"]], dim=1)
    return dense(hidden, parameters["fc8.weight"], parameters["fc8.bias"])  # on one device only


def caffe(parameters: Parameters, images: Tensor, norm_first: bool) -> Tensor:
    """The two networks of Caffe, which differ in the order of norm and pooling; parameters as for `original_2012`.

    Convolutions drop a window that would hang over the edge. The norm's constant is 1 and its window crosses the
    border of the two groups. Dropout is scaled in training, so that nothing is left of it here.
    """
    layer = partial(with_parameters, parameters)
    grouped = partial(two_group_conv, rounding=floor)
    norm = partial(cross_channel_norm, constant=1.0)
    norm_and_pool = [norm, max_pool] if norm_first else [max_pool, norm]
    operations = [layer(conv, "conv1", stride=4, rounding=floor), relu, *norm_and_pool]
    operations += [layer(grouped, "conv2", padding=2), relu, *norm_and_pool]
    operations += [layer(conv, "conv3", padding=1, rounding=floor), relu]
    operations += [layer(grouped, "conv4", padding=1), relu]
    operations += [layer(grouped, "conv5", padding=1), relu, max_pool]
    operations += [layer(dense, "fc6"), relu, layer(dense, "fc7"), relu, layer(dense, "fc8")]
    return run(operations, images)


def caffe_bvlc(parameters: Parameters, images: Tensor) -> Tensor:
    """Caffe's bvlc_alexnet, for images of 227 pixels: norm, then pooling; logits, (N, classes)."""
    return caffe(parameters, images, norm_first=True)


def caffenet(parameters: Parameters, images: Tensor) -> Tensor:
    """Caffe's bvlc_reference_caffenet, for images of 227 pixels: pooling, then norm; logits, (N, classes)."""
    return caffe(parameters, images, norm_first=False)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor = None, running_var: Tensor = None):
    """Each channel minus its mean, divided by its standard deviation (of variance + 1e-5), times weight plus bias.

    Mean and variance are those of the batch if none are given (Ioffe and Szegedy 2015, algorithm 1).
    """
    if running_mean is None:
        running_mean = x.mean((0, 2, 3))
        running_var = (x - running_mean[:, None, None]).square().mean((0, 2, 3))
    scaled = (x - running_mean[:, None, None]) / (running_var[:, None, None] + 1e-5).sqrt()
    return scaled * weight[:, None, None] + bias[:, None, None]


def original_with_batch_norm(parameters: Parameters, images: Tensor, running: Parameters, keep: float = 0.5) -> Tensor:
    """Config 145 in two groups, with batch norm for its norms across channels and nothing for the other.

    Args:
        running: `norm1.running_mean` and so on; none of them while training.
    """
    layer = partial(with_parameters, parameters)
    norm1, norm2 = (
        layer(batch_norm, name, **{key.split(".")[1]: running[key] for key in running if key.startswith(name)})
        for name in ("norm1", "norm2")
    )
    operations = [layer(conv, "conv1", stride=4), norm1, max_pool, relu]
    operations += [layer(two_group_conv, "conv2", padding=2), relu, norm2, max_pool]
    operations += [layer(conv, "conv3", padding=1), relu, layer(two_group_conv, "conv4", padding=1), relu]
    operations += [layer(two_group_conv, "conv5", padding=1), max_pool, relu]
    operations += [layer(dense, "fc6"), relu, lambda x: x * keep, layer(dense, "fc7"), relu, lambda x: x * keep]
    return run([*operations, layer(dense, "fc8")], images)


def torchvision_alexnet(num_classes: int = 1000) -> nn.Module:
    """The layers and the state dict's names of torchvision's `alexnet`, in float64; call eval() to stop the dropout."""
    features = [nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    features += [nn.Conv2d(64, 192, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    features += [nn.Conv2d(192, 384, kernel_size=3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)]
    classifier = [nn.Dropout(0.5), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()]
    classifier += [nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, num_classes)]
    parts = {"features": nn.Sequential(*features), "avgpool": nn.AdaptiveAvgPool2d((6, 6))}
    parts |= {"flatten": nn.Flatten(), "classifier": nn.Sequential(*classifier)}
    return nn.Sequential(OrderedDict(parts)).double()


def cifar_18(parameters: Parameters, images: Tensor) -> Tensor:
    """The 18 % network of CIFAR-10 in the 2012 code: convolutions and spatial norms; (N, 3, 32, 32) to logits.

    Parameters are `conv1`, `conv2`, `conv3` and `fc8`.
    """
    layer = partial(with_parameters, parameters)
    norm = partial(spatial_norm, size=3, scale=5e-5)
    operations = [layer(conv, "conv1", padding=2), max_pool, relu, norm]
    operations += [layer(conv, "conv2", padding=2), relu, average_pool, norm]
    operations += [layer(conv, "conv3", padding=2), relu, average_pool, layer(dense, "fc8")]
    return run(operations, images)


def cifar_13(parameters: Parameters, images: Tensor) -> Tensor:
    """The 13 % network of CIFAR-10: two convolutions and two unshared layers; (N, 3, 32, 32) to logits.

    Parameters are `conv1`, `conv2`, `local3` and `local4`, the latter two as `local` has them, and `fc8`.
    """
    return conv_local(parameters, images, [max_pool], [max_pool])


def cifar_11(parameters: Parameters, images: Tensor) -> Tensor:
    """The 11 % network: as `cifar_13`, with cross-channel norms after the first pooling and before the second."""
    norm = partial(cross_channel_norm, size=9, scale=1e-3, constant=1.0)
    return conv_local(parameters, images, [max_pool, norm], [norm, max_pool])


def conv_local(parameters: Parameters, images: Tensor, after_conv1: list[Layer], after_conv2: list[Layer]) -> Tensor:
    """What `cifar_13` and `cifar_11` have in common."""
    layer = partial(with_parameters, parameters)
    operations = [layer(conv, "conv1", padding=2), relu, *after_conv1]
    operations += [layer(conv, "conv2", padding=2), relu, *after_conv2]
    operations += [layer(local, "local3"), relu, layer(local, "local4"), relu, layer(dense, "fc8")]
    return run(operations, images)
