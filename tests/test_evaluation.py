"""Evaluation batch by batch: with any number of classes, and on any number of processes."""

import csv
import gc
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLORS, write_colors
from processes import run
from torch.utils._python_dispatch import TorchDispatchMode

import alexnet
from alexnet.cli import main
from alexnet.data.batches import _resident_batches
from alexnet.data.pack.packing import make_pack
from alexnet.data.sources.detection import open_source
from alexnet.data.sources.memory import hold
from alexnet.evaluation.ensembles import evaluate_average
from alexnet.evaluation.evaluation import evaluate, tallied
from alexnet.evaluation.inference import Inference, Predicted
from alexnet.evaluation.metrics import Metrics, top_k_credit
from alexnet.evaluation.tables import class_rows
from alexnet.model.bundle import ModelBundle
from alexnet.parallel.group import Group
from alexnet.preprocessing.preprocessing import Preprocessing


@dataclass(frozen=True)
class Images:
    """What evaluation needs of a pack."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: list[str]
    side: int = 32
    name: str = "noise"


def images_of(count, classes):
    """A network and so many images of noise."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    names = tuple(f"class {label}" for label in range(classes)), [f"image {index}" for index in range(count)]
    network = alexnet.create("cifar-18", num_classes=classes)
    preprocessing = Preprocessing(32, 32, torch.full((1, 1, 3), 120.0), torch.ones(3))
    packed = Images(pixels, generator.integers(0, classes, count), *names)
    return ModelBundle(network.eval(), preprocessing, packed.classes), packed


