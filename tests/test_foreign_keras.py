"""Keras's files as they lie about on the web, against Keras itself where it is installed, or modules of torch."""

import json
import os
import zipfile

import h5py
import numpy as np
import pytest
import torch
from test_foreign_weights import assert_scores, shaken
from torch import nn

from alexnet import import_weights


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
