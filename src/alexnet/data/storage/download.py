"""A file from a web address, kept in a cache.

A download is written to a `.part` file, which a later attempt or run continues where the server still has the same
file. A user name and password in an address go to its server alone; they and what follows a "?" are never shown or
written down.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...files import atomic_write, file_lock

SCHEMES = ("https", "http")
MOST_BYTES = 500_000_000_000
"""Of a download; the largest archive of ImageNet 2012 has 147,897,477,120."""
TIMEOUT_S = 30.0
"""Seconds in which a server that sends nothing is given up."""
PAUSES_S = (0.5, 2.0, 5.0)
"""Seconds between attempts; there is one more of these than pauses, counted anew whenever more has arrived."""
BLOCK = 1 << 20


def download(url: str, folder: Path, *, sha256: str | None = None, most_bytes: int = MOST_BYTES, track=None) -> Path:
    """The file of a web address, in the cache: downloaded now, unless it was before; then the network is not used.

    Args:
        url: https://… or http://…; its file's SHA-256 may follow as #sha256=…
        folder: the cache; the file is kept under its own name and a hash of its address, beside a record in JSON.
        sha256: of the whole file, 64 hexadecimal digits.
        track: a function that wraps an iterable of counts, given (counts, total), to show how many bytes are here;
            called for every attempt; total is None where the server does not tell.

    Raises:
        ValueError: the address is of another scheme, or leads from https to http; the server refuses; the file is too
            large, changed or not what the checksum says; the connection failed again and again; the disk is full.
    """
    address = _address(url)
    expected = _checked_sha256(sha256 or address.sha256)
    path = folder / address.file_name
    if _is_kept(path, expected):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(path):
            if not _is_kept(path, expected):
                _Transfer(address, path, most_bytes, track).run(expected)
    except (OSError, ValueError) as error:  # the former of the disk; those of the network are told apart below
        raise ValueError(f"{address.shown} cannot be downloaded into {folder}: {error}") from error
    return path


def fetch_bytes(url: str, most_bytes: int) -> bytes:
    """What a web address holds, by the rules of `download`, in one attempt and not kept.

    Raises:
        ValueError: as by `download`.
    """
    address = _address(url)
    try:
        with _answer(address) as answer:
            return b"".join(_blocks(answer, 0, _extent(answer)[1], most_bytes))
    except (ValueError, _Cut) as error:
        raise ValueError(f"{address.shown} cannot be fetched: {error}") from error


def redact(url: str) -> str:
    """A web address as it may be printed: without user name, password, query and fragment."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?…' if parts.query else ''}"


@dataclass(frozen=True)
class _Address:
    url: str
    """As the server is asked for it, without user name, password and fragment."""
    authorization: str | None
    sha256: str | None
    shown: str

    @property
    def file_name(self) -> str:
        last = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path).rpartition("/")[2]
        stem, dot, suffix = re.sub(r"[^A-Za-z0-9_.-]+", "_", last)[:80].partition(".")
        return f"{stem or 'file'}-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}{dot}{suffix}"


class _Cut(Exception):
    """The connection failed, or ended too early; another attempt may do better."""


