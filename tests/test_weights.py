"""Weights of other frameworks: files made byte by byte, against those frameworks' own rules (tests/references)."""

import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from references import frameworks, networks
from safetensors.torch import save_file

import alexnet
from alexnet import import_weights
from alexnet.cli import main
from alexnet.model.bundle import ModelBundle
from alexnet.model.network import TORCHVISION_NAMES, AlexNet
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.operations import Conv, Linear
from alexnet.specs.variants import variant

CLASSES = tuple("abcdefg")
MEAN, STD = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([50.0, 60.0, 70.0])


def narrow(name):
    """A network of few maps and units, 7 classes, with weights large enough that its answers depend on the image."""
    changes = {}
    for index, layer in enumerate(variant(name).layers):
        if isinstance(layer, Conv):
            changes[layer.name] = {"channels": 2 * (6 + index)}
        elif isinstance(layer, Linear) and layer.units is not None:
            changes[layer.name] = {"units": 20 + 2 * index}
    network = AlexNet(variant(name).with_layers(**changes), len(CLASSES)).eval()
    generator = torch.Generator().manual_seed(1)
    for each, parameter in network.named_parameters():
        bound = 0.5 if each.endswith("bias") else math.sqrt(3 / parameter[0].numel())
        parameter.data.uniform_(-bound, bound, generator=generator)
    return network


def bundle(name, std=STD):
    network = narrow(name)
    inputs = Preprocessing(network.architecture.stored_size, network.input_size, MEAN.view(1, 1, 3), std)
    return ModelBundle(network, inputs, CLASSES)


