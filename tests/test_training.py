import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import fit as fit_with
from conftest import write_colors
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet import Classifier, create, load
from alexnet.data.batches import Batch
from alexnet.data.sources.detection import open_source
from alexnet.device import torch_dtype
from alexnet.diagnosis.layers import Diverged
from alexnet.kernels import library
from alexnet.model.bundle import ModelBundle
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.preprocessing.augmentation import draw_mix
from alexnet.runs.run import BEST, LAST, Run
from alexnet.specs.recipes import recipe
from alexnet.specs.schedules import LearningRates, LinearWarmupDecay, Piecewise, ReduceOnPlateau, Segment
from alexnet.specs.settings import TrainSettings
from alexnet.specs.variants import VARIANTS
from alexnet.training import plan
from alexnet.training.loop import Step, Training, train
from alexnet.training.optimizer import optimizer_of
from alexnet.training.plan import make_plan
from alexnet.training.step import MicroBatches

QUICK = replace(
    recipe("small"),
    name="quick",
    min_steps=0,
    label_smoothing=0.0,
    epochs=3,
    batch_size=16,
    schedule=LinearWarmupDecay(peak_lr=0.005),
    color_shift=recipe("paper").color_shift,
)
"""A recipe with every kind of draw: order, crop, flip, color, and dropout in the network."""


@pytest.fixture
def best_weights(monkeypatch):
    """A few validation images choose the weights, as hundreds do."""
    monkeypatch.setattr(plan, "ENOUGH_TO_CHOOSE", 1)


@pytest.fixture
def colors(tmp_path):
    return write_colors(tmp_path / "colors", 20)


def fit(data, run, interrupt_at=None, chosen=QUICK, resume=False):
    """Train `small` and, where told, press Ctrl-C after so many steps."""
    classifier = Classifier("small", "cpu", "fp32")
    return classifier, fit_with(classifier, data, interrupt_at, ctrl_c, recipe=chosen, output=run, resume=resume)


ctrl_c = partial(signal.raise_signal, signal.SIGINT)


def without_times(history):
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "waiting", "elapsed_s")} for row in history]


class Layouts(TorchDispatchMode):
    """Notes the shapes of feature maps and their gradients that are not channels last."""

    def __init__(self):
        super().__init__()
        self.seen, self.others = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor) and each.dim() == 4 and each.numel() and min(each.shape[1:]) > 1:
                self.seen += 1
                if not each.is_contiguous(memory_format=torch.channels_last):
                    self.others.add(tuple(each.shape))
        return out


