"""Weights as they lie about on the web: each against the network that they are from, run by its own framework.

Also what the report says is known, and what is a guess.
"""

import json
import os
import zipfile
from collections import OrderedDict
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import frameworks, networks
from references.frameworks import caffe_net, field
from safetensors.torch import save_file
from torch import nn

import alexnet
from alexnet import import_weights
from alexnet.interchange.class_files import read_classes
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


def convolution(name, bottom, out, inputs, kernel, *fields, blobs=None):
    generator = np.random.default_rng(len(name))
    arrays = blobs or [generator.normal(size=(out, inputs, kernel, kernel)) / kernel, generator.normal(size=out)]
    settings = field(1, out) + field(4, kernel) + b"".join(fields)
    return name, "Convolution", bottom, arrays, 106, settings


def dense(name, bottom, out, inputs, fields=b""):
    generator = np.random.default_rng(out)
    blobs = [generator.normal(size=(out, inputs)) / inputs**0.5, generator.normal(size=out)]
    return name, "InnerProduct", bottom, blobs, 117, field(1, out) + fields


def data(side=35, transform=b""):
    if transform:
        return "data", "Data", "", [], 100, field(3, side) + transform
    shape = b"".join(frameworks.varint(each) for each in (1, 3, side, side))
    return "data", "Input", "", [], 143, field(1, field(1, shape))


def step(name, kind, bottom, number=0, settings=b""):
    return name, kind, bottom, [], number, settings


CONV1 = convolution("conv1", "data", 4, 3, 11, field(6, 4))  # maps of 7 × 7


def caffe(tmp_path, *layers, **arguments):
    (tmp_path / "net.caffemodel").write_bytes(caffe_net(*layers))
    return import_weights(tmp_path / "net.caffemodel", **arguments)


def parameters(layer):
    return [torch.tensor(np.asarray(each), dtype=torch.float32) for each in layer[3]]


def bgr(side, seed=0):
    """Images of 0 to 255 as Caffe reads them, blue first, and as this package does."""
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 255
    return x, x.flip(1)


@pytest.mark.parametrize(
    "transform, mean, scale",
    [
        (field(5, 104.0) + field(5, 117.0) + field(5, 123.0), (104.0, 117.0, 123.0), 1.0),
        (field(5, 128.0) + field(1, 0.5), (128.0, 128.0, 128.0), 0.5),
        (field(1, 1 / 256), (0.0, 0.0, 0.0), 1 / 256),
    ],
)
def test_the_transformation_in_a_caffemodel_is_read(transform, mean, scale, tmp_path):
    head = dense("fc8", "conv1", 3, 196)
    imported, report = caffe(tmp_path, data(transform=transform), CONV1, head)
    theirs, ours = bgr(35)
    x = (theirs - torch.tensor(mean).view(3, 1, 1)) * scale
    expected = F.linear(F.conv2d(x, *parameters(CONV1), stride=4).flatten(1), *parameters(head))
    inputs = imported.preprocessing
    actual = imported.network((ours - inputs.mean.view(3, 1, 1)) / inputs.std.view(3, 1, 1))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
    assert "as in its transform_param" in report.inputs and not report.guessed


def test_a_mean_image_that_is_not_in_the_file_is_called_a_guess(tmp_path, capsys):
    named_file = field(4, b"data/places205/places_mean.binaryproto")
    _, report = caffe(tmp_path, data(transform=named_file), CONV1, dense("fc8", "conv1", 3, 196))
    assert report.guessed and "a guess (ImageNet's mean color)" in report.inputs
    assert "its mean image, data/places205/places_mean.binaryproto, is not in it" in report.inputs
    _, report = caffe(tmp_path, data(), CONV1, dense("fc8", "conv1", 3, 196))
    assert report.guessed and "to be sure, give mean and std" in report.inputs


