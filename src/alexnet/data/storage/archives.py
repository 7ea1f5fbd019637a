"""Members of a zip or tar file, read where they lie.

Nothing of an archive is unpacked into files of its own, so no name in it can lead anywhere; names that would, links and
devices are refused all the same, since such an archive is not what it seems. An archive is listed once: the list, 29
bytes a member and their names, is kept in a cache, and a member is then one seek and one read from any process. A
compressed tar file cannot be entered in the middle; it is unpacked once, into a plain tar file in the cache.
"""

from __future__ import annotations

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

import numpy as np

from ...files import atomic_write, file_lock, truncate_name

MOST_MEMBERS = 20_000_000
MOST_MEMBER_BYTES = 1_000_000_000
"""Of a member that is read."""
MOST_BYTES = 4_000_000_000_000
"""Of all members together, unpacked."""
MOST_GROWTH = 200
"""Times that an archive may be larger unpacked than packed, where that is more than BYTES_OF_ANY_GROWTH."""
BYTES_OF_ANY_GROWTH = 1_000_000_000
MOST_HEADER_BYTES = 65_536
"""Of one header of a tar file, with the long names in it."""

COMPRESSIONS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
ALLOWED = "an archive may hold files and folders"
ZIP, TAR = b"PK\3\4", b"ustar"
IN_TAR = 255
"""The `method` of a tar file's members; in a zip file it is ZIP_STORED or ZIP_DEFLATED."""
MEMBER = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("method", "u1")])
"""Where a member lies in the file, its bytes there, and its bytes unpacked."""
Member = tuple[int, int, int, int, int]
"""One row of MEMBER."""