def images(side):
    """Two images in pixel units around zero, RGB, (2, 3, side, side)."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(2, 3, 9, 9, generator=generator)
    return 60 * torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)


def parameters(network):
    return {name: each.detach().clone() for name, each in network.state_dict().items()}


def tensorflow_layers(network):
    """Random weights as TensorFlow has them, and no transposition of ours."""
    generator = np.random.default_rng(3)
    layers = {}
    for name, each in network.named_parameters():
        layer, kind = name.split(".")
        if kind == "weight":
            shape = (
                (*each.shape[2:], each.shape[1], each.shape[0]) if each.dim() == 4 else (each.shape[1], each.shape[0])
            )
            bound = math.sqrt(3 / each[0].numel())
            layers[layer] = [generator.uniform(-bound, bound, shape).astype(np.float32)]
        else:
            layers[layer].append(generator.uniform(-0.5, 0.5, each.shape).astype(np.float32))
    return layers


def assert_same(actual, expected):
    actual, expected = actual.detach().double(), expected.detach().double()
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "two images with one answer prove nothing"
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def caffe_reference(weights, x, norm_first):
    return networks.caffe({name: each.double() for name, each in weights.items()}, x.double(), norm_first)


@pytest.mark.parametrize("old", [True, False], ids=["V1LayerParameter", "LayerParameter"])
@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_a_caffemodel_gives_what_caffe_gives_and_says_which_network_it_is(name, old, tmp_path):
    weights = parameters(narrow(name))  # as Caffe has them: the first layer reads blue, green, red
    path = tmp_path / "bvlc.caffemodel"
    path.write_bytes(frameworks.caffemodel(weights, name == "caffe", old))
    imported, report = import_weights(path)
    assert (report.variant, report.skipped, report.new) == (name, (), ())
    assert imported.network.input_size == 227
    x = images(227)
    assert_same(imported.network(x), caffe_reference(weights, x.flip(1), name == "caffe"))


def test_a_caffemodel_made_for_smaller_images_and_other_classes(tmp_path):
    weights = parameters(AlexNet(narrow("caffe").architecture, 3, input_size=99))
    path = tmp_path / "small.caffemodel"
    path.write_bytes(frameworks.caffemodel(weights, True, old=False, side=99))
    imported, _ = import_weights(path, classes=["x", "y", "z"])
    assert imported.network.input_size == 99 and imported.classes == ("x", "y", "z")


def test_the_mean_image_of_caffe_is_taken_off_in_rgb(tmp_path):
    mean = np.random.default_rng(0).uniform(90, 130, (3, 256, 256)).astype(np.float32)  # BGR
    (tmp_path / "mean.binaryproto").write_bytes(frameworks.old_blob(mean))
    np.save(tmp_path / "mean.npy", mean.astype(np.float64))
    (tmp_path / "net").write_bytes(frameworks.caffemodel(parameters(narrow("caffe")), True, old=True))
    for name in ("mean.binaryproto", "mean.npy"):
        imported, _ = import_weights(tmp_path / "net", mean=tmp_path / name)
        pixels = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
        expected = pixels[0].float().numpy() - mean[::-1].transpose(1, 2, 0)
        seen = imported.preprocessing.center_crop(pixels)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(seen, expected[14:241, 14:241], atol=1e-4)
        assert imported.preprocessing.mean_follows_crop


def test_a_layer_that_no_alexnet_has_is_named(tmp_path):
    for kind in ("Concat", "Sigmoid"):
        net = frameworks.caffemodel(parameters(narrow("caffe")), True, old=False)
        net += frameworks.field(100, frameworks.field(1, b"odd") + frameworks.field(2, kind.encode()))
        (tmp_path / "net").write_bytes(net)
        with pytest.raises(ValueError, match=f"odd is a layer of type {kind}"):
            import_weights(tmp_path / "net")


@pytest.mark.parametrize("name", ["caffe", "caffenet", "torchvision", "paper"])
def test_a_caffe_export_imports_as_the_same_network(name, tmp_path):
    ours = bundle(name)
    alexnet.export_weights(ours, tmp_path / "net", "caffe")
    imported, report = import_weights(
        tmp_path / "net" / "network.caffemodel", mean=tmp_path / "net" / "mean.binaryproto"
    )
    assert report.variant == name and imported.network.input_size == ours.network.input_size
    pixels = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8)
    actual = imported.network(imported.preprocessing.center_crop(pixels))
    assert_same(actual, ours.network(ours.preprocessing.center_crop(pixels)))
    text = (tmp_path / "net" / "deploy.prototxt").read_text(encoding="utf-8")
    assert 'type: "InnerProduct"' in text and "num_output: 7" in text and "blobs" not in text


def test_a_layer_that_caffe_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match="conv1: Caffe has no layer for Conv"):
        alexnet.export_weights(bundle("original"), tmp_path / "net", "caffe")


@pytest.mark.parametrize("writer", ["Python 2", "Python 3", "Python 3 for 2", "dicts"])
def test_the_npy_of_tensorflow_users_gives_what_tensorflow_gives(writer, tmp_path):
    layers, path = tensorflow_layers(narrow("caffe")), tmp_path / "bvlc_alexnet.npy"
    if writer == "Python 2":
        path.write_bytes(frameworks.npy_of_python_2(dict(sorted(layers.items(), reverse=True))))
    elif writer == "Python 3":
        np.save(path, layers)
    elif writer == "Python 3 for 2":
        path.write_bytes(NPY + pickle.dumps(np.array(layers, object), protocol=2))
    else:
        np.save(path, {name: {"weights": pair[0], "biases": pair[1]} for name, pair in layers.items()})
    imported, report = import_weights(path)
    assert report.variant == "caffe" and not report.skipped
    x = images(227)
    assert_same(imported.network(x), frameworks.tensorflow_alexnet(layers, x.flip(1).permute(0, 2, 3, 1).double()))


def test_an_npy_export_gives_the_same_scores_under_tensorflows_rules(tmp_path):
    ours = bundle("caffe")
    alexnet.export_weights(ours, tmp_path / "net.npy", "npy")
    layers = np.load(tmp_path / "net.npy", allow_pickle=True).item()
    x = images(227)
    expected = ours.network(x / STD.view(3, 1, 1))
    assert_same(frameworks.tensorflow_alexnet(layers, x.flip(1).permute(0, 2, 3, 1).double()), expected)


@pytest.mark.parametrize("archive", [False, True], ids=["weights.h5", "keras"])
def test_keras_weights_give_what_keras_gives(archive, tmp_path):
    layers, path = tensorflow_layers(narrow("caffe")), tmp_path / "model"
    path.write_bytes(frameworks.keras_weights(layers))
    if archive:
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
            file.writestr("config.json", "{}")
            file.write(path, "model.weights.h5")
        path = tmp_path / "model.keras"
    imported, report = import_weights(path, variant="caffe")
    assert report.skipped == ("optimizer",) and not report.new
    x = images(227)
    assert_same(imported.network(x), frameworks.tensorflow_alexnet(layers, x.permute(0, 2, 3, 1).double()))


def test_a_keras_export_gives_the_same_scores_under_its_rules(tmp_path):
    ours = bundle("caffe")
    alexnet.export_weights(ours, tmp_path / "net.weights.h5", "keras")
    with h5py.File(tmp_path / "net.weights.h5") as file:
        names = [f"conv2d{each}" for each in ("", "_1", "_2", "_3", "_4")] + ["dense", "dense_1", "dense_2"]
        arrays = [[file[f"layers/{name}/vars/{index}"][()] for index in (0, 1)] for name in names]
    layers = dict(zip([row.name for row in ours.network.architecture.layers], arrays, strict=True))
    x = images(227)
    assert_same(frameworks.tensorflow_alexnet(layers, x.permute(0, 2, 3, 1).double()), ours.network(x))


def test_a_keras_network_is_recognized_by_its_shapes(tmp_path):
    ours = ModelBundle(
        alexnet.create("cifar-keras", 10), Preprocessing(32, 32, MEAN.view(1, 1, 3), STD), tuple("0123456789")
    )
    alexnet.export_weights(ours, tmp_path / "net.weights.h5", "keras")
    imported, report = import_weights(tmp_path / "net.weights.h5", mean=(1, 2, 3), std=(4, 5, 6))
    assert report.variant == "cifar-keras" and "(1, 2, 3), divided by (4, 5, 6)" in report.inputs
    for name, tensor in ours.network.state_dict().items():
        assert torch.equal(imported.network.state_dict()[name], tensor)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "DataParallel", "checkpoint"])
def test_torchvisions_weights_give_what_torchvision_gives(form, tmp_path):
    theirs = theirs_like(narrow("torchvision"))
    state = {name: each.float().contiguous() for name, each in theirs.state_dict().items()}
    path = tmp_path / "alexnet-owt.pth"
    if form == "safetensors":
        save_file(state, path)
    elif form == "DataParallel":
        torch.save({f"module.{name}": each for name, each in state.items()}, path)
    elif form == "checkpoint":
        torch.save({"epoch": 90, "arch": "alexnet", "state_dict": state, "optimizer": {"state": {}}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    classifier = alexnet.load(path, device="cpu")
    assert classifier.network.architecture.name == "torchvision" and classifier.classes == tuple("0123456")
    assert torch.allclose(classifier.bundle.preprocessing.std, torch.tensor([58.395, 57.12, 57.375]))
    x = images(224) / 60
    assert_same(classifier.network(x), theirs(x.double()))


def theirs_like(network):
    """torchvision's alexnet with the weights and widths of a network of ours."""
    theirs = networks.torchvision_alexnet(len(CLASSES)).eval()
    for name, own in TORCHVISION_NAMES.items():
        if own.startswith(("conv", "fc")):
            module = network.get_submodule(own)
            theirs.get_submodule(name).weight = torch.nn.Parameter(module.weight.detach().double())
            theirs.get_submodule(name).bias = torch.nn.Parameter(module.bias.detach().double())
    return theirs


