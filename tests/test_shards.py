"""Networks divided over processes against the same network in one, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from processes import run

from alexnet.model.network import AlexNet
from alexnet.parallel.divided import Divided
from alexnet.parallel.placement import placement_of
from alexnet.parallel.strategy import DataParallel
from alexnet.specs.operations import BatchNorm, Conv, Dropout, Linear, Local, Norm
from alexnet.specs.variants import VARIANTS

CLASSES, IMAGES = 5, 7


def narrow(name, side=67, **changes):
    """A variant for small images with few channels and units, and weights that pass differences on."""
    network = replace(VARIANTS[name].with_input(side), **changes)
    for index, layer in enumerate(network.layers):
        width = {"channels": 2 * (3 + index)} if isinstance(layer, Conv) else {}
        width |= {"units": 9} if isinstance(layer, Linear) and layer.units else {}
        network = network.with_layers(**{layer.name: {"std": "he"} | width})
    return network


UNSHARED = Local("local5", 6, kernel=3, pad=1, std=0.1, then=("relu", "pool"))
TOWERS = {
    "original": narrow("original"),  # norms within towers, spatial norm, plain dropout
    "caffe": narrow("caffe", norm=Norm(alpha=0.5)),  # norms across towers, dropout that rescales
    "even windows": narrow("caffenet", norm=Norm(size=4, alpha=0.5)),
    "wide windows": narrow("caffe", norm=Norm(size=25, alpha=0.5)),
    "batch-norm": narrow("batch-norm"),
    "conv6": narrow("conv6"),
    "unshared": narrow("original").without("conv5").insert_after("conv4", UNSHARED),
    "dropout of maps": narrow("original").with_layers(conv4={"then": ("relu", Dropout(rescale=True))}),
}
HYBRIDS = {
    "one-tower": narrow("one-tower"),
    "torchvision": narrow("torchvision"),  # dropout before the flatten
    "batch-norm": narrow("batch-norm").with_layers(fc6={"then": ("relu", BatchNorm())}),
    "cifar-11": narrow("cifar-11", 12),  # nothing is connected but the scores
}


def passed(group, architecture, way, size, count, classes=CLASSES):
    """Scores, gradients and weights, gathered, after one step; and what was moved."""
    network = AlexNet(architecture, classes, seed=3).double().train()
    placement = placement_of(architecture, way, group.size, classes)
    strategy = DataParallel(network, group, True) if way == "data" else Divided(network, group, placement)
    generator = torch.Generator().manual_seed(1)
    side = architecture.input_size
    images = torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64) * 5
    labels = torch.arange(count) % classes
    views = images[strategy.rows(count)]
    torch.manual_seed(5)
    strategy.begin_step(count)
    every = torch.zeros(count, classes, dtype=torch.float64)
    for seen, scored in strategy.passes(count, size):
        scores = strategy.module(views[seen])
        every[scored] = scores.detach()
        (F.cross_entropy(scores, labels[scored]) * len(scores) / count).backward()
    strategy.sum_gradients()
    parameters = dict(strategy.module.named_parameters())
    strategy.clip_gradients([*parameters.values()], 0.1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter -= 0.1 * parameter.grad
    counts = {kind: (each.calls, each.bytes) for kind, each in group.counts.items()}
    gradients = strategy.gathered({name: parameter.grad for name, parameter in parameters.items()})
    weights = strategy.gathered(strategy.module.state_dict())
    assert weights.keys() == network.state_dict().keys()
    tensors = {"scores": every} | {f"gradient {name}": each for name, each in gradients.items()} | dict(weights)
    return {name: tensor.numpy() for name, tensor in tensors.items()}, counts


def compare(architecture, way, size, micro_batch=IMAGES, count=IMAGES, classes=CLASSES):
    ((expected, _),) = run(1, passed, architecture, "data", count, count, classes)
    counts = []
    for found, counted in run(size, passed, architecture, way, micro_batch, count, classes):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            scale = np.abs(tensor).max()
            assert scale > 0 or name.endswith("bias") or "num_batches" in name, f"{name} tells nothing"
            np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-10 * scale + 1e-15, err_msg=name)
        counts.append(counted)
    return counts


def moved(counts, kind):
    """Calls of each process, and the mean of what they moved, in values of 8 bytes for each image."""
    calls = {each[kind][0] for each in counts}
    return calls, sum(each[kind][1] for each in counts) / len(counts) / 8 / IMAGES


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_are_one_network(name):
    counts = compare(TOWERS[name], "towers", 2)
    exchanges = placement_of(TOWERS[name], "towers", 2, CLASSES).exchanges
    assert counts[0].keys() == {"gather", "scatter_sum", "all_reduce"}
    assert moved(counts, "gather") == ({len(exchanges)}, sum(each.sent(2) for each in exchanges))
    assert moved(counts, "scatter_sum") == ({len(exchanges) - 1}, sum(each.sent(2) for each in exchanges[:-1]))
    assert [each["all_reduce"] for each in counts] == [(1, 8)] * 2  # of clipping alone


@pytest.mark.parametrize(("name", "size"), [("one-tower", 2), ("torchvision", 3), ("batch-norm", 2), ("cifar-11", 4)])
def test_the_hybrid_is_one_network(name, size):
    """In as many rounds as there are processes; only the gradients of the convolutions are summed."""
    counts = compare(HYBRIDS[name], "hybrid", size)
    placement = placement_of(HYBRIDS[name], "hybrid", size, CLASSES)
    if name == "batch-norm":
        return  # which exchanges its statistics, too
    sent = [each.sent(size) for each in placement.exchanges]
    assert moved(counts, "gather") == ({size * len(sent)}, pytest.approx(sum(sent)))
    assert moved(counts, "scatter_sum") == ({size * (len(sent) - 1)}, pytest.approx(sum(sent[:-1])))
    assert [each["all_reduce"] for each in counts] == [(2, 8 * (placement.replicated + 1))] * size


@pytest.mark.parametrize(("way", "name"), [("towers", "original"), ("hybrid", "torchvision")])
def test_micro_batches_are_parts_of_the_same_step(way, name):
    compare((TOWERS | HYBRIDS)[name], way, 2, micro_batch=2)


def test_there_may_be_fewer_images_or_classes_than_processes():
    """As in the last batch of an epoch; a process without a class has no scores."""
    compare(HYBRIDS["one-tower"], "hybrid", 4, count=3, classes=3)
