"""Grad-CAM, occlusion and gradients, against formulas by hand and causes that were planted."""

import numpy as np
import pytest
import torch
from conftest import train
from PIL import Image
from test_networks import narrow

from alexnet.cli import main

pytest.importorskip("captum.attr")


@pytest.fixture
def classifier(folder):
    classifier, _ = train(folder, epochs=2)
    return classifier


@pytest.fixture
def photo(folder):
    return folder / "red" / "03.png"


def only_sees(classifier, top, left, bottom, right):
    """Hide all pixels but those of a window from the network."""

    def hide(module, args):
        seen = torch.zeros_like(args[0])
        seen[:, :, top:bottom, left:right] = args[0][:, :, top:bottom, left:right]
        return (seen,)

    classifier.network.conv1.register_forward_pre_hook(hide)


def test_grad_cam_is_the_sum_of_feature_maps_each_times_its_mean_gradient(classifier, photo):
    (explanation,) = classifier.explain(photo, "gradcam", target="green")
    x = classifier.inputs(photo)
    outputs = classifier.network.features(x)
    (gradient,) = torch.autograd.grad(outputs["fc8"][0, classifier.classes.index("green")], outputs["relu3"])
    maps = (outputs["relu3"] * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(maps, (32, 32), mode="bilinear")[0, 0].detach()
    assert explanation.layer == "relu3" and explanation.target == classifier.classes.index("green")
    np.testing.assert_allclose(explanation.heat, expected, atol=1e-5 * expected.max().item())
    assert explanation.heat.min() >= 0


@pytest.mark.parametrize("by", ["occlusion", "gradients"])
def test_a_planted_cause_is_the_only_one(by, classifier, photo):
    only_sees(classifier, 8, 18, 16, 26)
    (explanation,) = classifier.explain(photo, by, window=4)
    reach = 0 if by == "gradients" else 4  # of a square that overlaps what is seen
    outside = explanation.heat.copy()
    outside[8 - reach : 16 + reach, 18 - reach : 26 + reach] = 0
    assert not outside.any() and explanation.heat[8:16, 18:26].any()


def test_occluding_everything_gives_the_probability_of_a_gray_image(classifier, photo):
    (explanation,) = classifier.explain(photo, "occlusion", window=32)
    x = classifier.inputs(photo)
    with torch.no_grad():
        seen, gray = classifier.network(torch.cat([x, 0 * x])).softmax(1)[:, explanation.target]
    np.testing.assert_allclose(explanation.heat, (seen - gray).item(), atol=1e-6)


def test_gradients_are_slopes(classifier, photo):
    """Of the score, by finite differences, at the pixel that matters most."""
    (explanation,) = classifier.explain(photo, "gradients")
    classifier.network.double()
    x, step = classifier.inputs(photo).double(), 1e-4
    row, column = np.unravel_index(explanation.heat.argmax(), explanation.heat.shape)
    slopes = []
    for color in range(3):
        moved = x.repeat(2, 1, 1, 1)
        moved[:, color, row, column] += torch.tensor([step, -step])
        with torch.no_grad():
            scores = classifier.network(moved)[:, explanation.target]
        slopes.append(abs((scores[0] - scores[1]).item()) / (2 * step))
    assert explanation.heat.max() == pytest.approx(max(slopes), rel=1e-2)


def test_the_image_is_shown_as_the_network_saw_it(classifier, photo):
    (explanation,) = classifier.explain(photo)
    inputs = classifier.bundle.preprocessing
    x = (torch.from_numpy(explanation.pixels).float() - inputs.center_crop.mean) / inputs.std
    torch.testing.assert_close(x.permute(2, 0, 1)[None], classifier.inputs(photo), rtol=0, atol=1e-4)
    expected = classifier.predict(photo, all_views=False)
    np.testing.assert_allclose(explanation.probabilities, expected, atol=1e-5)
    assert explanation.target == expected.argmax()


def test_what_there_is_not_is_refused(classifier, photo):
    for given, message in (
        ({"by": "lime"}, "by must be one of gradcam, occlusion, gradients, got 'lime'"),
        ({"target": "blu"}, "target must be one of blue, green, red, got 'blu'; did you mean 'blue'"),
        ({"layer": "fc8"}, r"layer must have feature maps, got fc8, which gives \(3,\)"),
        ({"layer": "conv9"}, "a layer of cifar-18 must be one of .* got 'conv9'"),
        ({"by": "occlusion", "window": 33}, "window must be 1 … 32, got 33"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier.explain(photo, **given)


def test_the_command_draws_every_image(classifier, folder, tmp_path, capsys):
    run = classifier.save(tmp_path / "saved")
    arguments = ["--by", "occlusion", "--target", "red", "--output", str(tmp_path / "why.png")]
    main(["explain", str(run), str(folder / "red" / "01.png"), str(folder / "blue" / "02.png"), *arguments])
    printed = capsys.readouterr().out
    assert "01.png: " in printed and "02.png: " in printed and "why.png" in printed
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 900 and picture.height > 600


@pytest.mark.parametrize("name", ["original", "small"])
def test_the_usual_layer_is_relu5(name):
    from alexnet.analysis.explaining import last_relu

    assert last_relu(narrow(name)) == "relu5"