def test_a_torchvision_export_loads_there(tmp_path):
    ours = bundle("torchvision")
    alexnet.export_weights(ours, tmp_path / "net.pth", "torchvision")
    theirs = theirs_like(narrow("torchvision"))
    for parameter in theirs.parameters():
        parameter.data.zero_()
    theirs.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    x = images(224) / 60
    assert_same(ours.network(x), theirs(x.double()))
    with pytest.raises(ValueError, match="must be torchvision's alexnet, got caffe"):
        alexnet.export_weights(bundle("caffe"), tmp_path / "net.pth", "torchvision")


def test_the_factor_of_plain_dropout_goes_into_exported_weights(tmp_path):
    """The factor of 2012 goes into the weights that are written, and is not applied again."""
    ours = bundle("half", std=torch.ones(3))
    x = images(224)
    for format, suffix in (("npy", ".npy"), ("keras", ".weights.h5")):
        path = alexnet.export_weights(ours, tmp_path / f"net{suffix}", format)
        imported, _ = import_weights(path, variant="half")
        assert imported.network.architecture.dropout.rescale
        assert_same(imported.network(x), ours.network(x))


def test_weights_under_our_names_are_recognized_if_the_shapes_are_unambiguous(tmp_path):
    ours = alexnet.create("cifar-13", 10)
    torch.save({f"model.module.{name}": each for name, each in ours.state_dict().items()}, tmp_path / "net.pt")
    imported, report = import_weights(tmp_path / "net.pt")
    assert report.variant == "cifar-13" and torch.equal(imported.network.local3.weight, ours.local3.weight)
    torch.save(alexnet.create("cifar-11", 10).state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="fit cifar-11, cifar-11-no-overlap; name the variant"):
        import_weights(tmp_path / "net.pt")
    assert import_weights(tmp_path / "net.pt", variant="cifar-11-no-norm")[1].variant == "cifar-11-no-norm"


def test_running_statistics_of_batch_norm_come_with_its_weights(tmp_path):
    network = alexnet.create("batch-norm", 4)
    network.norm1.running_mean.uniform_()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    bundle, report = import_weights(tmp_path / "weights.pth", "batch-norm")
    assert torch.equal(bundle.network.norm1.running_mean, network.norm1.running_mean)
    assert report.new == () and report.skipped == ("norm1.num_batches_tracked", "norm2.num_batches_tracked")