def test_batch_norm_and_scale_of_caffe(tmp_path):
    generator = np.random.default_rng(5)
    mean, variance, gamma, beta = (generator.uniform(0.5, 1.5, 4) for _ in range(4))
    front = [np.float64([100, 110, 120]) * 2, np.float64([900, 1000, 1100]) * 2, [2.0]]
    head = dense("fc8", "scale1", 3, 196)
    imported, report = caffe(
        tmp_path,
        data(transform=field(5, 10.0)),
        ("data_bn", "BatchNorm", "data", front, 139, field(3, 1e-3)),
        ("data_scale", "Scale", "data_bn", [[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]], 142, field(4, 1)),
        convolution("conv1", "data_scale", 4, 3, 11, field(2, 0), field(6, 4), blobs=CONV1[3][:1]),
        ("bn1", "BatchNorm", "conv1", [mean * 3, variance * 3, [3.0]], 139, field(1, 1) + field(3, 0.1)),
        ("scale1", "Scale", "bn1", [gamma, beta], 142, field(4, 1)),
        head,
    )
    theirs, ours = bgr(35)
    x = (theirs - 10 - torch.tensor([100.0, 110, 120]).view(3, 1, 1)) / torch.tensor(
        [900.001, 1000.001, 1100.001]
    ).sqrt().view(3, 1, 1)
    x = x * torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1) + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    x = F.conv2d(x, parameters(CONV1)[0], stride=4)
    x = F.batch_norm(x, *(torch.tensor(each).float() for each in (mean, variance, gamma, beta)), eps=0.1)
    inputs = imported.preprocessing
    actual = imported.network((ours - inputs.mean.view(3, 1, 1)) / inputs.std.view(3, 1, 1))
    torch.testing.assert_close(actual, F.linear(x.flatten(1), *parameters(head)), rtol=1e-4, atol=1e-4)
    assert "its batch norm of the images" in report.inputs


def test_settings_of_caffe_at_their_defaults_are_read(tmp_path):
    spelled = field(9, 0) + field(10, 0) + field(13, 4) + field(14, 4) + field(16, 1) + field(18, 1) + field(17, 0)
    conv = convolution("conv1", "data", 4, 3, 11, spelled)
    pool = field(1, 0) + field(5, 3) + field(6, 3) + field(7, 2) + field(8, 2) + field(12, 0) + field(13, 0)
    head = dense("fc8", "pool1", 3, 36, field(5, 1) + field(6, 0))
    imported, _ = caffe(
        tmp_path,
        data(),
        conv,
        step("relu1", "ReLU", "conv1", 123, field(1, 0.0) + field(2, 0)),
        step("norm1", "LRN", "relu1", 118, field(1, 3) + field(4, 0)),
        step("pool1", "Pooling", "norm1", 121, pool),
        head,
    )
    theirs, ours = bgr(35)
    x = F.conv2d(theirs, *parameters(conv), stride=4).relu()
    x = F.max_pool2d(F.local_response_norm(x, 3, 1.0, 0.75, 1.0), 3, 2)
    expected = F.linear(x.flatten(1), *parameters(head))
    torch.testing.assert_close(imported.network(ours), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "layer, message",
    [
        (convolution("conv1", "data", 4, 3, 11, field(6, 4), field(18, 2)), r"conv1 must have dilation 1, got \[2\]"),
        (step("relu1", "ReLU", "conv1", 123, field(1, 0.1)), "relu1 must have negative_slope 0, got 0.1"),
        (step("norm1", "LRN", "conv1", 118, field(4, 1)), "norm1 must have norm_region 0, got 1"),
        (step("norm1", "LRN", "conv1", 118, field(1, 10**9)), "local_size must be 1 to 1000, got 1000000000"),
        (
            step("pool1", "Pooling", "conv1", 121, field(1, 1) + field(2, 3) + field(4, 1)),
            "average pooling without padding",
        ),
        (("prelu1", "PReLU", "conv1", [np.ones(4)], 0, b""), "prelu1 .* PReLU|prelu1 must have no arrays, got 1 blobs"),
        (("scale1", "Scale", "conv1", [np.ones(4)], 142, b""), "scale1 scales activations"),
        (
            ("bn1", "BatchNorm", "conv1", [np.ones(4)], 139, b""),
            "bn1 must have a mean, a variance and a factor, got 1 blobs",
        ),
        (step("cat", "Concat", "conv1 data"), "cat, of type Concat, reads conv1 and data"),
    ],
)
def test_what_caffe_can_and_alexnet_cannot_is_named(layer, message, tmp_path):
    before = [data()] if layer[0] == "conv1" else [data(), CONV1]
    with pytest.raises(ValueError, match=message):
        caffe(tmp_path, *before, layer, dense("fc8", layer[0], 3, 196))


def test_tops_and_bottoms_decide_the_order(tmp_path):
    heads = [dense("age", "fc7", 6, 8), dense("sex", "fc7", 2, 8)]
    with pytest.raises(ValueError, match=r"sex, of type InnerProduct, reads fc7, not age, .* heads or branches"):
        caffe(tmp_path, data(), CONV1, dense("fc7", "conv1", 8, 196), *heads)
    split = [step("split", "Split", "fc7")]
    loss = [step("loss", "SoftmaxWithLoss", "age label"), step("accuracy", "Accuracy", "age label")]
    age = dense("age", "split", 6, 8)
    imported, report = caffe(tmp_path, data(), CONV1, dense("fc7", "conv1", 8, 196), *split, age, *loss)
    assert report.loaded[-1] == "fc8.bias" and imported.network.num_classes == 6


