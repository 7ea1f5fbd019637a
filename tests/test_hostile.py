"""What strangers send: networks that no machine can build, run folders, weights, names, addresses, images."""

import io
import json
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
import torch
from conftest import write_colors
from PIL import Image
from references.frameworks import caffe_net
from safetensors import safe_open
from safetensors.torch import save_file
from test_foreign_caffe import CONV1, data, dense
from test_foreign_keras import small_keras

import alexnet
from alexnet import import_weights
from alexnet.cli import main
from alexnet.data.sources.detection import open_source
from alexnet.data.sources.memory import location_of
from alexnet.data.storage import image_formats
from alexnet.data.storage.download import redact
from alexnet.data.storage.image_formats import open_image
from alexnet.interchange.caffe import read_mean
from alexnet.model import bundle as bundle_module
from alexnet.preprocessing.images import stored_image
from alexnet.specs.names import HARMFUL, csv_cell, from_csv_cell, printable
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
    with pytest.raises(ValueError, match=message) as raised:
        replace(SMALL, **changes)
    assert len(str(raised.value)) < 500


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
    for content in (b"P6\n#" + b"x" * 50_000_000, b"P6 2\n" + b"#\n" * 25_000_000 + b"2 255\n" + bytes(12)):
        with pytest.raises(ValueError, match="its header has more than 65,536 bytes"):
            stored_image(content, 2)


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


# A run folder.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on three colors, one epoch."""
    root = tmp_path_factory.mktemp("runs")
    classifier = alexnet.Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(write_colors(root / "colors", 8), epochs=1, batch_size=8, output=root / "run", verbose=False)
    return root


WRONG = [None, 3, -1, 1.5, NAN, True, "x", "../../x", [], ["x"], {}, {"is": "Conv"}, [[]], "x" * 100_000]
FIELDS = ["data", "recipe", "architecture", "weights", "jpeg", "pretrained", "labels", "results", "changed", "seed"]
FIELDS += [
    "device",
    "precision",
    "micro_batch",
    "variant",
    "images",
    "versions",
    "log",
    "checkpoint_minutes",
    "augment",
]


@pytest.mark.parametrize("field", FIELDS)
def test_a_run_of_other_types_is_refused_by_name(finished, tmp_path, field, capsys):
    run = shutil.copytree(finished / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["data"] = str(tmp_path / "nowhere")
    for value in WRONG:
        (run / "run.json").write_text(json.dumps(record | {field: value}))
        resuming = ["train", str(tmp_path / "nowhere"), "--resume", "--output", str(run)]
        for command in (["evaluate", str(run)], *([resuming] if value in (3, None) else [])):
            with pytest.raises(SystemExit):
                main(command)
            error = capsys.readouterr().err
            assert error.startswith("alexnet: ") and "Traceback" not in error and len(error) < 5000, (value, error)


def test_nothing_in_a_run_leads_out_of_it(finished, tmp_path, capsys):
    run = shutil.copytree(finished / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    del record["results"]
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "thesis.png").write_text("precious")
    (run / "curves.png").unlink()
    (run / "curves.png").symlink_to(tmp_path / "thesis.png")
    with pytest.raises(SystemExit):
        main(["train", str(finished / "colors"), "--resume", "--output", str(run)])
    assert "curves.png is a link out of the run" in capsys.readouterr().err
    assert (tmp_path / "thesis.png").read_text() == "precious"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/phone-home.zip", "hf://datasets/somebody/home", "s3://x/y"])
def test_evaluation_asks_no_address_that_only_the_run_names(finished, tmp_path, url, capsys, monkeypatch):
    run = shutil.copytree(finished / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"data": url}))
    monkeypatch.setattr(socket, "create_connection", None)
    with pytest.raises(SystemExit):
        main(["evaluate", str(run)])
    assert f"was trained on {url}, which is fetched only if it is given as data" in capsys.readouterr().err


