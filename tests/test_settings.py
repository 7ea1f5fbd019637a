"""Settings of a training, by name, by field and from files, and what each does."""

import json
import re
import types
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import fit_until_killed, train, write_colors
from torch import nn
from torch.optim import lr_scheduler

import alexnet
from alexnet import Classifier, TrainSettings
from alexnet.cli import main
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.runs.run import Run
from alexnet.specs.reading import find_recipe, parsed, read_settings, with_fields, with_settings
from alexnet.specs.recipes import recipe
from alexnet.specs.schedules import SCHEDULES, SmoothDecay
from alexnet.specs.settings import TrainSettings as Settings
from alexnet.training.optimizer import optimizer_of
from alexnet.training.step import MicroBatches


def weights_of(classifier):
    return torch.cat([each.flatten() for each in classifier.network.state_dict().values()])


# Schedules


def test_milestones_are_those_of_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = lr_scheduler.MultiStepLR(optimizer, [25, 50, 75], gamma=0.2)
    ours = with_settings(recipe("original"), Settings(milestones=(25, 50, 75), gamma=0.2, epochs=90))
    for epoch in range(90):
        rates = ours.learning_rates(epoch / 90, [])
        assert rates.weights == pytest.approx(scheduler.get_last_lr()[0])
        assert rates.biases == pytest.approx(2 * rates.weights), "as in the recipe"
        optimizer.step()
        scheduler.step()


def test_milestones_are_epochs_of_the_run_however_long_it_is(split_folder):
    _, history = train(split_folder, epochs=4, milestones=(1, 3), lr=0.01)
    assert history["lr"] == pytest.approx([0.01, 0.001, 0.001, 0.0001])


def test_every_schedule_has_a_name_for_the_command():
    names, _ = get_args(get_type_hints(TrainSettings)["schedule"])
    assert get_args(names) == tuple(SCHEDULES)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("constant", [1, 1, 1]),
        ("step", [1, 0.1, 0.01]),
        ("linear", [1, 0.5005, 0.01099]),
        ("cosine", [1, 0.5005, 0.001 + 0.999 * (1 + np.cos(0.99 * np.pi)) / 2]),
        ("exponential", [1, 1000**-0.5, 1000**-0.99]),
    ],
)
def test_a_schedule_by_name_starts_from_the_learning_rate_of_the_recipe(name, at):
    ours = with_settings(recipe("original"), Settings(schedule=name))
    assert [ours.learning_rates(part, []).weights for part in (0, 0.5, 0.99)] == pytest.approx([0.01 * x for x in at])
    raised = with_settings(recipe("original"), Settings(schedule=name, lr=0.5))
    assert raised.peak_lr() == pytest.approx(0.5)


def test_a_plateau_by_name_has_the_factor_of_gamma():
    ours = with_settings(recipe("modern"), Settings(schedule="plateau", gamma=0.5))
    assert ours.learning_rates(0, [0.5] * 6).weights == pytest.approx(0.025)


