"""Learning rates of the recipes against tables written by hand from the released parameter files and the papers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import alexnet
from alexnet.cli import COMMANDS, main
from alexnet.specs import schedules
from alexnet.specs.reading import settings_with
from alexnet.specs.recipe import ColorShift, Recipe
from alexnet.specs.recipes import RECIPES, recipe
from alexnet.specs.schedules import ReduceOnPlateau
from alexnet.specs.storage import from_json, to_json
from alexnet.specs.variants import VARIANTS, variant


def rates_at(name, epoch, errors=()):
    chosen = recipe(name)
    return chosen.learning_rates(epoch / chosen.epochs, list(errors))


@pytest.mark.parametrize(
    ("epoch", "weights", "conv1", "biases", "color"),
    [
        (0, 0.01, 0.01, 0.02, True),
        (21.9, 0.01, 0.01, 0.02, True),
        (22, 0.001, 0.001, 0.002, True),
        (49, 0.0001, 0.0001, 0.002, True),
        (66, 0.0001, 0.00001, 0.002, False),
        (73, 0.0001, 0, 0.002, False),
        (81, 0.00001, 0, 0.002, False),
        (94.9, 0.00001, 0, 0.002, False),
    ],
)
def test_original_follows_the_scripted_run_of_2012(epoch, weights, conv1, biases, color):
    rates = rates_at("original", epoch)
    assert rates.of("conv3") == pytest.approx((weights, biases))
    assert rates.of("conv1") == pytest.approx((conv1, biases if conv1 else 0))
    assert rates.color_shift is color


@pytest.mark.parametrize(
    ("epoch", "weights", "biases"),
    [(0, 0.01, 0.02), (22.4, 0.01, 0.02), (22.6, 0.001587, 0.02), (45, 0.000252, 0.002), (68, 0.00004, 0.002)],
)
def test_one_tower_has_four_levels_250_times_apart(epoch, weights, biases):
    assert rates_at("one-tower", epoch).of("fc6") == pytest.approx((weights, biases), rel=1e-3)


TABLES = {
    # epoch, weights, biases, conv1's weights and biases, conv2's weights and biases, color shift
    "scripted": (
        95,
        [
            (0, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (21.9, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (22, 0.001, 0.002, 0.001, 0.002, 0.001, 0.002, True),
            (48.9, 0.001, 0.002, 0.001, 0.002, 0.001, 0.002, True),
            (49, 0.0001, 0.002, 0.0001, 0.002, 0.0001, 0.002, True),
            (65.9, 0.0001, 0.002, 0.0001, 0.002, 0.0001, 0.002, True),
            (66, 0.0001, 0.002, 0.00001, 0.002, 0.00001, 0.002, False),
            (73, 0.0001, 0.002, 0, 0, 0, 0, False),
            (81, 0.00001, 0.002, 0, 0, 0, 0, False),
            (94.9, 0.00001, 0.002, 0, 0, 0, 0, False),
        ],
    ),
    "by-hand": (
        93,
        [
            (0, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (22.9, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (23, 0.001, 0.002, 0.001, 0.002, 0.001, 0.002, True),
            (51, 0.0001, 0.002, 0.0001, 0.002, 0.0001, 0.002, True),
            (67.9, 0.0001, 0.002, 0.0001, 0.002, 0.0001, 0.002, True),
            (68, 0.0001, 0.002, 0.00001, 0.002, 0.0001, 0.002, False),
            (72, 0.0001, 0.002, 0, 0, 0.0001, 0.002, False),
            (78, 0.00001, 0.002, 0, 0, 0.00001, 0.002, False),
            (92.9, 0.00001, 0.002, 0, 0, 0.00001, 0.002, False),
        ],
    ),
    "by-hand-2012": (
        91,
        [
            (0, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (25, 0.001, 0.02, 0.001, 0.02, 0.001, 0.02, True),
            (51, 0.0001, 0.02, 0.0001, 0.02, 0.0001, 0.02, True),
            (66.9, 0.0001, 0.02, 0.0001, 0.02, 0.0001, 0.02, True),
            (67, 0.0001, 0.02, 0.00001, 0.02, 0.0001, 0.02, False),
            (72, 0.0001, 0.02, 0, 0, 0.0001, 0.02, False),
            (79, 0.00001, 0.02, 0, 0, 0.00001, 0.02, False),
            (90.9, 0.00001, 0.02, 0, 0, 0.00001, 0.02, False),
        ],
    ),
    "warm-restart": (  # from epoch 91 of by-hand-2012 to 135
        44,
        [
            (0, 0.001, 0.02, 0, 0, 0.001, 0.02, True),
            (15.9, 0.001, 0.02, 0, 0, 0.001, 0.02, True),
            (16, 0.0001, 0.02, 0, 0, 0.0001, 0.02, True),
            (32.9, 0.0001, 0.02, 0, 0, 0.0001, 0.02, True),
            (33, 0.00001, 0.02, 0, 0, 0.00001, 0.02, False),
            (43.9, 0.00001, 0.02, 0, 0, 0.00001, 0.02, False),
        ],
    ),
    "linear-fall": (  # a line from 0.01 to 0.01 / 1000
        95,
        [
            (0, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (19, 0.008002, 0.016004, 0.008002, 0.016004, 0.008002, 0.016004, True),
            (47.5, 0.005005, 0.01001, 0.005005, 0.01001, 0.005005, 0.01001, True),
            (95, 0.00001, 0.00002, 0.00001, 0.00002, 0.00001, 0.00002, True),
        ],
    ),
    "exponential": (  # 0.02 / 4000 ** part; after half, 0.02 / 63.2456
        95,
        [
            (0, 0.02, 0.04, 0.02, 0.04, 0.02, 0.04, True),
            (47.5, 0.000316228, 0.000632456, 0.000316228, 0.000632456, 0.000316228, 0.000632456, True),
            (60.99, 9.7388e-5, 1.94777e-4, 9.7388e-5, 1.94777e-4, 9.7388e-5, 1.94777e-4, True),
            (61, 9.7304e-5, 1.94607e-4, 9.7304e-5, 1.94607e-4, 9.7304e-5, 1.94607e-4, False),
            (74, 3.12763e-5, 6.25525e-5, 0, 0, 3.12763e-5, 6.25525e-5, False),
            (95, 0.000005, 0.00001, 0, 0, 0.000005, 0.00001, False),
        ],
    ),
    "levels": (
        95,
        [
            (0, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (23.7, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (23.8, 0.0015874, 0.02, 0.0015874, 0.02, 0.0015874, 0.02, True),
            (47.4, 0.0015874, 0.02, 0.0015874, 0.02, 0.0015874, 0.02, True),
            (47.6, 0.00025198, 0.002, 0.00025198, 0.002, 0.00025198, 0.002, True),
            (68, 0.00025198, 0.002, 0.00025198, 0.002, 0.00025198, 0.002, False),
            (71.3, 0.00004, 0.002, 0.00004, 0.002, 0.00004, 0.002, False),
            (74, 0.00004, 0.002, 0, 0, 0.00004, 0.002, False),
            (94.9, 0.00004, 0.002, 0, 0, 0.00004, 0.002, False),
        ],
    ),
    "jumpy": (  # levels 0.01, 0.01 / 7.937, 0.01 / 63.0, 0.00002; jumps to the root of the product of two neighbors
        95,
        [
            (0, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (23.7, 0.01, 0.02, 0.01, 0.02, 0.01, 0.02, True),
            (23.8, 0.00125992, 0.02, 0.00125992, 0.02, 0.00125992, 0.02, True),
            (35.6, 0.00125992, 0.02, 0.00125992, 0.02, 0.00125992, 0.02, True),
            (35.7, 0.00354954, 0.02, 0.00354954, 0.02, 0.00354954, 0.02, True),
            (47.6, 0.00015874, 0.002, 0.00015874, 0.002, 0.00015874, 0.002, True),
            (59.5, 0.00044721, 0.002, 0.00044721, 0.002, 0.00044721, 0.002, True),
            (62, 0.00044721, 0.002, 0.00044721, 0.002, 0.00044721, 0.002, False),
            (71.3, 0.00002, 0.002, 0.00002, 0.002, 0.00002, 0.002, False),
            (74, 0.00002, 0.002, 0, 0, 0.00002, 0.002, False),
            (83.2, 0.000056345, 0.002, 0, 0, 0.000056345, 0.002, False),
            (85.4, 0.000056345, 0.002, 0, 0, 0.000056345, 0.002, False),
            (85.6, 0.00002, 0.002, 0, 0, 0.00002, 0.002, False),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_schedules_of_2012_equal_their_tables(name):
    """Epochs and rates as noted at the end of each parameter file; `scripted` as in run4.sh, curves as in lr.cu."""
    epochs, rows = TABLES[name]
    assert recipe(name).epochs == epochs
    for epoch, weights, biases, conv1, conv1_biases, conv2, conv2_biases, color in rows:
        rates = rates_at(name, epoch)
        assert rates.of("conv3") == pytest.approx((weights, biases), rel=1e-4), epoch
        assert rates.of("conv1") == pytest.approx((conv1, conv1_biases), rel=1e-4), epoch
        assert rates.of("conv2") == pytest.approx((conv2, conv2_biases), rel=1e-4), epoch
        assert rates.color_shift is color, epoch


def test_torchvision_and_caffe_divide_by_ten_at_their_steps():
    assert [rates_at("torchvision", epoch).weights for epoch in (0, 29.9, 30, 60, 89)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.0001, 0.0001]
    )
    steps = [0, 99_999, 100_000, 200_000, 300_000, 449_999]
    assert [recipe("caffe").learning_rates(step / 450_000, []).weights for step in steps] == pytest.approx(
        [0.01, 0.01, 1e-3, 1e-4, 1e-5, 1e-6]
    )
    assert rates_at("caffe", 0).biases == pytest.approx(0.02)


@pytest.mark.parametrize(("name", "first", "second"), [("cifar-18", 120, 130), ("cifar-11", 500, 510)])
def test_the_cifar_runs_end_with_ten_epochs_at_a_tenth_and_ten_at_a_hundredth(name, first, second):
    moments = (0, first - 0.1, first, second - 0.1, second, second + 9.9)
    rates = [0.001, 0.001, 0.0001, 0.0001, 0.00001, 0.00001]
    assert [rates_at(name, epoch).weights for epoch in moments] == pytest.approx(rates)
    assert [rates_at(name, epoch).biases for epoch in moments] == pytest.approx([2 * rate for rate in rates])


def test_the_plateau_of_the_paper_waits_five_epochs():
    """Section 5: 0.01, divided by ten when the error stops improving, three times; the five epochs are ours."""
    errors = [0.9, 0.8, *[0.8] * 4, 0.7, *[0.75] * 5, 0.6, *[0.6] * 5, *[0.9] * 5, *[0.9] * 30]
    seen = [recipe("paper").learning_rates(0, errors[:epoch]).weights for epoch in range(len(errors) + 1)]
    drops = [epoch for epoch in range(1, len(seen)) if seen[epoch] < seen[epoch - 1]]
    assert drops == [12, 18, 23], "five epochs after the sixth, the twelfth, and at once again"
    assert [seen[epoch] for epoch in (0, 11, 12, 18, 23, -1)] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-5])
    assert recipe("zfnet").schedule == recipe("paper").schedule


def test_plateau_divides_when_the_error_stops_falling_and_three_times_at_most():
    plateau = ReduceOnPlateau(patience=2)
    falling = [0.9, 0.8, 0.7]
    assert plateau.learning_rates(0, falling).weights == 0.01
    assert plateau.learning_rates(0, [*falling, 0.7]).weights == 0.01
    assert plateau.learning_rates(0, [*falling, 0.7, 0.71]).weights == pytest.approx(0.001)
    assert plateau.learning_rates(0, [*falling, 0.7, 0.71, 0.6, 0.6, 0.6]).weights == pytest.approx(0.0001)
    assert plateau.learning_rates(0, falling + [0.7] * 40).weights == pytest.approx(0.00001)


def test_small_rises_and_falls():
    chosen = recipe("small")
    values = [chosen.learning_rates(moment / 100, []).weights for moment in range(101)]
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1]) and values[peak:] == sorted(values[peak:], reverse=True)
    assert values[0] < 0.02 * max(values) and values[-1] < 0.02 * max(values)


def test_modern_rises_and_falls_by_half_a_cosine():
    """As PyTorch's own schedules: LinearLR to the peak, then CosineAnnealingLR to a thousandth of it."""
    modern = recipe("modern")
    peak, warm = modern.schedule.peak_lr, 50
    rate = [modern.learning_rates(moment / 1000, []).weights for moment in range(1001)]
    assert rate[25] == pytest.approx(peak / 2) and rate[warm] == pytest.approx(peak)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000 - warm, eta_min=peak / 1000)
    for moment in range(warm, 1001):
        assert rate[moment] == pytest.approx(cosine.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        cosine.step()
    biases = modern.learning_rates(0.5, []).biases
    assert biases == pytest.approx(modern.schedule.bias_lr_factor * rate[500])


def test_a_scaled_rate_scales_all_of_them():
    halved = replace(recipe("original"), lr_factor=0.5)
    assert halved.learning_rates(67 / 95, []).of("conv1") == pytest.approx((0.000005, 0.001))
    assert halved.peak_lr() == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("images", "batch_size", "factor"),
    [(20, 16, 0.5), (511, 16, 0.5), (512, 32, 0.5**0.5), (1024, 64, 1), (9999, 64, 1)],
)
def test_few_images_take_small_batches_and_the_square_root_of_the_rate(images, batch_size, factor):
    few = recipe("small").for_few_images(images)
    assert (few.batch_size, few.peak_lr()) == (batch_size, pytest.approx(factor * recipe("small").peak_lr()))
    assert few.for_few_images(images) == few, "a recipe that was settled stays as it is"