def test_what_is_kept_of_images_is_what_all_probabilities_say():
    """With many ties, against sorting all of them."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randint(0, 4, (200, 9), generator=generator).float().add(0.01)
    probabilities /= probabilities.sum(1, keepdim=True)
    labels = torch.randint(0, 9, (200,), generator=generator)
    metrics = Metrics.of(probabilities[:1], labels[:1], keep=False).room(200)
    for start in range(0, 200, 7):
        metrics.write(start, Metrics.of(probabilities[start : start + 7], labels[start : start + 7], keep=False))
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :5]
    assert torch.equal(metrics.top_classes, order) and torch.equal(metrics.predictions, probabilities.argmax(1))
    assert torch.equal(metrics.top_probabilities, probabilities.gather(1, order))
    for k, accuracy in ((1, metrics.top1), (5, metrics.top5), (3, metrics.accuracy(3))):
        assert accuracy == top_k_credit(probabilities, labels, k).mean().item()
    log = torch.nn.functional.nll_loss(probabilities.double().log(), labels)
    assert metrics.loss == pytest.approx(log.item(), rel=1e-6)
    cells = torch.zeros(9, 9, dtype=torch.int64)
    cells.index_put_((labels, probabilities.argmax(1)), torch.tensor(1), accumulate=True)
    assert torch.equal(metrics.confusion, cells)
    with pytest.raises(
        ValueError, match="200 images and 9 classes were not kept; evaluate with keep_probabilities=True"
    ):
        print(metrics.probabilities)


def test_probabilities_are_kept_if_they_are_few_or_if_asked_for():
    bundle, packed = images_of(60, 3)
    indices, expected = np.arange(60), alexnet.evaluation.inference.probabilities
    kept = evaluate(bundle, packed, indices).all_views.probabilities
    asked = evaluate(bundle, packed, indices, keep_probabilities=True).all_views.probabilities
    images = torch.from_numpy(packed.images[indices[:50]])
    assert torch.equal(kept, asked) and torch.equal(kept[:50], expected(bundle, images)[1])
    assert kept.untyped_storage().nbytes() == kept.nbytes
    assert evaluate(bundle, packed, indices, keep_probabilities=False).center.kept_probabilities is None


def evaluated(group, folder):
    """The bits of an evaluation and of an ensemble, and whether files were written."""
    bundle, packed = images_of(210, 3)
    indices = np.arange(len(packed.labels))[::-1].copy()
    evaluation = evaluate(bundle, packed, indices, group=group, csv=folder / "one.csv")
    networks = bundle, replace(bundle, network=alexnet.create("cifar-18", num_classes=3, seed=1).eval())
    tested, searched = ([Inference(each, packed, part) for each in networks] for part in np.split(indices, [101]))
    ensemble = evaluate_average(tested, searched, group=group, csv=folder / "average.csv")
    few = evaluate(bundle, packed, indices[:7], all_views=False, group=group).center
    several = evaluation.center, evaluation.all_views, few, ensemble.average.all_views, ensemble.weight_search.center
    columns = [column for each in several for column in vars(each).values() if torch.is_tensor(column)]
    return [column.numpy().tobytes() for column in columns], [each.summary() for each in several], ensemble.weights


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_bits_of_one(size, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    (expected,) = run(1, evaluated, tmp_path / "one")
    assert expected[1][0]["images"] == 210 and expected[1][2]["images"] == 7
    for found in run(size, evaluated, tmp_path / "many"):
        assert found == expected
    for name in ("one.csv", "average.csv"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    with open(tmp_path / "many" / "one.csv", newline="") as file:
        assert len([*csv.reader(file)]) == 211


def held():
    """Bytes of all tensors that Python holds."""
    storages = (each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor)
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


class Largest(TorchDispatchMode):
    """The most bytes of a tensor that was made."""

    bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        results = result if isinstance(result, (tuple, list)) else [result]
        tensors = [each for each in results if isinstance(each, torch.Tensor)]
        self.bytes = max([self.bytes, *(each.nbytes for each in tensors)])
        return result


@pytest.mark.parametrize("all_views", [True, False])
def test_memory_grows_with_images_not_with_images_times_classes(all_views):
    classes, count, at_batches = 3000, 150 if all_views else 400, []

    def watched(batches, total):
        for batch in batches:
            yield batch
            at_batches.append(held())

    bundle, packed = images_of(count, classes)
    with Largest() as largest:
        metrics = evaluate(bundle, packed, np.arange(count), all_views, "fp32", watched, None, False).center
        assert metrics.top1_relabeled >= metrics.top1 and len(class_rows(metrics, range(classes))) == classes
    assert at_batches[-1] - at_batches[0] < 300 * count  # bytes kept of an image, by the center and by all views
    views, images = (500, 50) if all_views else (200, 200)
    scores, keys, pixels = 4 * views * classes, 8 * images * classes, 4 * views * 32 * 32 * 32
    assert largest.bytes <= max(scores, keys, pixels)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_kept_does_not_break_up_the_memory_that_batches_use():
    """Small tensors that stay, allocated between large ones that go, would keep the memory of each batch from the next:
    22 MB here, for the probabilities of all views."""
    classes, count, residents = 11_000, 1500, []
    packed = Images(np.zeros((count, 0)), np.zeros(count, int), ("a",) * classes, [])
    inference = Inference(images_of(1, 3)[0], packed, np.arange(count))

    def batches():
        for _ in range(count // inference.batch_size):
            by_view = torch.rand(500, classes).softmax(1).unflatten(0, (50, 10))
            yield (Predicted(torch.zeros(50, dtype=torch.int64), by_view[:, 4], by_view.mean(1)),)
            residents.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    tallied(batches(), inference, Group(), keep_probabilities=False)
    assert residents[-1] - residents[5] < 100e6


def test_images_that_stay_on_the_device_have_the_labels_that_they_are_given():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    packed = make_pack(open_source(hold((pixels, [*"abcabc"]))), 32)
    renamed, order = replace(packed, labels=2 - packed.labels), np.array([3, 0, 5])
    (batch,) = _resident_batches(renamed, order, 8, torch.device("cpu"), range(1), lambda _: slice(None))
    assert batch.labels.tolist() == renamed.labels[order].tolist()
    assert torch.equal(batch.images, torch.from_numpy(packed.images[order]))


def test_the_command_prints_the_same_on_two_processes(tmp_path, capfd):
    bundle, _ = images_of(1, 3)
    classifier = alexnet.Classifier()
    classifier.bundle = replace(bundle, classes=tuple(sorted(COLORS)))
    command = ["evaluate", str(classifier.save(tmp_path / "saved")), str(write_colors(tmp_path / "colors", 20))]
    printed = []
    for several in ([], ["--processes", "2"]):
        main([*command, "--precision", "fp32", "--csv", str(tmp_path / f"{len(several)}.csv"), *several])
        printed.append(capfd.readouterr().out)
    assert printed[0] == printed[1] and "colors, all images: 60 images" in printed[0]
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