# Fields of recipes, and files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixupp": "1"}, "Recipe has no field 'mixupp'; did you mean 'mixup'?"),
        ({"mixup": "much"}, "mixup must be a number, got 'much'"),
        ({"epochs": "2.5"}, "epochs must be an integer, got 2.5"),
        ({"flip": "yes"}, "flip must be true or false, got 'yes'"),
        ({"color_shift.std": "wide"}, "color_shift.std must be a number, got 'wide'"),
        ({"color_shift.stdd": "1"}, "ColorShift has no field 'stdd'; did you mean 'std'?"),
        ({"mixup.alpha": "1"}, "mixup has no fields, got mixup.alpha"),
        ({"mixup": "-1"}, "recipe modern: mixup must be >= 0, got -1"),
        (
            {"schedule": "cosin"},
            f"schedule must be one of {', '.join(SCHEDULES)}, got 'cosin'; did you mean 'cosine'?",
        ),
        ({"shuffle": "never"}, "shuffle must be epoch or once or blocks, got 'never'"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(ValueError) as error:
        with_fields(recipe("modern"), {name: parsed(text) for name, text in changes.items()})
    assert str(error.value) == message


def test_any_field_is_set_by_text():
    texts = {"mixup": "0.5", "color_shift": "none", "crop_scale": "0.2,1", "weight_decay": '{"conv1": 0.1}'}
    texts |= {"schedule": "cosine", "schedule.warmup": "0.1", "input.std": "channel", "flip": "false"}
    ours = with_fields(recipe("modern"), {name: parsed(text) for name, text in texts.items()})
    assert ours == replace(
        recipe("modern"),
        mixup=0.5,
        color_shift=None,
        crop_scale=(0.2, 1),
        weight_decay={"conv1": 0.1},
        schedule=SmoothDecay(0.05, 1000, "cosine", warmup=0.1),
        input=replace(recipe("modern").input, std="channel"),
        flip=False,
    )


def test_a_recipe_of_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "modern"\nepochs = 7\nmixup = 0\nschedule = "linear"\n[color_shift]\nstd = 0.2\n')
    base = recipe("modern")
    expected = replace(base, name="mine", epochs=7, mixup=0, color_shift=replace(base.color_shift, std=0.2))
    assert find_recipe(path) == replace(expected, schedule=SmoothDecay(0.05, 1000, "linear"))
    (tmp_path / "mine.json").write_text('{"base": "modern", "epoch": 7}')
    with pytest.raises(ValueError, match=r"mine\.json: Recipe has no field 'epoch'; did you mean 'epochs'\?$"):
        find_recipe(tmp_path / "mine.json")
    (tmp_path / "mine.json").write_text('{"bas": "modern"}')
    with pytest.raises(ValueError, match=r"mine\.json: Recipe has no field 'bas'; did you mean 'base'\?$"):
        find_recipe(tmp_path / "mine.json")
    (tmp_path / "mine.json").write_text('{"epochs": 7}')
    with pytest.raises(ValueError, match="a recipe must have a base, the name of another one, or a schedule"):
        find_recipe(tmp_path / "mine.json")
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json is not JSON: "):
        find_recipe(tmp_path / "mine.json")
    with pytest.raises(ValueError, match=r"other\.toml does not exist"):
        find_recipe(tmp_path / "other.toml")


def test_a_run_given_back_repeats_it(split_folder, tmp_path):
    settings = {"seed": 3, "lr": 0.02, "set": {"mixup": 0.2}, "class_weights": {"red": 2.0}, "crop_size": 28}
    first, history = train(split_folder, output=tmp_path / "run", **settings)
    again = Classifier(device="cpu", precision="fp32")
    repeated = again.fit(split_folder, config=tmp_path / "run" / "run.json", verbose=False)
    assert torch.equal(weights_of(first), weights_of(again)) and repeated["val_loss"] == history["val_loss"]
    settings = TrainSettings(config=str(tmp_path / "run" / "run.json"), seed=4)
    other = Classifier(device="cpu", precision="fp32").fit(split_folder, settings, verbose=False)
    assert len(other) == 3 and other["lr"] == history["lr"]
    assert other["val_loss"] != history["val_loss"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert find_recipe(tmp_path / "run" / "run.json").mixup == record["recipe"]["mixup"] == 0.2


def test_what_is_typed_overrides_the_file_also_with_a_default(split_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "settings.toml"
    lines = ['variant = "cifar-18"', "epochs = 9", "batch_size = 16", 'device = "cuda:7"', 'precision = "fp32"']
    file.write_text("\n".join([*lines, "[recipe]", 'base = "zfnet"']))
    main(["train", str(split_folder), "--config", str(file), "--epochs", "2", "--device", "auto", "--output", "run"])
    record = Run(tmp_path / "run").record()
    assert (record["variant"], record["recipe"]["epochs"], record["recipe"]["batch_size"]) == ("cifar-18", 2, 16)
    assert record["recipe"]["schedule"]["is"] == "ReduceOnPlateau" and record["device"] == "cpu"


def test_settings_of_a_file_are_checked(tmp_path):
    (tmp_path / "settings.json").write_text('{"epoch": 3}')
    with pytest.raises(ValueError, match="TrainSettings has no field 'epoch'; did you mean 'epochs'"):
        read_settings(tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text('{"lr": "high"}')
    with pytest.raises(ValueError, match="lr must be a number or none, got 'high'"):
        read_settings(tmp_path / "settings.json")
    with pytest.raises(ValueError, match=r"settings\.yaml must be a \.json or \.toml file"):
        read_settings(tmp_path / "settings.yaml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_decay": -1}, "weight_decay must be >= 0, one for all layers or by layer, got -1"),
        ({"momentum": 1}, "momentum must be >= 0 and < 1, got 1"),
        ({"label_smoothing": 1.5}, "label_smoothing must be >= 0 and < 1, got 1.5"),
        ({"patience": 0}, "patience must be an integer >= 1, or None, got 0"),
        ({"class_weights": {"red": -1}}, "class_weights must be 'balanced', or weights >= 0 by class, got {'red': -1}"),
        ({"mean": (1, 2)}, "mean must be three numbers >= 0, of red, green and blue, got (1, 2)"),
        ({"std": (1, 2, 0)}, "std must be three numbers > 0, of red, green and blue, got (1, 2, 0)"),
        ({"crop_size": 0}, "crop_size must be an integer >= 1, got 0"),
        ({"gamma": 0}, "gamma must be > 0, got 0"),
        ({"log": "paper"}, "log must be any of tensorboard, wandb, mlflow, got 'paper'"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError) as error:
        TrainSettings(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"milestones": (50, 25)}, "milestones must be increasing epochs > 0 and < 3, got 50 25"),
        ({"gamma": 0.5}, "gamma must be given with milestones, or with schedule step or plateau"),
        (
            {"schedule": "cosine", "milestones": (1,)},
            "milestones must be given without schedule, or with schedule step",
        ),
        ({"class_weights": {"redd": 2}}, "class_weights must name classes, got 'redd'; did you mean 'red'?"),
        ({"crop_size": 4}, "crop_size must be >= 12 for cifar-18, got 4"),
        ({"set": {"mixupp": 1}}, "Recipe has no field 'mixupp'; did you mean 'mixup'?"),
    ],
)
def test_settings_that_do_not_fit_are_refused(split_folder, settings, message):
    with pytest.raises(ValueError) as error:
        train(split_folder, **settings)
    assert str(error.value).startswith(message)