def test_every_variant_has_a_recipe_and_every_recipe_survives_json():
    for architecture in VARIANTS.values():
        assert architecture.recipe in RECIPES
    for each in RECIPES.values():
        assert from_json(json.loads(json.dumps(to_json(each)))) == each
    with pytest.raises(ValueError, match=r"recipe modern: cutmix must be >= 0, got -1"):
        replace(recipe("modern"), cutmix=-1)
    with pytest.raises(ValueError, match=r"recipe modern: ema_decay must be >= 0 and < 1, or None, got 1.0"):
        replace(recipe("modern"), ema_decay=1.0)
    with pytest.raises(ValueError, match=r"recipe must be one of original, paper, .*, got 'fast'"):
        recipe("fast")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "must_be", "wrong_values"),
    [
        ("epochs", "an integer >= 1", (1.5, NAN, 0, "3", True, None)),
        ("batch_size", "an integer >= 1", (1.5, NAN, 0)),
        ("crop_group", "an integer >= 1", (1.5, NAN, 0)),
        ("min_steps", "an integer >= 0", (NAN, -1, 2.5)),
        ("crop_ratio", ">= 1", (NAN, INF, 0.5)),
        ("mixup", ">= 0", (NAN, INF, -1, "1")),
        ("cutmix", ">= 0", (NAN, INF, -1, "1")),
        ("lr_factor", ">= 0", (NAN, INF, -1, "1")),
        (
            "weight_decay",
            ">= 0, one for all layers or by layer",
            (-1, NAN, None, {"fc8": NAN}, {"conv1": 0, "fc8": -1}),
        ),
        ("lr_scale", "factors >= 0 by layer", ({"conv1": NAN}, {"conv1": INF}, {"conv1": "slow"}, 0.5)),
        ("max_grad_norm", "> 0, or None", (-1, 0, NAN, INF, "1")),
        ("lars_trust_coefficient", "> 0, or None", (-1, 0, NAN, INF, "1")),
        ("momentum", ">= 0 and < 1", (NAN, 1, -0.1, None)),
        ("label_smoothing", ">= 0 and < 1", (NAN, 1)),
        ("ema_decay", ">= 0 and < 1, or None", (NAN, 1.0)),
        ("flip", "True or False", ("x", 1, None)),
        ("decay_biases", "True or False", ("x", 1, None)),
        ("shuffle", "epoch, once or blocks", ("never", None, 1)),
        (
            "crop_scale",
            "two fractions, 0 < smallest <= largest <= 1, or None",
            (0.5, (0.5,), (), (0.5, NAN), (0, 1), (0.5, 2), ("a", "b")),
        ),
    ],
)
def test_a_recipe_refuses_what_cannot_be(name, must_be, wrong_values):
    for wrong in wrong_values:
        with pytest.raises(ValueError) as error:
            replace(recipe("modern"), **{name: wrong})
        assert str(error.value) == f"recipe modern: {name} must be {must_be}, got {wrong!r}"


