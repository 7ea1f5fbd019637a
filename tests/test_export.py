"""ONNX files, run by ONNX Runtime, and torch.export's, run without this package, against the networks themselves."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import alexnet
from alexnet.cli import main
from alexnet.data.pack.packing import make_pack
from alexnet.data.sources.detection import open_source
from alexnet.model.bundle import ModelBundle
from alexnet.model.network import AlexNet
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.variants import VARIANTS

SIDE = 99
"""Side of the images, pixels, for networks made for larger ones, to save time."""


def export(network, path, preprocessing=None):
    """Write a network in the format of the file name's ending."""
    size = network.input_size
    bundle = ModelBundle(
        network,
        preprocessing or Preprocessing(size, size, torch.zeros(1, 1, 3), torch.ones(3)),
        tuple(map(str, range(network.num_classes))),
    )
    format = {".onnx": "onnx", ".pt2": "torch-export"}[path.suffix]
    return alexnet.export_weights(bundle, path, format, preprocessing=preprocessing is not None)


def pixels(side, count=3):
    scale = 60 if side > 60 else 1
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * scale


def assert_close(actual, expected, rtol=1e-4):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-5 * np.abs(expected).max())


def onnx_activations(path, images, layers=()):
    """The values with the names of these layers and `scores` in an ONNX file, as ONNX Runtime computes them."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in model.graph.output][:1] == ["scores"]
    values = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(values[layer] for layer in layers)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(["scores", *layers], session.run(["scores", *layers], {"images": images}), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_runtime_gives_the_same_activations_under_the_same_names(name, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    network = alexnet.create(name, num_classes=7, input_size=side).eval()
    path, x = export(network, tmp_path / "network.onnx"), pixels(side)
    with torch.inference_mode():
        expected = network.features(x)
        expected.popitem()  # the last layer, whose output is `scores`
        scores = network(x)
    actual = onnx_activations(path, x.numpy(), list(expected))
    for layer, activation in {"scores": scores, **expected}.items():
        assert_close(actual[layer], activation.numpy())


@pytest.mark.parametrize("size", [4, 5])
def test_onnx_normalizes_over_the_same_window(size, tmp_path):
    norm = replace(VARIANTS["cifar-11"].norm, size=size, groups=2, alpha=1.0)
    network = AlexNet(replace(VARIANTS["cifar-11"], norm=norm), 7).eval()
    path, x = export(network, tmp_path / "network.onnx"), pixels(32)
    with torch.inference_mode():
        assert_close(onnx_activations(path, x.numpy())["scores"], network(x).numpy())


def test_onnx_has_operators_of_its_own_for_normalization_and_no_paths_of_this_machine(tmp_path):
    path = export(alexnet.create("batch-norm", num_classes=7, input_size=SIDE), tmp_path / "network.onnx")
    assert "BatchNormalization" in [node.op_type for node in onnx.load(path).graph.node]
    path = export(alexnet.create("original", num_classes=7, input_size=SIDE), tmp_path / "network.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node].count("LRN") == 4  # two layers, two towers
    assert torch.__path__[0].encode() not in path.read_bytes()


def test_a_package_that_onnx_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx_ir.passes.common", None)
    with pytest.raises(ImportError, match=r"needs the package onnxscript: pip install 'alexnet\[export\]'"):
        export(alexnet.create("cifar-18", num_classes=7), tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


RUN_PROGRAM = """
import sys, numpy, torch
sys.modules["alexnet"] = None
images = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], torch.export.load(sys.argv[1]).module()(images).detach().numpy())
"""


def program_scores(path, images, folder):
    """Scores of a file of torch.export, in a process that has torch but not this package."""
    np.save(folder / "images.npy", images)
    files = [path, folder / "images.npy", folder / "scores.npy"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", RUN_PROGRAM, *files], check=True)
    return np.load(folder / "scores.npy")


@pytest.mark.parametrize("name", ["original", "caffenet", "cifar-13", "small"])
def test_a_program_of_torch_gives_the_same_scores(name, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    network = alexnet.create(name, num_classes=7, input_size=side).eval()
    path, x = export(network, tmp_path / "network.pt2"), pixels(side)
    with torch.inference_mode():
        expected = network(x).numpy()
    assert_close(program_scores(path, x.numpy(), tmp_path), expected, rtol=1e-5)


@pytest.mark.parametrize("file_name", ["network.onnx", "network.pt2"])
@pytest.mark.parametrize("mean", ["color", "image"])
def test_preprocessing_can_be_in_the_file(mean, file_name, folder, tmp_path):
    images = torch.from_numpy(np.array(make_pack(open_source(str(folder)), 64).images[:5]))
    shape = (64, 64, 3) if mean == "image" else (1, 1, 3)
    pixel_mean = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    preprocessing = Preprocessing(64, 56, pixel_mean, torch.tensor([50.0, 60.0, 70.0]), mean_follows_crop=True)
    network = alexnet.create("small", num_classes=7).eval()
    with torch.inference_mode():
        expected = network(preprocessing.center_crop(images)).numpy()
    path = export(network, tmp_path / file_name, preprocessing)
    if path.suffix == ".onnx":
        actual = onnx_activations(path, images.numpy())["scores"]
    else:
        actual = program_scores(path, images.numpy(), tmp_path)
    assert_close(actual, expected, rtol=1e-5)


CLASSES = ("cat", "dog", "a fish")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A classifier of 3 classes by torchvision's network, whose answers depend on the image, and an image."""
    folder = tmp_path_factory.mktemp("saved")
    changes = {f"conv{number}": {"channels": 8} for number in range(1, 6)} | {
        "fc6": {"units": 16},
        "fc7": {"units": 16},
    }
    network = alexnet.create(VARIANTS["torchvision"].with_layers(**changes), num_classes=3)
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        bound = (3 / parameter[0].numel()) ** 0.5
        parameter.data.uniform_(-bound, bound, generator=generator)
    mean, std = torch.tensor([123.675, 116.28, 103.53]).view(1, 1, 3), torch.tensor([58.395, 57.12, 57.375])
    ModelBundle(network, Preprocessing(256, 224, mean, std), CLASSES).save(folder / "model.safetensors")
    colors = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(colors).resize((400, 300), Image.Resampling.BICUBIC).save(folder / "image.jpg", quality=95)
    return folder


