"""Rates of the recipes against tables written by hand from the released parameter files and the papers."""

import pytest

from alexnet.specs.recipes import RECIPES, recipe
from alexnet.specs.schedules import Plateau
from alexnet.specs.storage import from_json, to_json
from alexnet.specs.variants import VARIANTS


def rates_at(name, epoch, errors=()):
    chosen = recipe(name)
    return chosen.rates(epoch / chosen.epochs, list(errors))


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
    assert rates.color is color


@pytest.mark.parametrize(
    ("epoch", "weights", "biases"),
    [(0, 0.01, 0.02), (22.4, 0.01, 0.02), (22.6, 0.001587, 0.02), (45, 0.000252, 0.002), (68, 0.00004, 0.002)],
)
def test_one_tower_has_four_levels_250_times_apart(epoch, weights, biases):
    assert rates_at("one-tower", epoch).of("fc6") == pytest.approx((weights, biases), rel=1e-3)


def test_torchvision_and_caffe_divide_by_ten_at_their_steps():
    assert [rates_at("torchvision", epoch).weights for epoch in (0, 29.9, 30, 60, 89)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.0001, 0.0001]
    )
    steps = [0, 99_999, 100_000, 200_000, 300_000, 449_999]
    assert [recipe("caffe").rates(step / 450_000, []).weights for step in steps] == pytest.approx(
        [0.01, 0.01, 1e-3, 1e-4, 1e-5, 1e-6]
    )
    assert rates_at("caffe", 0).biases == pytest.approx(0.02)


def test_plateau_divides_when_the_error_stops_falling_and_three_times_at_most():
    plateau = Plateau(patience=2)
    falling = [0.9, 0.8, 0.7]
    assert plateau.rates(0, falling).weights == 0.01
    assert plateau.rates(0, [*falling, 0.7]).weights == 0.01
    assert plateau.rates(0, [*falling, 0.7, 0.71]).weights == pytest.approx(0.001)
    assert plateau.rates(0, [*falling, 0.7, 0.71, 0.6, 0.6, 0.6]).weights == pytest.approx(0.0001)
    assert plateau.rates(0, falling + [0.7] * 40).weights == pytest.approx(0.00001)


def test_small_rises_and_falls():
    chosen = recipe("small")
    values = [chosen.rates(moment / 100, []).weights for moment in range(101)]
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1]) and values[peak:] == sorted(values[peak:], reverse=True)
    assert values[0] < 0.02 * max(values) and values[-1] < 0.02 * max(values)


def test_a_scaled_rate_scales_all_of_them():
    from dataclasses import replace

    halved = replace(recipe("original"), rate_scale=0.5)
    assert halved.rates(67 / 95, []).of("conv1") == pytest.approx((0.000005, 0.001))
    assert halved.first_rate() == pytest.approx(0.005)


def test_every_variant_has_a_recipe_and_every_recipe_survives_json():
    import json

    for architecture in VARIANTS.values():
        assert architecture.recipe in RECIPES
    for each in RECIPES.values():
        assert from_json(json.loads(json.dumps(to_json(each)))) == each
    with pytest.raises(ValueError, match=r"no recipe 'fast'; it may be one of original, paper"):
        recipe("fast")