def test_a_fully_convolutional_head_is_the_fully_connected_one(tmp_path):
    layers = [convolution("fc7-conv", "conv1", 6, 4, 7), convolution("fc8-conv", "fc7-conv", 3, 6, 1)]
    everywhere = step("mean", "Pooling", "fc8-conv", 121, field(1, 1) + field(12, 1))
    imported, _ = caffe(tmp_path, data(), CONV1, *layers, everywhere)
    theirs, ours = bgr(35)
    x = F.conv2d(theirs, *parameters(CONV1), stride=4)
    for layer in layers:
        x = F.conv2d(x, *parameters(layer))
    torch.testing.assert_close(imported.network(ours), x.flatten(1), rtol=1e-4, atol=1e-3)
    (tmp_path / "large.caffemodel").write_bytes(caffe_net(data(67), CONV1, *layers))
    with pytest.raises(ValueError, match="last layer, fc8-conv, are maps of 9 × 9 places for images of 67 × 67"):
        import_weights(tmp_path / "large.caffemodel")
    assert import_weights(tmp_path / "large.caffemodel", input_size=35)[0].network.num_classes == 3
    mean = step("pool", "Pooling", "cccp", 121, field(1, 1) + field(12, 1))
    with pytest.raises(ValueError, match="cccp, are averages of maps, as those of Network in Network"):
        caffe(tmp_path, data(), CONV1, convolution("cccp", "conv1", 3, 4, 1), mean)


def test_the_hdf5_form_of_a_caffemodel(tmp_path):
    ours = shaken(alexnet.create("caffe", 7, input_size=99))
    with h5py.File(tmp_path / "net.caffemodel.h5", "w") as file:
        for name, each in ours.state_dict().items():
            layer, kind = name.split(".")
            array = each.numpy()[:, ::-1] if name == "conv1.weight" else each.numpy()
            file[f"data/{layer}/{['weight', 'bias'].index(kind)}"] = array
    imported, report = import_weights(tmp_path / "net.caffemodel.h5", "caffe", input_size=99)
    assert report.format == "Caffe's caffemodel.h5" and report.guessed
    assert_scores(imported, ours, 99, 60.0)


def keras_layer(kind, name, **config):
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}}


def keras_archive(path, layers, arrays, **more):
    """A `.keras` as Keras 3.15 writes it: config.json, and arrays by group."""
    content = path.with_suffix(".inside")
    with h5py.File(content, "w") as file:
        for group, each in arrays.items():
            for index, array in enumerate(each):
                file[f"layers/{group}/vars/{index}"] = np.asarray(array, np.float32)
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "mine", "layers": layers, **more}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.write(content, "model.weights.h5")
    return path


def numpy_arrays(module):
    """Weights of a layer of torch as Keras has them."""
    if isinstance(module, nn.BatchNorm2d):
        return [
            each.numpy()
            for each in (module.weight.detach(), module.bias.detach(), module.running_mean, module.running_var)
        ]
    order = (2, 3, 1, 0) if isinstance(module, nn.Conv2d) else (1, 0)
    return [
        each.detach().numpy().transpose(order) if each.dim() > 1 else each.detach().numpy()
        for each in module.parameters()
    ]


