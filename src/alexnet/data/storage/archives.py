"""Members of a zip or tar file, read in place.

Nothing is unpacked into files of its own, so no member's name can lead anywhere; names that would, links and devices
are refused all the same, because an archive with them is not what it seems. An archive is listed once: the list, 29
bytes a member and the names, is kept in the cache, and a member is then one seek and one read from any process. A
compressed tar file cannot be read from the middle, so it is decompressed once, into a plain tar file in the cache.
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...files import atomic_write, file_lock, make_folder, truncate_name
from ..progress import Track, run_tracked

MAX_MEMBERS = 20_000_000
MAX_MEMBER_BYTES = 1_000_000_000
"""Size of a member that is read."""
MAX_TOTAL_BYTES = 4_000_000_000_000
"""Size of all members together, decompressed."""
MAX_EXPANSION = 200
"""Decompressed size of an archive as a multiple of its own, if that is more than FREE_EXPANSION_BYTES."""
FREE_EXPANSION_BYTES = 1_000_000_000
MAX_HEADER_BYTES = 65_536
"""Size of one header in a tar file, including long names."""

DECOMPRESSORS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""By the first bytes of a file."""
ZIP, EMPTY_ZIP, TAR = b"PK\3\4", b"PK\5\6", b"ustar"
IN_TAR = 255
"""The `method` of members of a tar file; those of a zip file have ZIP_STORED or ZIP_DEFLATED."""
MEMBER = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("method", "u1")])
"""Where a member begins in the file, its bytes there, and its bytes decompressed."""


class Archive:
    """A zip or tar file; a tar file inside a tar file is like a folder of its name.

    A pickled copy has neither names nor the list of members, and reads those that `member` returned.

    Args:
        cache: folder for the list of members, and for the content of a compressed tar file.
        track: shows how many bytes are decompressed.

    Raises:
        ValueError: the file is not an archive, is damaged, truncated or encrypted, expands to more than MAX_EXPANSION
            times its size, or holds a link, a device, a duplicate name, or a name that leads outside.
    """

    names: tuple[str, ...]
    """Relative paths of its files with "/", in archive order. Names in a tar file that are not UTF-8 are Latin-1."""

    def __init__(self, path: Path, cache: Path, track: Track | None = None):
        archive_type = _detect_type(path)
        if archive_type is None:
            kinds = "a zip file, or a tar file, plain or compressed by gzip, bzip2 or xz"
            raise ValueError(f"{path} is not an archive; it must be {kinds}")
        self.path = path
        status = path.stat()
        identity = str(path.resolve()), status.st_size, status.st_mtime_ns
        self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()
        """Changes when the path, size or modification time of the file does."""
        cached = f"{truncate_name(path.name)}-{self.fingerprint[:16]}"
        listing = cache / f"{cached}.npz"
        self._file = cache / f"{cached}.tar" if archive_type in DECOMPRESSORS else path
        if not self._is_listed(listing):
            make_folder(cache)
            with file_lock(listing):
                if not self._is_listed(listing):
                    self._list(archive_type, listing, track)
                    if not self._is_listed(listing):
                        raise ValueError(f"{listing}, which was just written, cannot be read")

    def _is_listed(self, listing: Path) -> bool:
        """Take over the list of members, if the cache has it and what it lists, undamaged."""
        try:
            with np.load(listing) as tables:
                members, names = tables["members"], tables["names"].tobytes().decode()
            end = (members["offset"] + members["stored"]).max(initial=0)
            if members.dtype != MEMBER or self._file.stat().st_size < end:
                return False
        except (OSError, ValueError, KeyError, EOFError, TypeError, IndexError, zipfile.BadZipFile, zlib.error):
            return False
        self._members = members
        self.sizes = members["size"]
        """Bytes of each file, int64."""
        self.names = tuple(names.split("\0")) if len(members) else ()
        return len(self.names) == len(members)

    def member(self, index: int) -> tuple[int, ...]:
        """Location of names[index], for `read` and `open`: a row of MEMBER."""
        return self._members[index].item()

    def open(self, member: tuple[int, ...]) -> BinaryIO:
        return io.BytesIO(self.read(member))

    def read(self, member: tuple[int, ...]) -> bytes:
        """Content of a member.

        Raises:
            ValueError: it is damaged, or has more than MAX_MEMBER_BYTES.
        """
        offset, stored, size, crc, method = member
        if max(stored, size) > MAX_MEMBER_BYTES:
            raise ValueError(f"a file in an archive must have <= {MAX_MEMBER_BYTES:,} bytes, got {size:,}")
        with open(self._file, "rb") as file:
            file.seek(offset)
            if method != IN_TAR:
                header = file.read(30)
                file.seek(sum(int.from_bytes(header[start : start + 2], "little") for start in (26, 28)), os.SEEK_CUR)
            content = file.read(stored)
        if method == zipfile.ZIP_DEFLATED:
            with contextlib.suppress(zlib.error):  # then the content stays compressed, and its checksum is wrong
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        if len(content) != size or (method != IN_TAR and zlib.crc32(content) != crc):
            raise ValueError(f"damaged or truncated at byte {offset:,} of {self.path}")
        return content

    def __getstate__(self) -> dict:
        return self.__dict__ | {"names": (), "sizes": None, "_members": None}

    def _list(self, archive_type: bytes, listing: Path, track: Track | None) -> None:
        with contextlib.ExitStack() as stack:
            if archive_type in DECOMPRESSORS:
                plain = stack.enter_context(atomic_write(self._file))
                decompressing = _decompress(self.path, DECOMPRESSORS[archive_type], plain)
                run_tracked(decompressing, self.path.stat().st_size, track)
                entries = _tar_members(plain)
            else:
                entries = _zip_members(self.path) if archive_type == ZIP else _tar_members(self.path)
            names: dict[str, None] = {}
            try:
                members = np.fromiter(_checked_members(entries, names, _max_total_bytes(self.path)), MEMBER)
            except Exception as error:  # the libraries raise all kinds for a damaged header
                raise ValueError(f"{self.path} cannot be read as an archive ({error})") from error
        with atomic_write(listing) as temporary, open(temporary, "wb") as file:
            np.savez(file, members=members, names=np.frombuffer("\0".join(names).encode(), np.uint8))


