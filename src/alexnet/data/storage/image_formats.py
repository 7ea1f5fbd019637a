"""Which image files are read, how they are opened safely, and how deep gray becomes eight bits."""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from os import PathLike
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from ...device import memory_share
from ...files import open_regular_file

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "DIB", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names. It knows more formats, but some of them call other programs or are hardly ever tested."""
SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jif"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",)),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), ("JPEG2000",)),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    **{f".{name.lower()}": (name,) for name in ("PNG", "WEBP", "GIF", "AVIF")},
}
"""Suffixes of image files, and the formats that each stands for."""
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
"""First bytes of formats that these tell."""
NO_IMAGES = (
    *(".md", ".rst", ".html", ".xml", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".log", ".lock", ".license"),
    *(".py", ".pyc", ".ipynb", ".sh", ".bat", ".c", ".cpp", ".js", ".css", ".xlsx", ".xls", ".ods", ".cls"),
)
"""Suffixes of files that are no images."""
HELP = {
    suffix: remedy
    for suffixes, remedy in (
        (".heic .heif .hif", "to read them, pip install 'alexnet[heic]'"),
        (".mov .mp4 .m4v .avi .mkv .webm .mpg .wmv .3gp", "videos; save frames as images"),
        (".cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .pef", "raw photos; save them as JPEG"),
        (".psd .xcf .svg .eps .ai .jxl .ico .tga .exr .dcm", "save them as PNG"),
        (".pdf .docx .pptx", "save their pages as images"),
        (".zip .tar .gz .tgz .bz2 .xz .7z .rar", "archives; unpack them"),
    )
    for suffix in suffixes.split()
}
"""Suffixes of files that people take for images, and what to do about them."""

with warnings.catch_warnings(action="ignore"):  # an older Pillow warns that it does not know this feature
    if not features.check("avif"):
        HELP[".avif"] = "to read them, pip install --upgrade pillow"
        del SUFFIXES[".avif"]
with contextlib.suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    SUFFIXES |= dict.fromkeys((".heic", ".heif", ".hif"), ("HEIF",))


MAX_HEADER_BYTES = 65_536
"""Comments and size at the beginning of a PPM file."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels of a progressive JPEG times its scans, each of which passes over all of them."""
BYTES_PER_PIXEL, LARGE_PIXELS = {False: 8, True: 20}, 16_000_000
"""Memory that decoding takes at most, without and with transparency or deep values; and pixels that never matter."""


def open_image(file: BinaryIO | str | PathLike) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        OSError: its format is not in FORMATS.
        Image.DecompressionBombError: it has more than 179 million pixels.
        ValueError: it would take too much time or memory.
    """
    is_path = isinstance(file, (str, PathLike))
    if is_path:
        file = open_regular_file(file)
    _check_ppm(file)
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # for half as many
        try:
            image = Image.open(file, formats=FORMATS)
            image._exclusive_fp = is_path  # as if Pillow had opened it: whoever closes the image closes the file
        except (UnidentifiedImageError, KeyError):  # KeyError: AVIF in an older Pillow
            raise UnidentifiedImageError("not an image of a known format, or its header is damaged") from None
    pixels, simple = image.width * image.height, ("RGB", "L", "CMYK", "YCbCr", "1")
    needed = pixels * BYTES_PER_PIXEL[image.mode not in simple or image.has_transparency_data]
    if pixels > LARGE_PIXELS and needed > memory_share():
        size, both = f"{image.width} × {image.height} pixels", (needed / 1e9, memory_share() / 1e9)
        raise ValueError(
            f"{size} take about {both[0]:.1f} GB to decode, and a process may use {both[1]:.1f} GB; use "
            "fewer workers, or smaller images"
        )
    if image.info.get("progressive") and pixels * (scans := _count_scans(file)) > MAX_SCANNED_PIXELS:
        raise ValueError(f"it has {scans:,} scans of {pixels:,} pixels, more than any encoder writes")
    return image


def _check_ppm(file: BinaryIO) -> None:
    """Raise ValueError for a PPM file with more comments than Pillow, which reads them byte by byte, can read fast."""
    start = file.tell()
    head = file.read(2)
    if len(head) == 2 and head[:1] == b"P" and head[1:] in b"123456yf":
        head = file.read(MAX_HEADER_BYTES)
        if len(head) == MAX_HEADER_BYTES and len(re.sub(rb"#[^\r\n]*", b"", head).split(maxsplit=3)) < 3:
            raise ValueError(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
    file.seek(start)


def _count_scans(file: BinaryIO) -> int:
    """Scans of a JPEG file; their marker is nowhere in the data, but may be in a thumbnail."""
    position = file.tell()
    file.seek(0)
    count = sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(1 << 20), b""))
    file.seek(position)
    return count


def begins_like_image(head: bytes) -> bool:
    """Whether a file with these first 32 bytes is an image of a format that they tell."""
    is_webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    is_bmp = head.startswith(b"BM") and head[6:10] == bytes(4)
    return head.startswith(BEGINNINGS) or is_webp or is_bmp or head[4:12] in (b"ftypavif", b"ftypheic")


def eight_bits(values: np.ndarray, white: float | None = None) -> np.ndarray:
    """Values of more than eight bits as uint8.

    Args:
        white: what becomes white; by default the end of the smallest range that holds all values: 1, for floats alone,
            or 256 (8 bits, so that values stay), 4096 (12 bits) or 65536 (16 bits).
    """
    is_float, values = np.issubdtype(values.dtype, np.floating), np.nan_to_num(values.astype(np.float64))
    most = values.max(initial=0)
    white = white or (1 if is_float and most <= 1 else next((each for each in (256, 4096) if most < each), 65536))
    scaled = np.rint(values * 255) if white == 1 else np.floor(values * (256 / white))
    return scaled.clip(0, 255).astype(np.uint8)


def is_image_file(path: str) -> bool:
    """Whether a path has the suffix of an image."""
    return _suffix(path) in SUFFIXES


def is_helped(path: str) -> bool:
    """Whether a path has a suffix of HELP, and so was probably meant to be an image."""
    return _suffix(path) in HELP


def ignored_files(paths: Iterable[str]) -> tuple[str, str]:
    """Files that are not images, counted by kind: those that HELP can help with, and the others."""
    counts = Counter(_suffix(path.rpartition("/")[2]) for path in paths)
    kinds: dict[str, list[str]] = {}
    for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        kinds.setdefault(HELP.get(suffix, ""), []).append(f"{count:,} {suffix[1:].upper() or 'without extension'}")
    others = ", ".join(kinds.pop("", ()))
    return ", ".join(f"{', '.join(files)} ({remedy})" for remedy, files in kinds.items()), others


def has_wrong_suffix(path: str, format: str | None) -> bool:
    """Whether the suffix of an image stands for another format than it has."""
    suffix = _suffix(path)
    return bool(format) and format not in SUFFIXES.get(suffix, () if suffix in HELP else (format,))


def _suffix(path: str) -> str:
    dot = path.rfind(".")
    return path[dot:].lower() if dot >= 0 else ""
