"""A file from a web address, kept in the cache.

A download is written to a `.part` file, which a later attempt or run resumes if the server still has the same file. A
user name and password in a URL are sent to its own server only; they and everything after a "?" are never printed or
stored. By hand, because neither `pooch` nor `fsspec` resumes downloads, notices changed files or bounds their sizes.
"""

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...files import atomic_write, cache_folder, file_lock, make_folder
from ..progress import Track, run_tracked

SCHEMES = ("https", "http")
MAX_BYTES = 500_000_000_000
"""Size of a download; the largest archive of ImageNet 2012 has 147,897,477,120 bytes."""
TIMEOUT_S = 30.0
"""Seconds without data from the server after which an attempt fails."""
PAUSES_S = (0.5, 2.0, 5.0)
"""Pauses between attempts. There is one more attempt than pauses; the count restarts whenever more data has arrived."""
LONGEST_PAUSE_S = 60.0
"""Longest pause that a server may ask for (Retry-After)."""
SLOWEST = 1000
"""Bytes per second, over TIMEOUT_S, below which a download is given up."""
BLOCK = 1 << 20


def download(url: str, cache: Path, max_bytes: int = MAX_BYTES, track: Track | None = None) -> Path:
    """The cached file of a URL, downloaded now if it is not in the cache; otherwise the network is not used.

    Args:
        url: https://… or http://…; the SHA-256 of its file may follow as #sha256=…
        cache: folder of the file, which is named after the URL's file and a hash of the URL, and of its JSON record.
        track: shows how many bytes have arrived; called for every attempt.

    Raises:
        ValueError: the URL has another scheme or redirects from https to http; the server refuses; the file is too
            large, has changed or does not match the checksum; the connection failed repeatedly; the disk is full.
    """
    address = _parse_url(url)
    path = cache / address.file_name
    if _is_cached(path, address.sha256):
        return path
    try:
        make_folder(cache)
        with file_lock(path):
            if not _is_cached(path, address.sha256):
                _Transfer(address, path, max_bytes, track).run()
    except (OSError, ValueError) as error:  # OSError: of the disk; network errors are handled below
        raise ValueError(f"{address.redacted} cannot be downloaded into {cache}: {error}") from error
    return path


def fetch_bytes(url: str, max_bytes: int) -> bytes:
    """Content of a URL, by the rules of `download`, in one attempt and without the cache.

    Raises:
        ValueError: as `download`.
    """
    address = _parse_url(url)
    try:
        with _request(address) as response:
            return b"".join(_blocks(response, 0, _extent(response)[1], max_bytes, _is_compressed(response, address)))
    except (ValueError, _ConnectionLost) as error:
        raise ValueError(f"{address.redacted} cannot be fetched: {error}") from error


def is_downloaded(url: str) -> bool:
    """Whether the file of a URL is in the cache, so that the network is not used."""
    with contextlib.suppress(ValueError):
        address = _parse_url(url)
        folders = (cache_folder() / name for name in ("archives", "labels", "weights"))
        return any(_is_cached(folder / address.file_name, address.sha256) for folder in folders)
    return False


@contextlib.contextmanager
def kept_if_useful(path: Path) -> Iterator[None]:
    """Remove a downloaded file that turns out to be of no use, as a login page is, so that it is asked for again."""
    try:
        yield
    except ValueError as error:
        if _record_path(path).exists():
            path.unlink(missing_ok=True)
            raise ValueError(f"{error}; removed, so that the next attempt downloads it again") from error
        raise


def redact(url: str) -> str:
    """A URL fit to be printed: without user name, password, query and fragment; anything else as it is."""
    if "://" not in url:
        return url
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # what it has for a host
        return f"{url.partition('://')[0]}://…"
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}{'?…' if parts.query else ''}"
    return re.sub(r"(?<=//)[^/]*@", "", shown)  # also where a second // hides them