def test_weights_that_do_not_fit_are_reported_or_initialized(tmp_path):
    state = alexnet.create("cifar-18", 10).state_dict() | {"neck.weight": torch.zeros(3)}
    del state["conv3.bias"]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net.pt: it has no conv3.bias \(64\), but conv1.weight"):
        import_weights(tmp_path / "net.pt", "cifar-18")
    _, report = import_weights(tmp_path / "net.pt", "cifar-18", strict=False)
    assert (report.skipped, report.new) == (("neck.weight",), ("conv3.bias",))
    torch.save(alexnet.create("cifar-18", 10).state_dict(), tmp_path / "complete.pt")
    with pytest.raises(ValueError, match=r"fc8\.weight must be 2 × 1024 for this network, got 10 × 1024"):
        import_weights(tmp_path / "complete.pt", "cifar-18", classes=["a", "b"])
    imported, report = import_weights(tmp_path / "net.pt", "cifar-18", classes=["a", "b"], strict=False)
    assert imported.network.num_classes == 2 and report.new == ("conv3.bias", "fc8.weight", "fc8.bias")
    assert "fc8.weight" in report.skipped
    for broken, message in (
        ({"mean": (1, 2)}, "mean must be three"),
        ({"std": (1, 0, 1)}, "std must be three finite numbers > 0, got"),
        ({"variant": "x"}, "variant must be one of .*, got 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            import_weights(tmp_path / "net.pt", **({"variant": "cifar-18", "strict": False} | broken))


def test_a_folder_of_hugging_face(tmp_path):
    state = {name: each.float().contiguous() for name, each in theirs_like(narrow("torchvision")).state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    config = {"id2label": {"0": "z", "2": "x", "1": "y", "3": "d", "10": "e", "4": "f", "9": "g"}}
    config |= {"pretrained_cfg": {"mean": [0.5, 0.25, 0.75], "std": [0.1, 0.2, 0.3]}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    imported = alexnet.load(tmp_path, device="cpu").bundle
    assert imported.classes == ("z", "y", "x", "d", "f", "g", "e")
    torch.testing.assert_close(imported.preprocessing.mean.flatten(), torch.tensor([127.5, 63.75, 191.25]))
    torch.testing.assert_close(imported.preprocessing.std, torch.tensor([25.5, 51.0, 76.5]))
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json next to it cannot be used"):
        alexnet.load(tmp_path)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"image_mean": [0.5]}, r"mean must be three numbers of 0 to 1, got \[0\.5\]"),
        ({"image_mean": {"r": 1}}, "mean must be three numbers of 0 to 1, got {'r': 1}"),
        ({"image_mean": [123, 117, 104]}, "mean must be three numbers of 0 to 1, got"),
        ({"image_mean": [math.nan, 0, 0]}, "mean must be three numbers of 0 to 1, got"),
        ({"image_std": [0.5, 0, 0.5]}, "std must be three numbers of 1e-06 to 1, got"),
        ({"label_names": 5}, "class names must be a list of names, got 5"),
        ({"label_names": "abcdefg"}, "class names must be a list of names, got abcdefg"),
        ({"id2label": {"0": ["a"]}}, "class names must be a list of names, got"),
        ({"id2label": ["a"]}, ""),
        ({"pretrained_cfg": 1}, ""),
    ],
)
def test_wrong_values_in_a_config_are_named(config, message, tmp_path):
    state = {name: each.contiguous() for name, each in alexnet.create("cifar-13", 7).state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"config\.json next to it cannot be used: .*{message}"):
        import_weights(tmp_path)


HUB = """
import sys
if sys.argv[2] == "without":
    sys.modules["huggingface_hub"] = None
import alexnet, numpy
classifier = alexnet.load(sys.argv[1] + "/first", device="cpu")
classifier.save_pretrained(sys.argv[1] + "/second")
again = alexnet.Classifier.from_pretrained(sys.argv[1] + "/second", device="cpu")
assert again.classes == classifier.classes and str(again.device) == "cpu"
image = numpy.zeros((40, 40, 3), numpy.uint8)
assert (again.predict(image) == classifier.predict(image)).all()
smaller = alexnet.Classifier.from_pretrained(sys.argv[1] + "/second", fc_precision="bf16")
assert smaller.bundle.fc_precision == "bf16"
try:
    alexnet.Classifier.from_pretrained(sys.argv[1] + "/second", devcie="cpu")
except ValueError as error:
    assert "no option devcie" in str(error)
else:
    raise AssertionError
if sys.argv[2] == "without":
    for what in (lambda: again.push_to_hub("a/b"), lambda: alexnet.Classifier.from_pretrained("a/b")):
        try:
            what()
        except ImportError as error:
            assert "pip install 'alexnet[hub]'" in str(error)
        else:
            raise AssertionError
"""


@pytest.mark.parametrize("extra", ["with", "without"])
def test_a_classifier_is_saved_as_the_hub_keeps_it(extra, tmp_path):
    alexnet.export_weights(bundle("caffe"), tmp_path / "first", "huggingface")
    subprocess.run([sys.executable, "-c", HUB, tmp_path, extra], check=True, env={"HF_HUB_OFFLINE": "1", "PATH": ""})
    config = json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "caffe" and config["id2label"]["6"] == "g"
    assert "library_name: alexnet" in (tmp_path / "second" / "README.md").read_text(encoding="utf-8")


