"""A trained network in use is any nn.Module: who changes it, hooks it or looks at it finds what it then is."""

import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_references import lively
from torch import nn
from torch.nn.utils import parametrize, prune

import alexnet
from alexnet.model.bundle import ModelBundle
from alexnet.model.network import AlexNet
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.specs.recipes import recipe

CLASSES = tuple("abcdefg")
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
WAYS = [("fp32", "same"), ("bf16", "same"), ("fp32", "int8"), ("bf16", "bf16")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders with a lively `small` and `batch-norm`, by name."""
    folders = {}
    for name in ("small", "batch-norm"):
        network = lively(alexnet.create(name, len(CLASSES))).float()
        network.fc8.weight.data *= 0.2  # or one class would have all the probability
        sizes = network.architecture.stored_size, network.input_size
        bundle = ModelBundle(
            network, Preprocessing(*sizes, torch.full((1, 1, 3), 120.0), torch.full((3,), 60.0)), CLASSES
        )
        folders[name] = tmp_path_factory.mktemp(name)
        bundle.save(folders[name] / "model.safetensors")
    return folders


def expected_of(classifier):
    """Probabilities by the network alone, in float32, for what it sees."""
    with torch.no_grad():
        return classifier.network(classifier.inputs(IMAGE)).softmax(1)[0].numpy()


def bound_forward(module, x):
    return -nn.Conv2d.forward(module, x)


class Negative(nn.Module):
    def forward(self, weight):
        return -weight


CHANGES = {
    "a hook": lambda network: network.conv5.register_forward_hook(lambda module, args, output: -output),
    "a pre-hook": lambda network: network.fc6.register_forward_pre_hook(lambda module, args: (-args[0],)),
    "a hook on the network": lambda network: network.register_forward_hook(lambda module, args, output: -output),
    "another module": lambda network: setattr(network, "relu5", nn.Identity()),
    "another pooling": lambda network: setattr(network, "pool5", nn.AvgPool2d(3, 2, ceil_mode=network.pool5.ceil_mode)),
    "a deleted module": lambda network: delattr(network, "relu7"),
    "an appended module": lambda network: network.add_module("more", nn.Softmax(1)),
    "a module with weights": lambda network: setattr(network, "relu6", nn.LayerNorm(network.fc6.out_features)),
    "weights in place": lambda network: network.fc8.weight.data.zero_(),
    "weights moved about": lambda network: network.fc6.weight.data.copy_(network.fc6.weight.data.roll(64, 1)),
    "rows that change places": lambda network: network.fc8.bias.data.copy_(5 * network.fc8.bias.data.flip(0)),
    "one weight": lambda network: network.fc6.weight.data[:, 3000].fill_(3),
    "by NumPy": lambda network: np.negative(network.fc7.weight.detach().numpy(), network.fc7.weight.detach().numpy()),
    "a convolution's": lambda network: network.conv2.weight.data.mul_(-1),
    "other data": lambda network: setattr(network.conv3.weight, "data", -network.conv3.weight.data),
    "another parameter": lambda network: setattr(network.fc7, "weight", nn.Parameter(-network.fc7.weight)),
    "a setting": lambda network: (
        setattr(network.conv5, "dilation", (2, 2)) or setattr(network.conv5, "padding", (2, 2))
    ),
    "a forward": lambda network: setattr(
        network.conv4, "forward", lambda x: -nn.functional.relu(x[:, :1]).expand_as(x)
    ),
    "a bound forward": lambda n: setattr(n.conv2, "forward", types.MethodType(bound_forward, n.conv2)),
    "pruning": lambda network: prune.l1_unstructured(network.fc7, "weight", 0.95),
    "a parametrization": lambda network: parametrize.register_parametrization(network.conv3, "weight", Negative()),
}


@pytest.mark.parametrize(("precision", "fc_precision"), WAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_answers_as_changed(saved, change, precision, fc_precision):
    classifier = alexnet.load(saved["small"], "cpu", precision, fc_precision)
    before = classifier.predict(IMAGE, all_views=False)
    np.testing.assert_allclose(before, expected_of(classifier), atol=0.02)
    CHANGES[change](classifier.network)
    after, expected = classifier.predict(IMAGE, all_views=False), expected_of(classifier)
    assert np.abs(after - expected).max() < 0.2 * np.abs(after - before).max()
    assert np.array_equal(after, classifier.predict(IMAGE, all_views=False))


@pytest.mark.parametrize(("precision", "fc_precision"), WAYS)
def test_what_is_undone_is_undone(saved, precision, fc_precision):
    classifier = alexnet.load(saved["small"], "cpu", precision, fc_precision)
    before = classifier.predict(IMAGE)
    with classifier.network.conv5.register_forward_hook(lambda module, args, output: -output):
        assert np.abs(classifier.predict(IMAGE) - before).max() > 0.02
    for weight in (classifier.network.fc6.weight, classifier.network.conv2.weight):
        weight.data.neg_()
        assert np.abs(classifier.predict(IMAGE) - before).max() > 0.02
        weight.data.neg_()
    assert np.array_equal(classifier.predict(IMAGE), before)


@pytest.mark.parametrize(("precision", "fc_precision"), WAYS)
@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_statistics_of_batch_norm_count_at_once(saved, statistic, precision, fc_precision):
    classifier = alexnet.load(saved["batch-norm"], "cpu", precision, fc_precision)
    before = classifier.predict(IMAGE, all_views=False)
    getattr(classifier.network.norm1, statistic).data.fill_(30)
    after = classifier.predict(IMAGE, all_views=False)
    np.testing.assert_allclose(after, expected_of(classifier), atol=0.05)
    assert np.abs(after - before).max() > 0.02


@pytest.mark.parametrize(("precision", "fc_precision"), WAYS)
def test_every_method_leaves_the_mode_as_it_was(saved, precision, fc_precision):
    classifier = alexnet.load(saved["batch-norm"], "cpu", precision, fc_precision)
    expected = classifier.predict(IMAGE)
    classifier.network.train()
    classifier.network.norm1.eval()
    modes = {name: module.training for name, module in classifier.network.named_modules()}
    statistics = classifier.network.norm2.running_mean.clone()
    abandoned = classifier.predict_each([IMAGE] * 3, batch_size=1)
    next(abandoned)
    for call in (
        lambda: None,
        lambda: classifier.predict_n(IMAGE),
        lambda: classifier.inputs(IMAGE),
        lambda: classifier.evaluate((np.stack([IMAGE] * 4), ["a", "b", "a", "b"]), verbose=False),
        abandoned.close,
    ):
        call()
        assert {name: module.training for name, module in classifier.network.named_modules()} == modes
    assert np.array_equal(classifier.predict(IMAGE), expected)
    assert torch.equal(classifier.network.norm2.running_mean, statistics)


def test_only_who_has_the_network_pays_for_comparing_its_bits(saved, monkeypatch):
    from alexnet.model import quantization

    compared = []
    bits = quantization._bits
    monkeypatch.setattr(quantization, "_bits", lambda tensor: compared.append(tensor.numel()) or bits(tensor))
    classifier = alexnet.load(saved["small"], "cpu", "bf16")
    classifier.predict(IMAGE)
    classifier.evaluate((np.stack([IMAGE] * 4), ["a", "b", "a", "b"]), verbose=False)
    assert not compared
    classifier.bundle.network.fc8.weight.data.zero_()
    classifier.predict(IMAGE)
    assert sum(compared) == sum(parameter.numel() for parameter in classifier.network.parameters())


def are_contiguous(network):
    return all(tensor.is_contiguous() for tensor in network.state_dict().values())


def test_weights_are_contiguous_wherever_a_user_finds_them(saved, folder, tmp_path):
    network = alexnet.create("original", 5)
    assert are_contiguous(network)
    classifier = alexnet.load(saved["small"], "cpu", "fp32")
    classifier.predict(IMAGE)
    assert are_contiguous(classifier.network)
    save_file(classifier.network.state_dict(), tmp_path / "state.safetensors")
    averaged = replace(recipe("small"), ema_decay=0.9)
    for chosen in ("small", averaged):
        fitted = alexnet.Classifier("small", "cpu", "fp32")
        events = fitted.fit_events(folder, epochs=2, batch_size=8, recipe=chosen)
        for event in events:
            if not isinstance(event, alexnet.Step):
                assert are_contiguous(fitted.network)
                assert all(each.grad is None or each.grad.is_contiguous() for each in fitted.network.parameters())
    stopped = alexnet.Classifier("small", "cpu", "fp32")
    events = stopped.fit_events(folder, epochs=2, batch_size=8)
    next(event for event in events if isinstance(event, alexnet.Step))
    assert not are_contiguous(stopped.network), "a step is faster channels last"
    events.close()
    assert are_contiguous(stopped.network)


def test_lbfgs_minimizes_a_loss():
    """It reads weights and gradients as one vector, by `view(-1)`."""
    network = alexnet.create("cifar-18", 4).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=5, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(network(images), labels)
        value.backward()
        return value

    before = loss().item()
    optimizer.step(loss)
    assert loss().item() < before


@pytest.mark.parametrize("name", ["small", "original", "torchvision", "cifar-11"])
def test_exact_types_are_those_of_torch(name):
    network = alexnet.create(name, 5)
    kinds = {layer: type(module) for layer, module in network.named_children() if isinstance(module, nn.Conv2d)}
    rounded_up = {"conv1"} if name == "original" else set()
    assert {layer for layer, kind in kinds.items() if kind is not nn.Conv2d} == rounded_up


def test_inputs_are_what_the_network_sees(saved):
    classifier = alexnet.load(saved["small"], "cpu", "fp32")
    x = classifier.inputs(IMAGE)
    assert x.shape == (1, 3, 56, 56) and x.is_contiguous() and x.dtype == torch.float32 and not x.is_inference()
    with torch.no_grad():
        probabilities = classifier.network(x).softmax(1)[0].numpy()
    np.testing.assert_array_equal(probabilities, classifier.predict(IMAGE, all_views=False))
    assert torch.equal(classifier.inputs([IMAGE, IMAGE[:, ::-1].copy()])[:1], x)
    assert classifier.inputs([]).shape == (0, 3, 56, 56)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        classifier.inputs(b"nothing")


def pixel_network():
    network = alexnet.create("small", 7).eval()
    return ModelBundle(network, Preprocessing(64, 56, torch.full((1, 1, 3), 120.0), torch.ones(3)), CLASSES).network


def test_images_of_0_to_1_are_noticed_once():
    network, images = pixel_network(), torch.rand(2, 3, 56, 56)
    with pytest.warns(
        UserWarning, match="the images are from 0 to 1, but small was trained on pixels from -120 to 135"
    ):
        network(images)
    with warnings.catch_warnings(action="error"):
        network(images)
    with pytest.warns(UserWarning, match="Classifier.inputs"):
        pixel_network().features(images, "conv1")


@pytest.mark.parametrize(
    "images", [torch.randn(2, 3, 56, 56), 255 * torch.rand(2, 3, 56, 56) - 120, torch.zeros(2, 3, 56, 56)]
)
def test_other_images_are_not(images):
    with warnings.catch_warnings(action="error"):
        pixel_network()(images)
        pixel_network().train()(torch.rand(2, 3, 56, 56))
        alexnet.create("small", 7).eval()(torch.rand(2, 3, 56, 56))
        preprocessing = Preprocessing(64, 56, torch.full((1, 1, 3), 120.0), torch.full((3,), 58.0))
        ModelBundle(alexnet.create("small", 7).eval(), preprocessing, CLASSES).network(torch.rand(2, 3, 56, 56))


def test_the_range_is_not_asked_for_where_there_are_no_values():
    network, images = pixel_network(), torch.rand(4, 3, 56, 56)
    with torch.no_grad():
        by_image = torch.func.vmap(lambda image: network(image[None])[0])(images)
        assert pixel_network().to("meta")(images.to("meta")).shape == (4, 7)
    torch.testing.assert_close(by_image, network(images), rtol=1e-3, atol=1e-3)


def test_activations_are_contiguous_where_somebody_looks():
    network, images, seen = alexnet.create("small", 7).eval(), torch.randn(2, 3, 56, 56), []
    assert all(output.is_contiguous() for output in network.features(images).values())
    network.conv3.register_forward_hook(lambda module, args, output: seen.extend([*args, output]))
    network(images)
    assert len(seen) == 2 and all(each.is_contiguous() for each in seen)


def test_one_layer_may_be_named_alone():
    network, images = alexnet.create("small", 7).eval(), torch.randn(2, 3, 56, 56)
    (conv1,) = network.features(images, "conv1").values()
    assert torch.equal(conv1, network.features(images, ["conv1"])["conv1"])


@pytest.mark.parametrize("call", [AlexNet.__call__, AlexNet.features])
@pytest.mark.parametrize("name", ["small", "no-norm", "cifar-18"])
def test_an_image_without_a_batch_is_refused(name, call):
    network = alexnet.create(name, 7).eval()
    side = network.input_size
    with pytest.raises(
        ValueError, match=rf"images must be \(N, 3, {side}, {side}\), got \(3, {side}, {side}\); a single"
    ):
        call(network, torch.zeros(3, side, side))


ALTERATIONS = {
    "fc8 is Linear(in_features=512, out_features=3, bias=True), not Linear(": (
        lambda network: setattr(network, "fc8", nn.Linear(512, 3))
    ),
    "relu5 is GELU(approximate='none'), not ReLU()": lambda network: setattr(network, "relu5", nn.GELU()),
    "fc7 holds bias, weight_orig, weight_mask, not weight, bias": (
        lambda network: prune.l1_unstructured(network.fc7, "weight", 0.5)
    ),
    "conv3 holds bias, parametrizations.weight.original, not weight, bias": (
        lambda network: parametrize.register_parametrization(network.conv3, "weight", Negative())
    ),
    "softmax was added": lambda network: network.add_module("softmax", nn.Softmax(1)),
    "drop6 was deleted": lambda network: delattr(network, "drop6"),
    "relu7 was deleted": lambda network: setattr(network, "relu7", None),
    "conv1 has a forward of its own": lambda network: setattr(network.conv1, "forward", lambda x: x),
    "pool5 is AvgPool2d": lambda network: setattr(network, "pool5", nn.AvgPool2d(3, 2)),
    "conv5 is Conv2d(": lambda network: setattr(network.conv5, "dilation", (2, 2)),
}


@pytest.mark.parametrize("problem", ALTERATIONS)
def test_save_refuses_what_load_would_not_give_back(saved, problem, tmp_path):
    classifier = alexnet.load(saved["small"], "cpu")
    ALTERATIONS[problem](classifier.network)
    for save in (classifier.save, lambda path: alexnet.export_weights(classifier, path / "a.npy", "npy")):
        with pytest.raises(ValueError) as error:
            save(tmp_path)
        assert str(error.value).startswith(f"the network is not the small that a file would describe: {problem}")
    assert not [*tmp_path.rglob("*.*")]


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.conv1.register_forward_hook(lambda *_: None),
        lambda network: setattr(network.relu1, "inplace", True),
        lambda network: setattr(network.drop6, "p", 0.1),
        lambda network: network.train().requires_grad_(False),
        lambda network: prune.remove(prune.l1_unstructured(network.fc7, "weight", 0.5), "weight"),
    ],
)
def test_save_takes_what_load_gives_back(saved, change, tmp_path):
    classifier = alexnet.load(saved["small"], "cpu", "fp32")
    change(classifier.network)
    again = alexnet.load(classifier.save(tmp_path / "again"), "cpu", "fp32")
    np.testing.assert_array_equal(again.predict(IMAGE), classifier.predict(IMAGE))


def test_other_scores_have_no_names_until_they_are_given(saved):
    classifier = alexnet.load(saved["small"], "cpu", "fp32")
    classifier.network.fc8 = nn.Linear(512, 3)
    assert classifier.predict(IMAGE).shape == (3,)
    with pytest.raises(ValueError, match="the network gives 3 scores, got 7 classes; assign their names"):
        classifier.predict_n(IMAGE)
    assert repr(next(classifier.predict_each(IMAGE))) == "Prediction('': 3 probabilities without names)"
    classifier.bundle.classes = ("x", "y", "z")
    assert {name for name, _ in classifier.predict_n(IMAGE)} == {"x", "y", "z"}
