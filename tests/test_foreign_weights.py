"""Weights as they lie about on the web: each against the network that they are from, run by its own framework.

Also what the report says is known, and what is a guess.
"""

import json
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from references import networks
from safetensors.torch import save_file
from torch import nn

import alexnet
from alexnet import import_weights
from alexnet.specs.operations import BatchNorm
from alexnet.specs.variants import variant

WIDTHS = (8, 12, 10, 14, 16)
SIDE = 67  # pixels; conv1 gives 15 × 15, the poolings 7 × 7, 3 × 3 and 1 × 1
CLASSES = 5


def shaken(module, seed=0):
    """The module in evaluation mode, with weights and statistics that make its answers depend on the image."""
    generator = torch.Generator().manual_seed(seed)
    for name, each in module.state_dict().items():
        if each.dim() > 1:
            each.copy_(torch.randn(each.shape, generator=generator) * 1.6 / each[0].numel() ** 0.5)
        elif each.is_floating_point():
            low = 0.5 if "var" in name or name.endswith("weight") else -0.5
            each.copy_(torch.rand(each.shape, generator=generator) + low)
    return module.eval()


def alexnet_modules(order="relu pool", groups=1, bias=True, eps=1e-5):
    """Convolutions, each followed by what `order` names, and three fully connected layers; all names as of many."""
    features, channels = OrderedDict(), 3
    for number, (width, kernel, stride, pad) in enumerate(
        zip(WIDTHS, (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (0, 2, 1, 1, 1), strict=True), 1
    ):
        own = groups if number in (2, 4, 5) else 1
        features[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride, pad, groups=own, bias=bias)
        for word in order.split():
            if word == "pool" and number in (3, 4):
                continue
            if word == "lrn" and number > 2:
                continue
            features[f"{word}{number}"] = {
                "relu": nn.ReLU,
                "pool": lambda: nn.MaxPool2d(3, 2),
                "bn": lambda width=width: nn.BatchNorm2d(width, eps),
                "lrn": lambda: nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0),
            }[word]()
        channels = width
    classifier = OrderedDict(flatten=nn.Flatten(), fc6=nn.Linear(channels, 20), relu6=nn.ReLU(), dropout6=nn.Dropout())
    classifier |= OrderedDict(fc7=nn.Linear(20, 22), relu7=nn.ReLU(), dropout7=nn.Dropout(), fc8=nn.Linear(22, CLASSES))
    return features, classifier


def named(order="relu pool", **options):
    """As NetDissect names layers: conv1, relu1, pool1 … fc8."""
    features, classifier = alexnet_modules(order, **options)
    return shaken(nn.Sequential(features | classifier))


def numbered(order="relu pool", parts=("c", "f"), **options):
    """Two Sequentials, whose layers have numbers."""
    features, classifier = alexnet_modules(order, **options)
    both = {parts[0]: nn.Sequential(*features.values()), parts[1]: nn.Sequential(*classifier.values())}
    return shaken(nn.Sequential(OrderedDict(both)))


def save(state, path, form):
    """Save a state dict in one of its forms."""
    if form == "safetensors":
        save_file({name: each.contiguous() for name, each in state.items()}, path)
    elif form == "dict":
        torch.save({name: each.clone() for name, each in state.items()}, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"m": torch.ones(2, 2)}}}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "legacy")
    return path


def assert_scores(imported, theirs, side=SIDE, scale=1.0):
    x = scale * torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        actual, expected = imported.network(x), theirs(x)
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "two images with one answer prove nothing"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


FORMS = ("zip", "legacy", "dict", "checkpoint", "safetensors")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [named, numbered])
def test_dropout_from_elsewhere_scales_in_training(make, form, tmp_path):
    theirs = make(groups=2)
    path = save(theirs.state_dict(), tmp_path / "net", form)
    imported, report = import_weights(path, variant="no-norm", input_size=SIDE)
    assert imported.network.drop6.p == 0.5 and report.new == ()
    assert_scores(imported, theirs)


@pytest.mark.parametrize("form", ("zip", "legacy", "checkpoint"))
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_of_this_package_keeps_the_dropout_of_2012(prefix, form, tmp_path):
    ours = shaken(alexnet.create("no-norm", CLASSES, input_size=99))
    wrapped = nn.ModuleDict({"module": ours}) if prefix else ours
    imported, report = import_weights(save(wrapped.state_dict(), tmp_path / "net", form), "no-norm", input_size=99)
    assert report.guesses == ()
    assert_scores(imported, ours, 99)


