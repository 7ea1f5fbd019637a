"""Transfer learning: which layers are copied, which move, and how images are normalized."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import fit as fit_with
from conftest import write_colors
from PIL import Image
from safetensors.torch import load_file

import alexnet
from alexnet import Classifier, create
from alexnet.cli import main
from alexnet.data.batches import Batch
from alexnet.data.sources.detection import open_source
from alexnet.model.bundle import ModelBundle
from alexnet.model.network import AlexNet
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.runs.run import LAST
from alexnet.specs.recipes import recipe
from alexnet.specs.schedules import LearningRates, Piecewise, Segment
from alexnet.specs.settings import TrainSettings
from alexnet.specs.shapes import infer_shapes, tensor_shapes
from alexnet.specs.variants import VARIANTS
from alexnet.training.loop import Training, train
from alexnet.training.optimizer import optimizer_of
from alexnet.training.plan import make_plan
from alexnet.training.step import MicroBatches
from alexnet.training.transfer import Pretrained, Transfer

STEADY = replace(recipe("small"), name="steady", min_steps=0, epochs=2, batch_size=16)
STEADY = replace(STEADY, schedule=Piecewise((Segment(1, LearningRates(0.002, 0.004)),)), ema_decay=None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `small` on blue, green and red."""
    place = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(place / "cache"))
        data = write_colors(place / "colors", 20)
        settings = "--variant small --epochs 8 --batch-size 8 --lr 0.02 --precision fp32"
        main(["train", str(data), *settings.split(), "--output", str(place / "run")])
    return place / "run"