@dataclass(frozen=True)
class _Address:
    url: str
    """As sent to the server: without user name, password and fragment."""
    authorization: str | None
    sha256: str | None
    redacted: str

    @property
    def file_name(self) -> str:
        last = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path).rpartition("/")[2]
        stem, dot, suffix = re.sub(r"[^A-Za-z0-9_.-]+", "_", last)[:80].partition(".")
        return f"{stem or 'file'}-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}{dot}{suffix}"


class _ConnectionLost(Exception):
    """The connection failed or ended early; another attempt may succeed, after as many seconds as the server asks."""

    pause_s = 0.0


class _FileChanged(_ConnectionLost):
    """The partial file here is not part of the file on the server."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, new_url):
        scheme = urllib.parse.urlsplit(new_url).scheme
        if scheme != "https" and (scheme != "http" or request.type == "https"):
            file.close()
            raise ValueError(f"the server must redirect to https, got a redirect from {request.type} to {scheme}")
        address = _parse_url(new_url)
        redirected = super().redirect_request(request, file, code, message, headers, address.url)
        if redirected and address.authorization:
            redirected.add_unredirected_header("Authorization", address.authorization)
        return redirected


class _Transfer:
    """All attempts to download one file."""

    def __init__(self, address: _Address, path: Path, max_bytes: int, track: Track | None):
        self.address, self.path, self.max_bytes, self.track = address, path, max_bytes, track
        self.part = path.with_name(f"{path.name}.part")

    def run(self) -> None:
        largest = failures = 0
        while True:
            try:
                self._attempt()
                break
            except _ConnectionLost as error:
                lost = error
                if isinstance(lost, _FileChanged):
                    self.part.unlink(missing_ok=True)
                failures = failures + 1 if self._arrived() <= largest else 1
                largest = max(largest, self._arrived())
                if failures > len(PAUSES_S):
                    raise ValueError(f"{lost}; gave up after {failures} attempts, a later call resumes") from lost
                if lost.pause_s > LONGEST_PAUSE_S:
                    asks = f"the server asks to wait for {lost.pause_s:,.0f} seconds"
                    raise ValueError(f"{lost}; {asks}, a later call resumes") from lost
            time.sleep(max(PAUSES_S[failures - 1], lost.pause_s))
        with open(self.part, "rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if self.address.sha256 not in (None, actual):
            self.part.unlink()
            raise ValueError(f"its SHA-256 must be {self.address.sha256}, got {actual}")
        _write_record(self.path, _read_record(self.part) | {"size": self._arrived(), "sha256": actual})
        os.replace(self.part, self.path)
        _record_path(self.part).unlink()

    def _attempt(self) -> None:
        record, headers = _read_record(self.part), {}
        if self._arrived() and record.get("validator"):
            if self._arrived() == record["size"]:
                return
            headers = {"Range": f"bytes={self._arrived()}-", "If-Range": record["validator"]}
        with _request(self.address, headers) as response:
            start, total = _extent(response)
            is_compressed = _is_compressed(response, self.address)
            etag = response.headers.get("ETag", "")  # identifies this version of the file, and so does the date
            validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
            validator = None if is_compressed else validator  # its length here is not that on the server
            expected = self._arrived(), record.get("size"), record.get("validator")
            if not start:
                self.part.unlink(missing_ok=True)
                _write_record(self.part, {"url": self.address.redacted, "validator": validator, "size": total})
            elif (start, total, validator or expected[2]) != expected:
                raise _FileChanged("the file on the server has changed")
            with open(self.part, "ab") as file:
                blocks = _blocks(response, start, total, self.max_bytes, is_compressed)
                run_tracked(itertools.chain([start], map(file.write, blocks)), total, self.track)

    def _arrived(self) -> int:
        """Bytes of the partial file."""
        return self.part.stat().st_size if self.part.exists() else 0


def _parse_url(url: str) -> _Address:
    quoted = urllib.parse.quote(url, safe=":/?&=#%+,;@!$'()*~[]")  # spaces and letters outside ASCII
    try:
        parts = urllib.parse.urlsplit(quoted)
        host, _ = parts.hostname, parts.port  # ValueError for what is no port
    except ValueError as error:
        raise ValueError(f"{redact(url)} is not a web address: its host or port is not valid") from error
    if parts.scheme not in SCHEMES or not host:
        raise ValueError(f"a web address must begin with https:// or http://, got {redact(url)}")
    user, _, host = parts.netloc.rpartition("@")
    authorization = f"Basic {base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()}" if user else None
    sha256 = parts.fragment.removeprefix("sha256=").lower() if parts.fragment.startswith("sha256=") else None
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    bare = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return _Address(bare, authorization, sha256, redact(url))


def _request(address: _Address, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    request = urllib.request.Request(address.url, headers={"User-Agent": "alexnet", **(headers or {})})
    if address.authorization:
        request.add_unredirected_header("Authorization", address.authorization)
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        message = f"the server answers {error.code} {error.reason}".splitlines()[0]
        if error.code == 416:  # the file is shorter than the partial file here
            raise _FileChanged(message) from error
        if error.code not in (408, 429) and error.code < 500:
            raise ValueError(message) from error
        lost, asked = _ConnectionLost(message), error.headers.get("Retry-After", "")
        lost.pause_s = float(asked) if asked.isdecimal() and len(asked) < 10 else 0.0
        raise lost from error
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionLost(f"{getattr(error, 'reason', error)}") from error


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where in the file a response begins, and the size of the file in bytes."""
    if response.status == 206:
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not content_range:
            raise ValueError("the server sends part of the file without a valid Content-Range")
        return int(content_range[1]), int(content_range[2])
    if response.status != 200:
        raise ValueError(f"the server answers {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _is_compressed(response: http.client.HTTPResponse, address: _Address) -> bool:
    """Whether a server compresses what it sends, and not only says that the file itself is compressed."""
    encoding = response.headers.get("Content-Encoding", "").lower()
    return encoding in ("gzip", "x-gzip") and not address.file_name.endswith((".gz", ".tgz"))


def _blocks(
    response: http.client.HTTPResponse, start: int, total: int | None, max_bytes: int, is_compressed: bool
) -> Iterator[bytes]:
    """The data of a response, decompressed, checked against the limit and the size that the server announced."""
    blocks = _received(response, start, total, max_bytes)
    if not is_compressed:
        yield from blocks
        return
    decompressor, size = zlib.decompressobj(16 + zlib.MAX_WBITS), 0
    try:
        for block in blocks:
            while block:
                content = decompressor.decompress(block, BLOCK)
                size, block = size + len(content), decompressor.unconsumed_tail
                if size > max_bytes:
                    raise ValueError(f"it must have <= {max_bytes:,} bytes, got more")
                yield content
    except zlib.error as error:
        raise _FileChanged(f"its compression is damaged: {error}") from error


def _received(response: http.client.HTTPResponse, start: int, total: int | None, max_bytes: int) -> Iterator[bytes]:
    """The data of a response as it comes, checked as in `_blocks`, and for its speed."""
    arrived = before = start
    since = time.monotonic()
    if total is not None and total > max_bytes:
        raise ValueError(f"it must have <= {max_bytes:,} bytes, got {total:,}")
    try:
        while block := response.read1(BLOCK):
            arrived += len(block)
            if arrived > max_bytes:
                raise ValueError(f"it must have <= {max_bytes:,} bytes, got more")
            if (elapsed := time.monotonic() - since) > TIMEOUT_S:
                if arrived - before < SLOWEST * elapsed:
                    raise ValueError(f"the server sends less than {SLOWEST:,} bytes per second; try again later")
                before, since = arrived, since + elapsed
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionLost(f"{str(error) or type(error).__name__} after {arrived:,} bytes") from error
    if total is not None and arrived != total:
        raise _ConnectionLost(f"only {arrived:,} of {total:,} bytes arrived")


def _is_cached(path: Path, sha256: str | None) -> bool:
    record = _read_record(path)
    return path.is_file() and path.stat().st_size == record.get("size") and sha256 in (None, record.get("sha256"))


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> dict:
    try:
        return json.loads(_record_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _write_record(path: Path, record: dict) -> None:
    with atomic_write(_record_path(path)) as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")