def test_a_dict_without_the_names_of_modules_is_taken_for_pytorchs_and_that_is_said(tmp_path):
    path = save(alexnet.create("no-norm", CLASSES).state_dict(), tmp_path / "net", "dict")
    _, report = import_weights(path, "no-norm")
    assert (
        "dropout scales in training, as PyTorch's does" in report.guesses[0] and "load_state_dict" in report.guesses[0]
    )


@pytest.mark.parametrize("form", ["zip", "dict", "safetensors"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", ["bn relu pool", "relu bn pool", "relu pool bn"])
def test_batch_norm_stands_where_the_numbers_of_a_sequential_say(order, bias, form, tmp_path):
    theirs = numbered(order, bias=bias)
    imported, report = import_weights(save(theirs.state_dict(), tmp_path / "net", form), "dense", input_size=SIDE)
    assert_scores(imported, theirs)
    assert report.variant == "dense with batch norm" and report.new == ()
    assert f"batch norm (c.{1 + order.split().index('bn')}, " in report.guesses[0]


@pytest.mark.parametrize("form", ["zip", "dict", "safetensors"])
def test_batch_norm_with_names_of_its_own(form, tmp_path):
    theirs = named("bn relu pool")
    path = save(theirs.state_dict(), tmp_path / "net", form)
    imported, report = import_weights(path, "dense", input_size=SIDE)
    assert_scores(imported, theirs)
    assert "(bn1, bn2, bn3, bn4, bn5)" in report.guesses[0] and "eps 1e-05" in report.guesses[0]
    imported.network.train()
    assert imported.network.norm1.training
    declared = replace(variant("dense"), norm=None)
    with pytest.raises(ValueError, match=r"dense has no place for bn1\.(weight|bias), .*, so that it is probably"):
        import_weights(path, declared, input_size=SIDE)
    assert "bn1.weight" in import_weights(path, declared, input_size=SIDE, strict=False)[1].skipped


def test_a_declared_network_is_taken_as_it_is(tmp_path):
    theirs = named("bn relu pool", eps=0.1)
    rows = {
        f"conv{number}": {"then": (BatchNorm(0.1), "relu", *["pool"] * (number in (1, 2, 5)))} for number in range(1, 6)
    }
    declared = replace(variant("dense").with_layers(**rows), name="mine")
    imported, report = import_weights(save(theirs.state_dict(), tmp_path / "net", "zip"), declared, input_size=SIDE)
    assert_scores(imported, theirs)
    assert (report.variant, report.guesses, report.recognized) == ("mine", (), "as requested")


def test_statistics_are_not_left_out_of_a_variant_without_a_place(tmp_path):
    state = named("bn relu pool").state_dict()
    del state["bn3.running_mean"]
    with pytest.raises(ValueError, match="no place for bn3"):
        import_weights(save(state, tmp_path / "net", "zip"), "dense", input_size=SIDE)


def wide(**options):
    """The paper's widths, in one column, in numbered Sequentials."""
    features = [nn.Conv2d(3, 96, 11, 4), nn.ReLU(), *options.get("norm", []), nn.MaxPool2d(3, 2)]
    features += [nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), *options.get("norm", []), nn.MaxPool2d(3, 2)]
    features += [nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    connected = [nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 3)]
    return shaken(nn.Sequential(OrderedDict(c=nn.Sequential(*features), f=nn.Sequential(*connected))))


def test_what_shapes_do_not_show_is_called_a_guess(tmp_path, capsys):
    theirs = wide()
    imported, report = import_weights(save(theirs.state_dict(), tmp_path / "net", "zip"))
    assert (report.variant, report.recognized) == ("dense without LRN", "by the shapes of its tensors")
    assert_scores(imported, theirs, 227)
    assert "strides, padding, image size, order" in report.guesses[0] and "give variant" in report.guesses[0]
    assert "there is no LRN" in report.guesses[1]
    lrn = wide(norm=[nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)])
    imported, report = import_weights(save(lrn.state_dict(), tmp_path / "lrn", "safetensors"))
    assert report.variant == "dense"
    assert_scores(imported, lrn, 227)
    alexnet.load(tmp_path / "lrn")
    assert "a guess: strides, padding" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, config, mean, std, sizes",
    [
        (
            "preprocessor_config.json",
            {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.5]},
            (0.5, 0.4, 0.3),
            (0.1, 0.2, 0.5),
            None,
        ),
        ("preprocessor_config.json", {"do_normalize": False}, (0, 0, 0), (1, 1, 1), None),
        (
            "preprocessor_config.json",
            {"do_rescale": False, "image_mean": [1, 2, 3], "image_std": [4, 5, 6]},
            (1 / 255, 2 / 255, 3 / 255),
            (4 / 255, 5 / 255, 6 / 255),
            None,
        ),
        (
            "preprocessor_config.json",
            {
                "rescale_factor": 1 / 127.5,
                "image_mean": [1, 1, 1],
                "image_std": [1, 1, 1],
                "size": {"shortest_edge": 250},
                "crop_size": {"height": 224, "width": 224},
            },
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
            (250, 224),
        ),
        (
            "config.json",
            {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 224, 224], "crop_pct": 0.95}},
            (0.5, 0.5, 0.5),
            (0.25, 0.25, 0.25),
            (235, 224),
        ),
    ],
)
def test_preprocessing_that_lies_beside_safetensors(name, config, mean, std, sizes, tmp_path):
    save(torchvision_state(), tmp_path / "model.safetensors", "safetensors")
    (tmp_path / name).write_text(json.dumps(config))
    imported, report = import_weights(tmp_path)
    inputs = imported.preprocessing
    torch.testing.assert_close(inputs.mean.flatten(), 255 * torch.tensor(mean, dtype=torch.float32))
    torch.testing.assert_close(inputs.std, 255 * torch.tensor(std, dtype=torch.float32))
    assert f"as in {name}" in report.inputs and not report.guessed
    assert (inputs.stored_size, inputs.crop_size) == (sizes or (256, 224))