@pytest.mark.parametrize("name", ["original", "caffenet", "zfnet", "torchvision", "small", "cifar-18", "batch-norm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_but_the_flattened_maps_leaves_channels_last(name, precision):
    side = min(VARIANTS[name].input_size, 67)
    network, chosen = create(name, num_classes=5, input_size=side).train(), recipe(VARIANTS[name].recipe)
    network.to(memory_format=torch.channels_last)  # as in the loop
    optimizer = optimizer_of(network, chosen)
    optimizer.set_learning_rates(chosen.learning_rates(0, []))
    views = torch.randn(4, side, side, 3, dtype=torch_dtype(precision)).permute(0, 3, 1, 2)
    batch = Batch(None, torch.zeros(4, dtype=torch.long), np.arange(4), 0)
    with Layouts() as layouts:
        MicroBatches(DataParallel(network, Group()), optimizer, chosen, precision).step(
            views, batch, draw_mix(batch, side, chosen, 0, 0)
        )
    flattened = next(step.input_shape for step in network.placed if step.name == "flatten")
    assert layouts.seen > 30 and layouts.others <= {(4, *flattened)}
    for parameter in network.parameters():
        if parameter.dim() == 4:
            assert optimizer.velocity(parameter).stride() == parameter.grad.stride() == parameter.stride()


def test_training_follows_the_same_curve_with_and_without_kernels(folder, monkeypatch):
    """Thirty steps: rounding differs, and nothing else."""
    curves = []
    for kernels in "01":
        monkeypatch.setenv("ALEXNET_KERNELS", kernels)
        library.cache_clear()
        plan = make_plan(open_source(folder), TrainSettings(variant="cifar-11", epochs=8, batch_size=12))
        events = train(Training(plan))
        curves.append([event.step_loss for event in events if isinstance(event, Step)])
    library.cache_clear()
    assert len(curves[0]) >= 30 and curves[0][-1] < 0.8 * curves[0][0]
    np.testing.assert_allclose(curves[0], curves[1], atol=2e-3)


@pytest.mark.parametrize("interrupt_at", [1, 4, 6])
def test_a_run_that_was_interrupted_ends_as_one_that_never_was(colors, tmp_path, interrupt_at):
    """After the first step, in the second epoch, and between two epochs (three steps each)."""
    _, whole = fit(colors, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "broken", interrupt_at)
    _, resumed = fit(colors, tmp_path / "broken", resume=True)
    assert without_times(resumed) == without_times(whole) == without_times(Run(tmp_path / "broken").history())
    for file in (BEST, LAST):
        expected, found = load_file(tmp_path / "whole" / file), load_file(tmp_path / "broken" / file)
        assert expected.keys() == found.keys()
        for name in expected:
            assert torch.equal(expected[name], found[name]), name


@pytest.mark.parametrize("interrupt_at", [2, 6])
def test_mixing_averaging_and_batch_norm_resume_exactly_too(best_weights, colors, tmp_path, interrupt_at):
    """Within the first epoch and between two, with a val split whose errors are those of the mean."""
    modern = replace(recipe("modern"), epochs=3, batch_size=16, min_steps=0, ema_decay=0.8)
    architecture = VARIANTS["batch-norm"].with_layers(fc6={"units": 16}, fc7={"units": 16})
    small = replace(architecture, input_size=67, stored_size=76)

    def run(folder, until=None, resume=False):
        classifier = Classifier(device="cpu", precision="fp32")
        how = {"variant": small, "recipe": modern, "seed": 3, "output": folder, "resume": resume}
        return classifier, fit_with(classifier, colors, until, ctrl_c, **how)

    classifier, whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", interrupt_at)
    resumed_classifier, resumed = run(tmp_path / "broken", resume=True)
    assert without_times(resumed) == without_times(whole)
    for file in (BEST, LAST):
        expected, found = load_file(tmp_path / "whole" / file), load_file(tmp_path / "broken" / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    last, best = load_file(tmp_path / "whole" / LAST), load_file(tmp_path / "whole" / BEST)
    for name, tensor in classifier.network.state_dict().items():
        assert torch.equal(tensor, best[name]) and torch.equal(tensor, resumed_classifier.network.state_dict()[name])
    assert not torch.equal(last["fc8.weight"], last["not_averaged.fc8.weight"])
    assert last["norm1.running_mean"].abs().max() > 0


def test_the_ema_of_the_weights_is_what_is_validated_and_kept(best_weights, colors, tmp_path):
    """Without the EMA the same steps are taken, so their weights are those that the EMA averages."""
    averaged = replace(QUICK, ema_decay=0.5)
    classifier, history = fit(colors, tmp_path / "ema", chosen=averaged)
    _, plain = fit(colors, tmp_path / "plain")
    assert history["train_loss"] == plain["train_loss"] and history["val_loss"] != plain["val_loss"]
    ema, weights = load_file(tmp_path / "ema" / LAST), load_file(tmp_path / "plain" / LAST)
    assert torch.equal(ema["not_averaged.fc8.weight"], weights["fc8.weight"])
    assert not torch.equal(ema["fc8.weight"], weights["fc8.weight"])
    assert len(set(history["val_loss"])) == 3, "every epoch can be told by its loss"
    best = history["val_error"].index(min(history["val_error"]))
    for evaluated, epoch in ((classifier, best), (load(tmp_path / "ema" / LAST, "cpu", "fp32"), -1)):
        loss = evaluated.evaluate(data=colors, split="val", all_views=False, verbose=False).center.loss
        assert loss == pytest.approx(history["val_loss"][epoch], rel=1e-6)


def test_the_number_of_decoding_threads_changes_nothing(colors, tmp_path, monkeypatch):
    weights = []
    for workers in (1, 3):
        monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / f"cache{workers}"))
        classifier = Classifier("small", "cpu", "fp32")
        classifier.fit(colors, epochs=1, batch_size=16, workers=workers, verbose=False)
        weights.append(classifier.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_it_learns_three_colors_and_another_seed_learns_otherwise(colors):
    classifier = Classifier("small", "cpu", "fp32")
    history = classifier.fit(colors, recipe=replace(QUICK, epochs=10, schedule=LinearWarmupDecay(0.02)), verbose=False)
    assert history["train_loss"][-1] < 0.5 * np.log(3), "half the loss of guessing"
    assert classifier.evaluate(verbose=False, data=colors, split="test").all_views.top1 == 1
    other = Classifier("small", "cpu", "fp32").fit(colors, recipe=replace(QUICK, epochs=1), seed=1, verbose=False)
    assert other["train_loss"][0] != history["train_loss"][0]


def test_the_best_weights_are_kept_where_enough_images_tell_which_they_are(split_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ENOUGH_TO_CHOOSE", 12)
    shutil.rmtree(split_folder / "test")
    fit(split_folder, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"] == LAST
    shutil.rmtree(tmp_path / "run")
    write_colors(split_folder / "test", 3)
    fit(split_folder, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"] == BEST
    monkeypatch.setattr(plan, "ENOUGH_TO_CHOOSE", 13)
    fit(split_folder, tmp_path / "few")
    assert json.loads((tmp_path / "few" / "run.json").read_text())["weights"] == LAST


def test_a_layer_with_a_rate_of_zero_stays_where_it_was(split_folder):
    """conv1 is frozen from the second epoch on: it ends as after a run of one epoch, and conv2 does not."""
    shutil.rmtree(split_folder / "test")  # so that the last weights are kept
    open_rates, frozen = LearningRates(0.001, 0.001), LearningRates(0.001, 0.001, {"conv1": (0.0, 0.0)})
    one = replace(QUICK, epochs=1, schedule=Piecewise((Segment(1, open_rates),)))
    three = replace(QUICK, epochs=3, schedule=Piecewise((Segment(1, open_rates), Segment(3, frozen))))
    after_one, after_three = (fit(split_folder, None, chosen=chosen)[0].network for chosen in (one, three))
    assert torch.equal(after_one.conv1.weight, after_three.conv1.weight)
    assert not torch.equal(after_one.conv2.weight, after_three.conv2.weight)


def test_a_loss_that_is_no_number_stops_the_run_and_says_so(colors):
    wild = replace(QUICK, schedule=LinearWarmupDecay(peak_lr=1e6, warmup=1e-9))
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) in epoch 1, step \d+, at a learning rate of"):
        fit(colors, None, chosen=wild)


def test_a_finished_run_is_not_overwritten_and_another_recipe_does_not_resume(colors, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "run", 2)
    with pytest.raises(ValueError, match="holds a run already; resume it with resume=True, or choose another output=…"):
        fit(colors, tmp_path / "run")
    with pytest.raises(ValueError, match=r"cannot resume.*\n.*recipe\.momentum: was 0\.9, is now 0\.5"):
        fit(colors, tmp_path / "run", chosen=replace(QUICK, momentum=0.5), resume=True)
    fit(colors, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="is finished; to train further"):
        fit(colors, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="holds no run to resume"):
        fit(colors, tmp_path / "nowhere", resume=True)


def test_a_run_begun_before_a_field_was_known_or_reworded_resumes(colors, tmp_path):
    _, whole = fit(colors, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "run", 2)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    del about["recipe"]["ema_decay"], about["recipe"]["mixup"]
    about["recipe"]["about"] = about["architecture"]["about"] = "Worded as it was then."
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    _, resumed = fit(colors, tmp_path / "run", resume=True)
    assert without_times(resumed) == without_times(whole)


def test_a_run_without_a_checkpoint_begins_anew(colors, tmp_path):
    _, whole = fit(colors, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "run", 2)
    (tmp_path / "run" / LAST).unlink()
    _, again = fit(colors, tmp_path / "run", resume=True)
    assert without_times(again) == without_times(whole)


def test_resume_by_the_command_takes_the_settings_of_the_run(colors, tmp_path, monkeypatch):
    from alexnet.cli import main

    monkeypatch.chdir(tmp_path)
    asked = [
        "train",
        "colors",
        "--variant",
        "cifar-18",
        "--epochs",
        "40",
        "--batch-size",
        "4",
        "--seed",
        "5",
        "--keep-checkpoints",
    ]
    command = [sys.executable, "-m", "alexnet", *asked, "--precision", "fp32"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while " 2/40 " not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130 and "progress is saved, to go on: alexnet train" in said and "--resume" in said
    main(["train", "colors", "--resume", "--keep-checkpoints"])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["colors-cifar-18-1"]
    main([*asked, "--precision", "fp32", "--output", "whole"])
    broken, whole = (load_file(tmp_path / run / LAST) for run in ("runs/colors-cifar-18-1", "whole"))
    assert all(torch.equal(broken[name], whole[name]) for name in whole)


def test_a_rate_that_is_asked_for_again_is_the_same_recipe(colors):
    """0.003 is three times the rate of cifar-18, but for rounding."""
    first = make_plan(open_source(colors), TrainSettings(variant="cifar-18", lr=0.003)).recipe
    assert first.peak_lr() == pytest.approx(0.003)
    assert make_plan(open_source(colors), TrainSettings(variant="cifar-18", recipe=first, lr=0.003)).recipe == first


@pytest.mark.parametrize("lr", [0, -1, float("nan"), float("inf"), "0.1", True])
def test_a_learning_rate_must_be_positive(lr):
    with pytest.raises(ValueError, match=rf"lr must be > 0, got {lr!r}"):
        TrainSettings(lr=lr)


def test_plateau_goes_on_where_it_was(colors, tmp_path):
    """The rate depends on the errors of the epochs before the interruption, and order and crops on the groups."""
    chosen = replace(
        QUICK,
        schedule=ReduceOnPlateau(initial_lr=0.001, patience=1),
        epochs=4,
        crop_group=4,
        shuffle="once",
        name="plateau",
    )
    _, whole = fit(colors, tmp_path / "whole", chosen=chosen)
    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "broken", 11, chosen)
    _, resumed = fit(colors, tmp_path / "broken", chosen=chosen, resume=True)
    assert without_times(resumed) == without_times(whole)


def test_ctrl_c_without_a_folder_keeps_what_was_learnt(colors):
    classifier = Classifier("small", "cpu", "fp32")
    with pytest.raises(KeyboardInterrupt):
        fit_with(classifier, colors, 1, ctrl_c, recipe=QUICK)
    assert classifier.predict(np.zeros((64, 64, 3), np.uint8)).shape == (3,)


def test_three_images_of_a_class_are_enough_to_train_and_report(tmp_path):
    from alexnet.cli import main

    data = write_colors(tmp_path / "tiny", 3)
    main(["train", str(data), "--variant", "cifar-18", "--epochs", "1", "--output", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["split"] == "val"


def test_training_leaves_the_generator_of_the_user_alone(colors):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Classifier("small", "cpu", "fp32").fit(colors, recipe=replace(QUICK, epochs=1), verbose=False)
    assert torch.equal(torch.rand(3), expected)


def test_a_changed_image_is_another_data_set_to_a_resumed_run(colors, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "run", 2)
    (colors / "red" / "00.png").unlink()
    with pytest.raises(ValueError, match="1 images are gone, 0 are new, "):
        fit(colors, tmp_path / "run", resume=True)


def test_the_split_is_written_down(colors, tmp_path):
    fit(colors, tmp_path / "run")
    lines = (tmp_path / "run" / "split.csv").read_text().splitlines()
    assert lines[0] == "image,class,split" and len(lines) == 61
    assert sum(line.endswith(",test") for line in lines) == 6


def test_tensorboard_has_each_epoch_once_after_a_resumed_run(colors, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        fit(colors, tmp_path / "run", 7)
    _, history = fit(colors, tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    scalars = events.Scalars("loss/train")
    assert [event.step for event in scalars] == history["steps"]
    assert [event.value for event in scalars] == pytest.approx(history["train_loss"])


def test_curves_are_drawn(colors, tmp_path):
    _, history = fit(colors, None)
    history.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert history["epoch"] == [1, 2, 3] and len(history["val_error"]) == 3


@pytest.mark.parametrize(("name", "side"), [("small", 56), ("batch-norm", 67)])
def test_weights_cast_for_inference_are_kept_until_they_change(name, side, each_way):
    network = create(name, num_classes=5, input_size=side)
    bundle, x = ModelBundle(network, None, ()), torch.randn(4, 3, side, side)
    optimizer = optimizer_of(network, recipe("small"))
    optimizer.set_learning_rates(LearningRates(0.1, 0.1))

    def cast_weight():
        with bundle.for_inference("bf16") as cast:
            return cast.conv2.weight

    for _ in range(2):
        weight = cast_weight()
        assert cast_weight() is weight
        with torch.inference_mode(), bundle.for_inference("bf16") as cast, torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(cast(x.bfloat16()), network(x))
        network(x).square().mean().backward()
        optimizer.step()
        assert cast_weight() is not weight
