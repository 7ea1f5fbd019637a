from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import counter_rng as draws
from alexnet.data.batches import Batch
from alexnet.data.pack.statistics import compute_statistics
from alexnet.kernels import library
from alexnet.preprocessing import crops
from alexnet.preprocessing.augmentation import color_shifts, random_windows, training_views
from alexnet.preprocessing.crops import Crops
from alexnet.preprocessing.preprocessing import CENTER, Preprocessing
from alexnet.specs.recipe import ColorShift, Input
from alexnet.specs.recipes import RECIPES, recipe

SIDE, CROP = 12, 8


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)


def prepared(images, **inputs):
    """Preprocessing by an input specification, and the statistics of the images."""
    statistics = compute_statistics(images, np.arange(len(images)))
    return Preprocessing.from_statistics(Input(**inputs), statistics, SIDE, CROP), statistics


def test_statistics_are_numpys(images):
    statistics = compute_statistics(images, np.arange(10, 40))
    chosen = images[10:40].astype(np.float64)
    np.testing.assert_allclose(statistics.mean_image, chosen.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, chosen.std((0, 1, 2)), rtol=1e-6)
    covariance = np.cov(chosen.reshape(-1, 3).T, bias=True)
    rebuilt = statistics.eigenvectors @ np.diag(statistics.eigenvalues) @ statistics.eigenvectors.T
    np.testing.assert_allclose(rebuilt, covariance, rtol=1e-4, atol=0.05)