class _Changed(_Cut):
    """What is here is no part of the file on the server."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, new_url):
        scheme = urllib.parse.urlsplit(new_url).scheme
        if scheme != "https" and (scheme != "http" or request.type == "https"):
            file.close()
            raise ValueError(f"the server leads from {request.type} on to {scheme}; it may lead to https")
        return super().redirect_request(request, file, code, message, headers, new_url)


class _Transfer:
    """The attempts at one file."""

    def __init__(self, address: _Address, path: Path, most_bytes: int, track):
        self.address, self.path, self.most_bytes, self.track = address, path, most_bytes, track
        self.part = path.with_name(f"{path.name}.part")
        self.part_record = _record(self.part)

    def run(self, sha256: str | None) -> None:
        most_here = failures = 0
        while True:
            try:
                self._attempt()
                break
            except _Cut as cut:
                if isinstance(cut, _Changed):
                    self.part.unlink(missing_ok=True)
                failures = failures + 1 if self._here() <= most_here else 1
                most_here = max(most_here, self._here())
                if failures > len(PAUSES_S):
                    raise ValueError(f"{cut}; tried {failures} times, and may be continued later") from cut
            time.sleep(PAUSES_S[failures - 1])
        with open(self.part, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 not in (None, found):
            self.part.unlink()
            raise ValueError(f"its SHA-256 is {found}; it may be {sha256}")
        _write_record(self.path, _read_record(self.part) | {"size": self._here(), "sha256": found})
        os.replace(self.part, self.path)
        self.part_record.unlink()

    def _attempt(self) -> None:
        known, headers = _read_record(self.part), {}
        if self._here() and known.get("validator"):
            if self._here() == known["size"]:
                return
            headers = {"Range": f"bytes={self._here()}-", "If-Range": known["validator"]}
        with _answer(self.address, headers) as answer:
            start, total = _extent(answer)
            validator = _validator(answer.headers)
            if not start:
                self.part.unlink(missing_ok=True)
                _write_record(self.part, {"url": self.address.shown, "validator": validator, "size": total})
            elif start != self._here() or total != known.get("size") or validator not in (None, known["validator"]):
                raise _Changed("the file on the server has changed")
            with open(self.part, "ab") as file:
                written = _written(_blocks(answer, start, total, self.most_bytes), file, start)
                for _ in self.track(written, total) if self.track else written:
                    pass

    def _here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


def _address(url: str) -> _Address:
    quoted = urllib.parse.quote(url, safe=":/?&=#%+,;@!$'()*~[]")  # spaces and letters outside ASCII
    parts = urllib.parse.urlsplit(quoted)
    user, _, host = parts.netloc.rpartition("@")
    if parts.scheme not in SCHEMES or not host:
        raise ValueError(f"{redact(url)} is no web address; it may begin with https:// or http://")
    authorization = f"Basic {base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()}" if user else None
    sha256 = parts.fragment.removeprefix("sha256=") if parts.fragment.startswith("sha256=") else None
    bare = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return _Address(bare, authorization, sha256, redact(url))


def _checked_sha256(digits: str | None) -> str | None:
    if digits is not None and not re.fullmatch("[0-9a-fA-F]{64}", digits):
        raise ValueError(f"sha256 is {digits!r}; it may be 64 hexadecimal digits")
    return digits and digits.lower()


def _answer(address: _Address, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
    request = urllib.request.Request(address.url, headers={"User-Agent": "alexnet", **(headers or {})})
    if address.authorization:
        request.add_unredirected_header("Authorization", address.authorization)
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        words = f"the server answers {error.code} {error.reason}".splitlines()[0]
        if error.code == 416:  # the file is shorter than what is here of it
            raise _Changed(words) from error
        raise (_Cut if error.code in (408, 429) or error.code >= 500 else ValueError)(words) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"{getattr(error, 'reason', error)}") from error


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where in the file an answer begins, and how many bytes the file has."""
    if answer.status == 206:
        named = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if not named:
            raise ValueError("the server sends a part of the file and does not tell which")
        return int(named[1]), int(named[2])
    if answer.status != 200:
        raise ValueError(f"the server answers {answer.status} {answer.reason}")
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(headers: http.client.HTTPMessage) -> str | None:
    """What tells a file from another of the same address, as If-Range wants it."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _blocks(answer: http.client.HTTPResponse, start: int, total: int | None, most_bytes: int) -> Iterator[bytes]:
    """What arrives, held to the limit and to the size that the server told."""
    done = start
    if total is not None and total > most_bytes:
        raise ValueError(f"it has {total:,} bytes; it may have {most_bytes:,}")
    try:
        while block := answer.read1(BLOCK):
            done += len(block)
            if done > most_bytes:
                raise ValueError(f"it has more than {most_bytes:,} bytes, the most that it may have")
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"{str(error) or type(error).__name__} after {done:,} bytes") from error
    if total is not None and done != total:
        raise _Cut(f"{done:,} of {total:,} bytes came")


def _written(blocks: Iterator[bytes], file: BinaryIO, start: int) -> Iterator[int]:
    if start:
        yield start
    for block in blocks:
        file.write(block)
        yield len(block)


def _is_kept(path: Path, sha256: str | None) -> bool:
    known = _read_record(path)
    return path.is_file() and path.stat().st_size == known.get("size") and sha256 in (None, known.get("sha256"))


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> dict:
    try:
        return json.loads(_record(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _write_record(path: Path, about: dict) -> None:
    with atomic_write(_record(path)) as temporary:
        temporary.write_text(json.dumps(about), encoding="utf-8")
