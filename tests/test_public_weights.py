"""Weights by one word, by URL and from the Hub, downloaded from a server on this machine."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from references import frameworks, networks

import alexnet
from alexnet.cli import main
from alexnet.data.storage import download as downloads
from alexnet.interchange.public_weights import PUBLIC
from alexnet.model.network import TORCHVISION_NAMES
from alexnet.specs.variants import variant

NARROW = {**dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "conv5"), 8), "fc6": 16, "fc7": 16}


def narrow(name, groups=1):
    """A network of few channels, 5 classes, that torchvision's file or a caffemodel could hold."""
    changes = {
        layer: {"units": width} if layer.startswith("fc") else {"channels": width} for layer, width in NARROW.items()
    }
    return alexnet.create(variant(name).with_layers(**changes), num_classes=5)


def torchvision_file():
    """A file as torchvision publishes it: its own names, saved by torch.save."""
    ours = narrow("torchvision").state_dict()
    theirs = networks.torchvision_alexnet(5).state_dict()
    own_names = ((name, *name.rsplit(".", 1)) for name in theirs)
    content = io.BytesIO()
    torch.save({name: ours[f"{TORCHVISION_NAMES[module]}.{kind}"] for name, module, kind in own_names}, content)
    return content.getvalue()


def caffe_file(name):
    return frameworks.caffemodel(dict(narrow(name).state_dict()), name == "caffe", old=True)


class Server(http.server.ThreadingHTTPServer):
    """Serves files from a dict of paths, and counts requests."""

    def __init__(self, files):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                path = handler.path.partition("?")[0]
                self.requested.append(path)
                content = self.files.get(path)
                if content is None:
                    handler.send_response(404)
                    handler.send_header("X-Error-Code", "RepoNotFound")
                    handler.end_headers()
                    return
                start = 0
                if handler.headers.get("Range"):
                    start = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
                handler.send_response(206 if start else 200)
                handler.send_header("Content-Length", str(len(content) - start))
                if start:
                    handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                handler.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                handler.send_header("X-Repo-Commit", "c" * 40)
                handler.end_headers()
                if handler.command == "GET":
                    cut = self.cuts.pop() if self.cuts else None
                    handler.wfile.write(content[start:][:cut])
                    if cut:
                        handler.close_connection = True

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requested, self.cuts = files, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server():
    with Server({}) as started:
        threading.Thread(target=started.serve_forever, args=(0.02,), daemon=True).start()
        yield started
        started.shutdown()


@pytest.fixture
def published(server, monkeypatch):
    """Files of the layouts of all known names, at addresses on this machine."""
    monkeypatch.setattr(downloads, "PAUSES_S", (0.01,))
    for name, known in PUBLIC.items():
        content = torchvision_file() if name == "torchvision" else caffe_file(name)
        path = f"/{known.url.rpartition('/')[2]}"
        server.files[path] = content
        checksum = hashlib.new(known.algorithm, content).hexdigest()
        monkeypatch.setitem(PUBLIC, name, replace(known, url=f"{server.url}{path}", checksum=checksum))
    return server