def test_passwords_and_tokens_of_addresses_are_not_recorded():
    secret = "https://anna:s3cret@host/photos.zip?X-Amz-Signature=TOKEN#sha256=" + "0" * 64
    assert location_of(secret) == "https://host/photos.zip?…"
    with pytest.raises(ValueError, match=r"^https://host/photos.zip\?… cannot be downloaded") as raised:
        open_source(secret)
    assert "s3cret" not in str(raised.value) and "TOKEN" not in str(raised.value)


# Files of weights.


def with_header(source, target, change):
    """A file of our own with facts changed, and checksums that fit."""
    with safe_open(source, "pt") as opened:
        header, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    facts = json.loads(header["alexnet"])
    change(facts, tensors)
    header["alexnet"] = json.dumps(facts)
    header["sums"] = json.dumps({name: bundle_module._checksum(tensor) for name, tensor in tensors.items()})
    header.pop("head")
    save_file(tensors, target, header | {"head": bundle_module._header_checksum(header)})
    return target


def put(*path):
    *path, last, value = path

    def change(facts, tensors):
        for key in path:
            facts = facts[key]
        facts[last] = value

    return change


def put_tensor(name, value):
    return lambda facts, tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        *(put_tensor("preprocessing.mean", torch.zeros(shape)) for shape in ((0,), (3,), (2, 1, 1), (31, 31, 3))),
        *(put_tensor("preprocessing.std", torch.tensor(value)) for value in ([], [1.0], [0.0, 1, 1], [NAN, 1, 1])),
        put_tensor("preprocessing.mean", torch.full((1, 1, 3), INFINITY)),
        put_tensor("conv1.bias", torch.full((32,), NAN)),
        *(put("stored_size", value) for value in (20_000_000, "32", None, -1, 8)),
        *(put("crop_size", value) for value in (64, None, 0)),
        *(put("input_size", value) for value in (10**12, 0, "x")),
        *(put("in_channels", value) for value in (0, 10**9, "3")),
        *(put("classes", value) for value in ([], [[1], [2], [3]], 3, None, {"a": 1}, ["a"] * 1_000_000)),
        *(put("architecture", value) for value in (None, [], {"is": "Pool"}, {"is": "PaperDecay"}, "small")),
        *(put("architecture", "layers", value) for value in ([], None, 3, [{"is": "Pool"}], ["conv1"])),
        *(put("architecture", "layers", 0, "stride", value) for value in (0, -1, 10**13, "2", None, True)),
        *(put("architecture", "layers", 0, "kernel", value) for value in (0, 10**13, NAN)),
        *(put("architecture", "spatial_norm", "size", value) for value in (0, 2 * 10**9, NAN)),
        *(put("architecture", "spatial_norm", name, NAN) for name in ("k", "beta", "alpha")),
        *(put("flip", value) for value in (3, "yes", [])),
        put("aligned", None),
    ],
)
def test_a_file_in_our_own_format_is_checked_before_it_is_built(finished, tmp_path, change, capsys):
    file = with_header(finished / "run" / "last.safetensors", tmp_path / "x.safetensors", change)
    with pytest.raises(SystemExit):
        main(["predict", str(file), str(finished / "colors" / "red" / "00.png"), "--device", "cpu"])
    error = capsys.readouterr().err
    assert error.startswith(f"alexnet: {file}: ") and len(error) < 1000 and error.count("\n") == 1, error


def test_weights_that_are_too_large_name_the_layer(finished, tmp_path, capsys):
    change = put_tensor("conv2.weight", torch.full((32, 32, 5, 5), 3e38))
    file = with_header(finished / "run" / "last.safetensors", tmp_path / "x.safetensors", change)
    with pytest.raises(SystemExit):
        main(["predict", str(file), str(finished / "colors" / "red" / "00.png"), "--device", "cpu"])
    assert "alexnet: conv2 gives values that are not finite" in capsys.readouterr().err