# Early stopping


def test_patience_ends_with_the_weights_of_the_best_epoch(split_folder, tmp_path, capsys):
    frozen = {"lr": 1e-9, "epochs": 9, "patience": 2}  # nothing moves, so that the first epoch stays the best
    _, history = train(split_folder, output=tmp_path / "run", **frozen | {"verbose": True})
    assert len(history) == 3
    assert (
        "stopped early, after epoch 3: no lower validation error for 2 epochs, since epoch 1, whose weights are kept"
        in " ".join(capsys.readouterr().out.split())
    )
    assert Run(tmp_path / "run").record()["weights"] == "best.safetensors"


def test_patience_keeps_the_best_weights_without_a_test_split_too(split_folder, tmp_path):
    import shutil

    shutil.rmtree(split_folder / "test")
    settings = {"lr": 1e-9, "epochs": 9}
    train(split_folder, output=tmp_path / "patient", patience=2, **settings)
    assert Run(tmp_path / "patient").record()["weights"] == "best.safetensors"
    train(split_folder, output=tmp_path / "other", **settings | {"epochs": 2})
    assert Run(tmp_path / "other").record()["weights"] == "last.safetensors"


def test_an_interrupted_run_stops_at_the_same_epoch(split_folder, tmp_path):
    settings = {"lr": 1e-9, "epochs": 9, "patience": 2}
    whole, history = train(split_folder, **settings)

    cut = Classifier("cifar-18", "cpu", "fp32")
    fit_until_killed(cut, split_folder, 7, **settings, batch_size=16, output=tmp_path / "run")
    resumed = Classifier(device="cpu", precision="fp32")
    again = resumed.fit(split_folder, output=tmp_path / "run", resume=True, verbose=False)
    assert again["val_loss"] == history["val_loss"] and torch.equal(weights_of(whole), weights_of(resumed))


# Class weights


@pytest.mark.parametrize("size", [None, 2])
def test_class_weights_are_those_of_torch_over_the_number_of_images(size):
    torch.manual_seed(0)
    network = alexnet.create("cifar-18", 3)
    views, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 2, 1, 2])
    weights = torch.tensor([0.5, 2.0, 1.0])
    chosen = replace(recipe("cifar-18"), label_smoothing=0.1)
    scores = network(views)
    F.cross_entropy(scores, labels, weights, reduction="sum", label_smoothing=0.1).div(6).backward()
    expected = network.fc8.weight.grad.clone()
    stepper = MicroBatches(
        DataParallel(network, Group(), True), optimizer_of(network, chosen), chosen, "fp32", size, weights
    )
    network.zero_grad()
    stepper.step(views, types.SimpleNamespace(labels=labels))
    torch.testing.assert_close(network.fc8.weight.grad, expected)


def test_balanced_classes_weigh_the_same(tmp_path):
    """Training images / (classes · training images of the class), as in scikit-learn's compute_class_weight."""
    for split, count in (("train", 4), ("val", 2)):
        write_colors(tmp_path / "colors" / split, count, seed=count)
    for index in range(2):
        (tmp_path / "colors" / "train" / "red" / f"0{index}.png").unlink()
    events = Classifier("cifar-18", "cpu", "fp32").fit_events(
        tmp_path / "colors", epochs=1, batch_size=5, class_weights="balanced"
    )
    plan = next(events).plan
    events.close()
    assert plan.class_weights == pytest.approx([10 / 12, 10 / 12, 10 / 6])


