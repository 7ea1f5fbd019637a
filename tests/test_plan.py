"""The plan for many GPUs: its times against formulas, its page against the file."""

from pathlib import Path

import pytest

from alexnet.bench import plan
from alexnet.bench.plan import Assumptions, Link, step, training, ways_on
from alexnet.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
LINK = Link("10 GB/s", 10e9 / plan.SUSTAINED, 0)
FREE = Link("free", 1e30, 0)
AT_ONCE = Assumptions(1e15, 0)
"""GPUs that compute at once, so that nothing hides what they send."""
CONV_PARAMETERS, PARAMETERS = 2_334_080, 60_965_224


@pytest.mark.parametrize(("processes", "megabytes"), [(2, 243.9), (8, 426.8), (64, 480.1), (512, 486.8)])
def test_data_parallel_sends_each_gradient_in_a_ring(processes, megabytes):
    measured = step(ways_on("original", processes)["data"], 1024, LINK, AT_ONCE)
    assert measured.sent_bytes / 1e6 == pytest.approx(megabytes, abs=0.05)
    assert measured.seconds == pytest.approx(measured.sent_bytes / 10e9)


def test_sums_are_hidden_behind_the_convolutions_but_for_their_own():
    data = ways_on("original", 8)["data"]
    slow = step(data, 1024, LINK, Assumptions(1, 0))
    assert slow.sum_s == pytest.approx(slow.sent_bytes / 10e9 * CONV_PARAMETERS / PARAMETERS)
    costs = [each.step.multiply_adds for each in data.divisions]
    first = next(index for index, each in enumerate(data.divisions) if each.step.name == "fc6")
    half_hidden = step(data, 1024, LINK, Assumptions(128 * 2 / 3 * sum(costs[:first]) / sum(costs) / 0.02, 0))
    assert half_hidden.sum_s == pytest.approx(half_hidden.sent_bytes / 10e9 - 0.02)


def test_activations_are_waited_for():
    towers = step(ways_on("original", 2)["towers"], 128, LINK, Assumptions(1000, 5))
    assert towers.sent_bytes == 128 * (242_688 + 500 * 4)  # forward and backward, and the scores of the other classes
    assert (towers.compute_s, towers.sum_s) == (0.005 + 0.064, 0)
    assert towers.exchange_s == pytest.approx(towers.sent_bytes / 10e9)
    hybrid = step(ways_on("one-tower", 8)["hybrid"], 1024, LINK, AT_ONCE)
    assert hybrid.seconds == pytest.approx(145.65e6 / 10e9, rel=1e-3)


def test_a_message_is_delayed_once_for_each_doubling_of_the_gpus():
    slow = Link("slow", 1e30, 1.0)
    assert step(ways_on("original", 8)["data"], 8, slow, AT_ONCE).seconds == pytest.approx(2 * 3)
    assert step(ways_on("original", 2)["towers"], 8, slow, AT_ONCE).seconds == pytest.approx(4 * 2 + 1)


def test_hours_and_cost_of_imagenet():
    alone = training(1, 128, FREE, Assumptions(25_000, 2, 3))
    assert alone.hours == pytest.approx(90 * 10_010 * (0.002 + 128 / 25_000) / 3600)
    assert (alone.cost, alone.speedup) == (3 * alone.hours, 1)
    for gpus in (8, 64):
        assert training(gpus, 128 * gpus, FREE, Assumptions()).speedup == pytest.approx(gpus, rel=0.01)


def test_over_ethernet_the_hybrid_wins_below_the_batch_at_which_it_breaks_even():
    for batch, winner in ((128, "hybrid"), (3270, "hybrid"), (3280, "data"), (8192, "data")):
        times = {way: step(each, batch, LINK, AT_ONCE).seconds for way, each in ways_on("one-tower", 8).items()}
        assert min(times, key=times.get) == winner


def test_assumptions_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="images_per_s must be > 0, got 0"):
        Assumptions(images_per_s=0)
    with pytest.raises(ValueError, match="step_ms must be >= 0, got -2"):
        Assumptions(step_ms=-2)


def test_the_command_plans_with_the_users_numbers(capsys, tmp_path):
    main(["bench", "--plan", "--images-per-s", "9000", "--gpu-hour", "1.5"])
    printed = capsys.readouterr().out
    assert "9,000 images/s" in printed and "1.5 per GPU" in " ".join(printed.split())
    main(["bench", "--plan", "--output", str(tmp_path / "plan.md")])
    assert (tmp_path / "plan.md").read_text(encoding="utf-8") == plan.page()


@pytest.mark.skipif(not PAGE.exists(), reason="needs the checkout")
def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == plan.page(), "run alexnet bench --plan --output docs/scaling.md"