def small_keras(path, *extra, eps=0.01, lrn=None):
    """The usual tutorial's beginning, and the same of torch: convolution, ReLU, pooling, batch norm."""
    theirs = shaken(
        nn.Sequential(
            nn.Conv2d(3, 6, 5, 2, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.BatchNorm2d(6, eps),
            nn.Flatten(),
            nn.Linear(54, 4),
        )
    )
    kernel = theirs[5].weight.detach().reshape(4, 6, 3, 3).permute(2, 3, 1, 0).reshape(54, 4).numpy()
    plain = {"padding": "valid", "data_format": "channels_last"}
    layers = [
        keras_layer("InputLayer", "in", batch_shape=[None, 19, 19, 3]),
        keras_layer("Rescaling", "rescaling", scale=1 / 127.5, offset=-1.0),
        keras_layer("Conv2D", "a", kernel_size=[5, 5], strides=[2, 2], use_bias=False, activation="linear", **plain),
        keras_layer("Activation", "b", activation="relu"),
        *([lrn] if lrn else []),
        keras_layer("MaxPooling2D", "c", pool_size=[3, 3], strides=[2, 2], **plain),
        *([] if lrn else [keras_layer("BatchNormalization", "d", epsilon=eps, axis=-1, center=True, scale=True)]),
        keras_layer("Flatten", "e"),
        keras_layer("Dense", "f", units=4, activation="softmax"),
        *extra,
    ]
    arrays = {"conv2d": numpy_arrays(theirs[0]), "batch_normalization": numpy_arrays(theirs[3])}
    return theirs, keras_archive(path, layers, arrays | {"dense": [kernel, theirs[5].bias.detach().numpy()]})


def test_the_description_in_a_keras_file_is_read(tmp_path):
    theirs, path = small_keras(tmp_path / "net.keras")
    imported, report = import_weights(path)
    assert_scores(imported, theirs, 19)
    assert imported.network.norm1.eps == 0.01 and imported.network.pool1.ceil_mode is False
    assert [name for name, _ in imported.network.named_children()][:4] == ["conv1", "relu1", "pool1", "norm1"]
    assert "(127.5, 127.5, 127.5), divided by (127.5, 127.5, 127.5), as in its first layers" in report.inputs
    assert (report.recognized, report.guesses, imported.preprocessing.stored_size) == (
        *("by its description in the file", ()),
        19,
    )


def test_a_lambda_is_taken_for_lrn_and_that_is_said(tmp_path):
    written = {"arguments": {"depth_radius": 2, "bias": 2.0, "alpha": 1e-3, "beta": 0.75}}
    for config, constants in ((written, (5, 5e-3, 0.75, 2.0)), ({"function": "?"}, (5, 5e-4, 0.75, 2.0))):
        theirs, path = small_keras(tmp_path / "net.keras", lrn=keras_layer("Lambda", "lrn_1", **config))
        imported, report = import_weights(path)
        theirs[1], theirs[3] = nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(*constants)), nn.Identity()
        assert_scores(imported, theirs, 19)
        assert "lrn_1, of type Lambda, is taken for LRN over 5 channels" in report.guesses[0]


@pytest.mark.parametrize(
    "layer, message",
    [
        (keras_layer("Dense", "g", units=3), "g must have weights of 2 dimensions|g follows a softmax"),
        (keras_layer("Activation", "g", activation="relu"), "g follows a softmax"),
        (keras_layer("LSTM", "g"), "g is a layer of type LSTM"),
        ({"class_name": "Conv2D", "config": {"name": "g", "dilation_rate": [2, 2]}}, "g must have dilation_rate 1"),
        ({"class_name": "MaxPooling2D", "config": {"name": "g", "pool_size": [0, 0]}}, "pool_size must be an integer"),
        ({"class_name": "Activation"}, "Activation|cannot be understood"),
        ({"config": 3}, "cannot be understood"),
        ([], "cannot be understood"),
    ],
)
def test_what_keras_can_and_alexnet_cannot_is_named(layer, message, tmp_path):
    _, path = small_keras(tmp_path / "net.keras", layer)
    with pytest.raises(ValueError, match=message):
        import_weights(path)


def test_weights_of_keras_without_a_description_need_a_declared_network(tmp_path):
    theirs, path = small_keras(tmp_path / "net.keras")
    weights = tmp_path / "net.inside"
    with pytest.raises(
        ValueError, match=r"it has batch norm \(batch_normalization\), and does not say after which layers"
    ):
        import_weights(weights, "cifar-keras")
    declared = import_weights(path)[0].network.architecture
    imported, report = import_weights(weights, declared)
    assert_scores(imported, theirs, 19)
    assert report.guessed


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    return pytest.importorskip("keras")


def keras_tutorial(keras, padding, flat_norm):
    layers = keras.layers
    model = keras.Sequential([keras.Input((115, 115, 3))])
    for width, kernel, stride, pools in ((8, 11, 4, 1), (16, 5, 1, 1), (12, 3, 1, 0), (12, 3, 1, 0), (8, 3, 1, 1)):
        model.add(layers.Conv2D(width, kernel, strides=stride, padding=padding if stride > 1 else "same"))
        model.add(layers.Activation("relu"))
        if pools:
            model.add(layers.MaxPooling2D(3, 2, padding=padding))
        if not flat_norm:
            model.add(layers.BatchNormalization())
    model.add(layers.Flatten())
    if flat_norm:
        model.add(layers.BatchNormalization(scale=False))
    for units in (20, 22):
        model.add(layers.Dense(units, activation="relu"))
        model.add(layers.Dropout(0.4))
        model.add(layers.BatchNormalization(center=False))
    model.add(layers.Dense(5))
    return model