TORCHVISION = """
import sys, types
from references import networks
import torch

class Narrow:
    @staticmethod
    def alexnet(num_classes):
        theirs = networks.torchvision_alexnet(num_classes).float()
        state = torch.load("net.pth", weights_only=True)
        for name, tensor in state.items():
            module, _, kind = name.rpartition(".")
            setattr(theirs.get_submodule(module), kind, torch.nn.Parameter(torch.zeros_like(tensor)))
        return theirs

sys.modules["torchvision"] = types.SimpleNamespace(models=Narrow)
"""


@pytest.mark.parametrize(
    "format, name, options",
    [
        ("onnx", "net.onnx", []),
        ("onnx", "net.onnx", ["--preprocessing"]),
        ("torch-export", "net.pt2", []),
        ("torch-export", "net.pt2", ["--preprocessing"]),
        ("torchvision", "net.pth", []),
        ("caffe", "net", []),
        ("safetensors", "net.safetensors", []),
        ("huggingface", "net", []),
    ],
)
def test_the_lines_that_export_prints_classify_as_the_classifier_does(format, name, options, saved, tmp_path, capsys):
    if format == "caffe" and not hasattr(pytest.importorskip("cv2").dnn, "readNetFromCaffe"):
        pytest.skip("OpenCV reads Caffe's files up to version 4")
    classifier = alexnet.load(saved, device="cpu", precision="fp32")
    main(["export", str(saved), "--format", format, "--output", str(tmp_path / name), *options])
    printed = capsys.readouterr().out
    lines = printed[min(printed.index(word) for word in ("\nimport ", "\nfrom ") if word in printed) :]
    assert len(lines.strip().splitlines()) <= 22 and max(map(len, lines.replace(str(tmp_path), "").splitlines())) <= 80
    shutil.copy(saved / "image.jpg", tmp_path)
    code = (TORCHVISION if format == "torchvision" else "") + lines
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
    run = [sys.executable, "-c", code]
    output = subprocess.run(run, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    all_views = format in ("safetensors", "huggingface")
    expected = classifier.predict_n(saved / "image.jpg", 3, all_views=all_views)
    assert expected[0][1] > 0.4, "a network that cannot decide proves nothing"
    if all_views:
        actual = [(each, round(share, 3)) for each, share in ast.literal_eval(output)]
        assert actual == [(each, pytest.approx(share, abs=2e-3)) for each, share in expected]
    else:
        actual = [line.split("%  ") for line in output.splitlines()]
        assert [(each, float(share)) for share, each in actual] == [
            (each, pytest.approx(100 * share, abs=0.2)) for each, share in expected
        ]


@pytest.mark.parametrize("format, output", [("caffe", "net"), ("npy", "net.npy"), ("keras", "net.weights.h5")])
def test_the_other_lines_are_python_and_name_the_file(format, output, saved, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["export", str(saved), "--format", format, "--output", output])
    printed = capsys.readouterr().out
    lines = printed.split(f"{output}\n\n", 1)[1]
    compile(lines, "lines", "exec")
    for path in re.findall(r"'([^']+)'", lines):
        assert (tmp_path / path).exists(), path
    if format == "npy":
        exec(lines)
        assert capsys.readouterr().out.startswith("conv1 (11, 11, 3, 8) (8,)\n")


def test_an_onnx_file_says_its_classes_preprocessing_variant_and_version(saved, tmp_path):
    bundle = alexnet.load(saved, device="cpu").bundle
    for included in (False, True):
        alexnet.export_weights(bundle, tmp_path / "net.onnx", "onnx", preprocessing=included)
        session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
        facts = session.get_modelmeta().custom_metadata_map
        assert json.loads(facts["classes"]) == ["cat", "dog", "a fish"]
        preprocessing = json.loads(facts["preprocessing"])
        assert preprocessing.pop("mean") == pytest.approx([123.675, 116.28, 103.53])
        assert preprocessing.pop("std") == pytest.approx([58.395, 57.12, 57.375])
        sizes = {"stored_size": 256, "crop_size": 224}
        assert preprocessing == {"included": included, "colors": "RGB, 0 to 255", **sizes}
        assert (facts["variant"], facts["alexnet_version"]) == ("torchvision", alexnet.__version__)
        expected = ["scores", "probabilities"] if included else ["scores"]
        assert [output.name for output in session.get_outputs()] == expected
    side = bundle.preprocessing.stored_size
    image = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    scores, probabilities = session.run(None, {"images": image})
    torch.testing.assert_close(torch.from_numpy(probabilities), torch.from_numpy(scores).softmax(1))


@pytest.mark.parametrize("name", ["cifar-13", "batch-norm", "original", "torchvision"])
@pytest.mark.parametrize("included", [False, True])
def test_an_onnx_file_is_read_back_as_the_same_network(name, included, tmp_path):
    side = min(SIDE, VARIANTS[name].input_size)
    network = alexnet.create(name, num_classes=3, input_size=side)
    mean = torch.rand(side + 8, side + 8, 3, generator=torch.Generator().manual_seed(0)) * 255
    inputs = Preprocessing(side + 8, side, mean, torch.tensor([50.0, 60.0, 70.0]), mean_follows_crop=True, flip=False)
    alexnet.export_weights(ModelBundle(network, inputs, CLASSES), tmp_path / "net.onnx", "onnx", included)
    read = alexnet.load(tmp_path / "net.onnx", device="cpu").bundle
    assert (read.classes, read.network.architecture) == (CLASSES, network.architecture)
    for layer, tensor in network.state_dict().items():
        assert torch.equal(read.network.state_dict()[layer], tensor), layer
    assert torch.equal(read.preprocessing.mean, mean) and torch.equal(read.preprocessing.std, inputs.std)
    sizes = read.preprocessing.stored_size, read.preprocessing.crop_size
    assert (sizes, read.preprocessing.mean_follows_crop, read.preprocessing.flip) == ((side + 8, side), True, False)


def test_predict_takes_an_onnx_file(saved, tmp_path, capsys):
    classifier = alexnet.load(saved, device="cpu", precision="fp32")
    alexnet.export_weights(classifier.bundle, tmp_path / "model.onnx", "onnx", preprocessing=True)
    image = str(saved / "image.jpg")
    main(["predict", str(tmp_path / "model.onnx"), image, "--json", "--device", "cpu", "--precision", "fp32"])
    (best, *_) = json.loads(capsys.readouterr().out)["classes"]
    assert (best["name"], best["probability"]) == classifier.predict_n(image, 1)[0]


def test_an_onnx_file_of_another_program_is_refused(saved, tmp_path):
    bundle = alexnet.load(saved, device="cpu").bundle
    path = alexnet.export_weights(bundle, tmp_path / "net.onnx", "onnx")
    content = path.read_bytes()

    def refused(message, change):
        model = onnx.load_model_from_string(content)
        change(model, next(each for each in model.metadata_props if each.key == "alexnet"))
        onnx.save(model, path)
        with pytest.raises(ValueError, match=rf"^\S*net\.onnx: {message}"):
            alexnet.load(path)

    refused("an ONNX file that alexnet did not write; import", lambda model, facts: model.metadata_props.remove(facts))
    again = "an ONNX file that cannot be read back: "
    refused(again, lambda model, facts: setattr(facts, "value", "{"))
    refused(again, lambda model, facts: setattr(facts, "value", "[]"))
    refused(f"{again}KeyError", lambda model, facts: model.graph.ClearField("initializer"))
    refused(again, lambda model, facts: setattr(model.graph.initializer[0], "raw_data", b"abc"))
    path.write_bytes(b"\x08\x08\x12\x7f")
    with pytest.raises(ValueError, match=r"^\S*net\.onnx: ONNX's ModelProto in it is damaged"):
        alexnet.load(path)
    path.write_bytes(b"\x08\x08" + b"\x72\x00" * 1001)
    with pytest.raises(ValueError, match=r"^\S*net\.onnx: an ONNX file of more than 1,000 constants or metadata$"):
        alexnet.load(path)


@pytest.mark.parametrize("format, name", [("torchvision", "net.pth"), ("npy", "net.npy"), ("keras", "net.weights.h5")])
def test_class_names_stand_beside_a_file_that_cannot_hold_them_and_are_read_from_there(format, name, saved, tmp_path):
    bundle = alexnet.load(saved, device="cpu").bundle
    alexnet.export_weights(bundle, tmp_path / name, format)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["net.classes.txt", name])
    assert (tmp_path / "net.classes.txt").read_text(encoding="utf-8") == "cat\ndog\na fish\n"
    assert alexnet.import_weights(tmp_path / name, "torchvision")[0].classes == CLASSES
    assert alexnet.import_weights(tmp_path / name, "torchvision", classes=[*"abc"])[0].classes == ("a", "b", "c")


def test_a_model_card_says_how_to_load_the_network_and_is_not_overwritten(saved, tmp_path):
    bundle = alexnet.load(saved, device="cpu").bundle
    alexnet.export_weights(bundle, tmp_path, "huggingface")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: alexnet\npipeline_tag: image-classification\ntags:\n- alexnet\n")
    assert 'classifier = alexnet.load("hf://OWNER/REPO")' in card
    assert card.endswith("Classes, in the order of the scores: cat, dog, a fish\n")
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    alexnet.export_weights(bundle, tmp_path, "huggingface")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"
