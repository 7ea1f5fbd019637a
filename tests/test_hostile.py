"""What strangers send: networks that no machine can build, run folders, weights, names, addresses, images."""

import io
import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import alexnet
from alexnet.cli import main
from alexnet.data.storage import image_formats
from alexnet.data.storage.download import redact
from alexnet.data.storage.image_formats import open_image
from alexnet.preprocessing.images import stored_image
from alexnet.specs.names import csv_cell, from_csv_cell, printable
from alexnet.specs.operations import AdaptivePool, BatchNorm, Conv, Dropout, Linear, Local, Norm, Pool, SpatialNorm
from alexnet.specs.shapes import infer_shapes
from alexnet.specs.storage import from_json, to_json
from alexnet.specs.variants import variant

SMALL = variant("small")
NAN, INFINITY = float("nan"), float("inf")


# Networks.


@pytest.mark.parametrize("value", [0, -1, 2_000_000_000, 1.5, NAN, True, "3", None, [3], {}])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        *((Conv, field) for field in ("channels", "kernel", "stride", "groups")),
        *((Pool, field) for field in ("window", "stride")),
        *((Local, "kernel"), (Linear, "units"), (Norm, "size"), (Norm, "groups"), (SpatialNorm, "size")),
        (AdaptivePool, "side"),
    ],
)
def test_an_operation_refuses_what_is_no_size(kind, field, value):
    sizes = {Conv: {"channels": 4, "kernel": 3}, Local: {"channels": 4, "kernel": 3}, Linear: {"units": 3}}.get(
        kind, {}
    )
    if value is None and kind is Linear:
        return  # one per class
    with pytest.raises(ValueError, match=rf"^[\w]+: {field} must be [^\n]*$"):
        kind(**({"name": "conv1"} if kind in (Conv, Local, Linear) else {}), **sizes | {field: value})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *((Dropout, "rate", value) for value in (-0.1, 1.1, NAN, INFINITY, "0.5", None, True)),
        *((Norm, "k", value) for value in (0, -1, NAN)),
        *((Norm, "alpha", value) for value in (-1, NAN, INFINITY)),
        *((SpatialNorm, "beta", value) for value in (NAN, 1e9)),
        *((Pool, "round_up", value) for value in (1, None, "yes")),
        *((Pool, "kind", value) for value in ("avg", 3, None, ["max"])),
    ],
)
def test_an_operation_refuses_what_is_no_setting(kind, field, value):
    with pytest.raises(ValueError, match=f"^{kind.__name__}: {field} must be "):
        kind(**{field: value})


def rows(count):
    return tuple(Conv(f"conv{index}", 1, 1) for index in range(count))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "layers must have 1 to 1,000 steps in all, got 0"),
        ({"layers": rows(100_000)}, "layers must have 1 to 1,000 steps in all, got 200,000"),
        ({"layers": (Conv("conv1", 8, 3, then=("relu",) * 100_000),)}, "got 100,001"),
        ({"layers": "conv"}, "layers must be a list"),
        ({"layers": (Pool(),)}, "layers must be a list"),
        ({"layers": (Conv("a.b", 8, 3),)}, "must be letters, digits and _, got 'a.b'"),
        ({"layers": (Conv("", 8, 3),)}, "must be letters, digits and _, got ''"),
        ({"layers": (Conv("x" * 100_000, 8, 3),)}, "must be letters"),
        ({"input_size": 10**12}, "input_size must be <= 20000"),
        ({"input_size": 0}, "input_size must be >= 1"),
        ({"stored_size": "256"}, "stored_size must be an integer"),
        ({"classes": -1}, "classes must be >= 1"),
        ({"norm": "yes"}, "norm must be a Norm or a BatchNorm"),
        ({"pool": None}, "pool must be a Pool"),
        ({"dropout": 0.5}, "dropout must be a Dropout"),
        ({"activation": "gelu"}, "activation must be relu or tanh"),
        ({"name": None}, "name must be text"),
    ],
)
def test_an_architecture_is_checked(changes, message):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as raised:
        replace(SMALL, **changes)
    assert len(str(raised.value)) < 500 and time.perf_counter() - started < 20


@pytest.mark.parametrize(
    ("layers", "size", "message"),
    [
        ((Conv("conv1", 1_000_000, 1),), 200, "outputs for an image must be <= 1e\\+09, got 4.0e\\+10"),
        ((Conv("conv1", 1000, 1), Linear("fc2", 1_000_000)), 224, "fc2: parameters for an image"),
        ((Conv("conv1", 3000, 300, pad=150),), 224, "conv1: multiply-adds for an image"),
        ((Conv("conv1", 8, 1_000_000),), 20_000, "at which conv1 reads windows of 1000000 × 1000000"),
        ((Conv("conv1", 8, 30_000, pad=1_000_000),), 1, "must be <= "),
    ],
)
def test_the_total_work_of_a_network_is_bounded(layers, size, message):
    mine = replace(SMALL, layers=layers, input_size=size)
    with pytest.raises(ValueError, match=message):
        infer_shapes(mine, 10)
    with pytest.raises(ValueError, match=message):
        alexnet.create(mine, 10)