def test_numbers_of_numpy_are_numbers():
    given = {"epochs": np.int64(3), "lr_factor": np.float32(0.5), "lr_scale": {"fc8": np.float64(2)}}
    chosen = replace(recipe("modern"), **given)
    assert from_json(json.loads(json.dumps(to_json(chosen)))) == chosen


FORMER = """
{"is": "Recipe", "name": "old", "about": "As stored by version 0.1.", "schedule": SCHEDULE, "epochs": 95,
 "least_steps": 2000, "batch_size": 128, "momentum": 0.9, "weight_decay": 0.0005, "decay_biases": false,
 "input": {"is": "Input", "mean": "image", "std": "one"},
 "color": {"is": "ColorShift", "deviation": 0.2, "along": "eigenvalues", "divide": true},
 "mirror": false, "zoom": [0.25, 1.0], "stretch": 1.5, "crop_group": 32, "shuffle": "once", "label_smoothing": 0.1,
 "mixup": 0.2, "cutmix": 1.0, "averaging": 0.998, "largest_gradient": 2.0, "trust": 0.001, "rate_scale": 0.5,
 "layer_scale": {"conv1": 0}, "new_layers": ["fc8"]}
"""
FORMER_SCHEDULES = {
    """{"is": "Stages", "stages": [
        {"is": "Stage", "until": 22, "rates": {"is": "Rates", "weights": 0.01, "biases": 0.02, "layers": {},
         "color": true}},
        {"is": "Stage", "until": 95, "rates": {"is": "Rates", "weights": 0.001, "biases": 0.002,
         "layers": {"conv1": [0.0, 0.0]}, "color": false}}]}""": schedules.Piecewise(
        (
            schedules.Segment(22, schedules.LearningRates(0.01, 0.02)),
            schedules.Segment(95, schedules.LearningRates(0.001, 0.002, {"conv1": (0.0, 0.0)}, color_shift=False)),
        )
    ),
    """{"is": "Switched", "schedule": {"is": "Levels", "start": 0.01, "levels": 4, "factor": 500,
        "biases": [0.02, 0.002], "jumps": true}, "epochs": 95, "color_until": 62, "frozen_from": {"conv1": 74}}""": (
        recipe("jumpy").schedule
    ),
    """{"is": "Plateau", "start": 0.02, "factor": 0.5, "drops": 2, "patience": 7}""": schedules.ReduceOnPlateau(
        initial_lr=0.02, factor=0.5, max_drops=2, patience=7
    ),
    """{"is": "Drops", "start": 0.01, "every": 0.25, "factor": 0.1, "biases": 2}""": schedules.StepDecay(
        initial_lr=0.01, interval=0.25, factor=0.1, bias_lr_factor=2
    ),
    """{"is": "WarmThenLinear", "peak": 6.0, "warm": 0.05, "biases": 0.02}""": schedules.LinearWarmupDecay(
        peak_lr=6.0, warmup=0.05, bias_lr_factor=0.02
    ),
    """{"is": "Fall", "start": 0.01, "factor": 1000, "along": "line", "biases": 2, "warm": 0.0}""": (
        recipe("linear-fall").schedule
    ),
    """{"is": "Fall", "start": 0.05, "factor": 1000, "along": "cosine", "biases": 1.0, "warm": 0.05}""": (
        recipe("modern").schedule
    ),
}


