"""Tools that train a network: two steps, against slow formulas in float64 or a plain loop."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from .networks import REFERENCES, assert_same, every_network, images_for, network_for, parameters_of

client = pytest.mark.client
LABELS = torch.tensor([3, 0, 6, 1])
LR = 1e-3


def loss_of(scores, labels):
    """Small enough that no score decides alone."""
    return F.cross_entropy(scores / 100, labels)


def same_draws(network):
    """Dropout draws the same units whenever the network is run, whatever else was drawn in between."""
    network.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)
    return network.train()


def batches(name):
    return [(images_for(name, 4), LABELS), (images_for(name, 4).flip(0), LABELS)]


def train(model, batches, criterion=loss_of):
    """A step of SGD for each batch."""
    optimizer = torch.optim.SGD(model.parameters(), LR, 0.9)
    for x, labels in batches:
        optimizer.zero_grad()
        criterion(model(x), labels).backward()
        optimizer.step()
    return model


def plain_loop(network, batches, criterion=loss_of):
    """The weights that a copy of the network has after these batches."""
    return train(copy.deepcopy(network), batches, criterion).state_dict()


def assert_trained(state, before, expected):
    """The same changes of the same weights, all of which changed."""
    for name, value in expected.items():
        start = before[name].double()
        assert_same(state[name].double() - start, value.double() - start, 1e-3)


@client("accelerate")
@every_network
def test_accelerate(name):
    """`Accelerator.prepare`, `backward`: two steps as in a plain loop"""
    from accelerate import Accelerator

    network = same_draws(network_for(name))
    before, expected = copy.deepcopy(network.state_dict()), plain_loop(network, batches(name))
    accelerator = Accelerator(cpu=True)
    loader = torch.utils.data.DataLoader(batches(name), batch_size=None)
    optimizer = torch.optim.SGD(network.parameters(), LR, 0.9)
    model, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    for x, labels in loader:
        optimizer.zero_grad()
        accelerator.backward(loss_of(model(x), labels))
        optimizer.step()
    assert_trained(accelerator.get_state_dict(model), before, expected)


class WithLoss(nn.Module):
    """A network as `transformers.Trainer` wants it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values, labels):
        logits = self.network(pixel_values)
        return {"loss": loss_of(logits, labels), "logits": logits}


@client("transformers")
@every_network
def test_trainer(name, tmp_path):
    """`Trainer`: two steps as in a plain loop, with a checkpoint after the first, from which another resumes"""
    from transformers import Trainer, TrainingArguments

    network = same_draws(network_for(name))
    before = copy.deepcopy(network.state_dict())
    x = torch.cat([x for x, _ in batches(name)])
    data = [{"pixel_values": each, "labels": label} for each, label in zip(x, LABELS.repeat(2), strict=True)]

    def trainer(network):
        quiet = dict(report_to="none", disable_tqdm=True, logging_strategy="no")
        plain = dict(lr_scheduler_type="constant", max_grad_norm=0, train_sampling_strategy="sequential")
        length = dict(per_device_train_batch_size=4, num_train_epochs=1, save_steps=1)
        settings = TrainingArguments(tmp_path, use_cpu=True, **length, **plain, **quiet)
        model = WithLoss(network)
        optimizer = torch.optim.SGD(model.parameters(), LR, 0.9)
        return Trainer(model, settings, train_dataset=data, optimizers=(optimizer, None))

    expected, fresh = plain_loop(network, batches(name)), copy.deepcopy(network)
    trainer(network).train()
    assert_trained(network.state_dict(), before, expected)
    trainer(fresh).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_trained(fresh.state_dict(), before, expected)


@client("lightning")
@every_network
def test_lightning(name, tmp_path):
    """`Trainer.fit`: two steps as in a plain loop; a checkpoint is loaded back"""
    import lightning

    network = same_draws(network_for(name))
    before, expected = copy.deepcopy(network.state_dict()), plain_loop(network, batches(name))

    class Module(lightning.LightningModule):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def training_step(self, batch):
            return loss_of(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), LR, 0.9)

    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(Module(network), torch.utils.data.DataLoader(batches(name), batch_size=None))
    assert_trained(network.state_dict(), before, expected)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "last.ckpt", network=network_for(name))
    assert_trained(loaded.network.state_dict(), before, expected)


