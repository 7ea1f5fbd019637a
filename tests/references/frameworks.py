"""Files of other frameworks, written byte by byte as those write them, and their rules for a forward pass.

Nothing here uses the package: what it reads must not be written by its own code.
"""

import io
import struct

import numpy as np
import torch
import torch.nn.functional as F

from .networks import Parameters


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value % 128 + 128)
        value //= 128
    return bytes([*parts, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of Protocol Buffers: a varint, a 32-bit float or bytes."""
    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    if isinstance(value, float):
        return varint(number * 8 + 5) + struct.pack("<f", value)
    return varint(number * 8 + 2) + varint(len(value)) + value


def old_blob(array: np.ndarray) -> bytes:
    """A BlobProto of 2014, with four sides."""
    sides = [1] * (4 - array.ndim) + list(array.shape)
    return b"".join(field(n, side) for n, side in enumerate(sides, 1)) + field(5, array.astype("<f4").tobytes())


def new_blob(array: np.ndarray) -> bytes:
    """A BlobProto of 2015 and later, with a BlobShape."""
    return field(5, array.astype("<f4").tobytes()) + field(7, field(1, b"".join(map(varint, array.shape))))


def caffemodel(parameters: Parameters, norm_first: bool, old: bool, side: int = 227) -> bytes:
    """bvlc_alexnet, or CaffeNet where pooling comes first, as `train_val.prototxt` lists the layers.

    Args:
        old: as V1LayerParameter, with types as numbers, or as LayerParameter, with types as strings.
    """
    types = dict(Data=5, Convolution=4, ReLU=18, LRN=15, Pooling=17, InnerProduct=14, Dropout=6, SoftmaxWithLoss=21)
    settings = {"Data": (36, 100), "Convolution": (10, 106), "LRN": (18, 118), "Pooling": (19, 121)}
    settings |= {"InnerProduct": (17, 117), "Dropout": (12, 108)}

    def layer(name, kind, how=b""):
        blob = old_blob if old else new_blob
        kinds = [f"{name}.{each}" for each in ("weight", "bias") if f"{name}.{each}" in parameters]
        blobs = b"".join(field(6 if old else 7, blob(parameters[each].numpy())) for each in kinds)
        if old:
            head = field(4, name.encode()) + field(5, types[kind])
        else:
            head = field(1, name.encode()) + field(2, kind.encode())
        return field(2 if old else 100, head + blobs + (field(settings[kind][not old], how) if how else b""))

    def conv(number, kernel, pad=0, stride=1, group=1):
        maps = len(parameters[f"conv{number}.bias"])
        pairs = [(1, maps), (3, pad), (4, kernel), (5, group), (6, stride)]
        how = b"".join(field(*pair) for pair in pairs if pair[1] != {3: 0, 5: 1, 6: 1}.get(pair[0]))
        return layer(f"conv{number}", "Convolution", how) + layer(f"relu{number}", "ReLU")

    def norm(number):
        return layer(f"norm{number}", "LRN", field(1, 5) + field(2, 1e-4) + field(3, 0.75))

    def pool(number):
        return layer(f"pool{number}", "Pooling", field(1, 0) + field(2, 3) + field(3, 2))

    def dense(number):
        return layer(f"fc{number}", "InnerProduct", field(1, len(parameters[f"fc{number}.bias"])))

    def after(number):
        return norm(number) + pool(number) if norm_first else pool(number) + norm(number)

    net = field(1, b"AlexNet") + layer("data", "Data", field(2, 1) + field(3, side))
    net += conv(1, 11, stride=4) + after(1) + conv(2, 5, pad=2, group=2) + after(2) + conv(3, 3, pad=1)
    net += conv(4, 3, pad=1, group=2) + conv(5, 3, pad=1, group=2) + pool(5)
    for number in (6, 7):
        net += dense(number) + layer(f"relu{number}", "ReLU") + layer(f"drop{number}", "Dropout", field(1, 0.5))
    return net + dense(8) + layer("loss", "SoftmaxWithLoss")


def npy_of_python_2(layers: dict[str, list[np.ndarray]]) -> bytes:
    """`numpy.save(file, layers)` under Python 2: an array of one object, pickled by protocol 2, strings of bytes."""

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def array(shape, kind: bytes, content: bytes) -> bytes:
        order = b"<" if kind == b"f4" else b"|"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b")
        dtype = b"cnumpy\ndtype\n" + string(kind) + integer(0) + integer(1) + b"\x87R"
        dtype += (
            b"("
            + integer(3)
            + string(order)
            + b"NNN"
            + integer(-1)
            + integer(-1)
            + integer(63 if kind == b"O8" else 0)
            + b"tb"
        )
        sides = b"(" + b"".join(map(integer, shape)) + b"t"
        return empty + b"\x87R" + b"(" + integer(1) + sides + dtype + b"\x89" + content + b"tb"

    def entry(name: str, arrays: list[np.ndarray]) -> bytes:
        parts = [array(each.shape, b"f4", string(each.astype("<f4").tobytes())) for each in arrays]
        return string(name.encode()) + b"]q\x01(" + b"".join(parts) + b"e"

    inside = b"}q\x02(" + b"".join(entry(*each) for each in layers.items()) + b"u"
    pickled = b"\x80\x02" + array((), b"O8", b"]" + inside + b"a") + b"."
    return npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (), }") + pickled


def npy_header(about: bytes) -> bytes:
    about += b" " * (-(len(about) + 11) % 16) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(about)) + about


def tensorflow_norm(x: torch.Tensor, radius: int = 2, bias: float = 1.0, alpha: float = 2e-5, beta: float = 0.75):
    """tf.nn.local_response_normalization, (N, H, W, C): alpha is not divided by the window."""
    channels = x.shape[3]
    sums = [x[..., max(c - radius, 0) : c + radius + 1].square().sum(-1) for c in range(channels)]
    return x / (bias + alpha * torch.stack(sums, -1)) ** beta


def tensorflow_alexnet(layers: dict[str, list[np.ndarray]], images: torch.Tensor) -> torch.Tensor:
    """bvlc_alexnet as caffe-tensorflow writes it, channels last, float64; (N, 227, 227, 3) to scores.

    Kernels are (height, width, inputs, maps), pooling windows never hang over, and rows come before columns before
    channels in what the first fully connected layer reads.
    """
    layers = {name: [torch.from_numpy(each).double() for each in pair] for name, pair in layers.items()}

    def conv(x, name, stride=1, same=True, groups=1):
        kernel, bias = layers[name]
        pad = kernel.shape[0] // 2 if same else 0
        y = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride, pad, groups=groups)
        return y.permute(0, 2, 3, 1).relu()

    def pool(x):
        windows = x.unfold(1, 3, 2).unfold(2, 3, 2)  # (N, rows, columns, C, 3, 3)
        return windows.amax((-2, -1))

    def dense(x, name):
        return x @ layers[name][0] + layers[name][1]

    x = pool(tensorflow_norm(conv(images, "conv1", stride=4, same=False)))
    x = pool(tensorflow_norm(conv(x, "conv2", groups=2)))
    x = conv(conv(x, "conv3"), "conv4", groups=2)
    x = pool(conv(x, "conv5", groups=2)).flatten(1)
    return dense(dense(dense(x, "fc6").relu(), "fc7").relu(), "fc8")


def keras_weights(layers: dict[str, list[np.ndarray]]) -> bytes:
    """What `model.save_weights("model.weights.h5")` of Keras 3 writes for convolutions and dense layers in a row."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        counts = {4: 0, 2: 0}
        for name, arrays in layers.items():
            kind = arrays[0].ndim
            number, counts[kind] = counts[kind], counts[kind] + 1
            own = ("conv2d" if kind == 4 else "dense") + (f"_{number}" if number else "")
            file.create_group(f"layers/{own}").attrs["name"] = name
            for index, array in enumerate(arrays):
                file[f"layers/{own}/vars/{index}"] = array
        for own in ("max_pooling2d", "flatten", "dropout"):
            file.create_group(f"layers/{own}/vars")
        file.create_group("vars")
        file["optimizer/vars/0"] = np.float32(1)
    return content.getvalue()


def caffe_net(*layers: tuple) -> bytes:
    """A caffemodel of layers: (name, type, names that it reads, blobs, number and fields of its parameters)."""
    net = field(1, b"net")
    for name, kind, bottoms, blobs, number, settings in layers:
        content = field(1, name.encode()) + field(2, kind.encode())
        content += b"".join(field(3, each.encode()) for each in bottoms.split()) + field(4, name.encode())
        content += b"".join(field(7, new_blob(np.asarray(each, np.float32))) for each in blobs)
        net += field(100, content + (field(number, settings) if number else b""))
    return net
