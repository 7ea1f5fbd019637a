"""Features: the same numbers by every name, the right row for every image, and files that survive a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import train
from PIL import Image
from test_hooks import images_for
from test_networks import narrow

import alexnet
from alexnet.analysis.features import FeatureSettings, activations, last_hidden
from alexnet.cli import main
from alexnet.model.bundle import ModelBundle
from alexnet.model.network import TORCHVISION_NAMES
from alexnet.preprocessing.images import stored_image
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.variants import VARIANTS


def stored(bundle, count, seed=0):
    side = bundle.preprocessing.stored_size
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))


def bundle_of(network, margin=0):
    size = network.input_size
    inputs = Preprocessing(size + margin, size, torch.full((1, 1, 3), 120.0), torch.full((3,), 40.0))
    return ModelBundle(network, inputs, tuple(map(str, range(network.num_classes))))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_has_the_same_numbers_by_hook_by_features_by_torchvisions_name_and_in_files(name):
    """And in ONNX: `test_onnx_runtime_gives_the_same_activations_under_the_same_names`."""
    network = narrow(name).eval()
    bundle, hooked = bundle_of(network), {}
    images, layers = stored(bundle, 2), [layer for layer, _ in network.named_children()]
    aliases = {alias: layer for alias, layer in TORCHVISION_NAMES.items() if layer in layers}
    assert len(aliases) > 5
    for layer, module in network.named_children():
        module.register_forward_hook(lambda module, args, output, layer=layer: hooked.update({layer: output}))
    with torch.no_grad():
        network(bundle.preprocessing.center_crop(images))
    expected = hooked | {alias: hooked[layer] for alias, layer in aliases.items()}
    in_files = activations(bundle, images, FeatureSettings((*layers, *aliases)))
    with torch.no_grad():
        features = network.features(bundle.preprocessing.center_crop(images), [*layers, *aliases])
    assert set(in_files) == set(features) == set(expected)
    for layer in expected:
        assert torch.equal(in_files[layer], expected[layer]), layer
        assert torch.equal(features[layer], expected[layer]), layer


def test_views_and_pools_are_what_they_say():
    bundle = bundle_of(narrow("cifar-18").eval(), margin=8)
    images = stored(bundle, 2)
    with torch.no_grad():
        views = bundle.network.features(bundle.preprocessing.all_views(images), ["conv2", "fc8"])
        center = bundle.network.features(bundle.preprocessing.center_crop(images), "conv2")["conv2"]
    ten = activations(bundle, images, FeatureSettings(("conv2", "fc8"), views="ten"))
    assert torch.equal(ten["fc8"][1], views["fc8"][10:].mean(0))
    assert torch.equal(ten["conv2"][0], views["conv2"][:10].mean(0))
    for pool, reduce in (("mean", torch.mean), ("max", torch.amax)):
        pooled = activations(bundle, images, FeatureSettings(("conv2", "fc8"), pool=pool))
        torch.testing.assert_close(pooled["conv2"], reduce(center, (2, 3)), rtol=0, atol=0)
        assert pooled["fc8"].shape == (2, 5)
    halves = activations(bundle, images, FeatureSettings(("conv2",), dtype="float16"))["conv2"]
    assert torch.equal(halves, center.half())


def test_what_float16_cannot_hold_is_refused():
    bundle = bundle_of(narrow("cifar-18").eval())
    bundle.network.conv1.bias.data.fill_(70_000)
    with pytest.raises(ValueError, match=r"conv1 has values up to 7e\+04, more than float16 holds; use float32"):
        activations(bundle, stored(bundle, 1), FeatureSettings(("conv1",), dtype="float16"))


@pytest.mark.parametrize("name", ["small", "cifar-18", "original", "conv6"])
def test_the_last_hidden_layer_is_what_the_scores_are_computed_from(name):
    network = narrow(name).eval()
    hidden = network.features(images_for(network), last_hidden(network))[last_hidden(network)]
    *_, (_, last) = network.named_children()
    scores = network(images_for(network))
    keep = getattr(list(network.children())[-2], "keep", 1)
    torch.testing.assert_close(last(keep * hidden.flatten(1)), scores)


@pytest.fixture
def saved(folder, tmp_path):
    """A classifier that was trained a little, and its saved folder."""
    classifier, _ = train(folder, epochs=1)
    return classifier, classifier.save(tmp_path / "saved")


def rows_of(output):
    with (output / "images.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_the_files_and_python_give_the_same_numbers(saved, folder, tmp_path, capsys):
    classifier, run = saved
    main(["features", str(run), str(folder), "--layers", "conv3", "pool3", "--output", str(tmp_path / "out")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "60 images: conv3 4,096 values, 0.000983 GB; pool3 1,024 values, 0.000246 GB" in printed
    rows = rows_of(tmp_path / "out")
    assert [row["row"] for row in rows] == [str(row) for row in range(60)]
    with torch.inference_mode():
        expected = classifier.network.features(classifier.inputs([row["path"] for row in rows]), ["conv3", "pool3"])
    python = classifier.features([row["path"] for row in rows], ["pool3", "conv3"])
    for layer, values in expected.items():
        file = np.load(tmp_path / "out" / f"{layer}.npy", mmap_mode="r")
        assert file.dtype == np.float32 and file.shape == (60, *values.shape[1:])
        np.testing.assert_allclose(file, values, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(file, python[layer], rtol=1e-4, atol=1e-4)
    for row in rows[::7]:
        path, size = Path(row["path"]), classifier.bundle.preprocessing.stored_size
        assert row["label"] == path.parent.name and int(row["size"]) == path.stat().st_size
        assert int(row["checksum"], 16) == zlib.crc32(stored_image(path, size))
    facts = json.loads((tmp_path / "out" / "features.json").read_text())
    assert facts["rows_done"] == facts["images"] == 60 and facts["network"] == "cifar-18"


def test_the_right_row_for_every_image(saved, tmp_path):
    """Of images without labels that show their own number, as a gray value."""
    classifier, _ = saved
    (tmp_path / "numbered").mkdir()
    for number in np.random.default_rng(0).permutation(230):
        Image.new("L", (40, 40), int(number)).save(tmp_path / "numbered" / f"image {number}.png")
    with torch.no_grad():  # a unit that gives the mean of its window
        classifier.network.conv1.weight.fill_(1 / 75)
    kept = classifier.features(tmp_path / "numbered", ["conv1"], tmp_path / "out", verbose=False)["conv1"]
    shown = classifier.network.conv1(classifier.inputs(tmp_path / "numbered" / "image 0.png"))[0, :, 16, 16]
    step = classifier.bundle.preprocessing.std.reciprocal().mean().item()
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 230 and {row["label"] + row["split"] for row in rows} == {""}
    for row, values in zip(rows, kept[:, :, 16, 16], strict=True):
        number = float(Path(row["path"]).stem.removeprefix("image "))
        np.testing.assert_allclose(values, shown.detach() + number * step, atol=0.2 * step)


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
import alexnet
from alexnet.analysis import features
features.SAVE_S, features.BATCH_SIZE = 0, 4

def killed(batches, total):
    for index, batch in enumerate(batches):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

classifier = alexnet.load(sys.argv[1], device="cpu")
settings = features.FeatureSettings(("conv1", "fc8"))
features.Extraction(classifier.bundle, classifier.images(sys.argv[2]), settings, Path(sys.argv[3])).run(killed)
"""