@client("skorch")
@every_network
def test_skorch(name):
    """`NeuralNetClassifier`: two steps as in a plain loop; `predict_proba` is the softmax"""
    from skorch import NeuralNetClassifier

    network = same_draws(network_for(name))
    before = copy.deepcopy(network.state_dict())
    expected = plain_loop(network, batches(name), F.cross_entropy)
    x = torch.cat([x for x, _ in batches(name)])
    quiet = dict(train_split=None, verbose=0, iterator_train__shuffle=False)
    sgd = dict(optimizer=torch.optim.SGD, optimizer__momentum=0.9, lr=LR, max_epochs=1, batch_size=4)
    classifier = NeuralNetClassifier(network, criterion=nn.CrossEntropyLoss, **sgd, **quiet)
    classifier.fit(x, LABELS.repeat(2))
    assert_trained(classifier.module_.state_dict(), before, expected)
    scores = REFERENCES[name](parameters_of(classifier.module_), x.double())
    assert_same(classifier.predict_proba(x), scores.softmax(1))


@client("opacus")
@every_network
def test_opacus(name):
    """`GradSampleModule`: the gradient of each image, by slow formulas"""
    from opacus import GradSampleModule

    network, x = network_for(name), images_for(name, 4)
    network.train()  # Opacus notes inputs in training only
    for module in network.children():
        module.train("Dropout" not in type(module).__name__)
    wrapped = GradSampleModule(network, loss_reduction="sum")
    F.cross_entropy(wrapped(x) / 100, LABELS, reduction="sum").backward()
    for index in range(4):
        parameters = parameters_of(network)
        scores = REFERENCES[name](parameters, x[index, None].double())
        loss_of(scores, LABELS[index, None]).backward()
        for key, parameter in network.named_parameters():
            assert_same(parameter.grad_sample[index], parameters[key].grad, 1e-3)


@client("torch")
@every_network
def test_lbfgs(name):
    """`optim.LBFGS`: the loss falls by nine tenths"""
    network, x = network_for(name), images_for(name, 4)
    optimizer = torch.optim.LBFGS(network.parameters(), lr=1, max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), LABELS)
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    scores = REFERENCES[name](parameters_of(network), x.double())
    assert F.cross_entropy(scores, LABELS) < 0.1 * before


@client("torch")
@every_network
def test_prune(name):
    """`nn.utils.prune.l1_unstructured` of every layer, trained on, `remove`: pruned weights stay zero"""
    from torch.nn.utils import prune

    network, x = network_for(name), images_for(name, 4)
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    smallest = {layer: layer.weight.abs() <= layer.weight.abs().median() for layer in layers}
    for layer in layers:
        prune.l1_unstructured(layer, "weight", amount=0.5)
    scores = train(network, [(x, LABELS)])(x)
    for layer in layers:
        prune.remove(layer, "weight")
        assert torch.equal(layer.weight == 0, smallest[layer])
    assert_same(scores, REFERENCES[name](parameters_of(network), x.double()))


def shard(network):
    """Each layer's weights, and then what is left, over both processes (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for module in network.children():
        if [*module.parameters()]:
            fully_shard(module, mesh=mesh)
    return fully_shard(network, mesh=mesh)


WRAPPERS = {"DistributedDataParallel": nn.parallel.DistributedDataParallel, "fully_shard": shard}


def train_in_part(rank, name, folder):
    """One of two processes: a step for its half of each batch, wrapped in each way; the first saves the weights."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for way, wrap in WRAPPERS.items():
        network = network_for(name)
        model = wrap(network)
        halves = [(x[rank::2], labels[rank::2]) for x, labels in batches(name)]
        train(model, halves)
        state = {key: getattr(each, "full_tensor", each.clone)() for key, each in network.state_dict().items()}
        if rank == 0:
            torch.save(state, f"{folder}/{way}.pt")
    dist.destroy_process_group()


@client("torch")
@pytest.mark.parametrize("name", ["original"])
def test_two_processes(name, tmp_path):
    """`DistributedDataParallel` and `fully_shard` (FSDP2) on two gloo processes: two steps as of one process"""
    torch.multiprocessing.spawn(train_in_part, (name, tmp_path), nprocs=2)
    network = network_for(name)
    expected = plain_loop(network, batches(name))
    for way in WRAPPERS:
        assert_trained(torch.load(tmp_path / f"{way}.pt"), network.state_dict(), expected)