def write_squares(root, colors, count, seed=3):
    """As `write_colors`, of other colors, by split."""
    generator = np.random.default_rng(seed)
    for split, number in (("train", count), ("val", 8), ("test", 8)):
        for name, color in colors.items():
            (root / split / name).mkdir(parents=True)
            for each in range(number):
                pixels = (np.array(color) + generator.normal(0, 25, (36, 40, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{each:02}.png")
    return root


def pretrained(variant, classes, tmp_path, **changes):
    """A network of random weights as something to go on from."""
    network = create(variant, len(classes), seed=7, **changes).eval()
    side = network.input_size
    inputs = Preprocessing(side + 8, side, torch.full((1, 1, 3), 100.0), torch.ones(3))
    bundle = ModelBundle(network, inputs, tuple(classes))
    bundle.save(tmp_path / "model.safetensors")
    return Pretrained.of(bundle, tmp_path / "model.safetensors")


def transfer_to(architecture, classes, source):
    return Transfer.to(architecture, tensor_shapes(infer_shapes(architecture, len(classes))), classes, source)


def fine_tuned(architecture, classes, source):
    transfer = transfer_to(architecture, classes, source)
    network = AlexNet(architecture, len(classes))
    transfer.copy_weights(network)
    return transfer, network.state_dict()


def narrow(name):
    """A variant of 2012 for images of 67 pixels, with few units."""
    architecture = VARIANTS[name].with_layers(fc6={"units": 16}, fc7={"units": 12})
    return replace(architecture, input_size=67, stored_size=75)


def test_a_new_last_layer_and_all_others_bit_by_bit(tmp_path):
    source = pretrained("small", ("a", "b", "c"), tmp_path)
    transfer, state = fine_tuned(VARIANTS["small"], ("a", "b", "d", "e"), source)
    assert (transfer.new, transfer.unused) == (("fc8",), ("fc8",))
    fresh = create("small", 4).state_dict()
    for name, tensor in source.bundle.network.state_dict().items():
        assert torch.equal(state[name], fresh[name] if name.startswith("fc8") else tensor), name


def test_conv6_begins_with_the_convolutions_of_original_as_in_2012(tmp_path):
    """Configuration 146 began with conv1 to conv5 of 145; what stands behind the new conv6 was new too."""
    network = AlexNet(narrow("original"), 3, seed=7).eval()
    inputs = Preprocessing(75, 67, torch.zeros(1, 1, 3), torch.ones(3))
    ModelBundle(network, inputs, ("a", "b", "c")).save(tmp_path / "model.safetensors")
    source = Pretrained.of(ModelBundle.load(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    transfer, state = fine_tuned(narrow("conv6"), ("a", "b", "c"), source)
    assert transfer.copied == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert transfer.new == ("conv6", "fc6", "fc7", "fc8") and transfer.unused == ("fc6", "fc7", "fc8")
    fresh = AlexNet(narrow("conv6"), 3).state_dict()
    for name, tensor in state.items():
        expected = network.state_dict()[name] if name[:5] in transfer.copied else fresh[name]
        assert torch.equal(tensor, expected), name


def test_the_same_classes_in_another_order_get_the_same_probabilities(tmp_path):
    source = pretrained("small", ("a", "b", "c"), tmp_path)
    transfer, state = fine_tuned(VARIANTS["small"], ("c", "a", "b"), source)
    assert not transfer.new and "reordered" in transfer.facts()["copied"]
    network = create("small", 3).eval()
    network.load_state_dict(state)
    x = torch.randn(4, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(network(x), source.bundle.network(x)[:, [2, 0, 1]])


def test_dropout_of_2012_and_of_today_give_the_same_scores(tmp_path):
    """The weights behind dropout that is scaled afterwards are twice those behind dropout scaled while training."""
    source = pretrained("small", ("a", "b"), tmp_path)
    plain = replace(VARIANTS["small"], dropout=replace(VARIANTS["small"].dropout, rescale=False))
    _, state = fine_tuned(plain, ("a", "b"), source)
    network = AlexNet(plain, 2).eval()
    network.load_state_dict(state)
    x = torch.randn(4, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(network(x), source.bundle.network(x))


def test_images_are_made_into_what_the_weights_know(run, tmp_path):
    """Whatever the recipe and the new images are: the mean image of 2012 belongs to other weights."""
    data = write_squares(tmp_path / "dark", {"black": (10, 10, 10), "brown": (60, 40, 20)}, 4)
    before = ModelBundle.load(run / LAST).preprocessing
    for chosen in (None, "original", "torchvision"):
        classifier = Classifier(device="cpu", precision="fp32")
        classifier.fit(data, epochs=1, recipe=chosen, pretrained=run, verbose=False)
        after = classifier.bundle.preprocessing
        assert torch.equal(before.mean, after.mean) and torch.equal(before.std, after.std) and after.flip
        assert (after.stored_size, after.crop_size) == (before.stored_size, before.crop_size) == (64, 56)


def test_a_mean_image_is_resized_with_the_images():
    """The mean of images, resized, is the mean of resized images."""
    images = torch.rand(5, 3, 80, 80) * 255
    inputs = Preprocessing(80, 56, images.mean(0).permute(1, 2, 0), torch.ones(3))
    smaller = F.interpolate(images, (64, 64), mode="bilinear", antialias=True).mean(0).permute(1, 2, 0)
    torch.testing.assert_close(inputs.resized(64, 56, True).mean, smaller)


def test_frozen_layers_stay_bit_by_bit_and_the_others_move(run, tmp_path):
    data = write_squares(tmp_path / "data", {"black": (10, 10, 10), "brown": (60, 40, 20)}, 8)
    classifier = Classifier(device="cpu", precision="fp32")
    scale = {"conv1": 0.0, "conv2": 0.0, "fc6": 0.0}
    classifier.fit(data, recipe=STEADY, pretrained=run, lr_scale=scale, verbose=False)
    before, after = load_file(run / LAST), classifier.network.state_dict()
    for name, tensor in after.items():
        layer = name.rpartition(".")[0]
        if layer != "fc8":
            assert torch.equal(tensor, before[name]) == (layer in scale), name
    assert all(parameter.requires_grad for parameter in classifier.network.parameters())


def test_leading_frozen_layers_cost_no_gradient_and_frozen_batch_norm_keeps_its_means(folder):
    chosen = replace(recipe("modern"), lr_scale={"conv1": 0.0, "norm1": 0.0}, batch_size=8)
    plan = make_plan(open_source(folder), TrainSettings(variant=narrow("batch-norm"), recipe=chosen))
    network = Training(plan).network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randn(4, 3, 67, 67)
    activations = network.features(x)
    assert not activations["pool1"].requires_grad and activations["conv2"].requires_grad
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("norm1"))
    assert not torch.equal(after["norm2.running_mean"], before["norm2.running_mean"])


def test_the_first_step_of_a_slowed_layer_is_the_update_of_the_paper_at_its_share_of_the_rate():
    """v ← −share · rate · (decay · w + g); w ← w + v (section 5), with the gradient that torch finds."""
    chosen = replace(STEADY, lr_scale={"conv3": 0.1, "fc7": 0.5}, label_smoothing=0.0, max_grad_norm=None)
    network = create("small", 3).train()
    views = torch.randn(6, 3, 56, 56).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(1)
    loss = F.cross_entropy(network(views), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = optimizer_of(network, chosen)
    optimizer.set_learning_rates(chosen.learning_rates(0, []))
    torch.manual_seed(1)
    MicroBatches(DataParallel(network, Group()), optimizer, chosen, "fp32").step(
        views, Batch(None, labels, np.arange(6), 0)
    )
    for (name, after), w, g in zip(network.named_parameters(), before, gradients, strict=True):
        rate, decay = (0.002, 0.0005) if name.endswith("weight") else (0.004, 0.0)
        share = chosen.lr_scale.get(name.rpartition(".")[0], 1.0)
        torch.testing.assert_close(after.detach() - w, -share * rate * (decay * w + g), rtol=1e-3, atol=1e-7)


def test_new_layers_learn_at_the_rates_of_2012(run, tmp_path):
    """0.01 after 300 of the 10,010 batches of an epoch, 0.001 from epoch 9 of 54; conv1 frozen from epoch 7."""
    data = write_squares(tmp_path / "data", {"black": (10, 10, 10), "brown": (60, 40, 20)}, 4)
    source = Pretrained.of(ModelBundle.load(run / LAST), run / LAST)
    chosen = make_plan(open_source(data), TrainSettings(recipe="fine-tune", batch_size=128), source).recipe
    assert chosen.new_layers == ("fc8",)
    for epoch, body, new, conv1 in (
        (0.02, (0.001, 0.002), (0.001, 0.002), (0.0001, 0.002)),
        (0.04, (0.001, 0.002), (0.01, 0.02), (0.0001, 0.002)),
        (8.9, (0.001, 0.002), (0.01, 0.02), (0, 0)),
        (9, (0.001, 0.002), (0.001, 0.002), (0, 0)),
        (22, (0.0001, 0.002), (0.0001, 0.002), (0, 0)),
        (42, (0.00001, 0.002), (0.00001, 0.002), (0, 0)),
    ):
        rates = chosen.learning_rates(epoch / 54, [])
        assert (rates.of("conv3"), rates.of("fc8"), rates.of("conv1")) == (body, new, conv1), epoch
        assert rates.color_shift == (epoch < 38)


def write_stripes(root, angles, counts, seed):
    """By split: stripes of any two colors, at angles of about so many degrees."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    for split, count in counts.items():
        for angle in angles:
            (root / split / f"{angle:03}").mkdir(parents=True)
            for number in range(count):
                turn = np.deg2rad(angle + generator.uniform(-8, 8))
                width, start = generator.uniform(0.5, 0.9), generator.uniform(0, 2 * np.pi)
                wave = np.sin((x * np.cos(turn) + y * np.sin(turn)) * width + start)[..., None]
                dark, light = generator.uniform(0, 255, (2, 3))
                pixels = dark + (light - dark) * (wave + 1) / 2 + generator.normal(0, 20, (64, 64, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / split / f"{angle:03}/{number}.png")
    return root


def test_few_images_teach_new_classes_that_new_weights_cannot_learn_from_them(tmp_path):
    """Stripes at four angles, then four images of each of four other angles, and forty steps."""
    many = write_stripes(tmp_path / "many", (0, 45, 90, 135), {"train": 40, "val": 10}, 0)
    few = write_stripes(tmp_path / "few", (22, 67, 112, 157), {"train": 4, "val": 20}, 1)
    maps = {"conv1": 24, "conv2": 32, "conv3": 64, "conv4": 64, "conv5": 48}
    changes = {name: {"channels": each} for name, each in maps.items()} | {"fc6": {"units": 128}, "fc7": {"units": 128}}
    little = replace(VARIANTS["small"].with_layers(**changes), dropout=None)
    same = {"flip": False, "color_shift": None, "min_steps": 0, "crop_group": 1}
    first = replace(
        recipe("small"), **same, crop_scale=None, label_smoothing=0.0, lr_factor=0.5, epochs=12, batch_size=8
    )
    tuned = replace(recipe("fine-tune"), **same, epochs=10, batch_size=4)
    fresh = replace(tuned, input=first.input, new_layers=("fc8",))

    def errors(data, chosen, seed=0, source=None):
        plan = make_plan(open_source(data), TrainSettings(variant=little, recipe=chosen), source)
        training = Training(plan, seed)
        *_, last = train(training)
        return training.bundle, last.row["val_error"]

    bundle, error = errors(many, first)
    assert error < 0.4
    bundle.save(tmp_path / "many.safetensors")
    source = Pretrained.of(bundle, tmp_path / "many.safetensors")
    with_old = np.mean([errors(few, tuned, seed, source)[1] for seed in range(2)])
    with_new = np.mean([errors(few, fresh, seed)[1] for seed in range(2)])
    assert with_old < 0.6 and with_new > 0.65, "a guess is wrong at 0.75"


def interrupted(steps, data, **settings):
    """Training, stopped by Ctrl-C after so many steps."""
    with pytest.raises(KeyboardInterrupt):
        fit_with(Classifier(), data, steps, lambda: signal.raise_signal(signal.SIGINT), **settings)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_interrupted_fine_tuning_ends_as_one_that_never_was(run, tmp_path, is_damaged, capsys):
    """Without the file that it began with; and where its last checkpoint is damaged, from the one before."""
    data = str(write_squares(tmp_path / "data", {"black": (10, 10, 10), "brown": (60, 40, 20)}, 8))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((run / LAST).read_bytes())
    asked = ["--epochs", "3", "--batch-size", "4", "--freeze", "conv1", "--slow", "fc6=0.5"]  # flags of version 0.1
    asked.append("--keep-checkpoints")
    main(["train", data, "--from", str(weights), *asked, "--output", str(tmp_path / "whole")])
    said = capsys.readouterr().err
    assert "--from is now called --pretrained" in said and "--slow is now called --lr-scale" in said
    settings = {"epochs": 3, "batch_size": 4, "freeze": ("conv1",), "lr_scale": {"fc6": 0.5}, "checkpoint_minutes": 0}
    interrupted(6, data, pretrained=weights, output=tmp_path / "broken", **settings)
    about = json.loads((tmp_path / "broken" / "run.json").read_text())
    assert about["pretrained"] == str(weights) and len(about["pretrained_sha256"]) == 64
    weights.unlink()
    if is_damaged:
        (tmp_path / "broken" / LAST).write_bytes(b"nothing")
    main(["train", data, "--resume", "--keep-checkpoints", "--output", str(tmp_path / "broken")])
    whole, broken = (load_file(tmp_path / name / LAST) for name in ("whole", "broken"))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)
    assert torch.equal(whole["conv1.weight"], load_file(run / LAST)["conv1.weight"])
    assert f"small, fine-tuned from {weights}" in (tmp_path / "broken" / "report.html").read_text()


def test_before_the_first_checkpoint_the_weights_must_be_those_it_was_begun_with(run, tmp_path, capsys):
    data = str(write_squares(tmp_path / "data", {"black": (10, 10, 10), "brown": (60, 40, 20)}, 4))
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "run"
    weights.write_bytes((run / LAST).read_bytes())
    interrupted(1, data, pretrained=weights, epochs=1, output=folder)
    (folder / LAST).unlink()
    create_other = Classifier.load(weights, "cpu").bundle
    with torch.no_grad():
        create_other.network.conv1.weight.add_(1)
    create_other.save(weights)
    with pytest.raises(SystemExit):
        main(["train", data, "--resume", "--output", str(folder)])
    assert f"was started with {weights}; the weights in {weights} are different" in capsys.readouterr().err
    weights.unlink()
    with pytest.raises(SystemExit):
        main(["train", data, "--resume", "--output", str(folder)])
    assert f"{weights} does not exist" in capsys.readouterr().err


def test_warm_restart_goes_on_with_conv1_as_it_was(run, tmp_path):
    again = tmp_path / "again"
    asked = ["--pretrained", str(run), "--recipe", "warm-restart", "--epochs", "1", "--keep-checkpoints"]
    main(["train", str(run.parent / "colors"), *asked, "--output", str(again)])
    before, after = load_file(run / LAST), load_file(again / LAST)
    assert torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert not torch.equal(before["fc8.weight"], after["fc8.weight"])


def test_torchvisions_file_is_gone_on_from_with_its_own_inputs(tmp_path, folder):
    network = create("torchvision", 5)
    names = {ours: theirs for theirs, ours in alexnet.model.network.TORCHVISION_NAMES.items()}
    state = {}
    for name, tensor in network.state_dict().items():
        layer, _, kind = name.rpartition(".")
        state[f"{names[layer]}.{kind}"] = tensor
    torch.save(state, tmp_path / "alexnet.pth")
    bundle, _ = alexnet.import_weights(tmp_path / "alexnet.pth")
    plan = make_plan(open_source(folder), pretrained=Pretrained.of(bundle, tmp_path / "alexnet.pth"))
    assert plan.architecture.name == "torchvision" and plan.transfer.new == ("fc8",)
    inputs = plan.preprocessing
    torch.testing.assert_close(inputs.std, torch.tensor([58.395, 57.12, 57.375]))


def test_what_cannot_be_is_said_in_one_line(run, tmp_path, folder, capsys):
    data = str(folder)
    for arguments, said in (
        (["--recipe", "fine-tune"], "the recipe fine-tune needs pretrained weights: pretrained must name a network"),
        (["--pretrained", str(tmp_path)], "holds no trained network"),
        (
            ["--pretrained", str(run), "--freeze", "conv9"],
            "--freeze and --lr-scale must name layers (conv1, conv2",
        ),
        (["--pretrained", str(run), "--freeze", "con1"], ", got 'con1'; did you mean 'conv1'?"),
        (
            ["--pretrained", str(run), "--lr-scale", "conv3=-1"],
            "lr_scale must be factors >= 0 by layer, got",
        ),
        (
            ["--pretrained", str(run), "--variant", "cifar-18"],
            "no layer of its network, small, fits cifar-18: conv1.weight must be 32 ×",
        ),
        (["--variant", "cifar-18", "--freeze", "conv1", "conv2", "conv3", "fc8"], "at least one layer must be trained"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["train", data, *arguments])
        error = capsys.readouterr().err
        assert stop.value.code == 1 and said in error and error.count("\n") == 1, (arguments, error)