def test_public_weights_have_the_checksums_that_their_publishers_state():
    assert PUBLIC["torchvision"].checksum.startswith("7be5be79")  # as its file's name says
    assert [len(known.checksum) for known in PUBLIC.values()] == [64, 40, 40]
    assert all(name in alexnet.variants() for name in PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_known_names_are_downloaded_once_and_give_the_network_of_that_name(name, published, capsys):
    classifier = alexnet.load(name, device="cpu")
    assert classifier.network.architecture.name == name and len(classifier.classes) == 5
    mean = classifier.bundle.preprocessing.mean.flatten()
    expected = [123.675, 116.28, 103.53] if name == "torchvision" else [122.67891434, 116.66876762, 104.00698793]
    torch.testing.assert_close(mean, torch.tensor(expected))
    reference = narrow(name).state_dict()["fc8.weight"]
    torch.testing.assert_close(classifier.network.fc8.weight, reference)
    alexnet.load(name, device="cpu")
    assert len(published.requested) == 1
    assert "guess" not in capsys.readouterr().err


def test_a_verified_file_is_verified_again_only_if_it_was_written(published):
    alexnet.load("torchvision", device="cpu")
    file = next(PUBLIC["torchvision"].by_hand.parent.rglob("*.pth"))
    facts, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the length of a comment that a zip may have
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    alexnet.load("torchvision", device="cpu")
    os.utime(file)
    with pytest.raises(ValueError, match="the SHA-256 of"):
        alexnet.load("torchvision")


def test_an_interrupted_download_is_resumed(published):
    published.cuts = [1000]
    assert alexnet.load("caffe", device="cpu").network.architecture.name == "caffe"
    assert len(published.requested) == 2


def test_a_wrong_checksum_is_an_error_and_the_file_is_not_kept(published, monkeypatch):
    right = PUBLIC["caffe"]
    monkeypatch.setitem(PUBLIC, "caffe", replace(right, checksum="0" * 40))
    with pytest.raises(ValueError, match=rf"^the SHA-1 of \S* must be {'0' * 40}, as that of http://127\S*, got "):
        alexnet.load("caffe")
    monkeypatch.setitem(PUBLIC, "caffe", right)
    assert alexnet.load("caffe", device="cpu").network.architecture.name == "caffe"
    assert len(published.requested) == 2


def test_without_a_connection_the_message_says_where_to_put_the_file(published, capsys):
    content, url = published.files.pop("/alexnet-owt-7be5be79.pth"), PUBLIC["torchvision"].url
    place = PUBLIC["torchvision"].by_hand
    with pytest.raises(SystemExit):
        main(["predict", "torchvision", "cat.jpg"])
    assert capsys.readouterr().err == (
        f"alexnet: {url} cannot be downloaded into {place.parent}: the server answers 404 Not Found; "
        f"without a connection, fetch it on another computer and put it at {place}\n"
    )
    place.write_bytes(content)
    assert alexnet.load("torchvision", device="cpu").network.architecture.name == "torchvision"
    place.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"^the SHA-256 of \S*alexnet-owt-7be5be79\.pth must be "):
        alexnet.load("torchvision")
    assert place.exists()  # it is the user's


def test_a_url_of_any_file_of_weights(published):
    url = f"{published.url}/bvlc_alexnet.caffemodel"
    assert alexnet.load(url, device="cpu").network.architecture.name == "caffe"
    bundle, report = alexnet.import_weights(url, mean=(104, 117, 123))
    assert report.variant == "caffe" and bundle.preprocessing.mean.flatten().tolist() == [104, 117, 123]
    assert len(published.requested) == 1


def test_a_wrong_name_gets_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = "a run, a saved folder, a file, a URL, hf://OWNER/REPO[/FILE], or one of torchvision, caffe, caffenet"
    for wrong, near in (("torchvison", "torchvision"), ("CaffeNet", "caffenet"), ("runs/photos", None)):
        hint = f"; did you mean '{near}'?" if near else ""
        with pytest.raises(ValueError) as error:
            alexnet.load(wrong)
        assert str(error.value) == f"{wrong} does not exist; weights must be {kinds}{hint}"


