"""Figures and the report, against the pixels and numbers that they show."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_colors
from PIL import Image

import alexnet
from alexnet.analysis.figures import (
    as_pixels,
    augmentation_figure,
    colorfulness,
    confusion_figure,
    kernels_figure,
    pick_examples,
    views_figure,
    worst_errors,
)
from alexnet.analysis.network_figure import network_figure
from alexnet.analysis.report import _short
from alexnet.cli import main
from alexnet.data.batches import Batch
from alexnet.data.pack.statistics import compute_statistics
from alexnet.evaluation.metrics import Metrics, confidence_interval
from alexnet.preprocessing.augmentation import training_views
from alexnet.preprocessing.preprocessing import Preprocessing
from alexnet.runs.history import History
from alexnet.runs.run import Run
from alexnet.specs.recipes import recipe
from alexnet.specs.shapes import infer_shapes
from alexnet.specs.variants import VARIANTS, variant


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(folder / "cache"))
        classifier = alexnet.Classifier("small", "cpu", "fp32")
        data = write_colors(folder / "colors", 20)
        (data / "red" / "IMG_1.HEIC").touch()
        classifier.fit(data, epochs=2, batch_size=16, output=folder / "run", verbose=False)
    return classifier


def test_the_report_has_a_caption_for_every_picture_and_fits_a_phone(run):
    page = run.report.read_text(encoding="utf-8")
    assert "<meta name='viewport' content='width=device-width, initial-scale=1'>" in page
    assert page.count("<img ") == page.count("<figcaption>") == page.count("</figcaption></figure>") >= 6
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert {"Training curves", "Predictions", "Confusion matrix", "What the network saw in training"} <= set(headings)
    assert (
        "Pink is the true class, blue any other" in page
        and "dead units, whose output is 0 for each of 32 images" in page
    )
    assert "<td>warnings</td>" in page and "ignored files: 1 HEIC" in page
    assert "The images of its first training step: cropped, resized, half of them flipped, with shifted colors." in page
    for picture in re.findall(r'src="data:image/png;base64,([^"]+)"', page):
        assert Image.open(io.BytesIO(base64.b64decode(picture))).width <= 1000
    for name in ("curves", "predictions", "confusion", "batch", "kernels", "layers"):
        assert (run.report.parent / f"{name}.png").exists()


def test_the_report_says_how_sure_the_error_is_and_what_chance_gives(run):
    page = run.report.read_text(encoding="utf-8")
    metrics = run.evaluation.all_views
    low, high = confidence_interval(1 - metrics.top1, 6)
    error = f"On 6 images, the top-1 error with 10 views is {1 - metrics.top1:.1%}"
    assert f"{error} (95% confidence interval: {low:.1%} to {high:.1%})." in page
    assert "For comparison: always predicting blue, the largest class, has an error of 66.7%." in page


def test_names_are_short_where_there_is_little_room():
    assert _short("English springer (n02102040)") == "English springer"
    assert _short("a name that is too long") == "a name that is to…"


def test_the_interval_is_wilsons():
    """Its ends are the fractions p from which the count is 1.96 of their own standard deviations away."""
    for count, fraction in ((6, 0.0), (10, 0.1), (1000, 0.375), (8, 1.0)):
        ends = confidence_interval(fraction, count)
        for p in ends:
            assert abs(fraction - p) == pytest.approx(1.96 * np.sqrt(p * (1 - p) / count), abs=1e-9)
        assert ends[0] <= fraction <= ends[1]
    assert confidence_interval(0.1, 10) == pytest.approx((0.0179, 0.4042), abs=1e-4)


def test_the_worst_errors_are_the_most_probable_wrong_predictions():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    metrics = Metrics.of(probabilities, torch.tensor([0, 0, 1, 1]))
    assert worst_errors(metrics, 3).tolist() == [1, 3] and worst_errors(metrics, 1).tolist() == [1]


def shown(figure):
    """The images of a figure, by axes."""
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_kernels_of_two_towers_stand_apart():
    network = alexnet.create("original", num_classes=3)
    first, second = kernels_figure(network).axes
    titles = [axes.get_title().split(",")[0] for axes in (first, second)]
    assert titles == ["tower a", "tower b"]
    weights = network.conv1.weight.detach().permute(0, 2, 3, 1)
    low, high = weights.min(), weights.max()
    block = second.images[0].get_array()[1:12, 1:12]  # kernel 48
    np.testing.assert_allclose(block, (weights[48] - low) / (high - low), rtol=1e-5)
    (alone,) = kernels_figure(alexnet.create("torchvision", num_classes=3)).axes
    assert alone.get_title() == ""


def test_the_views_are_those_that_predictions_average():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    preprocessing = Preprocessing(64, 56, torch.zeros(1, 1, 3), torch.ones(3))
    expected = preprocessing.all_views(torch.from_numpy(image[None])).permute(0, 2, 3, 1).numpy()
    stored, *views = shown(views_figure(image, preprocessing))
    np.testing.assert_array_equal(stored, image)
    np.testing.assert_array_equal(np.stack(views), expected)


def test_augmentation_is_shown_as_it_is():
    image = np.random.default_rng(0).integers(64, 192, (256, 256, 3), dtype=np.uint8)
    preprocessing = Preprocessing(256, 224, torch.full((1, 1, 3), 120.0), torch.ones(3))
    pictures = shown(augmentation_figure(image, recipe("original"), preprocessing))
    assert len(pictures) == 18
    windows = np.lib.stride_tricks.sliding_window_view(image, (224, 224, 3))[:, :, 0]
    for cropped, shifted in zip(pictures[:6], pictures[6:12], strict=True):
        found = [cropped, cropped[:, ::-1]]
        assert any((windows[top, left] == each).all() for each in found for top in range(33) for left in range(33))
        change = shifted.astype(int) - image[16:240, 16:240]
        assert np.ptp(change.reshape(-1, 3), axis=0).max() <= 1  # one color for the whole image


@pytest.mark.parametrize("name", ["original", "modern", "cifar-18"])
def test_pixels_are_recovered_from_views(name):
    chosen = recipe(name)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    statistics = compute_statistics(images, np.arange(4))
    preprocessing = Preprocessing.from_statistics(chosen.input, statistics, 32, 32)
    batch = Batch(torch.from_numpy(images), torch.zeros(4), np.arange(4), 0)
    still = replace(chosen, flip=False, crop_scale=None)
    views = training_views(batch, still, preprocessing, statistics, 0, 0, color=False)
    pixels = as_pixels(views, preprocessing, replace(still, color_shift=None))
    np.testing.assert_array_equal(pixels, images)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_is_drawn_with_the_sizes_of_its_layers(name):
    placed = infer_shapes(variant(name))
    texts = [text.get_text() for text in network_figure(placed, name).axes[0].texts]
    towers = 2 if any(getattr(step.operation, "groups", 1) == 2 and step.name[0] == "c" for step in placed) else 1
    last = f"{placed[-1].output_shape[0]:,}" if len(placed[-1].output_shape) == 1 else ""
    channels, side, _ = placed[0].output_shape
    assert texts.count(f"{side} × {side} × {channels // towers}") >= towers and last in texts


def test_colorfulness_tells_gray_kernels_from_colors():
    """Black and white in one tower, red against green in the other; at random, 2 of 3 degrees of freedom are color."""
    network = alexnet.create("small-towers", 5)
    assert colorfulness(network) == pytest.approx([2 / 3, 2 / 3], abs=0.06)
    with torch.no_grad():
        network.conv1.weight[:24] = network.conv1.weight[:24, :1]
        network.conv1.weight[24:] *= torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1)
        network.conv1.weight[24:, 1] = -network.conv1.weight[24:, 0]
    assert colorfulness(network) == pytest.approx([0, 1], abs=1e-6)
    titles = [axes.get_title() for axes in kernels_figure(network).axes]
    assert titles == ["tower a, colorfulness 0.00", "tower b, colorfulness 1.00"]


@pytest.mark.parametrize("what", ["kernels", "views", "augmentation", "network"])
def test_show_draws_for_a_run_and_for_a_network(run, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["show", what, str(run.run)])
    main(["show", what, "small", "--output", "small.svg"])
    assert capsys.readouterr().out == f"figure: {what}.png\nfigure: small.svg\n"
    assert Image.open(f"{what}.png").width > 400 and "<svg" in (tmp_path / "small.svg").read_text()


def test_show_takes_an_image_and_imported_weights(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 60), "red").save("red.png")
    alexnet.export_weights(run.bundle, tmp_path / "w.safetensors", "safetensors")
    main(["show", "views", "w.safetensors", "red.png", "--output", "views.png"])
    assert (tmp_path / "views.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernels", "orignal"], "there is no run, file or network 'orignal'; did you mean 'original'?"),
        (["network", "small", "cat.jpg"], "network takes no image, got cat.jpg"),
        (
            ["views", "small", "--output", "views"],
            "--output must be a file that ends in .png, .svg, .pdf ..., got views",
        ),
        (["views", "small", "no.jpg"], "no.jpg"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["show", *arguments])
    assert message in capsys.readouterr().err


def test_notebooks_show_history_evaluation_and_classifier(run):
    classifier, evaluation, history = alexnet.load(run.run), run.evaluation, Run(run.run).history()
    assert repr(classifier).startswith("Classifier(small, 3 classes: blue, green, red, ")
    assert "<td>small</td>" in classifier._repr_html_()
    assert repr(alexnet.Classifier("small")) == "Classifier(small, not trained yet)"
    assert repr(evaluation).startswith("Evaluation(colors, test, 6 images: top-1 accuracy ")
    assert "<th>top-1 error</th>" in evaluation._repr_html_() and "colors, test: 6 images" in evaluation._repr_html_()
    assert repr(evaluation.center).startswith("Metrics(6 images, top-1 accuracy ")
    assert re.fullmatch(
        r"History\(2 epochs, the last: epoch 2, train_loss .*, train_error .*, val_loss .*, val_error .*, lr .*\)",
        repr(history),
    )
    assert history._repr_html_().count("<tr>") == 3 and repr(History()) == "History(0 epochs, the last: none)"
    long = History([history[0] | {"epoch": epoch} for epoch in range(1, 101)])._repr_html_()
    assert long.count("<tr>") == 21 and "<td>…</td>" in long and '<td class="number">100</td>' in long
    assert Image.open(io.BytesIO(history.plot()._repr_png_())).size == (800, 320)


PAPER = Path(__file__).parent.parent / "docs" / "paper.md"


@pytest.mark.skipif(not PAPER.exists(), reason="needs the checkout")
def test_what_a_network_never_sees_is_not_drawn(tmp_path, capsys):
    for what, why in (
        ("augmentation", "the recipe cifar-18 leaves images as they are"),
        ("views", "there is one view only"),
    ):
        with pytest.raises(SystemExit):
            main(["show", what, "cifar-18", "--output", str(tmp_path / "figure.png")])
        assert why in capsys.readouterr().err
    main(["show", "kernels", "small", "--output", str(tmp_path / "figure.svg")])
    assert "initial weights, not trained" in (tmp_path / "figure.svg").read_text()


def test_the_commands_and_the_python_of_the_page_on_the_paper_run(tmp_path, monkeypatch, capsys):
    """Those that train or need ImageNet excepted; tests/test_readme.py holds the flags of all of them."""
    data = write_colors(tmp_path / "colors", 20)
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    alexnet.Classifier("small", "cpu").fit(data, epochs=1, batch_size=32, output=tmp_path / "RUN", verbose=False)
    monkeypatch.chdir(tmp_path)
    text = PAPER.read_text(encoding="utf-8")
    commands = re.findall(r"^    alexnet (.*)$", text, re.MULTILINE)
    quick = [each for each in commands if each.split()[0] != "train" and "imagenet" not in each.split()]
    assert len(quick) >= 14
    for command in quick:
        main(command.split())
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"network.png", "augmentation.png", "views.png", "learning-rates.png", "kernels.png"}
    (training,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(training.replace('"emoji", ', f"{str(data)!r}, epochs=1, verbose=False, "), {})
    assert (tmp_path / "runs" / "no-dropout" / "report.html").exists()


def test_of_many_classes_the_confusion_matrix_shows_those_confused_most():
    """500 classes, of which 10 and 400, and 7, 300 and 301 are taken for one another; the others are right."""
    labels = torch.arange(500).repeat_interleave(4)
    answers = labels.clone()
    for label, answer, count in ((10, 400, 3), (400, 10, 2), (7, 300, 2), (300, 301, 1)):
        answers[torch.nonzero(labels == label)[:count, 0]] = answer
    metrics = Metrics.of(torch.nn.functional.one_hot(answers, 500).float(), labels, keep=False)
    (axes,) = confusion_figure(metrics, [f"class {label}" for label in range(500)]).axes
    shown = [10, 400, 7, 300, 301, *(label for label in range(40) if label not in (7, 10))][:40]
    assert [each.get_text() for each in axes.get_yticklabels()] == [f"class {label}" for label in shown]
    dense = torch.zeros(500, 500)
    dense.index_put_((labels, answers), torch.tensor(25.0), accumulate=True)
    np.testing.assert_allclose(axes.images[0].get_array(), dense[shown][:, shown])
    assert axes.get_title().endswith("the 40 classes confused most often")


def test_examples_are_of_each_class_in_turn():
    labels = torch.tensor([0] * 5 + [1] * 2 + [7])
    metrics = Metrics.of(torch.full((8, 8), 1 / 8), labels)
    chosen = pick_examples(metrics, 8)
    assert sorted(chosen.tolist()) == list(range(8))
    turns = labels[chosen].tolist()
    assert sorted(turns[:3]) == [0, 1, 7] and sorted(turns[3:5]) == [0, 1] and turns[5:] == [0, 0, 0]