def keras_functional(keras):
    layers = keras.layers
    images = keras.Input((64, 64, 3))
    x = layers.Normalization()(layers.Rescaling(1 / 255)(images))
    x = layers.RandomFlip()(x)
    x = layers.Conv2D(8, 5, 2, activation="tanh")(layers.ZeroPadding2D(2)(x))
    x = keras.Sequential([keras.Input(x.shape[1:]), layers.MaxPooling2D(), layers.Conv2D(6, 3, use_bias=False)])(x)
    return keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.ReLU()(x))))


def shake_keras(model):
    generator = np.random.default_rng(4)
    for layer in model.layers:
        if hasattr(layer, "layers"):
            shake_keras(layer)
        elif arrays := layer.get_weights():
            shakes = (
                generator.normal(size=each.shape) * 1.6 / np.prod(each.shape[:-1]) ** 0.5
                if each.ndim > 1
                else generator.uniform(0.5, 1.5, each.shape)
                for each in arrays
            )
            layer.set_weights([np.float32(each) for each in shakes])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("model", ["valid", "same", "flat", "functional"])
def test_models_of_keras_itself(model, suffix, keras, tmp_path):
    if model == "functional":
        theirs = keras_functional(keras)
    else:
        theirs = keras_tutorial(keras, "same" if model == "same" else "valid", model == "flat")
    shake_keras(theirs)
    if model == "functional":
        first = theirs.layers[2]
        first.adapt(np.random.default_rng(1).uniform(0, 1, (4, 64, 64, 3)).astype(np.float32))
    theirs.save(tmp_path / f"net.{suffix}")
    imported, report = import_weights(tmp_path / f"net.{suffix}")
    side, inputs = imported.network.input_size, imported.preprocessing
    pixels = np.random.default_rng(6).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    expected = torch.from_numpy(np.array(theirs.predict(pixels, verbose=0)))
    x = torch.from_numpy(pixels)
    x = x if report.guessed else (x - inputs.mean) / inputs.std
    actual = imported.network(x.permute(0, 3, 1, 2)).detach()
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert report.guessed == (model != "functional")


@pytest.mark.filterwarnings("ignore")
def test_two_heads_of_keras_are_refused(keras, tmp_path):
    layers = keras.layers
    images = keras.Input((64, 64, 3))
    x = layers.Flatten()(layers.Conv2D(4, 5, 4)(images))
    keras.Model(images, [layers.Dense(3)(x), layers.Dense(2)(x)]).save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match="several heads or branches"):
        import_weights(tmp_path / "net.keras")


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


@pytest.mark.parametrize(
    "content",
    [
        "2 cow\n0 cat\n1 dog\n",
        "cow 2\ncat 0\ndog 1\n",
        "1: cat\n2: dog\n3: cow",
        "{0: 'cat',\n 1: 'dog', 2: 'cow'}",
        "['cat', 'dog', 'cow']",
        "id,name\n0,cat\n1,dog\n2,cow\n",
        "class_name\tclass_id\ncow\t2\ncat\t0\ndog\t1\n",
        "name\ncat\ndog\ncow",
        "nc: 3\nnames:\n  0: cat\n  1: dog\n  2: cow\n",
        "names:\n- cat\n- dog\n- cow\nnc: 3",
        "names: [cat, dog, cow]",
        '{"names": ["cat", "dog", "cow"]}',
        '[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]',
    ],
)
def test_files_of_class_names(content, tmp_path):
    (tmp_path / "names").write_text(content, encoding="utf-8")
    assert read_classes(tmp_path / "names") == ("cat", "dog", "cow")


def test_numbers_in_names_stay_and_wrong_indices_are_told(tmp_path):
    path = tmp_path / "names"
    path.write_text("Acura Integra 2001\nBMW M3 2012\nFord GT 2006\n")
    assert read_classes(path) == ("Acura Integra 2001", "BMW M3 2012", "Ford GT 2006")
    for content, message in (
        ("0 cat\n2 dog\n", "the indices of 2 classes must be 0 to 1, got 0, 2"),
        ("0 crane\n1 crane\n2 cow\n", "has 'crane' twice, as classes 0 and 1: rename one"),
        ("{0: " * 3000, "no usable class names"),
        ("[" * 100_000, "nested too deeply"),
        ("id,name\n0,cat\n0,dog\n", "must be 0 to 1, got 0, 0"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_classes(path)


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