@pytest.mark.parametrize(("stored", "expected"), FORMER_SCHEDULES.items())
def test_recipes_stored_by_version_0_1_still_load(stored, expected):
    assert from_json(json.loads(FORMER.replace("SCHEDULE", stored))) == Recipe(
        name="old",
        about="As stored by version 0.1.",
        schedule=expected,
        epochs=95,
        color_shift=ColorShift(std=0.2, scaled_by="eigenvalues", divide=True),
        flip=False,
        crop_scale=(0.25, 1.0),
        crop_ratio=1.5,
        crop_group=32,
        shuffle="once",
        label_smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        ema_decay=0.998,
        max_grad_norm=2.0,
        lars_trust_coefficient=0.001,
        lr_factor=0.5,
        lr_scale={"conv1": 0},
        new_layers=("fc8",),
    )


def test_a_wrong_name_gets_the_nearest_right_one(tmp_path, capsys):
    for function, ending in (
        (lambda: alexnet.create("orignal"), "got 'orignal'; did you mean 'original'?"),
        (lambda: recipe("Caffee"), "got 'Caffee'; did you mean 'caffe'?"),
        (lambda: alexnet.export_weights(None, tmp_path, "keras3"), "got 'keras3'; did you mean 'keras'?"),
        (lambda: alexnet.create("half").features(torch.zeros(1, 3, 224, 224), ["con1"]), "did you mean 'conv1'?"),
        (lambda: variant("half").with_layers(conv9={}), "did you mean 'conv5'?"),
        (lambda: settings_with(None, {"epoch": 1}), "no setting 'epoch'; did you mean 'epochs'?"),
    ):
        with pytest.raises((ValueError, KeyError, TypeError)) as error:
            function()
        assert error.value.args[0].endswith(ending)
    with pytest.raises(SystemExit):
        main(["trian", "photos"])
    commands = ", ".join(COMMANDS)
    expected = f"alexnet: the command must be one of {commands}, got 'trian'; did you mean 'train'?\n"
    assert capsys.readouterr().err == expected
