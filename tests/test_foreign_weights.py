"""Weights as they lie about on the web: each import against the network that they are from, run by its own framework.

Also what the report says is known, and what is a guess.
"""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import alexnet
from alexnet import import_weights
from alexnet.specs.operations import BatchNorm
from alexnet.specs.variants import variant

WIDTHS = (8, 12, 10, 14, 16)
SIDE = 67  # feature maps of 15, 7 and 3, then 1
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