def torchvision_state(prefix=""):
    """The state dict of a narrow alexnet of torchvision."""
    module = networks.torchvision_alexnet(3)
    shapes = {"features": (8, 12, 10, 14, 16), "classifier": (20, 22)}
    state, inputs = {}, 3
    for name, each in module.state_dict().items():
        part, number, kind = name.split(".")
        own = {"features": [0, 3, 6, 8, 10], "classifier": [1, 4]}[part]
        out = shapes[part][own.index(int(number))] if int(number) in own else 3
        if kind == "bias":
            state[f"{prefix}{name}"] = torch.rand(out)
            inputs = out * (36 if name == "features.10.bias" else 1)
        else:
            state[f"{prefix}{name}"] = torch.rand(out, inputs, *each.shape[2:]) - 0.5
    return state


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_a_wrapper_around_a_part_is_removed(form, tmp_path):
    """PyTorch's ImageNet example wraps `features` alone, and so does the network of Places365."""
    state = {name.replace("features.", "features.module."): each for name, each in torchvision_state().items()}
    _, report = import_weights(save(state, tmp_path / "net", form))
    assert report.recognized == "by torchvision's names of layers" and report.new == report.skipped == ()


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_a_sequential_for_each_layer(form, tmp_path):
    """As in tutorials: layer1 … layer5, fc, fc1 and fc2."""
    modules = OrderedDict()
    for each in numbered("bn relu pool").c.children():
        if isinstance(each, nn.Conv2d):
            modules[f"layer{len(modules) + 1}"] = nn.Sequential()
        modules[f"layer{len(modules)}"].append(each)
    connected = list(numbered().f)
    modules["flatten"] = connected[0]
    modules["fc"] = nn.Sequential(connected[3], connected[1], connected[2])
    modules["fc1"] = nn.Sequential(connected[6], connected[4], connected[5])
    modules["fc2"] = nn.Sequential(connected[7])
    theirs = shaken(nn.Sequential(modules))
    imported, _ = import_weights(save(theirs.state_dict(), tmp_path / "net", form), "dense", input_size=SIDE)
    assert_scores(imported, theirs)


PREFIXES = ("alexnet.", "encoder.", "module.model.", "_orig_mod.module.", "feature_extractor.", "a.b.")


