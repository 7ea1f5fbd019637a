"""Images that move, grow and turn, against NumPy; consistency, against all crops of every image."""

import json

import numpy as np
import pytest
import torch
from conftest import train
from test_networks import narrow
from test_references import lively

import alexnet
from alexnet.analysis.shift import AMOUNTS, changed
from alexnet.cli import main
from alexnet.preprocessing.crops import Crops


def test_images_move_down_grow_from_the_middle_and_turn_counterclockwise():
    x = torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
    close = {"rtol": 0, "atol": 1e-4}
    for kind, same in (("vertical shift", 0), ("scale", 1), ("rotation", 0), ("rotation", 360)):
        torch.testing.assert_close(changed(x, kind, same), x, **close)
    down = changed(x, "vertical shift", 5 / 32)
    torch.testing.assert_close(down[:, :, 5:], x[:, :, :-5], **close)
    assert not down[:, :, :4].any(), "what is left behind is the mean color, 0"
    torch.testing.assert_close(changed(x, "rotation", 90), x.rot90(1, (2, 3)), **close)
    torch.testing.assert_close(changed(x, "rotation", 180), x.rot90(2, (2, 3)), **close)
    blocks = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, 16:48, 16:48]
    # A pixel between two of the image is the mean of them, weighted by how near they are.
    torch.testing.assert_close(changed(x, "scale", 2.0).mean(), blocks.mean(), rtol=0, atol=0.02)
    smooth = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    torch.testing.assert_close(changed(smooth, "scale", 1.6), smooth / 1.6, rtol=0, atol=1e-3)


@pytest.fixture
def classifier(folder):
    """With crops of 24 of 32 pixels, whose classes depend on the crop."""
    classifier, _ = train(folder, epochs=1)
    classifier.bundle.network = lively(narrow("cifar-18", 24)).float()
    bundle = classifier.bundle
    bundle.preprocessing = alexnet.Classifier.bundle.fget(classifier).preprocessing.resized(32, 24, True)
    bundle.classes = ("blue", "green", "red", "a", "b")
    return classifier


def test_consistency_is_that_of_all_pairs_of_crops(classifier, folder):
    """The expected fraction of equal pairs is Σ p², where p is how often the crops of an image get each class."""
    measured = classifier.shift(folder, images=1, split="train", verbose=False)
    images = classifier.images(folder, "train", verbose=False)
    expected, margin = [], 8
    top, left = (each.flatten() for each in torch.meshgrid(*[torch.arange(margin + 1)] * 2, indexing="ij"))
    for index in images.indices.tolist():
        crops = Crops(top, left, torch.zeros_like(top, dtype=torch.bool), torch.zeros_like(top))
        stored = torch.tensor(images.packed.images[index][None])
        with torch.no_grad():
            classes = classifier.network(classifier.bundle.preprocessing.normalized_crops(stored, crops)).argmax(1)
        expected.append((np.bincount(classes) / len(classes)) @ (np.bincount(classes) / len(classes)))
    assert 0.3 < np.mean(expected) < 0.98 and measured.pairs == len(images)
    error = np.sqrt(np.mean(expected) * (1 - np.mean(expected)) / len(images))
    assert measured.consistency == pytest.approx(np.mean(expected), abs=3 * error)


def test_curves_begin_at_what_the_network_says_of_the_images(classifier, folder):
    measured = classifier.shift(folder, images=1000, split="train", verbose=False)
    images = classifier.images(folder, "train", verbose=False)
    stored = torch.from_numpy(images.packed.images[images.indices])
    with torch.no_grad():
        scores = classifier.network(classifier.bundle.preprocessing.center_crop(stored))
    labels = torch.tensor([classifier.classes.index(images.label(index)) for index in images.indices.tolist()])
    expected = scores.softmax(1).gather(1, labels[:, None]).mean().item()
    assert measured.images == len(images)
    for kind, same in (("vertical shift", 6), ("scale", 0), ("rotation", 0), ("rotation", -1)):
        curve = measured.curves[kind]
        assert curve.probability.shape == AMOUNTS[kind].shape
        assert curve.probability[same] == pytest.approx(expected, abs=1e-3)
        for distances in curve.distances.values():
            assert distances[same] < 0.01 < distances.max()
    assert list(measured.curves["scale"].distances) == ["relu1", "pool3"]


def test_what_cannot_be_measured_is_not(classifier, folder):
    with pytest.raises(ValueError, match="images must be >= 1, got 0"):
        classifier.shift(folder, images=0, verbose=False)
    classifier.bundle.preprocessing = classifier.bundle.preprocessing.resized(24, 24, True)
    measured = classifier.shift(folder, verbose=False)
    assert measured.consistency is None and "no consistency" in str(measured) and measured.curves


def test_the_command_prints_json_and_draws(folder, tmp_path, capsys):
    classifier, _ = train(folder, epochs=1)
    classifier.bundle.preprocessing = classifier.bundle.preprocessing.resized(36, 32, True)
    run, output = classifier.save(tmp_path / "saved"), tmp_path / "shift.png"
    main(["shift", str(run), str(folder), "--images", "2", "--json", "--output", str(output)])
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == 2 and facts["pairs"] == 60 and 0 <= facts["consistency"] <= 1
    assert output.stat().st_size > 10_000
