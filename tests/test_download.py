import base64
import gzip
import hashlib
import http.server
import io
import json
import random
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest
from PIL import Image

from alexnet.data.storage import download as module
from alexnet.data.storage import remote
from alexnet.data.storage.download import download, fetch_bytes, redact
from alexnet.data.storage.remote import list_remote, open_remote
from alexnet.preprocessing import images
from alexnet.preprocessing.images import stored_image

CONTENT = random.Random(2012).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """A server of one file, that can be arrived to misbehave."""

    content: bytes = CONTENT
    etag: str | None = '"first"'
    ranges: bool = True
    heeds_if_range: bool = True
    says: dict = field(default_factory=dict)
    """Headers to replace; None omits one."""
    plan: list = field(default_factory=list)
    """For each request: bytes after which the connection is cut, a status, or None for a complete answer."""
    refusal: dict = field(default_factory=dict)
    """Headers with a status of the plan."""
    redirect: str | None = None
    delay_s: float = 0.0
    silent: threading.Event | None = None
    """Sends nothing until it is set."""
    requests: list = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def answer(self, handler):
        self.requests.append(handler.headers)
        planned = self.plan.pop(0) if self.plan else None
        if isinstance(planned, str) and self.refusal:
            handler.send_response(int(planned))
            for name, value in self.refusal.items():
                handler.send_header(name, value)
            return handler.end_headers()
        if isinstance(planned, str):
            return handler.send_error(int(planned))
        if self.redirect and handler.path.startswith("/from"):
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            return handler.end_headers()
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        unchanged = handler.headers.get("If-Range") == self.etag or not self.heeds_if_range
        start = int(asked[1]) if asked and self.ranges and unchanged else 0
        if start > len(self.content):
            return handler.send_error(416)
        headers = {"Content-Length": str(len(self.content) - start), "ETag": self.etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        handler.send_response(206 if start else 200)
        for name, value in (headers | self.says).items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        part = self.content[start : None if planned is None else start + planned]
        time.sleep(self.delay_s)
        if self.silent:
            self.silent.wait()
        handler.wfile.write(part)
        self.sent += len(part)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            self.server.site.answer(self)
        except OSError:  # the client left
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(context=None, **settings):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.site = Site(**settings)
        server.site.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/some%20images.tar.gz"
        server.site.stop = lambda: (server.shutdown(), server.server_close())
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server.site

    yield start
    for server in servers:
        server.site.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(module, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(module, "BLOCK", 10_000)


def ranges(site):
    return [headers.get("Range") for headers in site.requests]


def kept(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_is_downloaded_once_and_then_cached(serve, tmp_path):
    site = serve()
    path = download(site.url, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert re.fullmatch(r"some_images-[0-9a-f]{16}\.tar\.gz", path.name)
    assert kept(path.parent) == [path.name, f"{path.name}.json"]
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert record == {"url": site.url, "validator": '"first"', "size": 3_000_000, "sha256": SHA256}
    site.stop()
    assert download(site.url, tmp_path / "cache") == path and len(site.requests) == 1
    other = serve()
    assert download(other.url + "?page=2", tmp_path / "cache") != download(other.url, tmp_path / "cache")
    path.write_bytes(CONTENT[:-1])  # no longer what the record says
    with pytest.raises(ValueError, match=r"images.tar.gz cannot be downloaded into .*cache: .*refused"):
        download(site.url, tmp_path / "cache")


def test_a_lost_connection_is_resumed(serve, tmp_path):
    site = serve(plan=[100_000, 0, "503", 1_000_000, 0, 0, 1_500_000])  # never four without a new byte
    assert download(f"{site.url}#sha256={SHA256}", tmp_path).read_bytes() == CONTENT
    first, second, third = None, "bytes=100000-", "bytes=1100000-"
    assert ranges(site) == [first, second, second, second, third, third, third, "bytes=2600000-"]
    assert site.sent == len(CONTENT)  # nothing twice


def test_a_later_call_resumes(serve, tmp_path):
    site = serve(plan=[1_000_000, 0, 0, 0])
    with pytest.raises(ValueError, match="only 1,000,000 of 3,000,000 bytes arrived; gave up after 4 attempts"):
        download(site.url, tmp_path)
    (name,) = (name for name in kept(tmp_path) if name.endswith(".part"))
    assert (tmp_path / name).read_bytes() == CONTENT[:1_000_000]
    assert download(site.url, tmp_path).read_bytes() == CONTENT
    assert ranges(site)[-1] == "bytes=1000000-"
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("settings", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}])
def test_without_ranges_or_a_validator_a_download_restarts(serve, tmp_path, settings):
    site = serve(plan=[1_000_000, 2_000_000], **settings)
    assert download(site.url, tmp_path).read_bytes() == CONTENT
    assert site.sent == 1_000_000 + 2_000_000 + len(CONTENT)
    assert ranges(site) == ([None, "bytes=1000000-", "bytes=2000000-"] if site.etag == '"first"' else [None] * 3)


def test_a_date_replaces_a_missing_etag(serve, tmp_path):
    site = serve(plan=[1_000_000], etag=None, heeds_if_range=False, says={"Last-Modified": "Sun, 30 Sep 2012 10:00:00"})
    assert download(site.url, tmp_path).read_bytes() == CONTENT
    assert site.sent == len(CONTENT) and site.requests[1]["If-Range"] == "Sun, 30 Sep 2012 10:00:00"


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("size", [3_000_000, 500_000])
def test_a_changed_file_restarts(serve, tmp_path, heeds_if_range, size):
    site = serve(plan=[1_000_000, 0, 0, 0], heeds_if_range=heeds_if_range)
    with pytest.raises(ValueError, match="gave up after 4 attempts"):
        download(site.url, tmp_path)
    site.content, site.etag = random.Random(1998).randbytes(size), '"second"'
    assert download(site.url, tmp_path).read_bytes() == site.content


def test_a_changed_size_restarts(serve, tmp_path):
    site = serve(plan=[1_000_000, 0, 0, 0])
    with pytest.raises(ValueError, match="gave up after 4 attempts"):
        download(site.url, tmp_path)
    site.content = random.Random(1998).randbytes(2_000_000)  # of the same tag
    assert download(site.url, tmp_path).read_bytes() == site.content


def test_a_wrong_length_is_an_error(serve, tmp_path):
    site = serve(says={"Content-Length": "3000001"}, ranges=False)
    with pytest.raises(ValueError, match=r"only 3,000,000 of 3,000,001 bytes arrived"):
        download(site.url, tmp_path)
    assert not [name for name in kept(tmp_path) if name.endswith(".gz")]
    site = serve(says={"Content-Length": "2999999"})  # nothing but a checksum can tell
    with pytest.raises(ValueError, match=f"its SHA-256 must be {SHA256}, got [0-9a-f]{{64}}"):
        download(f"{site.url}#sha256={SHA256}", tmp_path)
    site = serve(plan=[1000, None], says={"Content-Range": "bytes */3"})
    with pytest.raises(ValueError, match="sends part of the file without a valid Content-Range"):
        download(site.url, tmp_path)


def test_sizes_beyond_the_limit(serve, tmp_path):
    site = serve()
    with pytest.raises(ValueError, match="it must have <= 2,999,999 bytes, got 3,000,000"):
        download(site.url, tmp_path, max_bytes=2_999_999)
    assert kept(tmp_path) == [name for name in kept(tmp_path) if ".part" in name]
    assert download(site.url, tmp_path, max_bytes=3_000_000).read_bytes() == CONTENT
    silent = serve(says={"Content-Length": None})
    with pytest.raises(ValueError, match="it must have <= 100,000 bytes, got more"):
        download(silent.url, tmp_path, max_bytes=100_000)
    assert download(silent.url, tmp_path).read_bytes() == CONTENT


def test_checksums(serve, tmp_path):
    site = serve()
    with pytest.raises(ValueError, match=f"its SHA-256 must be {'0' * 64}, got {SHA256}"):
        download(f"{site.url}#sha256={'0' * 64}", tmp_path)
    assert not [name for name in kept(tmp_path) if name.endswith((".gz", ".part"))]
    with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits, got 'abc'"):
        download(f"{site.url}#sha256=abc", tmp_path)
    path = download(f"{site.url}#sha256={SHA256.upper()}", tmp_path)
    assert download(site.url, tmp_path) == path and len(site.requests) == 2
    site.content, site.etag = b"new", '"second"'
    assert download(f"{site.url}#sha256={hashlib.sha256(b'new').hexdigest()}", tmp_path).read_bytes() == b"new"


@pytest.mark.parametrize("status, requests", [("404", 1), ("403", 1), ("503", 4), ("429", 4), ("416", 4)])
def test_refusals_of_a_server(serve, tmp_path, status, requests):
    site = serve(plan=[status] * 4)
    with pytest.raises(ValueError, match=rf"some%20images.tar.gz cannot be downloaded .*the server answers {status} "):
        download(site.url, tmp_path)
    assert len(site.requests) == requests


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "data:,x", "a.tar", "https:///b", "http://u@/b"])
def test_other_schemes_are_refused(url, tmp_path):
    for fetch in (lambda: download(url, tmp_path), lambda: fetch_bytes(url, 1000)):
        with pytest.raises(ValueError, match="a web address must begin with https:// or http://"):
            fetch()


