"""Protocol buffers without a compiled schema: fields by number, read with every length checked, and written.

Nothing is copied while reading, and nothing is trusted: a length beyond the end, a number of more than 64 bits, a
message of very many fields is a ValueError.
"""

from __future__ import annotations

import numpy as np

MOST_FIELDS = 100_000
"""Of one message; arrays are packed into one field."""

Schema = dict[str, "int | tuple[int, Schema]"]
"""Numbers of fields by name; with the schema of the message inside, where one is."""

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


class Message:
    """A message's fields by the names that a schema gives them; fields that it does not name are passed over."""

    def __init__(self, data: memoryview, schema: Schema):
        self.schema = schema
        self.fields = _fields(data)

    def __contains__(self, name: str) -> bool:
        return self._number(name) in self.fields

    def unknown(self) -> list[int]:
        """Numbers of fields that the schema does not name."""
        known = {self._number(name) for name in self.schema}
        return [number for number in self.fields if number not in known]

    def messages(self, name: str) -> list[Message]:
        _, inside = self.schema[name]
        return [Message(_bytes(each, name), inside) for each in self.fields.get(self._number(name), ())]

    def message(self, name: str) -> Message:
        """The last one of that name; an empty one where there is none."""
        return (self.messages(name) or [Message(memoryview(b""), self.schema[name][1])])[-1]

    def integers(self, name: str) -> list[int]:
        """All values, packed or not."""
        found = []
        for value in self.fields.get(self._number(name), ()):
            found += [value] if isinstance(value, int) else _packed_integers(value)
        return found

    def integer(self, name: str, default: int = 0) -> int:
        return (self.integers(name) or [default])[-1]

    def texts(self, name: str) -> list[str]:
        return [
            bytes(_bytes(each, name)).decode("utf-8", "replace") for each in self.fields.get(self._number(name), ())
        ]

    def text(self, name: str, default: str = "") -> str:
        return (self.texts(name) or [default])[-1]

    def array(self, name: str, dtype: str) -> np.ndarray:
        """All numbers of a repeated float or double, one after another."""
        parts = [_bytes(each, name) for each in self.fields.get(self._number(name), ())]
        size = np.dtype(dtype).itemsize
        if any(len(part) % size for part in parts):
            raise ValueError(f"{name} is cut off in the middle of a number")
        arrays = [np.frombuffer(part, dtype) for part in parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, dtype), *arrays])

    def real(self, name: str, default: float) -> float:
        """A float, as it was written: 0.0001, not the nearest that 32 bits can hold."""
        found = self.array(name, "<f4")
        return float(f"{found[-1]:.7g}") if len(found) else default

    def _number(self, name: str) -> int:
        entry = self.schema[name]
        return entry if isinstance(entry, int) else entry[0]


def _fields(data: memoryview) -> dict[int, list]:
    """Values by number: integers, or views of the bytes."""
    fields: dict[int, list] = {}
    at = count = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            if kind == BYTES:
                length, at = _varint(data, at)
            elif kind in (FIXED_64, FIXED_32):
                length = 8 if kind == FIXED_64 else 4
            else:
                raise ValueError(f"a field of kind {kind} at byte {at} is none of Protocol Buffers'")
            if length > len(data) - at:
                raise ValueError(f"a field of {length:,} bytes at byte {at} goes beyond the end")
            value, at = data[at : at + length], at + length
        count += 1
        if not number or count > MOST_FIELDS:
            raise ValueError(
                "a field has the number 0" if not number else f"there are more than {MOST_FIELDS:,} fields"
            )
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at >= len(data):
            raise ValueError("a number is cut off at the end")
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    if byte >= 0x80 or value >> 64:
        raise ValueError(f"a number before byte {at} has more than 64 bits")
    return value, at


def _packed_integers(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
        if len(found) > MOST_FIELDS:
            raise ValueError(f"there are more than {MOST_FIELDS:,} numbers in one field")
    return found


def _bytes(value: int | memoryview, name: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"{name} is a number, where bytes belong")
    return value


def binary(fields: list[tuple[str, object]], schema: Schema) -> bytes:
    """A message of the fields named, in their order: integers, floats, strings, arrays (packed), lists (messages)."""
    parts = []
    for name, value in fields:
        entry = schema[name]
        number, inside = entry if isinstance(entry, tuple) else (entry, None)
        if isinstance(value, int):
            parts += [_encoded(number << 3 | VARINT), _encoded(value)]
        elif isinstance(value, float):
            parts += [_encoded(number << 3 | FIXED_32), np.float32(value).tobytes()]
        else:
            content = binary(value, inside) if isinstance(value, list) else _content(value)
            parts += [_encoded(number << 3 | BYTES), _encoded(len(content)), content]
    return b"".join(parts)


def text(fields: list[tuple[str, object]], indent: str = "") -> str:
    """The same as people read and write it (prototxt)."""
    lines = []
    for name, value in fields:
        if isinstance(value, list):
            lines.append(f"{indent}{name} {{\n{text(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, tuple):
            lines += [f"{indent}{name}: {each}\n" for each in value]
        else:
            quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else value
            lines.append(f"{indent}{name}: {quoted}\n")
    return "".join(lines)


def _content(value: str | tuple[int, ...] | np.ndarray) -> bytes | memoryview:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, tuple):
        return b"".join(map(_encoded, value))
    return memoryview(np.ascontiguousarray(value, "<f4")).cast("B")


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