def test_classes_can_be_a_file_and_must_be_distinct_names(tmp_path):
    torch.save(alexnet.create("cifar-18", 3).state_dict(), tmp_path / "net.pt")
    (tmp_path / "names.txt").write_text("x\ny\nz\n", encoding="utf-8")
    assert import_weights(tmp_path / "net.pt", "cifar-18", str(tmp_path / "names.txt"))[0].classes == ("x", "y", "z")
    for classes, message in (
        ([], "classes must be names"),
        (["a", "b", "a"], "distinct; classes has 'a' twice"),
        ("nothing.txt", "nothing.txt does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            import_weights(tmp_path / "net.pt", "cifar-18", classes)


def test_layers_of_safetensors_are_sorted_by_their_numbers(tmp_path):
    changes = {name: {"channels": 8, "groups": 1} for name in ("conv2", "conv3", "conv4", "conv5")}
    network = AlexNet(narrow("one-tower").architecture.with_layers(**changes), 5)
    state = {}
    for number, row in enumerate(network.architecture.layers, 6):  # b6 … b13; conv3 is b8, conv5 b10
        for kind in ("weight", "bias"):
            state[f"b{number}.{kind}"] = network.state_dict()[f"{row.name}.{kind}"].contiguous()
    save_file(state, tmp_path / "net.safetensors")
    imported, _ = import_weights(tmp_path / "net.safetensors", "one-tower")
    for name, tensor in network.state_dict().items():
        assert torch.equal(imported.network.state_dict()[name], tensor), name


def test_safetensors_with_a_header_of_any_length_are_told_from_onnx(tmp_path):
    state = {name: each.contiguous() for name, each in alexnet.create("cifar-13", 3).state_dict().items()}
    starts = set()
    for padding in range(0, 256, 8):
        save_file(state, tmp_path / "net", {"a": "b" * padding})
        starts.add((tmp_path / "net").read_bytes()[0])
        assert import_weights(tmp_path / "net")[1].variant == "cifar-13"
    assert 8 in starts  # as in ONNX


@pytest.mark.parametrize("format", ["caffe", "npy", "keras", "torchvision"])
def test_formats_without_batch_norm_refuse_it(format, tmp_path):
    network = alexnet.create("batch-norm", 3)
    ours = ModelBundle(network, Preprocessing(256, 224, MEAN.view(1, 1, 3), STD), ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"norm1: .* has no layer for BatchNorm|must be torchvision"):
        alexnet.export_weights(ours, tmp_path / "net.weights.h5", format)
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_keras_file_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"the name of a Keras file must end in \.weights\.h5, got \S*net\.h5"):
        alexnet.export_weights(bundle("caffe"), tmp_path / "new" / "net.h5", "keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_named(value, tmp_path):
    state = alexnet.create("cifar-18", 3).state_dict()
    torch.save(state, tmp_path / "net.pt")
    np.save(tmp_path / "mean.npy", np.full((3, 32, 32), value))
    for arguments, message in (
        ({"mean": (1, value, 3)}, "mean must be three finite numbers"),
        ({"std": (1, value, 3)}, "std must be three finite numbers"),
        ({"mean": tmp_path / "mean.npy"}, "mean.npy has infinite values or NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            import_weights(tmp_path / "net.pt", "cifar-18", **arguments)
    state["conv2.bias"][5] = value
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net.pt: conv2\.bias has infinite values or NaN"):
        import_weights(tmp_path / "net.pt", "cifar-18")


@pytest.mark.parametrize("channels", [1, 4])
def test_images_have_three_channels(channels, tmp_path):
    torch.save(AlexNet(variant("cifar-18"), 3, channels).state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=rf"conv1 must have 3 input channels \(RGB\), got {channels}"):
        import_weights(tmp_path / "net.pt", "cifar-18")


@pytest.mark.parametrize("name", ["fc8.weight", "conv1.weight"])
def test_a_scalar_is_not_a_weight(name, tmp_path):
    torch.save(alexnet.create("cifar-18", 3).state_dict() | {name: torch.tensor(1.0)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=f"it has no {name}"):
        import_weights(tmp_path / "net.pt", "cifar-18")
    with pytest.raises(ValueError, match="the shapes of no variant"):
        import_weights(tmp_path / "net.pt")


def test_the_source_of_a_network_is_never_overwritten(tmp_path):
    ours = bundle("torchvision")
    file = alexnet.export_weights(ours, tmp_path / "net.pth", "torchvision")
    folder = alexnet.export_weights(ours, tmp_path / "hub", "huggingface")
    (tmp_path / "link.pth").symlink_to(file)
    before = file.read_bytes(), (folder / "model.safetensors").read_bytes()
    for target, format, source in (
        (file, "torchvision", file),
        (tmp_path / "link.pth", "npy", file),
        (folder, "huggingface", folder),
        (folder, "huggingface", folder / "model.safetensors"),
        (folder / "model.safetensors", "safetensors", folder),
    ):
        with pytest.raises(ValueError, match="the network was read from"):
            alexnet.export_weights(bundle("torchvision", MEAN), target, format, source=source)
    for _ in range(2):  # an earlier export can be overwritten
        alexnet.export_weights(ours, folder / "net.npy", "npy", source=folder)
    assert before == (file.read_bytes(), (folder / "model.safetensors").read_bytes())


def test_errors_in_arguments_do_not_blame_the_file(tmp_path):
    torch.save(alexnet.create("cifar-18", 3).state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"^\S*none\.npy does not exist; mean must be"):
        import_weights(tmp_path / "net.pt", "cifar-18", mean=tmp_path / "none.npy")
    with pytest.raises(ValueError, match="input_size"):
        import_weights(tmp_path / "net.pt", "cifar-18", input_size=0)


def test_a_default_mean_is_reported_as_a_guess(tmp_path):
    torch.save(alexnet.create("cifar-18", 3).state_dict(), tmp_path / "net.pt")
    _, report = import_weights(tmp_path / "net.pt", "cifar-18")
    assert report.guessed and "guess" in report.inputs
    _, report = import_weights(tmp_path / "net.pt", "cifar-18", mean=(1, 2, 3))
    assert not report.guessed and "guess" not in report.inputs


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt: it has no floating-point tensors"):
        import_weights(tmp_path / "net.pt")
    torch.save({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "net.pt")
    with pytest.raises(
        ValueError, match=r"if it is a variant with other widths, name it: .* alexnet import FILE --variant"
    ):
        alexnet.load(tmp_path / "net.pt")


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("function", [print, os.getcwd])
def test_the_message_names_what_a_refused_pickle_asks_for(function, form, tmp_path, monkeypatch):
    monkeypatch.setattr(Hostile, "__reduce__", lambda self: (function, ()))
    (tmp_path / "net").write_bytes(hostile_pickle(form))
    with pytest.raises(ValueError, match=rf"\(it asks for \S*{function.__name__}\)$"):
        import_weights(tmp_path / "net")


def test_two_tensors_of_one_name_are_refused(tmp_path):
    state = alexnet.create("cifar-18", 3).state_dict()
    torch.save(state | {"module.conv1.weight": state["conv1.weight"] + 1}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"both conv1\.weight and module\.conv1\.weight in it would be conv1\.weight"):
        import_weights(tmp_path / "net.pt", "cifar-18")


def test_1000_classes_without_names_are_imagenets(tmp_path):
    network = AlexNet(narrow("torchvision").architecture, 1000)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    imported, _ = import_weights(tmp_path / "net.pth", "torchvision")
    assert imported.classes[:2] == ("n01440764", "n01443537") and len(imported.classes) == 1000


class Hostile:
    def __reduce__(self):
        return print, ("this pickle ran",)


def hostile_pickle(form):
    """A pickle that calls a function, in each of the forms that are recognised."""
    content = io.BytesIO()
    if form == "npy":
        np.save(content, np.array({"conv1": [Hostile(), Hostile()]}, object))
    elif form == "pickle":
        pickle.dump({"conv1.weight": Hostile()}, content)
    else:
        torch.save({"conv1.weight": Hostile()}, content, _use_new_zipfile_serialization=form == "zip")
    return content.getvalue()


@pytest.mark.parametrize("form", ["npy", "pickle", "zip", "legacy"])
def test_a_pickle_that_would_run_something_is_refused(form, tmp_path, capsys):
    (tmp_path / "net").write_bytes(hostile_pickle(form))
    with pytest.raises(ValueError, match=r"net: .*refused"):
        import_weights(tmp_path / "net")
    assert "ran" not in capsys.readouterr().out


NPY = frameworks.npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (), }")
NESTED = b"(tq\x000" + b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(40))
"""A tuple nested 40 times in itself, whose hash takes 2 to the power of 40 steps."""
PICKLES = {
    "asks for os.system": b"\x80\x02cos\nsystem\n.",
    "'NoneType' object is not callable": b"\x80\x02cnumpy\nndarray\n)R.",
    "the instruction NEWOBJ": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "the instruction EXT1": b"\x80\x02\x82\x01.",
    "the instruction BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 0) + b".",
    "the instruction 255": b"\x80\x02\xff.",
    "is cut off": b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b".",
    "is cut off|exceeds": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "pop from empty list": b"\x80\x02t.",
    "KeyError|4294967295": b"\x80\x02j" + struct.pack("<I", 2**32 - 1) + b".",
    "something that is not a dict": b"\x80\x02U\x01aU\x01bU\x01cs.",
    "under a key that is not a string": b"\x80\x02" + NESTED + b"}h(Ns.",
    "something that is not an array": b"\x80\x02ccollections\nOrderedDict\nU\x01ab.",
    "cut off$": b"\x80\x02}",
}


@pytest.mark.parametrize("message", PICKLES)
def test_a_pickle_in_an_npy_is_read_and_not_run(message, tmp_path):
    (tmp_path / "net").write_bytes(NPY + PICKLES[message])
    with pytest.raises(ValueError, match=message):
        import_weights(tmp_path / "net")


def test_an_npy_that_repeats_an_array_is_refused_before_memory_is_allocated(tmp_path):
    array = np.zeros((100, 100), np.float32)
    np.save(tmp_path / "net.npy", {f"fc{number}": [array, array] for number in range(1000)})
    with pytest.raises(ValueError, match="repeats its arrays"):
        import_weights(tmp_path / "net.npy")


def convolution(blob: bytes, settings: bytes = b"", more: bytes = b"") -> bytes:
    """A network of one layer with one blob."""
    layer = frameworks.field(1, b"a") + frameworks.field(2, b"Convolution") + frameworks.field(7, blob) + more
    return frameworks.field(100, layer + frameworks.field(106, settings))


ONE = frameworks.new_blob(np.ones((1, 1, 1, 1)))
BELOW_0 = frameworks.field(5, b"\0" * 4) + frameworks.field(7, frameworks.field(1, frameworks.varint(2**64 - 1) * 2))
DAMAGED = "Caffe's NetParameter in it is damaged"
PROTOBUFS = [
    ("beyond the end", DAMAGED, frameworks.varint(100 * 8 + 2) + frameworks.varint(2**62)),
    ("more than 64 bits", "neither a Caffe network", b"\x08" + b"\xff" * 9 + b"\x7f"),
    ("cut off", DAMAGED, b"\x08\xff"),
    ("group", DAMAGED, b"\x0b" * 1000),
    ("field 0", DAMAGED, b"\x00\x00"),
    ("layer", "Caffe's LayerParameter in it is damaged", frameworks.field(100, b"\x12\x7f")),
    ("text", "Caffe's LayerParameter in it is damaged", frameworks.field(100, frameworks.field(2, b"\xff"))),
    ("layers", "a network of more than 1,000 layers", frameworks.field(100, b"") * 1001),
    ("blobs", "a must have weights and perhaps biases, got 100000 blobs", convolution(b"", more=b"\x3a\x00" * 99_999)),
    ("name", "neither a Caffe network", b"\x0a\x03abc"),
    (
        "shape",
        r"a blob of shape \(1099511627776, 1099511627776, 1, 1\) has 4 bytes",
        convolution(frameworks.field(1, 2**40) + frameworks.field(2, 2**40) + frameworks.field(5, b"\0" * 4)),
    ),
    ("sides below 0", r"a blob of shape \(-1, -1\) has 4 bytes|cannot reshape|can only specify", convolution(BELOW_0)),
    ("stride", "stride must be 1 to 1000, got 0", convolution(ONE, frameworks.field(6, 0))),
    ("pad", "pad must be 0 to 1000, got 4294967295", convolution(ONE, frameworks.field(3, 2**64 - 1))),
    ("two strides", "stride must be the same for height and width", convolution(ONE, b"\x30\x01\x30\x02")),
    (
        "dilation",
        r"a must have dilation 1, got \[2\]",
        convolution(ONE, frameworks.field(18, 2)),
    ),
    ("middle of a value", "a blob of shape .* has 5 bytes", convolution(frameworks.field(5, b"\0" * 5))),
]


@pytest.mark.parametrize("message, content", [case[1:] for case in PROTOBUFS], ids=[case[0] for case in PROTOBUFS])
def test_a_hostile_protobuf_is_refused(message, content, tmp_path):
    (tmp_path / "net").write_bytes(frameworks.field(1, b"name") + content)
    with pytest.raises(ValueError, match=message):
        import_weights(tmp_path / "net")


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def about(**changes) -> bytes:
    """The header of a file of ours, with some fields changed."""
    description = {
        "format": 1,
        "architecture": {"is": "Norm"},
        "classes": ["a"],
        "in_channels": 3,
        "input_size": 9,
    } | changes
    return json.dumps({"__metadata__": {"alexnet": json.dumps(description)}}).encode()


SAFETENSORS = {
    "length": safetensors(b"{}", 2**63),
    "beyond the end": safetensors(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
    "not JSON": safetensors(b"{" + b"[" * 100_000),
    "another kind of architecture": safetensors(about()),
    "an unknown kind": safetensors(about(architecture={"is": "Popen"})),
    "no classes": safetensors(about(classes=None)),
    "nested": safetensors(json.dumps({"__metadata__": {"alexnet": "[" * 100_000}}).encode()),
}


@pytest.mark.parametrize("what", SAFETENSORS)
def test_a_hostile_safetensors_header_is_refused(what, tmp_path):
    (tmp_path / "net").write_bytes(SAFETENSORS[what])
    with pytest.raises(ValueError, match="net"):
        alexnet.load(tmp_path / "net")


def test_an_absurd_architecture_is_refused_before_memory_is_allocated(tmp_path):
    ours = bundle("caffe")
    ours.save(tmp_path / "net")
    content = (tmp_path / "net").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["alexnet"])
    description["architecture"]["layers"][6]["units"] = 10**12
    header["__metadata__"] = {"alexnet": json.dumps(description)}  # without checksums, which would reveal the change
    (tmp_path / "net").write_bytes(safetensors(json.dumps(header).encode()) + content[8 + length :])
    with pytest.raises(ValueError, match=r"fc7: units must be <= 1e\+06, got 1000000000000"):
        alexnet.load(tmp_path / "net")


def test_hdf5_must_not_refer_to_other_files_or_claim_more_than_it_holds(tmp_path):
    layers = tensorflow_layers(narrow("caffe"))
    path = tmp_path / "net.weights.h5"

    def with_change(change):
        path.write_bytes(frameworks.keras_weights(layers))
        with h5py.File(path, "a") as file:
            del file["layers/conv2d/vars/0"]
            change(file["layers/conv2d/vars"])
        with pytest.raises(
            ValueError, match=r"is not an array of this HDF5 file|is not an array of numbers in this file"
        ):
            import_weights(path, variant="caffe")

    with_change(lambda group: group.__setitem__("0", h5py.ExternalLink("/etc/passwd", "/")))
    with_change(lambda group: group.create_dataset("0", (1 << 30, 3, 3, 4), "f4", chunks=(1, 3, 3, 4)))
    with_change(lambda group: group.create_dataset("0", (8,), "f4", external=[("/etc/passwd", 0, 32)]))
    with_change(lambda group: group.create_dataset("0", data=np.zeros((2, 2), "S5")))
    path.write_bytes(frameworks.keras_weights(layers)[:3000])
    with pytest.raises(ValueError, match="cannot be read"):
        import_weights(path)


def test_other_files_are_told_apart(tmp_path):
    for content, message in (
        (b"", "empty"),
        (b"some text\n", "not a known format; it must be PyTorch's"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "not a known format"),
        (b"\x08\x08\x12\x07pytorch", "net: an ONNX file that alexnet did not write"),
        (pickle.dumps({"conv1.weight": [1.0]}, 0), "not a known format"),
        (b"PK\x03\x04 broken", "archive"),
        (
            frameworks.npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }") + b"\0" * 4,
            "plain numbers",
        ),
    ):
        (tmp_path / "net").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            alexnet.load(tmp_path / "net")
    with pytest.raises(ValueError, match="nothing does not exist"):
        import_weights(tmp_path / "nothing")


def test_import_and_export_as_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.caffemodel").write_bytes(frameworks.caffemodel(parameters(narrow("caffenet")), False, old=True))
    (tmp_path / "names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    main(["import", "net.caffemodel", "--output", "mine", "--classes", "names.txt", "--mean", "123", "117", "104"])
    printed = capsys.readouterr().out
    assert "caffenet" in printed and "(123, 117, 104)" in printed
    assert alexnet.load("mine").classes == CLASSES
    with pytest.raises(ValueError, match="was saved by alexnet"):
        import_weights("mine", classes=CLASSES)
    main(["export", "mine", "--format", "npy"])
    assert (tmp_path / "mine.npy").exists() and "BGR" in capsys.readouterr().out
    main(["export", "mine", "--format", "caffe", "--output", "back"])
    assert (tmp_path / "back" / "deploy.prototxt").exists()
    for refused, message in (
        (
            ["export", "mine", "--format", "npy", "--preprocessing", "--output", "x.npy"],
            "preprocessing can only be included in onnx",
        ),
        (["export", "mine", "--format", "npy"], "mine.npy exists; choose another --output"),
        (
            ["export", "mine.npy", "--format", "npy", "--output", "./mine.npy"],
            "the network was read from mine.npy",
        ),
        (["import", "mine.npy", "--output", "mine"], "must be a new folder, got a classifier: mine"),
    ):
        with pytest.raises(SystemExit):
            main(refused)
        assert message in capsys.readouterr().err


def test_a_guessed_preprocessing_is_printed(tmp_path, capsys):
    torch.save(alexnet.create("small", num_classes=3).state_dict(), tmp_path / "mine.pth")
    alexnet.load(tmp_path / "mine.pth").save(tmp_path / "saved")
    assert "mine.pth does not say how to preprocess images: pixels minus (122.7" in capsys.readouterr().err
    alexnet.load(tmp_path / "saved")
    assert not capsys.readouterr().err