@pytest.mark.parametrize("form", ["zip", "safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_removed(prefix, form, tmp_path):
    state = torchvision_state(prefix)
    imported, report = import_weights(save(state, tmp_path / "net", form))
    assert report.recognized == "by torchvision's names of layers" and report.new == report.skipped == ()
    assert torch.equal(imported.network.fc8.bias, state[f"{prefix}classifier.6.bias"])


@pytest.mark.parametrize("key", ["params", "model_state", "ema", "whatever"])
def test_weights_are_looked_for_in_checkpoints(key, tmp_path):
    state = torchvision_state()
    torch.save(
        {
            "best": np.float64(0.5),
            "loss": np.mean(np.ones(2, np.float32)),
            "epoch": 3,
            key: state,
            "optimizer": {"state": {0: {"m": torch.ones(2, 2)}}},
        },
        tmp_path / "net",
    )
    imported, report = import_weights(tmp_path / "net")
    assert torch.equal(imported.network.fc8.bias, state["classifier.6.bias"])
    assert report.skipped == ("best", "loss", "epoch", "optimizer")
    torch.save({"teacher": state, "student": state}, tmp_path / "net")
    with pytest.raises(ValueError, match=r"it has weights under 'teacher', 'student'; save one of them"):
        import_weights(tmp_path / "net")
    layers = {}
    for name, each in alexnet.create("cifar-18", 3).state_dict().items():
        layers.setdefault(name.split(".")[0], {})[name.split(".")[1]] = each
    torch.save({key: layers}, tmp_path / "net")
    assert import_weights(tmp_path / "net", "cifar-18")[1].new == ()


def test_the_normalizer_of_robustness_is_read(tmp_path):
    state = torchvision_state()
    both = {f"module.model.{name}": each for name, each in state.items()}
    both |= {f"module.attacker.model.{name}": each for name, each in state.items()}
    for name, values in (("new_mean", [0.4, 0.5, 0.6]), ("new_std", [0.1, 0.2, 0.3])):
        for owner in ("normalizer", "attacker.normalize"):
            both[f"module.{owner}.{name}"] = torch.tensor(values).view(3, 1, 1)
    imported, report = import_weights(save({"model": both, "epoch": 90}, tmp_path / "net", "zip"))
    torch.testing.assert_close(imported.preprocessing.mean.flatten(), torch.tensor([102.0, 127.5, 153.0]))
    torch.testing.assert_close(imported.preprocessing.std, torch.tensor([25.5, 51.0, 76.5]))
    assert "as in the mean and std in it" in report.inputs and report.new == ()
    both["module.attacker.model.features.0.weight"] = state["features.0.weight"] + 1
    with pytest.raises(ValueError, match=r"both module\.model\.features\.0\.weight and module\.attacker"):
        import_weights(save({"model": both}, tmp_path / "net", "zip"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda each: each.to_sparse(), r"classifier\.6\.weight is a tensor of a special kind \(sparse\); .*to_dense"),
        (lambda each: torch.quantize_per_tensor(each, 0.1, 0, torch.qint8), "quantized"),
        (lambda each: each[:1].expand(10**6, -1), "expanded"),
        (lambda each: each.to("meta"), "expanded or empty"),
    ],
)
def test_tensors_of_special_kinds_are_told(change, message, tmp_path):
    state = torchvision_state()
    state["classifier.6.weight"] = change(state["classifier.6.weight"])
    with pytest.raises(ValueError, match=message):
        import_weights(save(state, tmp_path / "net", "zip"))


@pytest.mark.filterwarnings("ignore")
def test_other_things_that_lie_beside_weights_are_told(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "net")
    with pytest.raises(ValueError, match="a TorchScript program"):
        import_weights(tmp_path / "net")
    for content, message in (
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"MATLAB 5.0 MAT-file", "MATLAB"),
        (b'name: "AlexNet"\nlayer {', "a .prototxt, whose weights are a .caffemodel"),
    ):
        (tmp_path / "net").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            import_weights(tmp_path / "net")
    cyclic = {"epoch": 1}
    cyclic["model"] = cyclic
    torch.save(cyclic, tmp_path / "net")
    with pytest.raises(ValueError, match="it has no floating-point tensors"):
        import_weights(tmp_path / "net")
    torch.save([torch.ones(2)], tmp_path / "net")
    with pytest.raises(ValueError, match="must hold a dict of tensors, got a list"):
        import_weights(tmp_path / "net")


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_blocks_of_convolutions_come_first(form, tmp_path):
    theirs = numbered(parts=("features", "classifier"))
    imported, _ = import_weights(save(theirs.state_dict(), tmp_path / "net", form), "dense", input_size=SIDE)
    theirs = numbered(parts=("features", "classifier"))
    declared = replace(variant("dense"), norm=None)
    imported, _ = import_weights(tmp_path / "net", declared, input_size=SIDE)
    assert_scores(imported, theirs)


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_a_head_of_convolutions_is_the_fully_connected_one(form, tmp_path):
    theirs = numbered()
    state = theirs.state_dict()
    for name, inputs in (("f.1.weight", WIDTHS[-1]), ("f.4.weight", 20), ("f.7.weight", 22)):
        state[name] = state[name].reshape(len(state[name]), inputs, 1, 1)
    declared = replace(variant("dense"), norm=None)
    imported, _ = import_weights(save(state, tmp_path / "net", form), declared, input_size=SIDE)
    assert_scores(imported, theirs)


def test_batch_norm_between_fully_connected_layers(tmp_path):
    theirs = numbered("bn relu pool")
    connected = list(theirs.f)
    connected[2:2] = [nn.BatchNorm1d(20)]
    theirs.f = nn.Sequential(*connected)
    shaken(theirs)
    for form in ("zip", "safetensors"):
        imported, _ = import_weights(save(theirs.state_dict(), tmp_path / form, form), "dense", input_size=SIDE)
        assert_scores(imported, theirs)
    assert isinstance(imported.network.norm6, nn.BatchNorm1d)
