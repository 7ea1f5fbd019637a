"""Reads pickles of numbers, strings, lists, dicts and numpy arrays, and refuses all others.

A pickle is a program. This reader knows only the instructions and the names that such data need: nothing is imported,
nothing of numpy is called, and an array stays a record of its shape, type and bytes until `PickledArray.to_numpy` has
checked them.
"""

import math
import pickle
import pickletools
from typing import BinaryIO, ClassVar

import numpy as np

TYPES = ("u1", "f2", "f4", "f8")
INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GET", "BINGET", "LONG_BINGET"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE"),
)
"""Instructions that run as `pickle` implements them; BUILD and those that fill a dict are implemented below."""


def load_arrays(file: BinaryIO):
    """Read one pickle; strings that Python 2 wrote become bytes, and arrays become `PickledArray`.

    Args:
        file: an `io.BytesIO` or a mapped file, which allocate only what they hold, whatever a length claims.

    Raises:
        ValueError: the pickle is damaged, or needs an instruction or a name that arrays do not need.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except ValueError:
        raise
    except EOFError:
        raise ValueError("the pickle is cut off") from None
    except Exception as error:  # whatever a damaged pickle makes its reader raise
        raise ValueError(f"the pickle is damaged: {error!r}"[:200]) from error


class PickledArray:
    """A call that would make a numpy array, or the type of one, and the state that the pickle then sets."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, (None,) * 5

    def item(self):
        """The object in an array that holds a single one, as `numpy.save` stores a dict; None in all other arrays."""
        _, shape, _, _, content, *_ = self.state
        return content[0] if shape == () and isinstance(content, list) and content else None

    def to_numpy(self) -> np.ndarray:
        """The array, which shares the memory of its bytes.

        Raises:
            ValueError: it holds other numbers than unsigned bytes and floats, or its bytes do not fill its shape.
        """
        _, shape, described, by_columns, content, *_ = self.state
        name, byte_order = None, None
        if isinstance(described, PickledArray) and described.arguments:
            name, byte_order = described.arguments[0], described.state[1]
        if (name := name.decode("latin-1") if isinstance(name, bytes) else name) not in TYPES:
            raise ValueError(f"the numbers of an array must be of type {', '.join(TYPES)}")
        dtype = np.dtype((">" if byte_order in (">", b">") else "=") + name)
        content = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(content, bytes) or not isinstance(shape, tuple) or len(shape) > 32:
            raise ValueError("an array has no shape or no bytes")
        if not all(isinstance(side, int) and 0 <= side < 2**63 for side in shape):
            raise ValueError("the sides of an array must be integers >= 0")
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"an array of shape {shape} cannot have {len(content):,} bytes")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    ("numpy", "ndarray"): None,  # an argument of _reconstruct, never called
    ("numpy", "dtype"): PickledArray,
    # Bytes as Python 3 writes them for Python 2. Encoded on use, because a file may repeat one string very often.
    ("_codecs", "encode"): lambda text, encoding: text,
    ("collections", "OrderedDict"): lambda: {},
}
"""What a pickle may ask for, as (module, name), and what it gets instead."""


class _Instructions(dict):
    def __missing__(self, code: int):
        known = pickletools.code2op.get(chr(code))
        raise ValueError(f"it has the instruction {known.name if known else code}, which arrays do not need")


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, because the one in C allocates whatever a damaged file asks for."""

    codes: ClassVar = [getattr(pickle, name)[0] for name in INSTRUCTIONS]
    dispatch: ClassVar = _Instructions(zip(codes, map(pickle._Unpickler.dispatch.get, codes), strict=True))

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise ValueError(f"it asks for {module}.{name}, and arrays need nothing but numpy's own"[:200])
        return ALLOWED[module, name]

    def load_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, PickledArray) or not isinstance(state, tuple) or len(state) < 5:
            raise ValueError("it sets the state of something that is not an array")
        target.state = state

    def load_dict(self):
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self):
        self._fill(self.pop_mark())

    def _fill(self, items: list):
        """Keys are simple ones: the hash of nested tuples may take forever."""
        if type(self.stack[-1]) is not dict or not all(isinstance(key, (str, bytes, int)) for key in items[::2]):
            raise ValueError("it sets an item of something that is not a dict, or under a key that is not a string")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.BUILD[0]], dispatch[pickle.DICT[0]] = load_build, load_dict
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = load_setitem, load_setitems
