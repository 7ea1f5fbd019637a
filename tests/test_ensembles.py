"""Ensembles, against means by hand and planted networks."""

import csv
import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_colors

import alexnet
from alexnet.cli import main
from alexnet.evaluation.ensembles import GRID, evaluate_average, searched_weights
from alexnet.evaluation.inference import Inference, Predicted
from alexnet.parallel.group import Group


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two networks on the same three colors: stored sides of 64 and 32 pixels, ten views and five."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(folder / "cache"))
        data = write_colors(folder / "colors", 20)
        for name, settings in (("small", "--lr 0.005"), ("cifar-18", "")):
            asked = f"--variant {name} --epochs 3 --batch-size 8 --precision fp32 {settings}"
            main(["train", str(data), *asked.split(), "--output", str(folder / name)])
    return [folder / "small", folder / "cifar-18"]


def table_of(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {row["image"]: np.array([float(row[name]) for name in ("blue", "green", "red")]) for row in rows}


def test_the_average_is_the_mean_by_hand_and_counts_every_image_once(runs, tmp_path, capsys):
    for index, run in enumerate(runs):
        main(["evaluate", str(run), "--precision", "fp32", "--csv", str(tmp_path / f"{index}.csv")])
    capsys.readouterr()
    main(
        ["evaluate", *map(str, runs), "--average", "--precision", "fp32", "--json", "--csv", str(tmp_path / "all.csv")]
    )
    printed = json.loads(capsys.readouterr().out)
    first, second, average = (table_of(tmp_path / f"{name}.csv") for name in ("0", "1", "all"))
    assert first.keys() == second.keys() == average.keys() and len(average) == printed["all_views"]["images"] == 6
    for name, row in average.items():
        np.testing.assert_allclose(row, np.mean([first[name], second[name]], axis=0), atol=2e-6)
    right = [("blue", "green", "red")[row.argmax()] in name for name, row in average.items()]
    assert printed["all_views"]["top1_accuracy"] == pytest.approx(np.mean(right))
    assert [each["weight"] for each in printed["networks"]] == [0.5, 0.5]


def test_the_table_has_each_network_alone_and_the_search_is_called_too_low(runs, capsys):
    main(["evaluate", *map(str, runs), "--average", "--weights", "search", "--precision", "fp32"])
    printed = capsys.readouterr().out
    assert all(f"\n{str(run)[:20]}" in printed for run in runs) and "\naverage" in printed
    assert "The weights were searched on val, 6 images." in printed and "is too low" in " ".join(printed.split())
    assert "colors, test: 6 images" in printed


def test_from_python(runs):
    ensemble = alexnet.evaluate_together(runs, verbose=False)
    alone = [alexnet.load(run).evaluate(verbose=False).all_views for run in runs]
    assert [each.all_views.loss for each in ensemble.members] == pytest.approx([each.loss for each in alone])
    assert (ensemble.average.view_count, ensemble.weights) == (15, (1.0, 1.0))


@dataclass(frozen=True)
class Known(Inference):
    """What a network is said to predict for images that are nowhere."""

    known: torch.Tensor | None = None

    def predicted(self, group):
        columns = slice(None) if self.columns is None else self.columns
        for own in np.array_split(self.indices, 2)[: len(self.indices)]:  # in two batches
            probabilities = self.known[own][:, columns]
            yield Predicted(torch.from_numpy(self.packed.labels[own]), probabilities, probabilities)


def known(probabilities, labels, names, classes):
    bundle = SimpleNamespace(preprocessing=SimpleNamespace(stored_size=8, view_count=10))
    packed = SimpleNamespace(names=list(names), classes=tuple(classes), labels=np.array(labels), side=8)
    probabilities = torch.as_tensor(probabilities, dtype=torch.float32)
    return Known(bundle, Images(**vars(packed)), np.arange(len(names)), known=probabilities)


@dataclass(frozen=True)
class Images:
    names: list
    classes: tuple
    labels: np.ndarray
    side: int
    name: str = "made up"


def noisy(generator, labels, classes, strength):
    """Probabilities that favor the right class by so much over noise."""
    scores = generator.normal(size=(len(labels), classes))
    scores[np.arange(len(labels)), labels] += strength
    return torch.from_numpy(scores).softmax(1)


def batches_of(probabilities, labels):
    """In batches of 50 images, by every network."""
    pairs = [(torch.from_numpy(labels), torch.as_tensor(each, dtype=torch.float32)) for each in probabilities]
    return [
        [Predicted(labels[first : first + 50], *2 * [each[first : first + 50]]) for labels, each in pairs]
        for first in range(0, len(labels), 50)
    ]


def test_images_and_classes_are_matched_by_name():
    first = known([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [0, 1], ["x", "y"], "abc")
    # the same two images, the other way round, and classes c, a, b
    other = known([[0.3, 0.1, 0.6], [0.2, 0.5, 0.3]], [2, 1], ["y", "x"], "cab")
    ensemble = evaluate_average([first, other])
    expected = [
        [(0.7 + 0.5) / 2, (0.2 + 0.3) / 2, (0.1 + 0.2) / 2],
        [(0.1 + 0.1) / 2, (0.8 + 0.6) / 2, (0.1 + 0.3) / 2],
    ]
    torch.testing.assert_close(ensemble.average.all_views.probabilities, torch.tensor(expected))
    assert ensemble.average.all_views.top1 == 1 and ensemble.members[1].all_views.labels.tolist() == [0, 1]


@pytest.mark.parametrize("classes", [4, 12])
def test_the_search_finds_the_good_network_among_noise(classes):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 3000)
    probabilities = [noisy(generator, labels, classes, strength) for strength in (0.0, 2.0, 0.0)]
    weights = searched_weights(batches_of(probabilities, labels), Group())
    assert set(weights) <= set(GRID)
    assert weights[1] > 3 * max(weights[0], weights[2])


def test_the_search_is_that_of_2012():
    """Against the procedure written out: each weight scans the grid in its turn and keeps a strict improvement."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 8, 60)
    probabilities = np.stack([noisy(generator, labels, 8, strength).numpy() for strength in (0.5, 1.0, 0.7)]).astype(
        np.float32
    )

    def right(weights):
        ranks = (-np.tensordot(np.float32(weights), probabilities, 1)).argsort(1)[:, :5]
        return sum(label in best for label, best in zip(labels, ranks, strict=True))

    weights = [0.5] * 3
    best = right(weights)
    for _ in range(5):
        for index in range(3):
            for value in np.arange(21) / 20:
                tried = [*weights[:index], value, *weights[index + 1 :]]
                if right(tried) > best:
                    weights, best = tried, right(tried)
    assert searched_weights(batches_of(probabilities, labels), Group()) == pytest.approx(weights)


def test_what_the_search_does_not_keep_in_memory_is_in_a_file(monkeypatch):
    """The weights, and the errors with them on the images of the search, are those by hand."""
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 4, 60)
    images = [f"image {index}" for index in range(60)]
    probabilities = [noisy(generator, labels, 4, strength).float() for strength in (0.5, 1.0)]
    searched = [known(each, labels, images, "abcd") for each in probabilities]
    evaluated = [known(each, labels, [f"other {name}" for name in images], "abcd") for each in probabilities]
    monkeypatch.setattr("alexnet.evaluation.ensembles.MAX_BYTES", 1000)
    ensemble = evaluate_average(evaluated, searched)
    assert ensemble.weights == searched_weights(batches_of(probabilities, labels), Group())
    mean = sum(weight * each for weight, each in zip(ensemble.weights, probabilities, strict=True))
    expected = (mean / sum(ensemble.weights)).argmax(1) == torch.from_numpy(labels)
    assert ensemble.weight_search.all_views.top1 == pytest.approx(expected.float().mean().item())
    assert ensemble.weight_search.names.tolist() == images


def test_what_does_not_fit_together_is_refused(runs, tmp_path, capsys):
    first = known([[0.7, 0.3]], [0], ["x"], "ab")
    with pytest.raises(ValueError, match="the networks must have the same classes, but differ in b, c"):
        evaluate_average([first, known([[0.7, 0.3]], [0], ["x"], "ac")])
    with pytest.raises(ValueError, match="the networks must be evaluated on the same images, but differ in x"):
        evaluate_average([first, known([[0.7, 0.3]], [0], ["y"], "ab")])
    with pytest.raises(ValueError, match="the same images have different labels"):
        evaluate_average([first, known([[0.7, 0.3]], [1], ["x"], "ab")])
    with pytest.raises(ValueError, match=r"cannot be searched on images that are evaluated, such as x \(1 images\)"):
        evaluate_average([first, first], [first, first])
    networks = list(map(str, runs))
    for arguments, message in (
        (networks, "use --average for several networks"),
        ([*networks, "--average", "--fc-precision", "int8"], "--fc-precision must be same with --average"),
        ([*networks, "--average", "--weights", "search", "--split", "val"], "weights cannot be searched on images"),
        ([networks[0], str(tmp_path), "--average"], "holds no trained network"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", *arguments])
        assert message in capsys.readouterr().err


def test_one_image_of_a_name_is_like_another():
    """A list may name an image twice: they are matched in their order, and both count."""
    first = known([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [0, 0, 1], ["x", "x", "w"], "ab")
    other = known([[0.4, 0.6], [0.8, 0.2], [0.5, 0.5]], [1, 0, 0], ["w", "x", "x"], "ab")
    ensemble = evaluate_average([first, other])
    expected = [[0.85, 0.15], [0.55, 0.45], [0.3, 0.7]]
    torch.testing.assert_close(ensemble.average.all_views.probabilities, torch.tensor(expected))