def npy_that_claims(path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(100))
    return path


@pytest.mark.parametrize("shape", ["(3, 1000000, 1000000)", "(3, 2, 2", "x" * 90])
def test_a_mean_image_that_claims_to_be_huge_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"mean.npy is not a mean image"):
        read_mean(npy_that_claims(tmp_path / "mean.npy", shape))


def test_a_null_dataset_of_hdf5_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file.create_dataset("layers/conv2d/vars/0", data=h5py.Empty("f"))
    with pytest.raises(ValueError, match=r"None of float32, is not an array of numbers"):
        alexnet.import_weights(tmp_path / "x.weights.h5")


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_of_very_many_tensors_is_refused(tmp_path, save):
    save({f"a{index}.weight": torch.zeros(1, 1) for index in range(20_001)}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"<= 20,000"):
        alexnet.import_weights(tmp_path / "x")


def test_an_absurd_window_in_a_file_is_an_error(tmp_path):
    alexnet.export_weights(import_weights(small_keras(tmp_path / "net.keras")[1])[0], tmp_path / "ours", "safetensors")
    content = (tmp_path / "ours").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["alexnet"])
    facts["architecture"]["layers"][0]["then"] = [{"is": "Norm", "size": 10**9}]
    header["__metadata__"] = {"alexnet": json.dumps(facts)}
    text = json.dumps(header).encode()
    (tmp_path / "ours").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(ValueError, match="size must be <= "):
        alexnet.load(tmp_path / "ours")


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    _, path = small_keras(tmp_path / "net.keras")
    with h5py.File(tmp_path / "net.inside", "a") as file:
        file["layers/dense_1/vars/0"] = np.zeros((400, 400), np.float32)
        for index in range(2, 20):  # hard links, all to one array
            file[f"layers/dense_{index}/vars/0"] = file["layers/dense_1/vars/0"]
    with pytest.raises(ValueError, match="is not an array of numbers in this file"):
        import_weights(tmp_path / "net.inside", "cifar-keras")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="a damaged archive"):
        import_weights(path)
    (tmp_path / "net.caffemodel").write_bytes(caffe_net(data(10**6), CONV1, dense("fc8", "conv1", 3, 196)))
    with pytest.raises(ValueError, match=r"fc8.weight must be|input_size"):
        import_weights(tmp_path / "net.caffemodel", input_size=10**6, strict=False)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.text, self.elements = "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


RUNS_IF_TAKEN = "<img src=x onerror=document.title='RAN'>"
HOSTILE_NAMES = ["=HYPERLINK(0)", "\x1b]0;RAN\x07red", "'\"&lt;b>bold", "a\u202ecod.exe", "x" * 200, RUNS_IF_TAKEN]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_nothing_in_names_runs_in_a_browser(tmp_path):
    data = tmp_path / "data"
    for seed, name in enumerate(HOSTILE_NAMES):
        (data / name).mkdir(parents=True)
        for index in range(6):
            pixels = np.random.default_rng(10 * seed + index).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(data / name / f"{name[:100]}{index}.png")
    run = tmp_path / f"{RUNS_IF_TAKEN}{RUNS_IF_TAKEN.replace('img', 'svg').replace('onerror', 'onload')}"
    alexnet.Classifier("cifar-18", "cpu", "fp32").fit(data, epochs=1, batch_size=16, output=run, verbose=False)
    shutil.copy(run / "report.html", tmp_path / "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = ["chromium", *options, f"file://{tmp_path / 'report.html'}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    page = Page(dom)
    assert "<title>RAN" not in dom and not {"script", "svg", "b"} & {tag for tag, _ in page.elements}
    assert all(attributes["src"].startswith("data:image/png") for tag, attributes in page.elements if tag == "img")
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    for name in HOSTILE_NAMES:
        assert printable(name) in page.text
    assert not HARMFUL.search(dom)
