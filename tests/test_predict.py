"""`predict` takes images of every kind; the command reads many and loses none to one that is broken."""

import csv
import io
import json
import os
import re
import sys
from errno import ENAMETOOLONG
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import COLORS, write_colors
from PIL import Image

import alexnet
from alexnet.cli import main
from alexnet.data.storage.image_formats import SUFFIXES
from alexnet.evaluation.prediction import Prediction
from alexnet.preprocessing import images as reading

LONG = "x" * 300
PIXELS = "an image array must be uint8, floats from 0 to 1, or integers from 0 to 255"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    place = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(place / "cache"))
        classifier = alexnet.Classifier("cifar-18", "cpu", "fp32")
        classifier.fit(write_colors(place / "colors", 8), epochs=3, batch_size=4, verbose=False)
    classifier.save(place / "saved")
    classifier.folder = str(place / "saved")
    return classifier


@pytest.fixture
def photos(tmp_path):
    """photos/blue.png, photos/more/green.png, photos/red.png"""
    for name in ("blue", "more/green", "red"):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).normal(COLORS[path.stem], 25, (50, 40, 3))
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def test_every_kind_of_image_gives_the_same(classifier, photos):
    path = photos / "red.png"
    content, pixels = path.read_bytes(), np.asarray(Image.open(path))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    expected = classifier.predict(str(path))
    assert expected.shape == (3,) and expected.sum() == pytest.approx(1, abs=1e-5)
    with path.open("rb") as file:
        for image in (path, content, bytearray(content), io.BytesIO(content), file, Image.open(path), pixels, tensor):
            np.testing.assert_array_equal(classifier.predict(image), expected, err_msg=str(type(image)))
    for image in (pixels / 255, (pixels / 255).astype(np.float32), tensor / 255, tensor.double() / 255, tensor.int()):
        np.testing.assert_array_equal(classifier.predict(image), expected)
    assert classifier.predict(tensor.bfloat16()).shape == (3,)
    gray = pixels[..., 0]
    for image in (gray[..., None], torch.from_numpy(gray.copy()), torch.from_numpy(gray.copy())[None]):
        np.testing.assert_array_equal(classifier.predict(image), classifier.predict(gray))


def test_many_images_in_one_call(classifier, photos):
    paths = [photos / "blue.png", photos / "more" / "green.png", photos / "red.png"]
    expected = np.stack([classifier.predict(path) for path in paths])
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for images in (paths, tuple(paths), (path for path in paths), photos, f"{photos}/", pixels, tensors, [tensors]):
        np.testing.assert_allclose(classifier.predict(images), expected, rtol=1e-5)
    np.testing.assert_allclose(classifier.predict([pixels[0], photos / "more", tensors[2]]), expected, rtol=1e-5)
    np.testing.assert_allclose(classifier.predict(f"{photos}/*d.png"), expected[2:], rtol=1e-5)
    np.testing.assert_allclose(classifier.predict(f"{photos}/**/*e*.png"), expected, rtol=1e-5)
    np.testing.assert_allclose(classifier.predict(sorted(os.scandir(photos), key=os.fspath)), expected, rtol=1e-5)
    assert classifier.predict([]).shape == (0, 3)
    single, many = classifier.predict_n(paths[0], 2), classifier.predict_n(photos, 2)
    assert len(many) == 3 and many[0][0][0] == single[0][0]
    assert all(first[1] >= second[1] for best in many for first, second in pairwise(best))


def test_more_than_a_batch_keeps_its_order_and_is_read_as_it_is_taken(classifier, monkeypatch):
    from alexnet.evaluation import prediction

    monkeypatch.setattr(prediction, "BATCH_SIZE", 4)
    generator, taken = np.random.default_rng(0), []
    pixels = generator.integers(0, 256, (30, 40, 40, 3), dtype=np.uint8)

    def images():
        for index, image in enumerate(pixels):
            taken.append(index)
            yield image

    predictions = classifier.predict_each(images())
    assert next(predictions).image == "image 0" and len(taken) == 8, "one batch ahead"
    taken.clear()
    assert next(classifier.predict_each(images(), batch_size=1)).image == "image 0" and len(taken) == 2
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        next(classifier.predict_each(images(), batch_size=0))
    found = np.stack([each.probabilities for each in predictions])
    np.testing.assert_allclose(found, [classifier.predict(each) for each in pixels[1:]], rtol=1e-4)


