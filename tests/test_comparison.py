"""CKA and RSA, against their definitions, invariances, and noise that must not look alike."""

import numpy as np
import pytest
from conftest import train

import alexnet
from alexnet.analysis.comparison import debiased_cka, dissimilarity, rsa
from alexnet.cli import main


def kernel(features):
    return features @ features.T


def biased_cka(k, l):  # noqa: E741
    k, l = (each - each.mean(0) - each.mean(1)[:, None] + each.mean() for each in (k, l))  # noqa: E741
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def slow_hsic(k, l):  # noqa: E741
    """The unbiased estimator as the mean over all ordered four different images (Song et al. 2012)."""
    n, total, count = len(k), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
                        count += 1
    return total / count


def test_it_is_its_formula():
    generator = np.random.default_rng(0)
    k, l = (kernel(generator.normal(1, 2, size=(8, width))) for width in (3, 5))  # noqa: E741
    expected = slow_hsic(k, l) / np.sqrt(slow_hsic(k, k) * slow_hsic(l, l))
    assert debiased_cka(k, l) == pytest.approx(expected, rel=1e-9)


def test_independent_noise_is_not_alike_where_the_biased_measure_says_so():
    generator = np.random.default_rng(0)
    for count in (50, 200):
        k, l = (kernel(each) for each in generator.normal(size=(2, count, 2048)))  # noqa: E741
        assert biased_cka(k, l) > 0.9 and biased_cka(k, l) == pytest.approx(2048 / (count + 2048), abs=0.01)
        assert abs(debiased_cka(k, l)) < 3 / count


def test_rotation_scale_and_shift_change_nothing_and_other_maps_do():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 20)), generator.normal(size=(60, 30))
    y[:, :20] += x
    rotation, _ = np.linalg.qr(generator.normal(size=(20, 20)))
    same = debiased_cka(kernel(x), kernel(y))
    assert 0.2 < same < 0.9 and debiased_cka(kernel(x), kernel(x)) == pytest.approx(1)
    assert debiased_cka(kernel(7 * x @ rotation + 3), kernel(y - 5)) == pytest.approx(same, abs=1e-9)
    assert abs(debiased_cka(kernel(x @ np.diag(np.arange(20) ** 2.0)), kernel(y)) - same) > 0.05
    assert debiased_cka(np.ones((9, 9)), kernel(x[:9])) == 0, "a layer that is constant is like nothing"


def test_dissimilarities_are_those_of_numpy():
    x, y = np.random.default_rng(0).normal(2, 1, size=(2, 30, 50))
    found = dissimilarity(kernel(x), x.mean(1), 50)
    np.testing.assert_allclose(found, 1 - np.corrcoef(x), atol=1e-12)
    upper = np.triu_indices(30, 1)
    expected = np.corrcoef((1 - np.corrcoef(x))[upper], (1 - np.corrcoef(y))[upper])[0, 1]
    assert rsa(found, dissimilarity(kernel(y), y.mean(1), 50)) == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def classifiers(folder):
    return [train(folder, epochs=1, seed=seed)[0] for seed in (0, 1)]


def test_a_network_is_itself_and_more_like_its_seeds_than_like_noise(classifiers, folder):
    first, second = classifiers
    comparison = alexnet.compare([first, first, second], folder, ["relu1", "fc8"], 40, verbose=False)
    assert [member.name for member in comparison.members][3] == "untrained network 1"
    table = {(each.layer, each.groups): each for each in comparison.similarities}
    assert {groups for _, groups in table} == {("cifar-18", "cifar-18"), ("cifar-18", "untrained cifar-18")}
    assert table["relu1", ("cifar-18", "cifar-18")].pairs == 3
    assert table["relu1", ("cifar-18", "untrained cifar-18")].pairs == 9
    twins = alexnet.compare([first, first], folder, ["relu1"], 40, verbose=False).similarities[0]
    assert twins.cka == pytest.approx(1) and twins.rsa == pytest.approx(1)
    assert twins.cka_error < 1e-9, "no choice of images changes that"


def test_matrices_are_those_of_the_features(classifiers, folder, tmp_path):
    comparison = alexnet.compare(classifiers, folder, ["pool3"], 20, verbose=False)
    comparison.save(tmp_path / "compare.npz")
    images = comparison.members[0].images
    features = classifiers[0].features([images.path(index) for index in images.indices], "pool3")["pool3"]
    expected = 1 - np.corrcoef(features.reshape(20, -1).astype(np.float64))
    saved = np.load(tmp_path / "compare.npz")
    assert saved["pool3"].shape == (4, 190) and saved["networks"].tolist()[0] == "network 1"
    np.testing.assert_allclose(saved["pool3"][0], expected[np.triu_indices(20, 1)], atol=1e-4)


def test_intervals_are_those_of_other_images():
    """Delete-half: the spread over halves is that of independent sets of the same number of images."""
    generator = np.random.default_rng(0)

    def sample():
        x = generator.normal(size=(80, 10))
        return kernel(x), kernel(x + generator.normal(size=x.shape))

    spread = np.std([debiased_cka(*sample()) for _ in range(200)])
    k, l = sample()  # noqa: E741
    whole, halves = debiased_cka(k, l), []
    for _ in range(100):
        rows = np.ix_(*[generator.permutation(80)[:40]] * 2)
        halves.append(debiased_cka(k[rows], l[rows]))
    assert np.sqrt(np.square(np.array(halves) - whole).mean()) == pytest.approx(spread, rel=0.4)


def test_what_cannot_be_compared_is_refused(classifiers, folder):
    for networks, given, message in (
        (classifiers[:1], {}, "networks must be at least two, got 1"),
        (classifiers, {"images": 5}, "images must be at least 8, got 5"),
        (classifiers, {"layers": ["conv9"]}, "a layer of all networks must be one of conv1, .* got 'conv9'"),
    ):
        with pytest.raises(ValueError, match=message):
            alexnet.compare(networks, folder, verbose=False, **given)


def test_the_command_prints_a_table_and_draws(classifiers, folder, tmp_path, capsys):
    runs = [str(each.save(tmp_path / f"saved-{index}")) for index, each in enumerate(classifiers)]
    output = tmp_path / "compare.png"
    main(["compare", *runs, "--data", str(folder), "--images", "20", "--layers", "relu1", "--output", str(output)])
    printed = capsys.readouterr().out
    assert "cifar-18 / untrained" in printed and "±" in printed
    assert output.stat().st_size > 10_000 and output.with_suffix(".npz").exists()
