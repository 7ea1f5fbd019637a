"""Search, against brute force in float64, and on pictures that show their own number."""

import json

import numpy as np
import pytest
from conftest import train
from PIL import Image

from alexnet.analysis.search import chance, nearest, precision
from alexnet.cli import main


def brute_force(query, features, metric):
    query, features = query.astype(np.float64), features.astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(((features - query) ** 2).sum(1))
    return 1 - features @ query / (np.linalg.norm(features, axis=1) * np.linalg.norm(query))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("spread", [100.0, 1e-3])
def test_it_is_brute_force_also_where_float32_cannot_tell_distances(metric, spread, monkeypatch):
    """Far from 0 and close together, as features are: ‖a‖² + ‖b‖² − 2ab in float32 is then noise."""
    monkeypatch.setattr("alexnet.analysis.search.BLOCK_BYTES", 8 * 64 * 100)
    generator = np.random.default_rng(0)
    features = (300 + spread * generator.normal(size=(1000, 64))).astype(np.float32)
    for query in features[[3, 500, 999]]:
        rows, distances = nearest(query, features, 20, metric)
        expected = brute_force(query, features, metric)
        np.testing.assert_allclose(distances, np.sort(expected)[:20], rtol=1e-6, atol=1e-14)
        if metric == "euclidean":
            assert rows.tolist() == np.argsort(expected, kind="stable")[:20].tolist()
    if spread < 1 and metric == "euclidean":
        wrong = (features**2).sum(1) + query @ query - 2 * features @ query
        assert not np.array_equal(np.argsort(wrong)[:20], rows), "float32 alone would be wrong here"


def test_images_that_differ_by_one_gray_value_are_told_apart():
    image = np.random.default_rng(0).integers(0, 255, 4096)
    features = np.stack([image, image, image, image + 3]).astype(np.float32)
    features[1, 77] += 1
    features[2, 78] += 2
    rows, distances = nearest(features[0], features, 4)
    assert rows.tolist() == [0, 1, 2, 3] and distances.tolist() == [0, 1, 2, 3 * 64]


def test_equal_distances_keep_their_order_and_zeros_are_like_nothing():
    rows, distances = nearest(np.ones(3), np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]], np.float32), 3, "cosine")
    assert rows.tolist() == [1, 2, 0] and distances[:2].tolist() == [0, 0] and distances[2] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="metric must be one of euclidean, cosine, got 'hamming'"):
        nearest(np.ones(3), np.ones((2, 3)), 1, "hamming")
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        nearest(np.ones(3), np.ones((2, 3)), 0)


def test_precision_and_chance():
    features = np.array([[0.0], [1], [2], [10], [11]])
    labels = np.array([0, 0, 1, 1, 1])
    assert precision(features, labels, np.array([0]), 1, "euclidean") == 1
    assert precision(features, labels, np.array([0, 4]), 2, "euclidean") == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert chance(labels, np.arange(5)) == pytest.approx((2 * 1 + 3 * 2) / 5 / 4)
    random = np.random.default_rng(0)
    many = random.integers(0, 3, 900)
    guessed = precision(random.normal(size=(900, 4)), many, np.arange(300), 10, "cosine")
    assert guessed == pytest.approx(chance(many, np.arange(300)), abs=0.03)


@pytest.fixture
def numbered(tmp_path):
    """A gray image of each brightness, named after it, and one of them twice."""
    (tmp_path / "numbered").mkdir()
    for number in range(0, 250, 5):
        Image.new("L", (40, 40), number).save(tmp_path / "numbered" / f"{number}.png")
    Image.new("L", (40, 40), 100).save(tmp_path / "numbered" / "copy of 100.png")
    return tmp_path / "numbered"


@pytest.fixture
def classifier(folder):
    classifier, _ = train(folder, epochs=1)
    return classifier


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_right_image_is_found(classifier, numbered, metric):
    """Nearest in brightness are the neighbors in number; the query and its copy are not among them."""
    numbers = {}
    for number in (100, 130):
        (found,) = classifier.search(numbered / f"{number}.png", numbered, "pool1", metric, k=2, verbose=False)
        numbers[number] = {each["path"].rpartition("/")[2] for each in found.facts()["nearest"]}
        copies = [path.rpartition("/")[2] for path in found.facts()["duplicates"]]
        assert copies == (["copy of 100.png"] if number == 100 else [])
    if metric == "euclidean":
        assert numbers == {100: {"95.png", "105.png"}, 130: {"125.png", "135.png"}}


def test_features_are_kept_and_used_again(classifier, numbered, monkeypatch):
    before = classifier.search(numbered / "30.png", numbered, "pool3", verbose=False)
    computed = []
    monkeypatch.setattr("alexnet.analysis.features.Extraction._begin", lambda self: computed.append(self))
    after = classifier.search(numbered / "30.png", numbered, "pool3", verbose=False)
    assert not computed and [each.facts() for each in before] == [each.facts() for each in after]


def test_the_command_prints_json_and_says_which_layer_retrieves_best(classifier, folder, tmp_path, capsys):
    run, image = classifier.save(tmp_path / "saved"), folder / "red" / "05.png"
    arguments = ["--among", str(folder), "--k", "4", "--output", str(tmp_path / "sheet.png")]
    main(["search", str(run), str(image), "--json", *arguments])
    facts = json.loads(capsys.readouterr().out)
    assert facts["query"] == str(image) and len(facts["nearest"]) == 4
    assert {each["label"] for each in facts["nearest"]} == {"red"}
    assert [each["distance"] for each in facts["nearest"]] == sorted(each["distance"] for each in facts["nearest"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 600
    main(["search", str(run), "--compare", *arguments])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("relu3", "relu2", "pixels", "chance", "euclidean", "cosine", "60 queries"))