def test_an_image_that_cannot_be_read_loses_no_other(classifier, photos):
    images = [photos / "red.png", b"nothing", np.zeros((8, 8, 2), np.uint8), photos / "gone.png", photos / "blue.png"]
    predictions = list(classifier.predict_each(images))
    names = [str(photos / "red.png"), "image 1", "image 2", str(photos / "gone.png"), str(photos / "blue.png")]
    assert [each.image for each in predictions] == names
    assert [str(each.error) for each in predictions] == [
        "None",
        "image 1: the bytes cannot be read as an image: not an image of a known format, or its header is damaged",
        "image 2: an image array must have shape (height, width[, 1, 3 or 4]), got (8, 8, 2)",
        f"{photos}/gone.png does not exist",
        "None",
    ]
    np.testing.assert_allclose(predictions[4].probabilities, classifier.predict(images[4]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"gone\.png does not exist"):
        predictions[3].top(1)
    assert repr(predictions[3]) == f"Prediction('{photos}/gone.png': {photos}/gone.png does not exist)"
    shares = ", ".join(f"{name} {probability:.1%}" for name, probability in classifier.predict_n(images[0]))
    assert repr(predictions[0]) == f"Prediction('{photos}/red.png': {shares})"
    with pytest.raises(ValueError, match="image 1: the bytes cannot be read"):
        classifier.predict(images)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 2), np.uint8), "an image array must have shape (height, width[, 1, 3 or 4]), got (8, 8, 2)"),
        (np.zeros((0, 8, 3), np.uint8), "an image array must have shape (height, width[, 1, 3 or 4]), got (0, 8, 3)"),
        (np.full((8, 8), 300), f"{PIXELS}, got int64 from 0 to 300"),
        (np.full((8, 8), 2.5), f"{PIXELS}, got float64 from 0 to 2.5"),
        (np.full((8, 8), np.nan), f"{PIXELS}, got float64 from nan to nan"),
        (torch.full((3, 8, 8), -2.0), f"{PIXELS}, got float32 from -2 to 0"),
        (torch.zeros(2, 8, 8), "an image array must have shape (height, width[, 1, 3 or 4]), got (2, 8, 8)"),
        (io.StringIO("text"), "a file object must be opened in binary mode, as in open(path, 'rb'), got text"),
        (io.BytesIO(), "a file object must hold an image, got no bytes"),
        (io.BytesIO(b"0" * 11), "a file object must have <= 10 bytes, got more"),
        ("nowhere/*.png", "no images found in nowhere/*.png"),
        ("nowhere.png", "nowhere.png does not exist"),
        ("~nobody.png", "~nobody.png does not exist"),
        (LONG, f"{LONG} cannot be read as an image: {OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG), LONG)}"),
    ],
)
def test_errors_name_what_is_wrong(classifier, image, message, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(ValueError) as caught:
        classifier.predict(image)
    assert str(caught.value) == message


def test_what_is_no_image_is_refused(classifier):
    with pytest.raises(TypeError) as caught:
        classifier.predict(7)
    assert str(caught.value) == (
        "an image must be a path, a URL, bytes, a file object, a Pillow image, an array or a tensor, got int"
    )
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        classifier.predict_n(np.zeros((8, 8)), 0)


def test_the_command_writes_a_table_and_reports_broken_images(classifier, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit) as stop:
        main(["predict", classifier.folder, str(photos), "--top", "2", "--csv", str(tmp_path / "table.csv")])
    printed = capsys.readouterr()
    assert stop.value.code == 1 and printed.err.count("\n") == 1
    assert printed.out == f"{tmp_path / 'table.csv'}: 3 of 4 images classified\n"
    assert f"alexnet: {photos}/broken.png cannot be read as an image" in printed.err
    with (tmp_path / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "class", "probability", "class 2", "probability 2"]
    for name, row in zip(("blue", "broken", "more/green", "red"), rows, strict=True):
        assert row[0] == f"{photos}/{name}.png"
        if name == "broken":
            assert row[1:] == [""] * 4
            continue
        best = classifier.predict_n(row[0], 2)
        assert row[1::2] == [name for name, _ in best]
        assert [float(text) for text in row[2::2]] == pytest.approx([value for _, value in best], rel=0.01)
    main(["predict", classifier.folder, f"{photos}/r*.png", "--csv"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith(f"{photos}/red.png,") and lines[1].count(",") == 6


@pytest.mark.skipif(".heic" in SUFFIXES, reason="pillow-heif is installed")
def test_ignored_files_are_named(classifier, photos, capsys):
    for name in ("a.heic", "b.heic", "c.pdf", "notes.txt"):
        (photos / name).write_bytes(b"")
    remedy = "to read them, pip install 'alexnet[heic]'"
    text = f"ignored in {photos}: 2 HEIC ({remedy}), 1 PDF (save their pages as images)"
    with pytest.warns(UserWarning) as caught:
        assert classifier.predict(photos).shape == (3, 3)
    assert [str(each.message) for each in caught] == [text]
    main(["predict", classifier.folder, str(photos), "--csv"])
    assert capsys.readouterr().err == f"alexnet: {text}\n"
    with pytest.raises(ValueError, match=rf"or its header is damaged \({re.escape(remedy)}\)$"):
        classifier.predict(photos / "a.heic")


def test_the_command_reads_standard_input(classifier, photos, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((photos / "red.png").read_bytes())))
    main(["predict", classifier.folder, "-", "--json", "--top", "1"])
    main(["predict", classifier.folder, str(photos / "red.png"), "--json", "--top", "1"])
    piped, named = map(json.loads, capsys.readouterr().out.splitlines())
    assert piped["classes"] == named["classes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--top", "0"], "--top must be >= 1, got 0"),
        (["a.png", "--json", "--csv"], "--csv and --json must not be given together"),
        (["a.png", "--csv", "no/a.csv"], "--csv must be in an existing folder, got no/a.csv"),
        (["a.png", "--csv", "."], "--csv must be a file, got the folder ."),
        ([], "IMAGE must be a file, a folder, a pattern, a URL or -, got none"),
        (["no*where"], "no images found in no*where"),
    ],
)
def test_the_command_refuses_in_one_line(classifier, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", classifier.folder, *arguments])
    assert stop.value.code == 1 and capsys.readouterr().err == f"alexnet: {message}\n"


GRAY = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
GRAY[0, 0] = 255


@pytest.mark.parametrize(
    "image",
    [
        GRAY.astype(np.uint16),
        GRAY.astype(np.uint16) * 16,  # 12 bits
        GRAY.astype(np.uint16) * 257,
        GRAY / 255,
        np.stack([GRAY.astype(np.uint16) * 257] * 3, -1),
        torch.from_numpy(GRAY.astype(np.uint16) * 257),
        Image.fromarray(GRAY.astype(np.uint16)),
        Image.fromarray(GRAY.astype(np.uint16) * 16),
        Image.fromarray(GRAY.astype(np.uint16) * 257),
        Image.fromarray(GRAY.astype(np.int32)),
        Image.fromarray(GRAY.astype(np.int32) * 257),
        Image.fromarray(GRAY.astype(np.float32)),
        Image.fromarray((GRAY / 255).astype(np.float32)),
    ],
)
def test_gray_of_any_depth_is_the_gray_of_eight_bits(classifier, image):
    np.testing.assert_array_equal(classifier.predict(image), classifier.predict(GRAY))


def test_pillow_images_of_floats_are_arrays_of_the_same_values(classifier):
    values = np.linspace(0, 1, 4900, dtype=np.float32).reshape(70, 70)
    np.testing.assert_array_equal(classifier.predict(Image.fromarray(values)), classifier.predict(values))


@pytest.mark.parametrize("size", [(0, 8), (8, 0)])
def test_an_image_without_pixels_is_refused(classifier, size):
    with pytest.raises(ValueError, match="the Pillow image cannot be read as an image: it has no pixels"):
        classifier.predict(Image.new("RGB", size))
    with pytest.raises(ValueError, match="an image array must have shape"):
        classifier.predict(np.zeros((*size, 3), np.uint8))


def test_the_range_of_a_batch_is_that_of_all_its_images(classifier):
    pixels = np.full((2, 32, 32, 3), 200, np.uint8)
    pixels[1] = 1  # as floats alone, this would be white
    for batch in (pixels.astype(np.float32), torch.from_numpy(pixels).float()):
        torch.testing.assert_close(classifier.inputs(batch), classifier.inputs(pixels))


def test_what_is_no_image_loses_no_other(classifier):
    image = np.zeros((32, 32, 3), np.uint8)
    first, wrong, last = classifier.predict_each(iter([image, None, image]))
    assert "an image must be a path" in str(wrong.error) and first.top(1) == last.top(1)


@pytest.mark.parametrize("n", [1, 3, 7, 40, 50])
def test_the_most_likely_classes_are_those_of_sorting_all(n):
    """With many ties, which keep the order of the classes."""
    probabilities = np.random.default_rng(n).integers(0, 6, 40).astype(np.float32) / 100
    order = sorted(range(40), key=lambda label: (-probabilities[label], label))[:n]
    top = Prediction("image", tuple(map(str, range(40))), probabilities).top(n)
    assert top == [(str(label), float(probabilities[label])) for label in order]
