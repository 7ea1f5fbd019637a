"""A training goes on in any form: what one process, two towers or a hybrid leave, the others take up."""

import numpy as np
import torch
from processes import run
from test_parallel import Case, differences, plan_of

from alexnet.data.batches import epoch_order
from alexnet.data.sources.detection import open_source
from alexnet.parallel.group import Group
from alexnet.runs.record import record_of, resolve
from alexnet.session import facts_of_processes
from alexnet.specs.reading import settings_of_run
from alexnet.specs.settings import TrainSettings
from alexnet.training import loop
from alexnet.training.plan import make_plan

CASE = Case("small-towers", {"recipe": "modern", "lr": 0.01}, {"max_grad_norm": 0.5, "ema_decay": 0.9})


def an_epoch(group, plan, way, epoch, state):
    """The state after one more epoch: weights, velocities and what is not averaged, of the whole network."""
    views_of = loop.training_views
    torch.set_default_dtype(torch.float64)
    loop.training_views = lambda *arguments: views_of(*arguments).double()
    try:
        training = loop.Training(plan, seed=3, group=group, way=way)
        if state:
            training.load(*({name: torch.from_numpy(value) for name, value in part.items()} for part in state))
        training.progress.epoch = epoch
        training.train()
        order = epoch_order(plan.packed.indices("train"), 3, epoch, "epoch")
        with training.channels_last(), training.ema.showing(average=False):
            for batch in training.read(order):
                training.take_step(batch, training.learning_rates(training.progress.batch))
                training.progress.batch += 1
                training.ema.update(epoch * training.batches_per_epoch + training.progress.batch)
        training.strategy.publish()
    finally:
        torch.set_default_dtype(torch.float32)
        loop.training_views = views_of
    kept = map(training.strategy.gathered, (training.optimizer.velocities(), training.ema.hidden))
    state = training.network.state_dict(), *kept
    return [{name: tensor.numpy().copy() for name, tensor in part.items()} for part in state]


def test_towers_then_one_process_then_data_parallel_then_a_hybrid(tmp_path):
    plan = plan_of(CASE, tmp_path)
    alone = divided = None
    for epoch, (way, size) in enumerate([("towers", 2), ("data", 1), ("data", 3), ("hybrid", 2)]):
        alone = an_epoch(Group(), plan, "data", epoch, alone)
        divided = run(size, an_epoch, plan, way, epoch, divided)[-1]
        for found, expected in zip(divided, alone, strict=True):
            assert max(differences(found, expected).values()) < 1e-10
    assert np.isfinite(alone[0]["fc8.weight"]).all()


def test_who_divides_layers_is_told_what_it_sends(folder):
    """And a run keeps no way: it is resumed by one process, or as is asked then."""
    settings = TrainSettings(variant="small-towers", batch_size=16, epochs=1, parallel="towers")
    plan = make_plan(open_source(folder, 0, None, lambda folder: False), settings)
    resolved = resolve(settings, plan, str(folder), processes=2)
    facts = facts_of_processes(resolved, plan)
    assert facts["processes"] == "2, each with one of the two towers"
    assert facts["exchange"].startswith("each process sends 1.2 MB a step; data parallel would send 11.6 MB, and less")
    assert settings_of_run(record_of(resolved)).parallel == "data"