class Archive:
    """A zip or tar file; in a tar file, the members of each tar file in it, as if that were a folder of its name.

    It may be pickled; the copy has neither names nor the list of members, and reads by what `member` gave.

    Args:
        folder: where the list of members is kept, and what a compressed tar file holds.
        track: a function that wraps an iterable of counts, given (counts, total), to show how many of its bytes are
            unpacked.

    Raises:
        ValueError: the file is not an archive, is damaged or cut short, is encrypted, unpacks to more than
            MOST_GROWTH times its size, or holds a link, a device, one name twice, or a name outside its folder.
    """

    names: tuple[str, ...]
    """Of its files, in their order in the archive: relative, with "/". Not UTF-8 in a tar file: taken for Latin-1."""

    def __init__(self, path: Path, folder: Path, track=None):
        kind = _kind(path)
        if kind is None:
            raise ValueError(
                f"{path} is no archive; it may be a zip file, or a tar file, plain or compressed by gzip, bzip2 or xz"
            )
        self.path = path
        status = path.stat()
        about = str(path.resolve()), status.st_size, status.st_mtime_ns
        self._fingerprint = hashlib.sha256(repr(about).encode()).hexdigest()
        kept = f"{truncate_name(path.name)}-{self._fingerprint[:16]}"
        listing = folder / f"{kept}.npz"
        self._file = folder / f"{kept}.tar" if kind in COMPRESSIONS else path
        if not (listing.exists() and self._file.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(listing):
                if not (listing.exists() and self._file.exists()):
                    self._list(kind, listing, track)
        with np.load(listing) as known:
            self._members = known["members"]
            self.names = tuple(known["names"].tobytes().decode().split("\0")) if len(self._members) else ()

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each file, (files,), int64."""
        return self._members["size"]

    def member(self, number: int) -> Member:
        """Where names[number] lies, for `read`."""
        return self._members[number].item()

    def read(self, member: Member) -> bytes:
        """What a file of the archive holds.

        Raises:
            ValueError: it is damaged, or has more than MOST_MEMBER_BYTES.
        """
        offset, stored, size, crc, method = member
        if max(stored, size) > MOST_MEMBER_BYTES:
            raise ValueError(f"it has {size:,} bytes; a file in an archive may have {MOST_MEMBER_BYTES:,}")
        with open(self._file, "rb") as file:
            file.seek(offset)
            if method != IN_TAR:
                header = file.read(30)
                file.seek(sum(int.from_bytes(header[place : place + 2], "little") for place in (26, 28)), os.SEEK_CUR)
            content = file.read(stored)
        if method == zipfile.ZIP_DEFLATED:
            with contextlib.suppress(zlib.error):  # then it is still packed, and its checksum another
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
        if len(content) != size or (method != IN_TAR and zlib.crc32(content) != crc):
            raise ValueError(f"it is damaged or cut short, at byte {offset:,} of {self.path}")
        return content

    def fingerprint(self) -> str:
        """A hash that changes when the file's path, size or time does."""
        return self._fingerprint

    def __getstate__(self) -> dict:
        return self.__dict__ | {"names": (), "_members": None}

    def _list(self, kind: bytes, listing: Path, track) -> None:
        with contextlib.ExitStack() as stack:
            if kind in COMPRESSIONS:
                plain = stack.enter_context(atomic_write(self._file))
                unpacked = _unpacked(self.path, COMPRESSIONS[kind], plain)
                for _ in track(unpacked, self.path.stat().st_size) if track else unpacked:
                    pass
                found = _tar_members(plain)
            else:
                found = _zip_members(self.path) if kind == ZIP else _tar_members(self.path)
            names: dict[str, None] = {}
            try:
                members = np.fromiter(_checked(found, names, _most_bytes(self.path)), MEMBER)
            except Exception as error:  # whatever a damaged header makes the libraries raise
                raise ValueError(f"{self.path} cannot be used as an archive: {error}") from error
        with atomic_write(listing) as temporary, open(temporary, "wb") as file:
            np.savez(file, members=members, names=np.frombuffer("\0".join(names).encode(), np.uint8))


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar file, by what it begins with; other files compressed by gzip are not."""
    return _kind(path) is not None


def _kind(path: Path) -> bytes | None:
    """ZIP, TAR, a key of COMPRESSIONS for a compressed tar file, or None."""
    with open(path, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith((ZIP, b"PK\5\6")):  # the latter is an empty one
        return ZIP
    if _begins_tar(head):
        return TAR
    for magic, opened in COMPRESSIONS.items():
        if head.startswith(magic):
            with contextlib.suppress(OSError, EOFError, zlib.error, lzma.LZMAError), opened(path) as file:
                return magic if _begins_tar(file.read(tarfile.BLOCKSIZE)) else None
    return None


def _begins_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # compares its checksum
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _most_bytes(path: Path) -> int:
    return min(MOST_BYTES, max(BYTES_OF_ANY_GROWTH, MOST_GROWTH * path.stat().st_size))


def _unpacked(path: Path, opened: Callable, plain: Path) -> Iterator[int]:
    """Write what a compressed file holds; gives, as it goes, how many more bytes of it are done."""
    most, done = _most_bytes(path), 0
    try:
        with open(path, "rb") as packed, opened(packed) as source, open(plain, "wb") as target:
            while block := source.read(1 << 20):
                if target.tell() + len(block) > most:
                    raise ValueError(f"it unpacks to more than {most:,} bytes, the most for its size")
                target.write(block)
                done, before = packed.tell(), done
                yield done - before
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be unpacked into {plain.parent}: {error}") from error


def _checked(found: Iterable[tuple], names: dict[str, None], most: int) -> Iterator[tuple]:
    """The members found, held to the limits; their names are added to `names`."""
    total = 0
    for raw, *member in found:
        name = _safe_name(raw)
        total += member[2]
        if name in names:
            raise ValueError(f"it holds {name!r} twice")
        if len(names) == MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS:,} members, the most that it may have")
        if total > most:
            raise ValueError(f"its members unpack to more than {most:,} bytes, the most for its size")
        names[name] = None
        yield tuple(member)


def _safe_name(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or re.match(r"/|[A-Za-z]:", name) or "\\" in name or "\0" in name:
        raise ValueError(rf"{name!r} is no name below the archive's folder; it may have no .., \, drive or leading /")
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
            name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                raise ValueError(f"{name!r} is a link or a device; {ALLOWED}")
            if info.flag_bits & 0x41:
                raise ValueError(f"{name!r} is encrypted; decrypt the archive first")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} is compressed by method {info.compress_type}; it may be stored or deflated")
            if not 0 <= info.header_offset <= end - info.compress_size:
                raise ValueError(f"{name!r} lies outside the file")
            yield name, info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type


class _HeaderFile(io.FileIO):
    """A file of which nothing but headers is read, whatever size these say that they have."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise ValueError(f"a header says that it has {size:,} bytes; it may have {MOST_HEADER_BYTES:,}")
        return super().read(size)


def _tar_members(path: Path) -> Iterator[tuple]:
    with _HeaderFile(path) as file:
        for name, offset, size in _tar_files(file, 0, path.stat().st_size):
            file.seek(offset)
            if not (name.lower().endswith(".tar") and _begins_tar(file.read(tarfile.BLOCKSIZE))):
                yield name, offset, size, size, 0, IN_TAR
                continue
            for inner, inner_offset, inner_size in _tar_files(file, offset, offset + size):
                yield f"{name[:-4]}/{_safe_name(inner)}", inner_offset, inner_size, inner_size, 0, IN_TAR


def _tar_files(file: io.FileIO, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in a tar file that is a part of another."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # a million would stay in memory
            after = archive.offset
            if info.issparse() or not (info.isreg() or info.isdir()):
                raise ValueError(f"{info.name!r} is a link, a device or a file with holes; {ALLOWED}")
            if not info.offset < info.offset_data <= info.offset_data + info.size * info.isreg() <= after:
                raise ValueError(f"the header of {info.name!r} is damaged")
            if after > end:
                raise ValueError(f"it is cut short in {info.name!r}")
            if info.isreg():
                yield info.name, info.offset_data, info.size
        file.seek(archive.offset)  # tarfile takes a damaged header for the end, too
        if archive.offset + tarfile.BLOCKSIZE > end or any(file.read(tarfile.BLOCKSIZE)):
            raise ValueError(f"it is damaged or cut short at byte {archive.offset:,}")
