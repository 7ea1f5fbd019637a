"""Several processes take the steps of one: the same weights, whatever their number and the way they divide the work."""

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from conftest import write_colors
from processes import run

from alexnet.data.batches import epoch_order
from alexnet.data.sources.detection import open_source
from alexnet.model.network import AlexNet
from alexnet.parallel.group import Group
from alexnet.specs.settings import TrainSettings
from alexnet.specs.shapes import infer_shapes
from alexnet.specs.variants import variant
from alexnet.training import loop
from alexnet.training.plan import Plan, make_plan

STEPS = 10
NARROW = {f"conv{layer}": {"channels": channels} for layer, channels in enumerate((16, 16, 24, 24, 16), 1)}
NARROW |= {"fc6": {"units": 32}, "fc7": {"units": 32}}


@dataclass(frozen=True)
class Case:
    """A training on 48 images in batches of 10, so that the last batch of an epoch has 8."""

    variant: str
    settings: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    micro_batch: int | str | None = None
    sizes: tuple[int, ...] = (3,)
    ways: dict[str, int] = field(default_factory=dict)
    """How else the processes may divide the work, and how many they are."""


CASES = {
    "everything": Case(
        "small",
        {"recipe": "modern", "lr": 0.01, "class_weights": {"red": 3.0, "blue": 0.5}},
        {"max_grad_norm": 0.5, "color_shift": {"std": 0.1, "divide": False}},
        sizes=(2, 3, 4),
        ways={"hybrid": 3},
    ),
    "the dropout, crops and freezing of 2012": Case(
        "original",
        {"crop_size": 67, "freeze": ("conv1",), "lr": 0.001},
        {"crop_group": 3},
        ways={"towers": 2, "hybrid": 4},
    ),
    "batch norm and LARS": Case(
        "batch-norm",
        {"crop_size": 67, "lr": 0.5, "freeze": ("norm1",)},  # which keeps its running statistics
        {"mixup": 0.4, "lars_trust_coefficient": 0.01, "ema_decay": 0.9},
        ways={"towers": 2, "hybrid": 2},
    ),
    "micro-batches": Case("small", {"lr": 0.01}, {"cutmix": 1.0}, 2, ways={"hybrid": 2}),
    "everything in towers": Case(
        "small-towers",
        {"recipe": "modern", "lr": 0.01, "class_weights": {"red": 3.0, "blue": 0.5}, "freeze": ("conv2", "fc7")},
        {"max_grad_norm": 0.5, "lr_scale": {"conv3": 0.3, "fc6": 0.5}},
        3,
        sizes=(),
        ways={"towers": 2},
    ),
    "as many as fit": Case("small", {"lr": 0.01}, {}, "auto"),
}


def plan_of(case: Case, folder) -> Plan:
    images = write_colors(folder / "images" / "train", 16).parent
    architecture = variant(case.variant).with_layers(**NARROW)
    settings = TrainSettings(variant=architecture, batch_size=10, epochs=9, set=case.recipe, **case.settings)
    return make_plan(open_source(images, 0, None, lambda folder: False), settings)


def after_steps(
    group: Group, plan: Plan, micro_batch=None, way: str = "data", double: bool = True, start=None, steps: int = STEPS
) -> dict[str, np.ndarray]:
    """Weights, velocities, averages and statistics after some steps; `start` is what others returned before."""
    views_of = loop.training_views
    if double:
        torch.set_default_dtype(torch.float64)
        loop.training_views = lambda *arguments: views_of(*arguments).double()
    try:
        training = loop.Training(plan, seed=3, micro_batch=micro_batch, group=group, way=way)
        if start:
            training.progress.epoch, training.progress.batch = divmod(len(start["losses"]), training.batches_per_epoch)
            kinds = [_of_kind(start, kind) for kind in ("weights", "velocity", "ema")]
            training.load(*kinds) if group.is_first else None
            training.synchronize(*kinds if group.is_first else ())
        training.train()
        losses = [*map(tuple, start["losses"])] if start else []
        steps += len(losses)
        while len(losses) < steps:
            order = epoch_order(plan.packed.indices("train"), 3, training.progress.epoch, "epoch")
            with training.channels_last(), training.ema.showing(average=False):
                for batch in training.read(order):
                    assert len(batch.images) <= len(batch.labels)
                    loss, correct, _ = training.take_step(batch, training.learning_rates(training.progress.batch))
                    losses.append((loss, correct))
                    training.ema.update(len(losses))
                    training.progress.count(loss, correct, len(batch.labels))
                    if len(losses) == steps:
                        break
            training.progress = training.progress.next_epoch({})
    finally:
        torch.set_default_dtype(torch.float32)
        loop.training_views = views_of
    kept = {"weights": training.strategy.gathered(training.strategy.module.state_dict())}
    kept |= {
        "velocity": training.strategy.gathered(training.optimizer.velocities()),
        "ema": training.strategy.gathered(training.ema.hidden),
    }
    tensors = {f"{kind} {name}": value for kind, values in kept.items() for name, value in values.items()}
    return {name: value.numpy().copy() for name, value in tensors.items()} | {"losses": np.array(losses)}


def _of_kind(results: dict[str, np.ndarray], kind: str) -> dict[str, torch.Tensor]:
    prefix = f"{kind} "
    return {name[len(prefix) :]: torch.tensor(x) for name, x in results.items() if name.startswith(prefix)}