@pytest.mark.skipif(os.name == "nt", reason="has no SIGKILL")
def test_a_killed_extraction_goes_on_and_ends_with_the_same_bytes(saved, folder, tmp_path, monkeypatch):
    classifier, run = saved
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.setattr("alexnet.analysis.features.BATCH_SIZE", 4)
    classifier = alexnet.load(run, device="cpu")
    classifier.features(folder, ["conv1", "fc8"], whole, verbose=False)
    child = subprocess.run([sys.executable, "-c", KILLED, run, folder, killed])
    assert child.returncode == -signal.SIGKILL
    assert json.loads((killed / "features.json").read_text())["rows_done"] == 32
    read = []
    monkeypatch.setattr(
        "alexnet.analysis.features.activations",
        lambda bundle, images, settings: read.append(len(images)) or activations(bundle, images, settings),
    )
    classifier.features(folder, ["conv1", "fc8"], killed, verbose=False)
    assert read == [1, 16, 12], "a blank image for the shapes, and what was missing"
    assert sorted(path.name for path in killed.iterdir()) == ["conv1.npy", "fc8.npy", "features.json", "images.csv"]
    for path in whole.iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes(), path.name
    classifier.features(folder, ["conv1", "fc8"], killed, verbose=False)
    assert read[3:] == [1], "what is complete is not computed again"


def test_a_folder_of_something_else_is_refused(saved, folder, tmp_path):
    classifier, _ = saved
    classifier.features(folder, "fc8", tmp_path / "out", verbose=False)
    with pytest.raises(ValueError, match="holds features with another dtype; choose another folder"):
        classifier.features(folder, "fc8", tmp_path / "out", dtype="float16", verbose=False)
    with pytest.raises(ValueError, match="output must be a new or an empty folder, or one of features"):
        classifier.features(folder, "fc8", folder, verbose=False)
    with pytest.raises(ValueError, match=r"a layer of cifar-18 must be one of conv1, .* got 'conv9'"):
        classifier.features(folder, "conv9", tmp_path / "new", verbose=False)
    assert not (tmp_path / "new").exists()


def test_features_of_imported_weights_and_of_classes_that_they_do_not_know(saved, tmp_path, folder):
    classifier, _ = saved
    file = alexnet.export_weights(classifier.bundle, tmp_path / "foreign.npy", "npy")
    folder.joinpath("red").rename(folder / "crimson")
    main(["import", str(file), "--variant", "cifar-18", "--output", str(tmp_path / "imported")])
    main(["features", str(tmp_path / "imported"), str(folder), "--output", str(tmp_path / "out")])
    assert {row["label"] for row in rows_of(tmp_path / "out")} == {"blue", "crimson", "green"}
    found = np.load(tmp_path / "out" / "pool3.npy")
    assert found.shape == (60, 64, 4, 4) and found.any()


def test_parquet_has_a_vector_for_each_image(saved, folder, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, run = saved
    monkeypatch.setattr("alexnet.analysis.features.COPIED_VALUES", 7 * 4096)
    arguments = ["--layers", "conv3", "fc8", "--dtype", "float16", "--parquet", "--output", str(tmp_path / "out")]
    main(["features", str(run), str(folder), *arguments])
    table = parquet.read_table(tmp_path / "out" / "features.parquet").to_pydict()
    assert table["path"] == [row["path"] for row in rows_of(tmp_path / "out")]
    for layer in ("conv3", "fc8"):
        expected = np.load(tmp_path / "out" / f"{layer}.npy").reshape(60, -1)
        assert np.array_equal(np.array(table[layer], np.float16), expected)