def test_ten_crop_is_corners_center_and_the_same_flipped(images, each_way):
    inputs, statistics = prepared(images)
    views = inputs.all_views(torch.from_numpy(images[:2])).unflatten(0, (2, 10))
    far, middle = SIDE - CROP, (SIDE - CROP) // 2
    mean = statistics.mean_image[middle : middle + CROP, middle : middle + CROP]
    offsets = [(0, 0), (0, far), (middle, middle), (far, 0), (far, far)]
    for index in range(2):
        for view, (top, left) in enumerate(offsets):
            crop = images[index, top : top + CROP, left : left + CROP].astype(np.float32)
            np.testing.assert_allclose(views[index, view], (crop - mean).transpose(2, 0, 1), atol=1e-4)
            np.testing.assert_allclose(views[index, 5 + view], (crop[:, ::-1] - mean).transpose(2, 0, 1), atol=1e-4)
    torch.testing.assert_close(views[:, CENTER], inputs.center_crop(torch.from_numpy(images[:2])))
    assert inputs.center_crop(torch.from_numpy(images)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mean", ["image", "aligned image", "channel"])
def test_the_center_crop_can_be_exported(images, mean):
    inputs, _ = prepared(images, mean=mean, std="channel")
    given = torch.from_numpy(images[:3])
    with torch.inference_mode():
        expected = inputs.center_crop(given)
    program = torch.export.export(inputs.center_crop, (given[:2],), dynamic_shapes=({0: torch.export.Dim("N")},))
    assert torch.equal(program.module()(given), expected)


def test_a_network_trained_without_flips_has_five_views(images):
    inputs, _ = prepared(images)
    upright = replace(inputs, flip=False)
    ten, five = (each.all_views(torch.from_numpy(images[:3])) for each in (inputs, upright))
    assert torch.equal(five.unflatten(0, (3, 5)), ten.unflatten(0, (3, 10))[:, :5])


def test_every_offset_is_cut_by_training_views(each_way):
    """An image that holds its own coordinates tells where it was cut, and whether it was flipped."""
    y, x = np.mgrid[:SIDE, :SIDE]
    images = np.tile(np.stack([y, x, x], -1).astype(np.uint8), (4000, 1, 1, 1))
    inputs = Preprocessing(SIDE, CROP, torch.zeros(1, 1, 3), torch.ones(3))
    batch = Batch(torch.from_numpy(images), torch.zeros(4000), np.arange(4000), 0)
    views = training_views(batch, replace(recipe("paper"), color_shift=None), inputs, None, 0, 0)
    top, left, right = views[:, 0, 0, 0], views[:, 1, 0, 0], views[:, 1, 0, -1]
    assert top.unique().tolist() == list(range(SIDE - CROP + 1))
    assert torch.minimum(left, right).unique().tolist() == list(range(SIDE - CROP + 1))
    assert ((right - left).abs() == CROP - 1).all()
    assert (left > right).float().mean().item() == pytest.approx(0.5, abs=0.03)
    upright = training_views(batch, replace(recipe("paper"), color_shift=None, flip=False), inputs, None, 0, 0)
    assert (upright[:, 1, 0, 0] < upright[:, 1, 0, -1]).all()


def test_the_mean_image_is_cropped_like_the_image_only_if_it_follows_the_crop(images, each_way):
    """2012 subtracts the center of the mean image from every crop; Caffe crops the mean image like the image."""
    inputs, statistics = prepared(images, mean="aligned image")
    top, left, flipped = torch.tensor([1]), torch.tensor([3]), torch.tensor([True])
    difference = images[0] - statistics.mean_image
    expected = difference[1 : 1 + CROP, 3 : 3 + CROP][:, ::-1].transpose(2, 0, 1)
    view = inputs.normalized_crops(torch.from_numpy(images[:1]), Crops(top, left, flipped))
    np.testing.assert_allclose(view[0], expected, atol=1e-4)


def test_inputs_of_unit_standard_deviation(images, each_way):
    inputs, _ = prepared(images, mean="channel", std="channel")
    view = inputs.center_crop(torch.from_numpy(images))
    assert view.mean().abs() < 0.05 and abs(view.std() - 1) < 0.05
    inputs, _ = prepared(images, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    middle = (SIDE - CROP) // 2
    pixel = (images[0, middle, middle] - np.array([1, 2, 3])) / np.array([2, 4, 8])
    np.testing.assert_allclose(inputs.center_crop(torch.from_numpy(images[:1]))[0, :, 0, 0], pixel, rtol=1e-6)


@pytest.mark.parametrize("along", ["eigenvalues", "standard deviations"])
def test_color_shift_has_the_spread_that_the_paper_and_the_code_give(images, along):
    _, statistics = prepared(images)
    shift = ColorShift(0.1, along)
    drawn = color_shifts(shift, statistics, 0, 0, np.arange(40_000))
    in_axes = drawn @ statistics.eigenvectors
    # Eigenvalues are squares: those of colors of 0 … 1 are 255² times smaller, and the color is given in 0 … 255.
    scale = 255 * (statistics.eigenvalues / 255**2) if along == "eigenvalues" else np.sqrt(statistics.eigenvalues)
    np.testing.assert_allclose(in_axes.std(0), 0.1 * scale, rtol=0.02)
    assert np.abs(np.corrcoef(in_axes.T) - np.eye(3)).max() < 0.02


def test_the_image_is_divided_as_run_and_not_as_printed(images, each_way):
    batch = Batch(torch.from_numpy(images), torch.zeros(40), np.arange(40), 0)
    inputs, statistics = prepared(images)
    shifted = training_views(batch, recipe("original"), inputs, statistics, 0, 0)
    plain = training_views(batch, recipe("original"), inputs, statistics, 0, 0, color=False)
    difference = shifted * 1.1 - plain  # the color, one value for all pixels of an image
    assert (difference.amax((2, 3)) - difference.amin((2, 3))).max() < 1e-3
    torch.testing.assert_close(
        difference.mean((2, 3)),
        torch.from_numpy(color_shifts(recipe("original").color_shift, statistics, 0, 0, np.arange(40))).float(),
        rtol=1e-3,
        atol=1e-3,
    )
    printed = training_views(batch, recipe("paper"), inputs, statistics, 0, 0)
    plain = training_views(batch, recipe("paper"), inputs, statistics, 0, 0, color=False)
    difference = printed - plain
    assert (difference.amax((2, 3)) - difference.amin((2, 3))).max() < 1e-3


def test_a_window_is_the_crop_that_pillow_resizes():
    """On a smooth image, on which ways of interpolating hardly differ; also flipped."""
    y, x = np.mgrid[:64, :64]
    image = np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.cos(y / 7), (x + y)], -1).round().astype(np.uint8)
    inputs = Preprocessing(64, 56, torch.zeros(1, 1, 3), torch.ones(3))
    left, top, width, height = 10, 4, 40, 50
    window = torch.tensor([[(left + width / 2) / 64, (top + height / 2) / 64, width / 64, height / 64]])
    resized = Image.fromarray(image).resize(
        (56, 56), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    expected = np.asarray(resized).astype(np.float32).transpose(2, 0, 1)
    for flipped in (False, True):
        view = inputs.resized_crops(torch.from_numpy(image[None]), window, torch.tensor([flipped]))[0].numpy()
        assert np.abs(view - (expected[:, :, ::-1] if flipped else expected)).max() < 2.5


def test_windows_stay_inside_and_have_the_given_sizes():
    drawn = draws.uniform(0, 0, np.arange(20_000), "crop", 5)
    x, y, width, height = random_windows(drawn, (0.25, 1), 1.5).T
    for center, side in ((x, width), (y, height)):
        assert (center - side / 2).min() >= -1e-9 and (center + side / 2).max() <= 1 + 1e-9
    assert 0.25 * 0.99 < (width * height).min() < 0.26
    assert 1.45 < (width / height).max() <= 1.5 + 1e-9 and 1.45 < (height / width).max() <= 1.5 + 1e-9
    small = drawn[:, 3] < 0.25  # none of these is cut at the edge of the image, so the areas are evenly spread
    assert (width * height)[small].mean() == pytest.approx(0.25 + 0.75 * 0.125, abs=0.005)


def test_draws_do_not_depend_on_how_images_are_batched(images):
    inputs, statistics = prepared(images)
    indices = np.random.default_rng(1).permutation(40)
    for name in ("paper", "small"):
        entire = views_of(images, indices, 0, inputs, statistics, RECIPES[name])
        pieces = [views_of(images, indices[i : i + 7], i, inputs, statistics, RECIPES[name]) for i in range(0, 40, 7)]
        torch.testing.assert_close(torch.cat(pieces), entire)
        other = views_of(images, indices, 0, inputs, statistics, RECIPES[name], epoch=1)
        assert not torch.equal(other, entire)


def test_in_original_32_images_share_crop_and_flip():
    images = np.tile(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(1, SIDE, SIDE, 1), (96, 1, 1, 3))
    inputs, statistics = prepared(images)
    views = training_views(
        Batch(torch.from_numpy(images), torch.zeros(96), np.arange(96)[::-1].copy(), 0),
        recipe("original"),
        inputs,
        statistics,
        0,
        0,
        color=False,
    )
    groups = views.unflatten(0, (3, 32))
    assert (groups == groups[:, :1]).all()
    assert not torch.equal(groups[0, 0], groups[1, 0])


def test_draws_are_evenly_spread():
    drawn = draws.uniform(0, 0, np.arange(33 * 33 * 2 * 50), "crop", 3)
    cells = (drawn[:, 0] * 33).astype(int) * 66 + (drawn[:, 1] * 33).astype(int) * 2 + (drawn[:, 2] < 0.5)
    counts = np.bincount(cells, minlength=33 * 66)
    chi_square = ((counts - 50) ** 2 / 50).sum()
    degrees = 33 * 66 - 1
    assert abs(chi_square - degrees) < 4 * np.sqrt(2 * degrees)


def test_seeds_give_orders_of_their_own():
    orders = {tuple(draws.permutation(seed, epoch, 20)) for seed in (0, 1, 2**63 - 1, 2**63 - 2) for epoch in (0, 1)}
    assert len(orders) == 8


def test_normal_draws_are_normal():
    drawn = np.sort(draws.normal(3, 1, np.arange(50_000), "color")[:, 0])
    from math import erf

    expected = np.array([0.5 * (1 + erf(x / 2**0.5)) for x in drawn])
    assert np.abs(expected - np.arange(1, 50_001) / 50_000).max() < 1.63 / np.sqrt(50_000)  # Kolmogorov, 1 %


@pytest.mark.parametrize("mean", ["image", "aligned image", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_gives_the_bits_of_plain_torch(images, mean, dtype, monkeypatch):
    if library() is None:
        pytest.skip("the kernels were not compiled: there was no C compiler when the package was installed")
    inputs, _ = prepared(images, mean=mean, std="channel")
    generator = torch.Generator().manual_seed(0)
    indices, top, left = (torch.randint(0, end, (60,), generator=generator) for end in (40, 5, 5))
    color = torch.randn(60, 3, generator=generator) * 9
    arguments = torch.from_numpy(images), Crops(top, left, top > left, indices), color, 1.1, dtype
    by_kernel = inputs.normalized_crops(*arguments)
    monkeypatch.setattr(crops, "library", lambda: None)
    assert torch.equal(by_kernel, inputs.normalized_crops(*arguments))


def test_the_kernel_never_reads_outside_an_image(images):
    inputs, _ = prepared(images)
    if library() is None:
        pytest.skip("plain torch checks by itself")
    one, far = torch.tensor([0]), torch.tensor([SIDE - CROP + 1])
    with pytest.raises(IndexError, match=r"top must be in 0 … 4, got 5 … 5"):
        inputs.normalized_crops(torch.from_numpy(images), Crops(far, one, one > 0, one))
    with pytest.raises(IndexError, match=r"indices must be in 0 … 39, got 40 … 40"):
        inputs.normalized_crops(torch.from_numpy(images), Crops(one, one, one > 0, one + 40))


def test_crops_larger_than_the_image_are_refused(images):
    with pytest.raises(ValueError, match="crop_size must be <= stored_size, got 13 > 12"):
        Preprocessing.from_statistics(Input(), compute_statistics(images, np.arange(4)), SIDE, 13)


def views_of(images, indices, first, inputs, statistics, chosen, epoch=0):
    batch = Batch(torch.from_numpy(images[indices]), torch.zeros(len(indices)), indices, first)
    return training_views(batch, chosen, inputs, statistics, 5, epoch)