def test_every_variant_passes():
    for name in alexnet.variants():
        assert from_json(json.loads(json.dumps(to_json(variant(name))))) == variant(name)
        assert infer_shapes(variant(name), 22_000)
    assert BatchNorm() and Conv("conv1", np.int64(3), 3, bias=np.float32(1))


# Images.


def jpeg(scans=None):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG", progressive=scans is not None)
    content = buffer.getvalue()
    if scans:
        start = content.index(b"\xff\xda")
        content = content[:-2] + content[start:-2] * scans + content[-2:]
    return content


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    assert stored_image(jpeg(0), 8).shape == (8, 8, 3)
    monkeypatch.setattr(image_formats, "MAX_SCANNED_PIXELS", 64 * 64 * 100)
    assert stored_image(jpeg(0), 8).shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"it has [\d,]+ scans of 4,096 pixels, more than any encoder writes"):
        stored_image(jpeg(200), 8)


def test_a_ppm_file_of_comments_is_refused():
    assert stored_image(b"P6 # a comment\n# another\n2 2 255\n" + bytes(12), 2).shape == (2, 2, 3)
    started = time.perf_counter()
    for content in (b"P6\n#" + b"x" * 50_000_000, b"P6 2\n" + b"#\n" * 25_000_000 + b"2 255\n" + bytes(12)):
        with pytest.raises(ValueError, match="its header has more than 65,536 bytes"):
            stored_image(content, 2)
    assert time.perf_counter() - started < 20


def test_an_image_that_takes_more_memory_than_a_process_may_use_is_refused(monkeypatch):
    buffer = io.BytesIO()
    Image.new("RGBA", (5000, 5000)).save(buffer, "PNG")
    monkeypatch.setattr(image_formats, "memory_share", lambda: 4e8)
    with pytest.raises(ValueError, match=r"5000 × 5000 pixels take about 0.5 GB to decode, .* may use 0.4 GB"):
        open_image(io.BytesIO(buffer.getvalue()))
    monkeypatch.setattr(image_formats, "memory_share", lambda: 6e8)
    assert open_image(io.BytesIO(buffer.getvalue())).size == (5000, 5000)


@pytest.mark.parametrize("format", ["EPS", "ICO", "TGA", "PCX", "ICNS", "SGI", "PDF", "SPIDER"])
def test_prediction_reads_the_formats_of_data_sets_and_no_others(tmp_path, monkeypatch, format):
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    buffer = io.BytesIO()
    Image.new("F" if format == "SPIDER" else "RGB", (32, 32)).save(buffer, format)
    (tmp_path / "cat.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"cat.jpg cannot be read as an image: not an image of a known format"):
        stored_image(tmp_path / "cat.jpg", 8)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes as Unix has them")
def test_prediction_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe.png cannot be read as an image: .*not a regular file"):
        stored_image(tmp_path / "pipe.png", 8)


# Names.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;OWNED\x07\x1b[31mblue\x1b[2J", r"\x1b]0;OWNED\x07\x1b[31mblue\x1b[2J"),
        ("br\udcf6ken.png", r"br\udcf6ken.png"),
        ("a\rb\x9bc\u202egnp.exe", r"a\rb\x9bc\u202egnp.exe"),
        ("é 日本 🐱\tb\nc", "é 日本 🐱\tb\nc"),
    ],
)
def test_names_are_shown_harmless(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("+1(2)", "'+1(2)"),
        ("\t=1", "'\t=1"),
        *((name, name) for name in ("-1.png", "+1", "cat", "'cat", "")),
        ("'=1", "''=1"),
    ],
)
def test_cells_are_harmless_and_read_back_as_they_were(name, cell):
    assert csv_cell(name) == cell and from_csv_cell(cell) == name


# Addresses.


@pytest.mark.parametrize(
    "url", ["http://[::1/x.zip", "https://a:b@[x]:y/z", "http://host:99999/a.zip", "http://host:x/a.zip"]
)
def test_what_is_no_address_is_named_without_its_password(url, capsys):
    assert "a:b" not in redact(url)
    with pytest.raises(SystemExit):
        main(["check", url])
    error = capsys.readouterr().err
    assert "is not a web address: " in error and "Traceback" not in error and "a:b" not in error
