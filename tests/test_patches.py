"""The strongest patches of each unit, against all activations, and against what changes when pixels outside change."""

import csv

import numpy as np
import pytest
import torch
from conftest import train

from alexnet.analysis.deconvolution import deconvolve
from alexnet.analysis.inside_figures import patches_figure
from alexnet.cli import main


@pytest.fixture
def classifier(folder):
    """Trained a little, with another unit of conv3 that is never active."""
    classifier, _ = train(folder, epochs=1)
    with torch.no_grad():
        classifier.network.conv3.weight[5] = 0
        classifier.network.conv3.bias[5] = -1
    return classifier


def test_patches_are_those_of_the_highest_activations_of_all(classifier, folder, tmp_path):
    everything = classifier.features(folder, ["conv3"], tmp_path / "features", verbose=False)["conv3"]
    patches = classifier.patches(folder, "conv3", verbose=False)
    highest = everything.max((2, 3))  # (images, units)
    assert patches.field == 47 and patches.units == tuple(range(64))
    assert 5 in patches.dead and set(patches.dead) == set(np.flatnonzero(highest.max(0) <= 0))
    rows = {index: row for row, index in enumerate(patches.images.indices.tolist())}
    for unit, found in zip(patches.units, patches.by_unit, strict=True):
        expected = np.sort(highest[:, unit])[::-1][:9]
        np.testing.assert_allclose([patch.activation for patch in found], expected[expected > 0], rtol=1e-5)
        assert len({patch.image for patch in found}) == len(found)
        for patch in found:
            assert highest[rows[patch.image], unit] == pytest.approx(patch.activation)


def test_only_pixels_of_the_patch_matter_to_its_unit(classifier, folder):
    """A patch holds all that the unit sees: with any other pixels around it, the activation is the same."""
    patches, inputs = (
        classifier.patches(folder, "conv2", units=[0, 3, 8], verbose=False),
        classifier.bundle.preprocessing,
    )
    other = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert any(patches.by_unit)
    for unit, found in zip(patches.units, patches.by_unit, strict=True):
        for patch in found:
            top, left, bottom, right = patch.window
            assert patch.pixels.shape == (bottom - top, right - left, 3) and max(patch.pixels.shape) <= 19
            image = np.zeros((inputs.stored_size, inputs.stored_size, 3), np.uint8)
            margin = inputs.margin // 2
            image[margin : margin + 32, margin : margin + 32] = other
            image[margin + top : margin + bottom, margin + left : margin + right] = patch.pixels
            x = inputs.center_crop(torch.from_numpy(image[None]))
            with torch.no_grad():
                values = classifier.network.features(x, "conv2")["conv2"][0, unit]
            where = (values - patch.activation).abs().argmin()
            assert values.flatten()[where].item() == pytest.approx(patch.activation, rel=1e-4)
            signal = torch.zeros(1, *values.shape).unsqueeze(1).repeat(1, 32, 1, 1)
            signal[0, unit].view(-1)[where] = patch.activation
            back = deconvolve(classifier.network, x, "conv2", signal)[0].permute(1, 2, 0)[top:bottom, left:right]
            np.testing.assert_allclose(patch.deconvolution, back * inputs.std, rtol=1e-3, atol=1e-3)


def test_units_of_a_vector_see_the_whole_image(classifier, folder):
    patches = classifier.patches(folder, "fc8", units=[1], count=4, verbose=False)
    (found,) = patches.by_unit
    assert patches.field == 32 and len(found) == 4
    assert {patch.window for patch in found} == {(0, 0, 32, 32)} and found[0].deconvolution.any()
    assert patches.images.label(found[0].image) == classifier.classes[1]


def test_what_there_is_not_is_refused(classifier, folder):
    with pytest.raises(ValueError, match="units of conv3 must be 0 … 63, got 64"):
        classifier.patches(folder, "conv3", units=[64], verbose=False)
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        classifier.patches(folder, count=0, verbose=False)
    with pytest.raises(ValueError, match=r"a layer of cifar-18 must be one of .* got 'conv7'"):
        classifier.patches(folder, "conv7", verbose=False)


def test_the_command_writes_a_picture_and_a_table(classifier, folder, tmp_path, capsys):
    run, output = classifier.save(tmp_path / "saved"), tmp_path / "patches.png"
    main(["patches", str(run), str(folder), "--units", "4", "5", "6", "--output", str(output)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "conv3: a unit sees 47 × 47 pixels" in printed and "never active on 60 images" in printed
    assert output.stat().st_size > 5000
    with output.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["unit"] for row in rows} <= {"4", "6"} and rows[0]["rank"] == "1"
    figure = patches_figure(classifier.patches(folder, units=[5], verbose=False))
    assert "conv3" in figure.get_suptitle(), "a picture of dead units alone is empty, not an error"
