import pytest
import torch

import alexnet
from alexnet.model.network import TORCHVISION_NAMES, AlexNet
from alexnet.specs.description import base_of, differences
from alexnet.specs.operations import Conv, Layer, Linear
from alexnet.specs.shapes import infer_shapes, smallest_input
from alexnet.specs.storage import from_json, to_json
from alexnet.specs.variants import PAPER, VARIANTS, variant

PUBLISHED = {
    "paper": 60_965_224,
    "original": 60_965_224,
    "half": 59_798_312,
    "conv6": 61_555_304,
    "dense": 62_378_344,
    "caffe": 60_965_224,
    "caffenet": 60_965_224,
    "one-tower": 61_100_840,
    "torchvision": 61_100_840,
    "zfnet": 62_357_608,
    "small-towers": 2_898_925,
    "batch-norm": 60_965_224 + 2 * (96 + 256),
    "cifar-18": 89_578,
    "cifar-13": 1_901_386,
    "cifar-11": 3_672_906,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name, count):
    network = alexnet.create(name, num_classes=variant(name).classes)
    assert sum(p.numel() for p in network.parameters()) == count


def test_cifar_keras_counts_as_its_layers_written_out():
    layers = [(5 * 5 * 3, 64), (5 * 5 * 64, 64), (3 * 3 * 64, 64), (3 * 3 * 64, 32), (8 * 8 * 32, 10)]
    expected = sum(inputs * maps + maps for inputs, maps in layers)
    assert sum(p.numel() for p in alexnet.create("cifar-keras", 10).parameters()) == expected


def test_multiply_adds_of_original_are_those_of_its_table():
    costs = {
        step.name: step.multiply_adds for step in infer_shapes(variant("original")) if isinstance(step.operation, Layer)
    }
    assert costs == {
        "conv1": 55 * 55 * 11 * 11 * 3 * 96,
        "conv2": 27 * 27 * 5 * 5 * 48 * 256,
        "conv3": 13 * 13 * 3 * 3 * 256 * 384,
        "conv4": 13 * 13 * 3 * 3 * 192 * 384,
        "conv5": 13 * 13 * 3 * 3 * 192 * 256,
        "fc6": 6 * 6 * 256 * 4096,
        "fc7": 4096 * 4096,
        "fc8": 4096 * 1000,
    }
    assert sum(costs.values()) == 724_406_816


@pytest.mark.parametrize("name", VARIANTS)
def test_arithmetic_agrees_with_the_modules(name):
    network = narrow(name)
    placed = infer_shapes(network.architecture, 5)
    with torch.no_grad():
        activations = network.eval().features(torch.rand(2, 3, network.input_size, network.input_size))
    assert [step.name for step in placed] == list(activations)
    for step in placed:
        assert tuple(activations[step.name].shape[1:]) == step.output_shape, step.name
        parameters = sum(p.numel() for p in network.get_submodule(step.name).parameters())
        assert parameters == step.parameters, step.name


@pytest.mark.parametrize("name", ["original", "zfnet", "cifar-18"])
def test_receptive_field_is_how_many_rows_an_output_depends_on(name):
    """Each image of a batch has one row of NaN; the images whose middle output is NaN count its receptive field."""
    network = narrow(name).eval()
    side = network.input_size
    placed = [step for step in infer_shapes(network.architecture, 5) if 0 < step.receptive_field < 0.8 * side]
    x = torch.rand(side, 3, side, side)
    x[range(side), :, range(side)] = float("nan")
    with torch.no_grad():
        activations = network.features(x, [step.name for step in placed])
    assert len(placed) > 5
    for step in placed:
        middle = step.output_shape[1] // 2
        assert activations[step.name][:, 0, middle, middle].isnan().sum() == step.receptive_field, step.name


def test_an_image_that_is_too_small_names_layer_size_and_remedies():
    with pytest.raises(ValueError, match=r"must be >= 52, got 51, at which pool5 .* Enlarge.*small images"):
        alexnet.create("original", input_size=51)
    assert smallest_input(variant("original")) == 52
    network = narrow("original", input_size=52)
    assert network(torch.rand(1, 3, 52, 52)).shape == (1, 5)


@pytest.mark.parametrize(("setting", "wrong"), [("num_classes", 0), ("in_channels", 0), ("input_size", 0)])
def test_a_setting_out_of_range_is_named(setting, wrong):
    with pytest.raises(ValueError, match=f"{setting} must be an integer >= 1, got {wrong}"):
        alexnet.create("cifar-18", **{"num_classes": 10, setting: wrong})


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="got 'bvlc_alexnet'; did you mean 'caffe'"):
        variant("bvlc_alexnet")
    with pytest.raises(ValueError, match=r"variant must be one of paper, original.*, got 'alexnet2'"):
        alexnet.create("alexnet2")


