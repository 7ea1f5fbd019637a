"""The file format of a pack.

A pack is a safetensors file, so that others can read it: `images` (N, side, side, 3), `labels`, `splits`, `sums` (the
CRC-32 of each image), `names` joined by newlines, and `unread` (why images could not be read) as JSON; the classes are
in its metadata. Images may be stored as JPEG; then `images` is all JPEG files in a row, and `starts` where each begins
and where the last ends.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

VERSION = 3
"""Changes when the same source would make other pixels or fields."""
MAX_HEADER_BYTES = 100_000_000
DTYPES = {"U8": np.uint8, "U32": np.uint32, "I64": np.int64}
"""By safetensors' names."""


def encode_header(fields: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping, size: int | None = None) -> bytes:
    """The header of a pack.

    Args:
        fields: dtype and shape of each field, in the order of the file.
        size: bytes of the header; the next multiple of 64 if None.
    """
    header: dict = {"__metadata__": {"pack": json.dumps(metadata)}}
    end = 0
    for name, (dtype, shape) in fields.items():
        start, end = end, end + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    size = size or 8 + len(text) + (-(8 + len(text)) % 64)
    return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


def map_fields(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The fields of a pack, mapped into memory, and its metadata.

    Raises:
        ValueError: the file is not a pack of this version, or is truncated.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError("its header has no valid length")
            header = json.loads(file.read(length))
        metadata = json.loads(header.pop("__metadata__")["pack"])
        version = metadata["version"]
        size = 8 + length + max(field["data_offsets"][1] for field in header.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a pack of images: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path}: the version of a pack must be {VERSION}, got {version}")
    if path.stat().st_size != size:
        raise ValueError(f"{path} is truncated: it must have {size:,} bytes, got {path.stat().st_size:,}")

    def mapped(field: Mapping) -> np.ndarray:
        dtype, shape = DTYPES[field["dtype"]], tuple(field["shape"])
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", 8 + length + field["data_offsets"][0], shape)

    return {name: mapped(field) for name, field in header.items()}, metadata


def crc32_of(arrays: Sequence[np.ndarray]) -> int:
    """CRC-32 of several arrays, one after the other."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
    return checksum