def test_redirects(serve, tmp_path):
    site = serve()
    leading = serve(redirect=site.url)
    assert download(leading.url.replace("some", "from"), tmp_path).read_bytes() == CONTENT
    loop = serve(redirect="/from")
    for redirect, words in {
        "/from": "infinite loop",
        "file:///etc/passwd": "302",
        "ftp://a/b": "redirect from http to ftp",
    }.items():
        loop.redirect = redirect
        with pytest.raises(ValueError, match=words):
            download(loop.url.replace("some", "from"), tmp_path)
    assert len(loop.requests) < 15


def test_https_must_not_redirect_to_http(serve, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    plain, safe = serve(), serve(context)
    with pytest.raises(ValueError, match="certificate verify failed"):
        download(safe.url, tmp_path / "cache")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert download(safe.url, tmp_path / "cache").read_bytes() == CONTENT
    leading = serve(context, redirect=plain.url)
    for fetch in (lambda url: download(url, tmp_path / "cache"), lambda url: fetch_bytes(url, 10**7)):
        with pytest.raises(ValueError, match="the server must redirect to https, got a redirect from https to http"):
            fetch(leading.url.replace("some", "from"))
    assert not plain.requests
    leading.redirect = safe.url
    assert fetch_bytes(leading.url.replace("some", "from"), 10**7) == CONTENT
    upgrading = serve(redirect=safe.url)
    assert fetch_bytes(upgrading.url.replace("some", "from"), 10**7) == CONTENT


def test_a_server_that_sends_nothing_is_given_up(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    site = serve(silent=threading.Event())
    with pytest.raises(ValueError, match="timed out after 0 bytes; gave up after 4 attempts"):
        download(site.url, tmp_path)
    assert len(site.requests) == 4 and site.sent == 0
    site.silent.set()


def test_a_password_is_sent_only_to_its_server_and_never_stored(serve, tmp_path):
    site = serve()
    leading = serve(redirect=site.url)

    def private(url):
        return url.replace("://", "://me:s%40cret@") + "?token=s%40cret"

    path = download(private(leading.url.replace("some", "from")), tmp_path)
    assert base64.b64decode(leading.requests[0]["Authorization"].removeprefix("Basic ")) == b"me:s@cret"
    assert "Authorization" not in site.requests[0]
    for file in tmp_path.iterdir():
        assert "s%40cret" not in file.name and b"s%40cret" not in file.read_bytes().replace(CONTENT, b"")
    assert download(leading.url.replace("some", "from") + "?token=s%40cret", tmp_path) == path
    site.plan = ["404", "404"]
    for fetch in (
        lambda url: download(url, tmp_path),
        lambda url: fetch_bytes(url, 10),
        lambda url: stored_image(url, 8),
    ):
        with pytest.raises(ValueError, match="127") as caught:
            fetch(private(site.url))
        assert "cret" not in str(caught.value) and "me:" not in str(caught.value)
    assert redact("https://me:secret@host:80/a/b.tar?token=x#y") == "https://host:80/a/b.tar?…"


def test_two_processes_download_once(serve, tmp_path):
    site = serve(delay_s=1.0)
    program = "import sys; from pathlib import Path; from alexnet.data.storage.download import download; "
    program += "print(download(sys.argv[1], Path(sys.argv[2])).stat().st_size)"
    command = [sys.executable, "-c", program, site.url, tmp_path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["3000000\n"] * 3
    assert len(site.requests) == 1


FULL = """
import resource, signal, sys
from pathlib import Path
from alexnet.data.storage.download import download

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
try:
    download(sys.argv[1], Path(sys.argv[2]))
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sizes of files cannot be limited there")
def test_a_download_resumes_after_a_full_disk(serve, tmp_path):
    site = serve()
    printed = subprocess.run([sys.executable, "-c", FULL, site.url, tmp_path], capture_output=True, text=True).stdout
    assert f"cannot be downloaded into {tmp_path}: [Errno 27] File too large" in printed
    assert download(site.url, tmp_path).read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=1000000-"]


def test_progress_is_shown_and_an_interrupted_download_resumes(serve, tmp_path):
    site = serve()
    arrived = []

    def track(counts, total):
        assert total == len(CONTENT)
        arrived.append(0)
        for count in counts:
            arrived[-1] += count
            if len(arrived) == 1 and arrived[0] > 1_000_000:
                raise KeyboardInterrupt
            yield count

    with pytest.raises(KeyboardInterrupt):
        download(site.url, tmp_path, track=track)
    assert download(site.url, tmp_path, track=track).read_bytes() == CONTENT
    assert ranges(site)[1] == f"bytes={arrived[0]}-" and arrived[1] == len(CONTENT)


def test_a_complete_partial_file_is_not_requested_again(serve, tmp_path):
    site = serve()

    def track(counts, total):
        yield from counts
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(site.url, tmp_path, track=track)
    assert download(site.url, tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_any_sequence_of_failures_gives_the_right_bytes_or_an_error(serve, tmp_path):
    draw = random.Random(2012)
    completed = 0
    for number in range(60):
        content = draw.randbytes(50_000)
        plan = [draw.choice((None, "500", 0, draw.randrange(50_000))) for _ in range(draw.randrange(8))]
        site = serve(content=content, plan=plan, ranges=draw.random() < 0.8, heeds_if_range=draw.random() < 0.8)
        for _ in range(3):
            try:
                path = download(site.url, tmp_path / str(number))
            except ValueError as error:
                assert "gave up after 4 attempts" in str(error) or "sends part" in str(error)
                if draw.random() < 0.5:
                    site.content, site.etag = draw.randbytes(50_000), f'"{draw.random()}"'
            else:
                assert path.read_bytes() == site.content
                completed += 1
                break
    assert completed > 50


def test_an_image_from_a_url_follows_the_same_rules(serve, monkeypatch):
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "png")
    site = serve(content=picture.getvalue())
    assert stored_image(site.url, 8).tolist() == [[[255, 0, 0]] * 8] * 8
    site.plan = [50]
    with pytest.raises(ValueError, match=rf"cannot be fetched: only 50 of {len(site.content)} bytes arrived"):
        stored_image(site.url, 8)
    site.content = b"no picture"
    with pytest.raises(ValueError, match=r"127.0.0.1:\d+/some%20images.tar.gz cannot be read as an image"):
        stored_image(site.url, 8)
    monkeypatch.setattr(images, "MAX_BYTES", 9)
    with pytest.raises(ValueError, match="it must have <= 9 bytes, got 10"):
        stored_image(site.url, 8)


def test_files_of_a_remote_store(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setitem(remote.STORES, "memory", "fsspec")
    expected = {"memory:///set/b/1.jpg": b"one", "memory:///set/a/2 #.jpg": b"two!", "memory:///set/a/sub/3.jpg": b""}
    for url, content in expected.items():
        fsspec.filesystem("memory").pipe_file(url.removeprefix("memory://"), content)
    assert dict(list_remote("memory://set")) == {url: len(content) for url, content in expected.items()}
    for url, content in expected.items():
        with open_remote(url) as file:
            assert file.read() == content
    with pytest.raises(ValueError, match="memory://nowhere cannot be listed"):
        list(list_remote("memory://nowhere"))
    with pytest.raises(ValueError, match="cannot be opened"):
        open_remote("memory://set/b/1.jpg::file:///etc/hostname")


@pytest.mark.parametrize("url", ["https://host/folder/", "file:///etc", "simplecache::s3://bucket", "memory://x"])
def test_urls_that_are_not_a_remote_store(url):
    with pytest.raises(ValueError, match="of a remote store must begin with s3://, gs://, hf://; a web address must"):
        list(list_remote(url))
    with pytest.raises(ValueError, match="cannot be opened: the URL of a remote store must"):
        open_remote(url)


@pytest.mark.parametrize("package, url", [("s3fs", "s3://b/c"), ("gcsfs", "gs://b/c"), ("huggingface_hub", "hf://b/c")])
def test_a_missing_package_is_named(monkeypatch, package, url):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"a package is missing: pip install fsspec {package}"):
        list(list_remote(url))
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match=f"a package is missing: pip install fsspec {package}"):
        open_remote(url)


def test_a_server_that_asks_to_wait_is_heeded(serve, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    site = serve(plan=["429", "503"], refusal={"Retry-After": "7"})
    assert download(site.url, tmp_path).read_bytes() == CONTENT and pauses[:2] == [7, 7]
    site = serve(plan=["429"] * 4, refusal={"Retry-After": "86400"})
    with pytest.raises(ValueError, match="the server asks to wait for 86,400 seconds"):
        download(site.url, tmp_path)
    assert len(site.requests) == 1


def test_what_a_server_compresses_is_decompressed(serve, tmp_path):
    text, headers = b'{"a.jpg": "cat"}' * 5000, {"Content-Encoding": "gzip", "Content-Length": None}
    content = gzip.compress(text, mtime=0)
    plain = serve(content=content, says=headers | {"Content-Length": str(len(content))}, plan=[20])
    url = plain.url.replace("tar.gz", "json")
    assert download(url, tmp_path).read_bytes() == fetch_bytes(url, 10**6) == text
    assert ranges(plain) == [None] * 3  # the first is cut
    with pytest.raises(ValueError, match="must have <= 50,000 bytes, got more"):
        fetch_bytes(url, 50_000)
    assert download(plain.url, tmp_path).read_bytes() == content  # a .gz stays what it is
    plain.content = content[:30] + b"damage" + content[36:]
    with pytest.raises(ValueError, match="its compression is damaged"):
        download(url, tmp_path / "other")


def test_a_server_that_trickles_is_given_up(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "SLOWEST", 1e9)
    monkeypatch.setattr(module, "BLOCK", 10)
    site = serve(delay_s=0.15)
    for fetch in (lambda: download(site.url, tmp_path), lambda: fetch_bytes(site.url, 10**7)):
        with pytest.raises(ValueError, match="the server sends less than"):
            fetch()


def test_a_redirect_may_hold_a_password(serve, tmp_path):
    site = serve()
    leading = serve(redirect=site.url.replace("//", "//anna:s3cret@"))
    assert download(leading.url.replace("some", "from"), tmp_path).read_bytes() == CONTENT
    assert site.requests[0]["Authorization"] == f"Basic {base64.b64encode(b'anna:s3cret').decode()}"
    leading.redirect = "https://anna:s3cret@[::1/x"
    with pytest.raises(ValueError, match="cannot be downloaded") as raised:
        download(leading.url.replace("some", "from"), tmp_path / "other")
    assert "s3cret" not in str(raised.value)