def test_initial_weights_have_the_declared_standard_deviations_and_biases():
    network = AlexNet(variant("original"), 100)
    for layer, std, bias in (("conv1", 0.01, 0), ("conv3", 0.03, 0), ("conv5", 0.03, 1), ("fc6", 0.01, 1)):
        module = network.get_submodule(layer)
        assert module.weight.std().item() == pytest.approx(std, rel=0.02)
        assert module.bias.unique().tolist() == [bias]
    again = AlexNet(variant("original"), 100)
    assert torch.equal(network.conv1.weight, again.conv1.weight)
    assert not torch.equal(network.conv1.weight, AlexNet(variant("original"), 100, seed=1).conv1.weight)


@pytest.mark.parametrize("name", ["original", "batch-norm"])
def test_a_network_is_made_on_the_default_device(name):
    """As every module of torch; "meta" stands for a GPU."""
    with torch.device("meta"):
        network = narrow(name)
        x = torch.zeros(2, 3, network.input_size, network.input_size)
    assert {each.device.type for each in network.state_dict().values()} == {"meta"}
    assert network(x).device.type == "meta" and network(x).shape == (2, 5)


def test_pytorch_default_weights_are_those_of_its_own_layers():
    ours, theirs = AlexNet(variant("torchvision"), 10), torch.nn.Conv2d(64, 192, 5, padding=2)
    assert ours.conv2.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.02)
    assert ours.conv2.bias.abs().max() <= 1 / (64 * 25) ** 0.5


def test_features_stop_at_the_last_layer_wanted_and_know_torchvisions_names():
    network = narrow("torchvision").eval()
    x = torch.rand(2, 3, 224, 224)
    activations = network.features(x, ["features.0", "classifier.6", "relu3", "conv1"])
    assert list(activations) == ["features.0", "conv1", "relu3", "classifier.6"]
    torch.testing.assert_close(activations["features.0"], network.conv1(x))
    torch.testing.assert_close(activations["classifier.6"], network(x))
    assert set(TORCHVISION_NAMES.values()) <= set(dict(network.named_children()))
    with pytest.raises(KeyError, match=r"a layer of torchvision must be one of .*, got 'conv9'"):
        network.features(x, ["conv9"])


def test_dropout_of_2012_zeroes_without_rescaling_and_halves_afterwards():
    network = narrow("original")
    ones = torch.ones(10_000)
    dropped = network.train().drop6(ones)
    assert sorted(dropped.unique().tolist()) == [0, 1]
    assert dropped.mean().item() == pytest.approx(0.5, abs=0.03)
    assert network.eval().drop6(ones).unique().tolist() == [0.5]


def test_an_architecture_is_stored_as_json():
    import json

    for architecture in VARIANTS.values():
        assert from_json(json.loads(json.dumps(to_json(architecture)))) == architecture
    with pytest.raises(ValueError, match="'Conf' is not known"):
        from_json({"is": "Conf"})
    with pytest.raises(ValueError, match="stored Conv does not fit"):
        from_json({"is": "Conv", "nam": "conv1"})


def test_differences_name_what_the_2012_run_changed():
    text = " ".join(differences(variant("original"), PAPER))
    for fact in ("224 pixels, not 227", "within 2 groups", "5 × 5 positions", "LRN, pool, ReLU", "deviation 0.03"):
        assert fact in text
    assert differences(PAPER, PAPER) == []
    assert "It has no conv3." in differences(variant("no-conv3"), PAPER)


@pytest.mark.parametrize(
    ("name", "base"),
    [("original", "paper"), ("dense", "paper"), ("conv6", "original"), ("tanh", "original"), ("cifar-11", "cifar-13")],
)
def test_a_network_is_compared_with_the_one_that_it_changes(name, base):
    assert base_of(variant(name)) is variant(base)


def narrow(name: str, input_size: int | None = None) -> AlexNet:
    """A variant with few channels and units, and 5 classes."""
    architecture = variant(name)
    changes = {}
    for layer in architecture.layers:
        if isinstance(layer, Linear):
            changes[layer.name] = {} if layer.units is None else {"units": 12}
        else:
            changes[layer.name] = {"channels": 4 * getattr(layer, "groups", 1) if isinstance(layer, Conv) else 4}
    return AlexNet(architecture.with_layers(**changes), 5, input_size=input_size)


@pytest.mark.parametrize("name", ["cifar-keras", "torchvision", "no-norm", "small", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_before_relu_changes_no_bit(name, dtype):
    """bfloat16 has many equal values, of which pooling must choose the same one."""
    side = {"torchvision": 195, "no-norm": 67, "tanh": 67}.get(name)
    network = alexnet.create(name, num_classes=5, input_size=side).to(dtype).eval()
    x = torch.randn(2, 3, network.input_size, network.input_size, dtype=dtype) * (60 if side else 1)
    x = x.contiguous(memory_format=torch.channels_last)  # else the network makes it so, but `features` does not
    gradients = []
    for scores in (network(x), network.features(x, ["fc8"])["fc8"]):
        network.zero_grad()
        scores.sum().backward()
        gradients.append([scores.detach(), *(parameter.grad for parameter in network.parameters())])
    for ours, declared in zip(*gradients, strict=True):
        assert torch.equal(ours, declared)