def test_class_weights_change_the_training_and_no_validation(split_folder):
    _, plain = train(split_folder, epochs=1)
    _, ones = train(split_folder, epochs=1, class_weights={"red": 1.0})
    _, twice = train(split_folder, epochs=1, class_weights={"red": 2, "green": 2, "blue": 2}, lr=1e-9)
    _, once = train(split_folder, epochs=1, lr=1e-9)
    assert ones["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-5)
    assert twice["train_loss"] == pytest.approx([2 * once["train_loss"][0]], rel=1e-5)
    assert twice["val_loss"] == pytest.approx(once["val_loss"], rel=1e-5)


# Inputs


def test_mean_std_and_size_of_the_input_are_those_given(split_folder):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    fractions, _ = train(split_folder, epochs=1, mean=mean, std=std, crop_size=24)
    inputs = fractions.bundle.preprocessing
    assert inputs.mean.flatten().tolist() == pytest.approx([255 * x for x in mean])
    assert inputs.std.tolist() == pytest.approx([255 * x for x in std])
    assert (inputs.crop_size, inputs.stored_size) == (24, 24)
    pixels, _ = train(split_folder, epochs=1, mean=(120, 110, 100), std=(1, 1, 1))
    assert pixels.bundle.preprocessing.std.tolist() == [1, 1, 1]
    architecture = alexnet.create("original").architecture.with_input(112)
    assert (architecture.input_size, architecture.stored_size) == (112, 128)


# A user's own augmentation


def darker(images):
    assert images.dtype == torch.uint8 and images.shape[1:] == (3, 32, 32)
    return (images // torch.randint(1, 3, (len(images), 1, 1, 1))).byte()


def test_an_augmentation_is_applied_and_resumes_exactly(split_folder, tmp_path):
    plain, _ = train(split_folder)
    whole, _ = train(split_folder, augment=darker)
    assert not torch.equal(weights_of(plain), weights_of(whole))

    cut = Classifier("cifar-18", "cpu", "fp32")
    fit_until_killed(cut, split_folder, 4, epochs=3, batch_size=16, augment=darker, output=tmp_path / "run")
    message = (
        "augment must be the function test_settings.darker, with which this run was trained: only its name is stored, "
        "so give it again, in Python"
    )
    for how in ({"output": tmp_path / "run", "resume": True}, {"config": tmp_path / "run" / "run.json"}):
        with pytest.raises(ValueError, match=re.escape(message)):
            Classifier(device="cpu", precision="fp32").fit(split_folder, verbose=False, **how)
    resumed = Classifier(device="cpu", precision="fp32")
    resumed.fit(split_folder, output=tmp_path / "run", resume=True, augment=darker, verbose=False)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_an_augmentation_that_returns_something_else_is_refused(split_folder):
    with pytest.raises(ValueError) as error:
        train(split_folder, augment=lambda images: images.float())
    expected = "augment must return a tensor of (16, 3, 32, 32), torch.uint8, got ((16, 3, 32, 32), torch.float32)"
    assert str(error.value) == expected


# The range test


def test_the_range_test_suggests_a_tenth_of_the_best_and_leaves_nothing(split_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    test = alexnet.find_lr(split_folder, variant="cifar-18", batch_size=16, device="cpu", steps=60, verbose=False)
    assert test.lrs[0] == pytest.approx(1e-6) and np.allclose(np.diff(np.log10(test.lrs)), 5 / 59)
    assert test.suggestion == pytest.approx(test.lrs[int(np.argmin(test.smoothed))] / 10)
    assert all(value <= 4 * min(test.smoothed[: step + 1]) for step, value in enumerate(test.smoothed))
    flags = ["--variant", "cifar-18", "--batch-size", "16", "--device", "cpu", "--steps", "60", "--plot", "lr.png"]
    main(["find-lr", str(split_folder), *flags])
    assert f"suggested learning rate: {test.suggestion:.2g}, a tenth of that at which" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.name != "colors"] == ["lr.png"]
    with pytest.raises(ValueError, match="steps must be >= 10, got 3"):
        alexnet.find_lr(split_folder, steps=3, verbose=False)


def test_where_the_loss_does_not_fall_nothing_is_suggested():
    from alexnet.training.range_test import RangeTest

    flat = RangeTest([0.1, 1.0], [1.0, 0.99], [1.0, 0.99])
    assert flat.suggestion is None and str(flat).startswith("no suggestion: the loss did not fall")
    assert RangeTest([0.1, 1.0], [1.0, 0.5], [1.0, 0.5]).suggestion == pytest.approx(0.1)
    lucky = [1.1] + [1.5] * 10 + [1.2]  # the first step says little of where the loss begins
    assert RangeTest([*map(float, range(1, 13))], lucky, lucky).suggestion == pytest.approx(1.2)


def test_inputs_of_pretrained_weights_are_theirs():
    with pytest.raises(ValueError, match="mean and std must not be given with pretrained"):
        TrainSettings(pretrained="torchvision", mean=(0.5, 0.5, 0.5))