def is_archive(path: Path) -> bool:
    """Whether the content of a file begins like a zip or tar file; other gzip files are not archives."""
    return _detect_type(path) is not None


def _detect_type(path: Path) -> bytes | None:
    """ZIP, TAR, a key of DECOMPRESSORS for a compressed tar file, or None."""
    with open(path, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith((ZIP, EMPTY_ZIP)):
        return ZIP
    if _is_tar_header(head):
        return TAR
    for magic, open_compressed in DECOMPRESSORS.items():
        if head.startswith(magic):
            with contextlib.suppress(OSError, EOFError, zlib.error, lzma.LZMAError), open_compressed(path) as file:
                return magic if _is_tar_header(file.read(tarfile.BLOCKSIZE)) else None
    return None


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # verifies its checksum
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _max_total_bytes(path: Path) -> int:
    return min(MAX_TOTAL_BYTES, max(FREE_EXPANSION_BYTES, MAX_EXPANSION * path.stat().st_size))


def _decompress(path: Path, open_compressed: Callable, plain: Path) -> Iterator[int]:
    """Decompress a file; yields how many more bytes of it are done."""
    max_bytes, done = _max_total_bytes(path), 0
    try:
        with open(path, "rb") as compressed, open_compressed(compressed) as source, open(plain, "wb") as target:
            while block := source.read(1 << 20):
                if target.tell() + len(block) > max_bytes:
                    raise ValueError(f"it expands to more than {max_bytes:,} bytes, the limit for its size")
                target.write(block)
                done, before = compressed.tell(), done
                yield done - before
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be decompressed into {plain.parent}: {error}") from error


def _checked_members(entries: Iterable[tuple], names: dict[str, None], max_bytes: int) -> Iterator[tuple]:
    """The fields of each entry but its name, which is added to `names`."""
    total = 0
    for raw_name, *member in entries:
        name = _safe_name(raw_name)
        total += member[2]
        if name in names:
            raise ValueError(f"duplicate name {name!r}")
        if len(names) == MAX_MEMBERS:
            raise ValueError(f"more than {MAX_MEMBERS:,} members")
        if total > max_bytes:
            raise ValueError(f"its members expand to more than {max_bytes:,} bytes, the limit for its size")
        names[name] = None
        yield tuple(member)


def _safe_name(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or re.match(r"/|[A-Za-z]:", name) or "\\" in name or "\0" in name:
        raise ValueError(rf"unsafe name {name!r}: a name must not have .., \, a drive or a leading /")
    name = "/".join(parts)
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


def _zip_members(path: Path) -> Iterator[tuple]:
    end = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, file_type = _zip_name(info), stat.S_IFMT(info.external_attr >> 16)
            if name.endswith("/"):
                continue
            if file_type not in (0, stat.S_IFREG):
                raise ValueError(f"{name!r} is a link or a device; only files and folders are allowed")
            if info.flag_bits & 0x41:
                raise ValueError(f"{name!r} is encrypted; decrypt the archive first")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} must be stored or deflated, got compression method {info.compress_type}")
            if not 0 <= info.header_offset <= end - info.compress_size:
                raise ValueError(f"{name!r} lies outside the file")
            yield name, info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type


def _zip_name(info: zipfile.ZipInfo) -> str:
    r"""The name of a member with "/": some programs on Windows write \, which is also half of a letter in Japanese."""
    name = info.orig_filename
    if "\\" in name and not name.isascii() and not info.flag_bits & 0x800:  # no UTF-8
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("cp932")
    return name.replace("\\", "/")


class _HeaderFile(io.FileIO):
    """A file of which only headers are read, whatever sizes they claim."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"a header must have <= {MAX_HEADER_BYTES:,} bytes, got {size:,}")
        return super().read(size)


def _tar_members(path: Path) -> Iterator[tuple]:
    with _HeaderFile(path) as file:
        for name, offset, size in _tar_files(file, 0, path.stat().st_size):
            file.seek(offset)
            if not (name.lower().endswith(".tar") and _is_tar_header(file.read(tarfile.BLOCKSIZE))):
                yield name, offset, size, size, 0, IN_TAR
                continue
            for inner, inner_offset, inner_size in _tar_files(file, offset, offset + size):
                yield f"{name[:-4]}/{_safe_name(inner)}", inner_offset, inner_size, inner_size, 0, IN_TAR


def _tar_files(file: io.FileIO, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in the tar file at start … end of a file."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # a million of them would stay in memory
            after = archive.offset
            if info.issparse() or not (info.isreg() or info.isdir()):
                problem = "is a link, a device or a sparse file; only files and folders are allowed"
                raise ValueError(f"{info.name!r} {problem}")
            if not info.offset < info.offset_data <= info.offset_data + info.size * info.isreg() <= after:
                raise ValueError(f"the header of {info.name!r} is damaged")
            if after > end:
                raise ValueError(f"truncated in {info.name!r}")
            if info.isreg():
                yield info.name, info.offset_data, info.size
        file.seek(archive.offset)  # tarfile mistakes a damaged header for the end
        if archive.offset + tarfile.BLOCKSIZE > end or any(file.read(tarfile.BLOCKSIZE)):
            raise ValueError(f"damaged or truncated at byte {archive.offset:,}")
