"""A run that cannot learn is told why; one that learns is left in peace."""

import contextlib
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import kills
import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import Classifier, create
from alexnet.cli import main
from alexnet.data.batches import Batch
from alexnet.data.sources.detection import open_source
from alexnet.diagnosis.causes import Facts, diagnosed
from alexnet.diagnosis.layers import SAMPLE, Diverged, check_row, data_facts, layer_statistics
from alexnet.evaluation.metrics import Metrics
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.runs.run import Run
from alexnet.session import facts_of
from alexnet.specs.recipe import Input
from alexnet.specs.recipes import recipe
from alexnet.specs.settings import TrainSettings
from alexnet.training.optimizer import optimizer_of
from alexnet.training.plan import make_plan
from alexnet.training.step import MicroBatches


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return kills.write_images(tmp_path_factory.mktemp("images") / "images", 40)


def write_noise(folder, counts, deviation=60.0, seed=0):
    """Images in which nothing is to be seen, so many of each class."""
    drawn = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = (128 + drawn.normal(0, deviation, (40, 40, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def found_in(data, run, variant="cifar-18", epochs=20, ends=None, **how):
    """What the files of a run say about it; where it is to end by an error, so does the message."""
    how = {"epochs": epochs, "batch_size": 16, "verbose": False} | how
    with pytest.raises(ends, match="Likely cause") if ends else contextlib.nullcontext():
        Classifier(variant, "cpu", "fp32").fit(data, output=run, **how)
    return diagnosed(facts_of(run))


def test_a_run_that_learns_is_left_in_peace(images, tmp_path, capsys):
    for variant in ("cifar-18", "small"):
        assert found_in(images, tmp_path / variant, variant, 8, verbose=True) is None
        assert "Likely cause" not in capsys.readouterr().out
        main(["doctor", str(tmp_path / variant)])
        assert "It learns: the validation error is 0%, and guessing gives 67%." in capsys.readouterr().out


def test_inputs_255_times_too_small_for_the_initial_weights(images, tmp_path, capsys):
    unit = replace(recipe("cifar-18"), input=Input(std=(255.0, 255.0, 255.0)))
    found = found_in(images, tmp_path / "run", recipe=unit, verbose=True)
    assert found.cause == "small-inputs" and "inputs have an RMS of 0.2" in found.evidence
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Likely cause: inputs have an RMS of 0.2") == 1
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(tmp_path / "run"), "--json"])
    assert stop.value.code == 1
    assert json.loads(capsys.readouterr().out)["diagnosis"]["cause"] == "small-inputs"
    with pytest.raises(SystemExit):
        main(["doctor", str(tmp_path / "run")])
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join(str(found).replace("recipe=…", "--recipe").split()) in printed and "conv1" in printed


@pytest.mark.parametrize(("variant", "lr", "ends"), [("cifar-18", 100.0, Diverged), ("small", 30.0, None)])
def test_a_rate_that_is_far_too_high(images, tmp_path, variant, lr, ends):
    """To a loss that is no number; and, with short gradients, to dead units."""
    assert found_in(images, tmp_path / "run", variant, 8, ends, lr=lr).cause == "high-lr"


def test_a_rate_that_is_far_too_low(images, tmp_path):
    for variant, lr in (("cifar-18", 1e-7), ("small", 1e-6)):
        assert found_in(images, tmp_path / variant, variant, epochs=8, lr=lr).cause == "low-lr"


def test_a_lucky_validation_loss_does_not_hide_a_rate_that_is_far_too_low():
    slow = LINE | {"layers": {"conv1": SIZES | {"ratio": 5e-6}}, "data": DATA | {"guess": 1.1, "lr_factor": 0.004}}
    epoch = EPOCH | {"train_loss": 1.25, "val_loss": 0.9, "val_error": 0.33}
    found = diagnosed(Facts([epoch], [slow]))
    assert found.cause == "low-lr" and found.remedy == "the recipe's learning rate, 25 (omit lr=…)"
    assert found.symptom == "It hardly learns: after 240 steps the training loss is 1.25, and guessing gives 1.1"
    assert diagnosed(Facts([epoch | {"train_loss": 1.0}], [slow])) is None


def test_the_verdict_says_what_it_rests_on():
    epoch = EPOCH | {"train_loss": 2.4, "val_loss": 0.9, "val_error": 0.56}
    facts = Facts([epoch], [LINE | {"data": DATA | {"guess": 2.3, "largest": 0.33}}])
    assert diagnosed(facts) is None and facts.verdict == (
        "Too early to say, after 240 steps: the validation error is 56%, and guessing gives 67%, "
        "but the training loss is not below that of guessing."
    )


def test_a_rate_far_above_the_recipes_is_the_first_to_go():
    for lr_factor, remedy in ((2000.0, "the recipe's learning rate, 5e-05 (omit lr=…)"), (2.0, "a tenth of the")):
        row = LINE | {"loss": 1e19, "data": DATA | {"lr_factor": lr_factor}}
        assert diagnosed(Facts([], [row])).remedy.startswith(remedy)


def test_an_exploded_loss_is_told_after_its_epoch(images, tmp_path, capsys):
    found_in(images, tmp_path / "run", "small", 8, lr=30.0, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.strip().startswith(("1/8", "8/8"))]
    told = next(number for number, line in enumerate(lines) if "Likely cause" in line)
    assert told < lines.index(epochs[-1]) and max(map(len, epochs)) <= 80


def test_labels_that_do_not_belong_to_the_images(images, tmp_path):
    shuffled = tmp_path / "shuffled"
    labels = np.random.default_rng(0).permutation(np.repeat(["blue", "green", "red"], 40))
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        (shuffled / labels[number]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, shuffled / labels[number] / f"{number:03}.png")
    assert found_in(shuffled, tmp_path / "run", epochs=40).cause == "labels"


@pytest.mark.parametrize("variant", ["cifar-18", "small"])
def test_images_that_are_all_alike(tmp_path, variant):
    black = tmp_path / "black"
    for name in ("a", "b", "c"):
        (black / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (40, 40)).save(black / name / f"{number}.png")
    assert found_in(black, tmp_path / "run", variant, epochs=8).cause == "constant-images"


def test_classes_in_another_order_in_val(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "val", "test"):
        kills.write_images(data / split, 20)
    for old, new in (("red", "x"), ("green", "red"), ("blue", "green"), ("x", "blue")):
        (data / "val" / old).rename(data / "val" / new)
    found = found_in(data, tmp_path / "run", epochs=10)
    assert found.cause == "class-order" and "would be 0% instead of 100%" in found.evidence


def test_one_class_that_is_hard_to_beat(tmp_path):
    data = write_noise(tmp_path / "data", {"cat": 72, "dog": 8})
    found = found_in(data, tmp_path / "run")
    assert found.cause == "dominant-class" and "91% of the training images are cat" in found.evidence


def test_a_run_that_is_too_short(tmp_path, capsys):
    """In Python, advice names arguments; on the command line, flags. It stands below the line of the epoch."""
    data = write_noise(tmp_path / "data", {"a": 40, "b": 40})
    found = found_in(data, tmp_path / "run", epochs=3, verbose=True)
    assert found.cause == "few-steps" and found.evidence == (
        "12 steps are few: networks take 30 to 800 to start learning"
    )
    assert found.remedy == (
        "more epochs (epochs=125 takes about 500 steps), smaller batches (batch_size=…), or a network that has learned "
        "from other images (pretrained=…)"
    )
    lines = capsys.readouterr().out.splitlines()
    (symptom,) = (number for number, line in enumerate(lines) if line.startswith("It "))
    assert lines[symptom - 1].startswith("      3/3 ") and "Likely cause: 12 steps are few" in lines[symptom + 1]
    with pytest.raises(SystemExit):
        main(["doctor", str(tmp_path / "run")])
    flags = "(--epochs 125 takes about 500 steps), smaller batches (--batch-size), or a network that has learned from"
    assert flags in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("steps", range(1, 21))
@pytest.mark.parametrize("change", [{"loss": 9.0}, {"layers": {"conv1": {"ratio": 1e-9, "dead": 1.0}}}])
def test_few_steps_come_before_the_learning_rate(steps, change):
    row = LINE | {"step": steps, "data": DATA | {"guess": 1.0, "lr_factor": 2.0}} | change
    found = diagnosed(Facts([EPOCH | {"epoch": steps, "steps": steps}], [row]))
    assert found.cause == "few-steps" and "learning rate" not in str(found) and "lr=" not in str(found)
    assert found.symptom.startswith(f"It does not learn: after {steps} step{'s' * (steps > 1)} the loss is ")
    assert diagnosed(Facts([], [row | {"loss": None}])).cause == "high-lr"


def test_nobody_is_told_to_omit_what_was_not_given():
    slow = LINE | {"loss": 9.0, "layers": {"conv1": SIZES | {"ratio": 1e-9}}}
    higher = "a higher learning rate than 0.1"
    for lr_factor, remedy in ((1.0, higher), (0.5, higher), (0.1, "the recipe's learning rate, 1 (omit lr=…)")):
        row = slow | {"data": DATA | {"guess": 9.0, "lr_factor": lr_factor}}
        assert diagnosed(Facts([], [row])).remedy == remedy
    small = LINE | {"loss": 9.0, "inputs": 0.1}
    for has_own, remedy in ((True, ""), (False, "the network's own recipe (omit recipe=…), or ")):
        found = diagnosed(Facts([], [small | {"data": DATA | {"has_own_inputs": has_own}}]))
        assert found.remedy == f"{remedy}images with more contrast"


def test_sizes_of_layers_are_those_of_their_tensors():
    """By the definitions, slowly; and nothing in the network or the generator changes by looking."""
    torch.manual_seed(0)
    network, chosen = create("small", num_classes=5).train(), recipe("small")
    optimizer = optimizer_of(network, chosen)
    optimizer.set_learning_rates(chosen.learning_rates(0.5, []))
    views = torch.randn(SAMPLE + 8, 3, 56, 56)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    batch = Batch(None, torch.arange(SAMPLE + 8) % 5, np.arange(SAMPLE + 8), 0)
    strategy = DataParallel(network, Group())
    MicroBatches(strategy, optimizer, chosen, "fp32").step(views, batch)
    state = torch.get_rng_state()
    training = SimpleNamespace(network=network, optimizer=optimizer, precision="fp32", strategy=strategy)
    found = layer_statistics(training, views)
    assert torch.equal(state, torch.get_rng_state()) and network.training
    assert list(found["layers"]) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    activations = network.eval().features(views[:SAMPLE])
    for name, sizes in found["layers"].items():
        weight = dict(network.named_parameters())[f"{name}.weight"]
        moved = (weight - before[f"{name}.weight"]).square().mean().sqrt().item()
        assert sizes["updates"] == pytest.approx(moved, rel=1e-3)
        assert sizes["weights"] == pytest.approx(weight.square().mean().sqrt().item())
        assert sizes["ratio"] == pytest.approx(sizes["updates"] / sizes["weights"])
        output = activations[name].detach()
        assert sizes["activations"] == pytest.approx(output.square().mean().sqrt().item(), rel=1e-4)
        around = (output - output.mean(0)).square().mean().sqrt().item()
        assert sizes["spread"] == pytest.approx(around, rel=1e-4)
        if name != "fc8":
            answers = activations[f"relu{name[-1]}"]
            dead = np.mean([not (answers[:, unit] > 0).any() for unit in range(answers.shape[1])])
            assert sizes["dead"] == pytest.approx(dead, abs=1e-6)
    assert "dead" not in found["layers"]["fc8"]


def test_dead_units_are_those_of_the_relu_in_the_same_row():
    """In conv6, the digits of conv6 are those of fc6's ReLU, too."""
    network = create("conv6", num_classes=3, input_size=67)
    with torch.no_grad():
        network.conv6.bias.fill_(-1e4)  # no unit of conv6 ever answers
        network.fc6.bias.fill_(1e4)
    optimizer, views = optimizer_of(network, recipe("original")), torch.randn(4, 3, 67, 67)
    strategy = DataParallel(network, Group())
    training = SimpleNamespace(network=network, optimizer=optimizer, precision="fp32", strategy=strategy)
    layers = layer_statistics(training, views)["layers"]
    assert layers["conv6"]["dead"] == 1 and layers["fc6"]["dead"] == 0 and "dead" not in layers["fc8"]


def test_lines_are_few_and_the_journal_keeps_one_an_epoch(images, tmp_path):
    found_in(images, tmp_path / "run", epochs=40)
    rows, history = Run(tmp_path / "run").layer_rows(check_row), Run(tmp_path / "run").history()
    assert [line["step"] for line in rows] == [1, 10, 100, 204, 240]
    assert len(history) == 40
    assert {line["peak_lr"] for line in rows} == {0.001}
    first = rows[0]["data"]
    assert first["guess"] == pytest.approx(math.log(3)) and first["inputs"] == 60


def test_errors_with_other_names_for_the_classes():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    answers = torch.tensor([1, 1, 2, 2, 0, 1])
    metrics = Metrics.of(torch.nn.functional.one_hot(answers, 3).float(), labels)
    assert metrics.top1 == 0 and metrics.top1_relabeled == pytest.approx(5 / 6)
    one_class = Metrics.of(torch.tensor([[1.0, 0.0, 0.0]] * 6), labels)
    assert one_class.top1_relabeled == pytest.approx(1 / 3) and one_class.most_predicted_fraction == 1


SIZES = {"activations": 1.0, "spread": 1.0, "weights": 0.01, "updates": 1e-5, "ratio": 1e-3, "dead": 0.1}
DATA = {"classes": 10, "guess": math.log(10), "largest": 0.1, "largest_class": "a", "spread": 60.0, "inputs": 60.0}
LINE = {"step": 50, "loss": 1.0, "lr": 0.1, "inputs": 60.0, "layers": {"conv1": SIZES}, "data": DATA}
EPOCH = {"epoch": 1, "steps": 240, "train_loss": 1.0, "train_error": 0.3}


def test_a_loss_above_guessing_is_not_taken_for_learning():
    assert diagnosed(Facts([], [LINE | {"loss": 9.0}])).cause == "high-lr"
    assert diagnosed(Facts([], [LINE])) is None


def test_val_with_other_shares_than_train_is_held_against_its_own_guessing():
    """Of 90:10 in train and 50:50 in val, an error of 12 % on val is far from that of guessing, 50 %."""
    data = DATA | {"guess": 0.325, "largest": 0.9, "largest_in_val": 0.5}
    epoch = EPOCH | {"train_loss": 0.1, "train_error": 0.02, "val_loss": 0.3, "val_error": 0.12}
    assert diagnosed(Facts([epoch], [LINE | {"data": data}])) is None
    assert diagnosed(Facts([epoch | {"val_error": 0.5}], [LINE | {"data": data}])).cause == "labels"
    alone = epoch | {"val_error": 0.0, "val_largest_answer": 1.0}
    assert diagnosed(Facts([alone], [LINE | {"data": data | {"largest_in_val": 1.0}}])) is None
    named = alone | {"val_error": 0.5}
    assert diagnosed(Facts([named], [LINE | {"data": data}])).cause == "dominant-class"


def test_the_share_of_the_largest_class_is_counted_in_val_as_well(tmp_path):
    write_noise(tmp_path / "data" / "train", {"cat": 9, "dog": 1})
    write_noise(tmp_path / "data" / "val", {"cat": 2, "dog": 3}, seed=1)
    facts = data_facts(make_plan(open_source(tmp_path / "data"), TrainSettings(variant="cifar-18")))
    assert facts["largest"] == 0.9 and facts["largest_class"] == "cat" and facts["largest_in_val"] == 0.4


def test_what_helps_is_told_from_the_highest_rate():
    """The schedule has fallen to a hundredth when the run ends."""
    lines = [LINE | {"lr": lr, "peak_lr": 0.3, "loss": 9.0} for lr in (0.3, 0.003)]
    for rows in (lines, [{key: line[key] for key in line if key != "peak_lr"} for line in lines]):
        found = diagnosed(Facts([], rows))
        assert found.remedy.endswith("lr=0.03") and "up to 0.3" in found.evidence
    slow = LINE | {"lr": 1e-8, "peak_lr": 1e-6, "loss": 9.0, "layers": {"conv1": SIZES | {"ratio": 1e-9}}}
    slow["data"] = DATA | {"guess": 9.0}
    assert "a higher learning rate than 1e-06" in diagnosed(Facts([], [slow])).remedy


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_not_blamed_where_errors_are_below_those_of_guessing(split):
    data = DATA | {"guess": math.log(3), "largest": 1 / 3}
    epoch = EPOCH | {"train_loss": 1.09, "val_loss": 1.09, "train_error": 0.66, "val_error": 0.66}
    assert diagnosed(Facts([epoch], [LINE | {"data": data}])).cause == "labels"
    found = diagnosed(Facts([epoch | {f"{split}_error": 0.38}], [LINE | {"data": data}]))
    assert found.cause == "few-steps" and "a higher learning rate than 0.1" in found.remedy


def test_frozen_layers_are_not_slow_ones():
    still = SIZES | {"updates": 0.0, "ratio": 0.0}
    layers = {"conv1": still, "conv2": still, "conv3": SIZES, "fc8": SIZES}
    assert Facts([], [LINE | {"layers": layers}]).usual_ratio == 1e-3
    assert Facts([], [LINE | {"layers": dict.fromkeys(layers, still)}]).usual_ratio == 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "layers.jsonl"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{}", "has no"),
        ("[]", "must be an object with"),
        ("7", "must be an object with"),
        ('{"epoch": 1}', "has no 'step"),
        (None, "is cut short or not JSON"),
        ("\udcff", "is cut short or not JSON"),
        ("", "is cut short or not JSON"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_damaged_lines_are_named(tmp_path, capsys, name, line, said, place):
    for file, row in (("metrics.jsonl", EPOCH), ("layers.jsonl", LINE)):
        lines = [json.dumps(row)] * 2
        if file == name:
            lines[place] = lines[place][:-9] if line is None else line
        (tmp_path / file).write_text("\n".join(lines) + "\n", errors="surrogateescape")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(tmp_path)])
    assert stop.value.code == 1
    assert f"{tmp_path / name}, line {place + 1} {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": {"conv1": {}}}, "line 1, conv1 has no 'activations'"),
        ({"layers": {"conv1": SIZES | {"ratio": "x"}}}, "line 1, conv1 has 'x' for 'ratio'"),
        ({"layers": []}, r"line 1 has \[\] for 'layers'"),
        ({"lr": None}, "line 1 has None for 'lr'"),
        ({"data": {"guess": 1.0}}, "line 1, data has no 'largest'"),
        ({"data": None}, "line 1, data must be an object with guess, largest"),
    ],
)
def test_damaged_sizes_are_named(tmp_path, change, said):
    (tmp_path / "layers.jsonl").write_text(json.dumps(LINE | change))
    with pytest.raises(ValueError, match=said):
        facts_of(tmp_path)


def test_a_folder_without_a_run_has_no_doctor(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["doctor", str(tmp_path)])
    assert "has no layer statistics" in capsys.readouterr().err