def differences(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each tensor, relative to its largest value."""
    assert results.keys() == expected.keys()
    return {
        name: np.abs(results[name] - value).max() / max(np.abs(value).max(), 1e-6)  # a bias before batch norm stays 0
        for name, value in expected.items()
        if name != "losses"
    }


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_processes_takes_the_steps_of_one(name, tmp_path):
    case = CASES[name]
    plan = plan_of(case, tmp_path)
    expected = after_steps(Group(), plan, case.micro_batch)
    for way, size in [*(("data", size) for size in case.sizes), *case.ways.items()]:
        for results in run(size, after_steps, plan, case.micro_batch, way):
            assert max(differences(results, expected).values()) < 1e-10
            np.testing.assert_allclose(results["losses"], expected["losses"], rtol=1e-5)


def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    """Two processes, then one, then three, which stop in the midst of an epoch."""
    plan = plan_of(CASES["everything"], tmp_path)
    expected, results = after_steps(Group(), plan), None
    for size, steps in ((2, 4), (1, 3), (3, 3)):
        results = run(size, after_steps, plan, None, "data", True, results, steps)[0]
    assert max(differences(results, expected).values()) < 1e-10


def test_in_fp32_only_the_order_of_sums_differs(tmp_path):
    """Relative to the largest weight of each layer, ten steps on three processes differ by less than 1e-4."""
    plan = plan_of(CASES["micro-batches"], tmp_path)
    expected = after_steps(Group(), plan, double=False)
    for results in run(3, after_steps, plan, None, "data", False):
        assert 0 < max(differences(results, expected).values()) < 1e-4


def sent_in_a_step(group: Group, plan: Plan, compress: bool = False) -> tuple[int, dict[str, tuple[int, int]]]:
    """The number of parameters, and what one step sends: calls and bytes."""
    training = loop.Training(plan, group=group, compress=compress)
    training.train()
    group.counts.clear()
    with training.channels_last(), contextlib.closing(training.read(plan.packed.indices("train"))) as reader:
        training.take_step(next(reader), training.learning_rates(0))
    parameters = sum(each.numel() for each in training.network.parameters())
    return parameters, {kind: (each.calls, each.bytes) for kind, each in group.counts.items()}


def test_data_parallel_sends_four_bytes_a_parameter_and_two_numbers(tmp_path):
    plan = plan_of(CASES["micro-batches"], tmp_path)
    for parameters, counts in run(2, sent_in_a_step, plan):
        assert counts == {"all_reduce": (2, 4 * parameters + 2 * 4)}  # gradients in one bucket; loss and correct
    for parameters, counts in run(2, sent_in_a_step, plan, True):
        assert counts == {"all_reduce": (2, 2 * parameters + 2 * 4)}


def test_batch_norm_sends_its_statistics_besides(tmp_path):
    """Forward a count, means and squares, backward two sums, for each channel of its layers."""
    plan = plan_of(Case("batch-norm", {"crop_size": 67}), tmp_path)
    channels = [step.output_shape[0] for step in infer_shapes(plan.architecture, 3) if "norm" in step.name]
    assert channels
    for parameters, counts in run(2, sent_in_a_step, plan):
        assert counts["gather"] == (len(channels), sum(4 * (2 * each + 1) for each in channels))
        assert counts["all_reduce"] == (2 + len(channels), 4 * (parameters + 2 + 2 * sum(channels)))


def test_each_process_reads_its_part_of_the_pack(tmp_path):
    plan = plan_of(CASES["micro-batches"], tmp_path)
    plan = replace(plan, recipe=replace(plan.recipe, cutmix=0.0))
    read = run(3, images_read, plan)
    assert sorted(index for each in read for index in each) == sorted(plan.packed.indices("train").tolist())
    assert [len(each) for each in read] == [3 * 4 + 2, 3 * 3 + 2, 3 * 3 + 2]  # three batches of 10, one of 6


def images_read(group: Group, plan: Plan) -> list[int]:
    training = loop.Training(plan, group=group)
    return [
        index
        for batch in training.read(plan.packed.indices("train"))
        for index in batch.indices[batch.read].tolist()
        if len(batch.images) == len(batch.indices[batch.read])
    ]


def test_fewer_images_than_processes_are_enough(tmp_path):
    """Batches of 3 on 4 processes, one of which has nothing to do, with batch norm."""
    plan = plan_of(CASES["batch norm and LARS"], tmp_path)
    plan = replace(plan, recipe=replace(plan.recipe, batch_size=3))
    expected = after_steps(Group(), plan)
    for results in run(4, after_steps, plan):
        assert max(differences(results, expected).values()) < 1e-10


def after_little_memory(group: Group, plan: Plan, micro_batch) -> tuple[int | None, str | None, dict]:
    """As `after_steps`, where on process 1 only two images at a time fit: the size that was found, an error."""
    forward = AlexNet.forward

    def limited(network, views):
        if group.rank == 1 and len(views) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(network, views)

    AlexNet.forward = limited
    return after_steps(group, plan, micro_batch)


def test_all_processes_agree_on_what_fits_in_memory(tmp_path):
    plan = plan_of(CASES["as many as fit"], tmp_path)
    expected = after_steps(Group(), plan)
    for results in run(2, after_little_memory, plan, "auto"):
        assert max(differences(results, expected).values()) < 1e-10
    with pytest.raises(AssertionError, match=r"OutOfMemory: .* 5 images at a time do not fit, but 2 do"):
        run(2, after_little_memory, plan, None)
