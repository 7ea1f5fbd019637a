"""Caffe's files as they lie about on the web, against Caffe's rules in operations of torch."""

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import frameworks
from references.frameworks import caffe_net, field
from test_foreign_weights import assert_scores, shaken

import alexnet
from alexnet import import_weights


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


CONV1 = convolution("conv1", "data", 4, 3, 11, field(6, 4))  # outputs are 7 × 7


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
            "an average without padding",
        ),
        (("prelu1", "PReLU", "conv1", [np.ones(4)], 0, b""), "prelu1 .* PReLU|prelu1 must have no arrays, got 1 blobs"),
        (("scale1", "Scale", "conv1", [np.ones(4)], 142, b""), "scale1 must not scale activations"),
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
    with pytest.raises(ValueError, match="last layer, fc8-conv, are feature maps of 9 × 9 for images of 67 × 67"):
        import_weights(tmp_path / "large.caffemodel")
    assert import_weights(tmp_path / "large.caffemodel", input_size=35)[0].network.num_classes == 3
    mean = step("pool", "Pooling", "cccp", 121, field(1, 1) + field(12, 1))
    with pytest.raises(ValueError, match="cccp, are averages of feature maps, as in Network in Network"):
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
