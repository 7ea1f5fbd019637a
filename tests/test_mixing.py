"""Mixup, cutmix and the EMA of the weights against their formulas and PyTorch's own."""

from dataclasses import replace
from math import factorial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from alexnet import counter_rng as draws
from alexnet.data.batches import Batch
from alexnet.parallel.group import Group
from alexnet.parallel.strategy import DataParallel
from alexnet.preprocessing.augmentation import Mix, draw_mix
from alexnet.specs.recipes import RECIPES
from alexnet.training.optimizer import WeightEMA, optimizer_of
from alexnet.training.step import MicroBatches

SIDE = 40
MIXUP = replace(RECIPES["paper"], mixup=0.4)
CUTMIX = replace(RECIPES["paper"], cutmix=1.0)


def batch_of(count=16, first=0):
    return Batch(torch.empty(0), torch.arange(count) % 3, np.arange(count) + 7 * first, first)


def mixes(recipe, count=2000):
    return [draw_mix(batch_of(first=first), SIDE, recipe, seed=1, epoch=0) for first in range(0, 16 * count, 16)]


def test_mixup_is_the_weighted_mean_of_two_images():
    """x = λ · x_i + (1 − λ) · x_j (Zhang et al. 2018, equation 1)."""
    mix, views = draw_mix(batch_of(), SIDE, MIXUP, seed=1, epoch=0), torch.randn(16, 3, SIDE, SIDE)
    expected = torch.stack([mix.weight * views[i] + (1 - mix.weight) * views[j] for i, j in enumerate(mix.partners)])
    torch.testing.assert_close(mix.apply(views), expected)
    assert sorted(mix.partners.tolist()) == list(range(16)), "each image is a partner once"


def test_cutmix_shows_the_partner_in_a_window_and_counts_its_area():
    """(Yun et al. 2019, equations 1 and 2): a window of √(1 − λ) of each side around any pixel, cut off at the edge."""
    views = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 3, SIDE, SIDE)  # every image shows its own index
    for mix in mixes(CUTMIX, 50):
        mixed = mix.apply(views)
        for i, j in enumerate(mix.partners.tolist()):
            own = (mixed[i] == i).float().mean().item()
            assert own == pytest.approx(1.0 if i == j else mix.weight)
            assert set(mixed[i].unique().tolist()) <= {i, j}
    weights = np.array([mix.weight for mix in mixes(CUTMIX)])
    tops, bottoms = (np.array([mix.window[edge] for mix in mixes(CUTMIX)]) for edge in (0, 1))
    # λ is uniform for alpha 1, so √(1 − λ) is 2/3 on average; 5/24 of a side is cut off at the edges:
    # the mean over s of s²/4, where s has density 2s, is 1/8 for the pair of edges
    assert (bottoms - tops).mean() / SIDE == pytest.approx(2 / 3 - 1 / 8, abs=0.02)
    assert weights.min() >= 0 and weights.max() <= 1


@pytest.mark.parametrize("recipe", [MIXUP, CUTMIX])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_views_stay_channels_last_and_the_views_unmixed(recipe, dtype):
    views = torch.randn(16, SIDE, SIDE, 3).to(dtype).permute(0, 3, 1, 2)
    before, mixed = views.clone(), draw_mix(batch_of(), SIDE, recipe, seed=1, epoch=0).apply(views)
    assert mixed.is_contiguous(memory_format=torch.channels_last) and mixed.dtype == dtype
    assert torch.equal(views, before) and not torch.equal(mixed, before)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixing_weights_follow_a_beta_distribution(alpha):
    weights = np.array([draws.beta(0, 0, index, "share", alpha) for index in range(4000)])
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_a_recipe_with_both_takes_each_half_of_the_time_and_one_with_neither_none():
    cut = [mix.window is not None for mix in mixes(replace(CUTMIX, mixup=0.2), 1000)]
    assert np.mean(cut) == pytest.approx(0.5, abs=0.05)
    assert draw_mix(batch_of(), SIDE, RECIPES["paper"], 1, 0) is None


def test_the_mix_depends_on_seed_epoch_and_position_alone():
    def drawn(seed, epoch, first):
        mix = draw_mix(batch_of(first=first), SIDE, CUTMIX, seed, epoch)
        return mix.weight, mix.window, tuple(mix.partners.tolist())

    assert drawn(1, 2, 16) == drawn(1, 2, 16)
    assert len({drawn(1, 2, 16), drawn(2, 2, 16), drawn(1, 3, 16), drawn(1, 2, 32)}) == 4


def test_the_loss_of_mixed_images_is_that_of_mixed_labels():
    """Cross-entropy with λ · y_i + (1 − λ) · y_j, as PyTorch has it for labels that are probabilities."""
    network, recipe = nn.Sequential(), replace(MIXUP, label_smoothing=0.1)
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc8", nn.Linear(12, 3))
    views, batch = torch.randn(16, 3, 2, 2), batch_of()
    mix = Mix(torch.arange(16).flip(0), weight=0.3)
    labels = 0.3 * F.one_hot(batch.labels, 3) + 0.7 * F.one_hot(batch.labels.flip(0), 3)
    expected = F.cross_entropy(network(0.3 * views + 0.7 * views.flip(0)), labels, label_smoothing=0.1).item()
    loss, _ = MicroBatches(DataParallel(network, Group()), optimizer_of(network, recipe), recipe, "fp32").step(
        views, batch, mix
    )
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_ema_is_that_of_pytorch():
    """Including the running statistics of batch norm; swapped out and in again, the weights are the same bits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def documented(average, weights, steps):
        """As TensorFlow documents num_updates of its ExponentialMovingAverage."""
        decay = min(0.3, float((1 + steps) / (10 + steps)))
        return decay * average + (1 - decay) * weights

    ours, theirs = WeightEMA(network, 0.3), AveragedModel(network, avg_fn=documented, use_buffers=True)
    theirs.update_parameters(network)  # the first only copies the initial weights
    with ours.showing(average=False):
        for step in range(1, 6):  # (1 + t) / (10 + t) reaches 0.3 at the third
            network(torch.randn(2, 3, 5, 5))
            with torch.no_grad():
                network[0].weight += torch.randn_like(network[0].weight)
            ours.update(step)
            theirs.update_parameters(network)
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with ours.showing(average=True):
            for name, expected in theirs.module.state_dict().items():
                if expected.is_floating_point():
                    torch.testing.assert_close(network.state_dict()[name], expected)
        assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())
    assert not torch.equal(network[0].weight, weights["0.weight"])


def test_the_ema_soon_forgets_the_initial_weights():
    """The decays (1 + t) / (10 + t) of n steps leave 10! (n + 1)! / (n + 10)!; 0.998 alone would leave 99 %."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    ema = WeightEMA(network, 0.998)
    with ema.showing(average=False):
        nn.init.zeros_(network.weight)
        for step in range(1, 6):
            ema.update(step)
    assert network.weight.item() == pytest.approx(factorial(10) * factorial(6) / factorial(15), rel=1e-5)