def test_a_folder_with_a_known_name_is_reached_as_a_path(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alexnet.load("caffenet", device="cpu").save("caffe")
    assert alexnet.load("./caffe", device="cpu").network.architecture.name == "caffenet"
    assert alexnet.load("caffe", device="cpu").network.architecture.name == "caffe"


def test_create_with_pretrained_weights(published, tmp_path):
    narrow_caffe = narrow("caffe").architecture
    network = alexnet.create(narrow_caffe, num_classes=5, pretrained=True)
    published_network = alexnet.load("caffe", device="cpu").network.eval()
    x = 60 * torch.randn(2, 3, 227, 227)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(x), published_network(x))
    fewer = alexnet.create(narrow_caffe, num_classes=3, pretrained=True)
    assert torch.equal(fewer.fc7.weight, network.fc7.weight) and fewer.fc8.weight.shape == (3, 16)
    alexnet.load("caffe", device="cpu").save(tmp_path / "saved")
    assert torch.equal(alexnet.create(narrow_caffe, 5, pretrained=tmp_path / "saved").fc8.weight, network.fc8.weight)
    message = "pretrained=True needs a network with public weights (torchvision, caffe, caffenet), got 'original'"
    with pytest.raises(ValueError) as error:
        alexnet.create("original", pretrained=True)
    assert str(error.value) == message
    lookalike = replace(narrow_caffe, name="no-norm", norm=None)  # the same tensors, another function
    with pytest.raises(ValueError, match=r"^pretrained must be weights of no-norm, got those of caffe "):
        alexnet.create(lookalike, num_classes=5, pretrained=tmp_path / "saved")
    with pytest.raises(ValueError, match="no layer of its network, caffe, fits caffe"):
        alexnet.create("caffe", pretrained=True)
    with pytest.raises(ValueError, match=r"^fc6, fc7 of caffe do not fit the weights in \S*bvlc_alexnet"):
        alexnet.create(narrow_caffe, num_classes=5, input_size=195, pretrained=True)


def test_every_command_that_takes_weights_takes_a_name(published, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = str(next((folder / "red").iterdir()))
    main(["predict", "torchvision", image, "--json", "--device", "cpu"])
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 5
    main(["export", "torchvision", "--format", "npy"])
    assert (tmp_path / "torchvision.npy").exists()
    main(["import", "caffenet", "--output", "mine"])
    assert alexnet.load("mine", device="cpu").network.architecture.name == "caffenet"
    arguments = ["--pretrained", "torchvision", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    main(["train", str(folder), "--output", "run", *arguments])
    assert "alexnet-owt-7be5be79" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["variant"] == "torchvision"
    main(["evaluate", "run", "--device", "cpu"])
    assert "top-1" in capsys.readouterr().out


HUB = """
import sys
import alexnet

for weights in ("hf://me/nets", "hf://me/nets/other.safetensors", "hf://me/nets@main"):
    assert alexnet.load(weights, device="cpu").classes == ("a", "b", "c"), weights
for weights in ("hf://me/none", "hf://me/empty"):
    try:
        alexnet.load(weights)
    except ValueError as error:
        print(error)
"""


def test_a_repository_of_the_hub(server, tmp_path):
    torch.save(alexnet.create("cifar-18", 3).state_dict(), tmp_path / "net.pt")
    bundle, _ = alexnet.import_weights(tmp_path / "net.pt", "cifar-18", classes=("a", "b", "c"))
    saved = alexnet.export_weights(bundle, tmp_path / "saved", "huggingface")
    (saved / "other.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    for repo, names in (("nets", ["model.safetensors", "config.json", "other.safetensors"]), ("empty", [])):
        info = {"id": f"me/{repo}", "sha": "c" * 40, "siblings": [{"rfilename": name} for name in names]}
        tree = [
            {"type": "file", "path": name, "size": (saved / name).stat().st_size, "oid": "0" * 40} for name in names
        ]
        for revision in ("main", "c" * 40):
            server.files[f"/api/models/me/{repo}/revision/{revision}"] = json.dumps(info).encode()
            server.files[f"/api/models/me/{repo}/tree/{revision}"] = json.dumps(tree).encode()
            for name in names:
                server.files[f"/me/{repo}/resolve/{revision}/{name}"] = (saved / name).read_bytes()
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", HUB], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    refused, empty = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
    assert refused.startswith("hf://me/none cannot be downloaded: ")
    assert empty == "hf://me/empty has no model.safetensors; name one of its files, as in hf://me/empty/FILE"
