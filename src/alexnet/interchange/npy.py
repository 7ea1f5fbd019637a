"""The `bvlc_alexnet.npy` that TensorFlow's users pass around: a pickled dict of lists of arrays inside an .npy file.

caffe-tensorflow wrote it, from Python 2: {"conv1": [weights, biases], …}, kernels (height, width, inputs, maps), for
pictures in BGR. A pickle is a program; this one is not run. Its instructions are read one by one, and only those that
put numbers, strings, lists, dicts and arrays together are known. Nothing is imported and nothing called.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..files import written_whole
from ..model.bundle import ModelBundle
from .caffe import MEAN_COLOR
from .layout import Found, Layers, channels_first, channels_last, in_pixels, layers_of, named_tensors, swap_colors

MAGIC = b"\x93NUMPY"
LIKELY = "caffe"


def read(path: Path) -> Found:
    """A dict of layers, each a list of weights and biases, or a dict of both.

    Raises:
        ValueError: it holds something else.
    """
    value = _contents(path)
    if isinstance(value, _Array):
        value = value.items[0] if value.shape == () and value.items else None
    if not isinstance(value, dict):
        raise ValueError("an .npy that holds no dict of layers")
    layers: Layers = {}
    skipped = []
    for name, entry in value.items():
        parts = [entry.get("weights"), entry.get("biases")] if isinstance(entry, dict) else entry
        arrays = [each.numbers() for each in parts if isinstance(each, _Array)] if isinstance(parts, list) else []
        if isinstance(name, str) and len(arrays) == 2 and arrays[0].ndim in (2, 4):
            layers[name] = arrays[0], arrays[1]
        else:
            skipped.append(str(name))
    ordered = {name: layers[name] for name in sorted(layers, key=_in_order)}  # Python 2 kept no order
    if not ordered or next(iter(ordered.values()))[0].ndim != 4:
        raise ValueError("an .npy that holds no dict of convolutions with weights and biases")
    return Found(
        "a dict of arrays, as of bvlc_alexnet.npy",
        named_tensors(swap_colors(channels_first(ordered))),
        tuple(skipped),
        likely=LIKELY,
        mean=torch.tensor(MEAN_COLOR).view(1, 1, 3),
    )


def write(bundle: ModelBundle, path: Path) -> None:
    """A dict of lists of arrays, for pictures in BGR with the mean taken off; numpy.load(allow_pickle=True).item()."""
    layers = channels_last(
        swap_colors(in_pixels(layers_of(bundle.network, "a dict of arrays"), bundle.preprocessing.std))
    )
    arrays = {name: [np.ascontiguousarray(each) for each in pair] for name, pair in layers.items()}
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(arrays, dtype=object), allow_pickle=True)


def _in_order(name: str) -> tuple[int, list]:
    """Convolutions before fully connected layers, conv2 before conv10."""
    numbers = [int(each) for each in re.findall(r"\d+", name)]
    return (0 if name.startswith("conv") else 1), numbers


def _contents(path: Path):
    """What the pickle after the header of an .npy file describes."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        content.seek(len(MAGIC))
        version = content.read(2)
        length = int.from_bytes(content.read(2 if version[:1] == b"\x01" else 4), "little")
        header = content.read(length)
        if re.search(rb"'descr':\s*'\|O", header) is None:
            raise ValueError("an .npy of plain numbers; weights are a dict of layers")
        try:
            return _described(pickletools.genops(content))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"an .npy whose pickle is refused: {error}") from error


@dataclass
class _Name:
    """A global that a pickle names; known ones stand for what is built of them."""

    name: str


@dataclass
class _Array:
    """An array of numpy's as a pickle puts it together."""

    shape: tuple = ()
    type: str = ""
    fortran: bool = False
    items: list | None = None
    content: bytes = b""

    def numbers(self) -> np.ndarray:
        dtype = np.dtype(self.type)
        if math.prod(self.shape) * dtype.itemsize != len(self.content):
            raise ValueError(f"an array of shape {self.shape} with {len(self.content):,} bytes")
        return np.frombuffer(self.content, dtype).reshape(self.shape, order="F" if self.fortran else "C")


@dataclass
class _Type:
    """A dtype, as it is put together; 4-byte floats and the like, or objects."""

    name: str

    def __post_init__(self):
        if self.name not in ("f2", "f4", "f8", "O8", "O"):
            raise ValueError(f"numbers of type {self.name!r}; they may be f2, f4 or f8")


_KNOWN = re.compile(
    r"(numpy\.(_?core\.multiarray) _reconstruct|numpy (ndarray|dtype)|_codecs encode|collections OrderedDict)"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG1"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING", "UNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


def _described(operations: Iterator):
    """The value that a pickle's instructions describe. Each is one of those below, or the pickle is refused."""
    stack: list = []
    marks: list[int] = []
    memo: dict[int, object] = {}

    def to_mark() -> list:
        at = marks.pop()
        above = stack[at:]
        del stack[at:]
        return above

    for operation, argument, _ in operations:
        match operation.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case name if name in _VALUES:
                stack.append(argument)
            case "GLOBAL":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{module} {name}"))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _of(list, stack[-1]).append(item)
            case "APPENDS":
                items = to_mark()
                _of(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _of(dict, stack[-1])[key] = value
            case "SETITEMS":
                items = to_mark()
                _of(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
            case "REDUCE":
                arguments, made = stack.pop(), _of(_Name, stack.pop())
                stack.append(_made(made.name, _of(tuple, arguments)))
            case "BUILD":
                state = _of(tuple, stack.pop())
                _complete(stack[-1], state)
            case name:
                raise ValueError(f"it has the instruction {name}, which weights do not need")
    raise ValueError("it has no end")


def _known(name: str) -> _Name:
    if not _KNOWN.fullmatch(name):
        raise ValueError(f"it asks for {name.replace(' ', '.')}, and weights need nothing but numpy's arrays")
    return _Name(name)


def _made(name: str, arguments: tuple):
    """What a call in the pickle stands for."""
    if name.endswith("_reconstruct"):
        return _Array()
    if name == "numpy dtype":
        return _Type(_of(str, arguments[0]))
    if name == "_codecs encode":  # how Python 3 writes bytes for Python 2
        return _of(str, arguments[0]).encode("latin-1")
    if name == "collections OrderedDict" and not arguments:
        return {}
    raise ValueError(f"it calls {name.replace(' ', '.')}")


def _complete(made: object, state: tuple) -> None:
    """What an array or its type is told after it was made."""
    if isinstance(made, _Type):
        if len(state) > 1 and state[1] == ">":
            made.name = ">" + made.name
    elif isinstance(made, _Array):
        _, shape, kind, fortran, content = state
        made.shape = tuple(_of(int, side) for side in _of(tuple, shape))
        made.type, made.fortran = _of(_Type, kind).name, bool(fortran)
        if isinstance(content, list):
            made.items = content
        else:
            made.content = content.encode("latin-1") if isinstance(content, str) else _of(bytes, content)
    else:
        raise ValueError("it sets the state of what is no array")


def _of(kind: type, value):
    if not isinstance(value, kind):
        raise ValueError(f"it has a {type(value).__name__} where a {kind.__name__} belongs")
    return value
