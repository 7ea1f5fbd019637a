"""The parts for training loops of one's own: transforms, the optimizer, schedules, and errors of sizes."""

import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import train
from PIL import Image
from torch import nn
from torch.optim import lr_scheduler

import alexnet
from alexnet.specs.recipes import RECIPES
from alexnet.specs.schedules import SCHEDULES
from alexnet.training.optimizer import PaperSGD


def image_of(size=(40, 36), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def test_a_transform_gives_what_the_network_was_trained_on(split_folder):
    classifier, _ = train(split_folder, epochs=1)
    transform = alexnet.transform(classifier)
    scores = classifier.network.eval()(transform(image_of())[None])
    expected = classifier.predict(image_of(), all_views=False)
    np.testing.assert_allclose(scores.softmax(1)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["original", "small", "torchvision"])
def test_a_transform_crops_flips_and_travels(name):
    torch.manual_seed(0)
    transform = pickle.loads(pickle.dumps(alexnet.transform(name, train=True)))
    side = alexnet.create(name, 2).input_size
    first, second = transform(image_of((300, 280))), transform(image_of((300, 280)))
    assert first.shape == (3, side, side) and first.dtype == torch.float32 and not torch.equal(first, second)
    gray = Image.new("RGB", (64, 64), (124, 116, 104))
    still = alexnet.transform(name)(gray)
    assert still.abs().max() < 0.5, "ImageNet's mean color is about zero"
    assert alexnet.transform(name, mean=(0, 0, 0), std=(1, 1, 1))(gray).max() == pytest.approx(124 / 255)


def test_the_lines_of_the_docstring_train():
    torch.manual_seed(0)
    lines = re.search(r"\n((?:        .*\n)+?)\n    Args", alexnet.create.__doc__ or "")[1]
    transform = alexnet.transform("small", train=True)
    images = torch.stack([transform(image_of(seed=seed)) for seed in range(8)])
    loader = [(images, torch.arange(8))] * 30
    names = {"alexnet": alexnet, "torch": torch, "loader": loader}
    exec("\n".join(line[8:] for line in lines.splitlines()), names)
    network = names["network"].eval()
    assert F.cross_entropy(network(images), torch.arange(8)) < 1.9, "guessing gives 2.3"


def test_the_optimizer_takes_parameters_and_its_state_travels():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    paper = PaperSGD(ours.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    stock = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    x = torch.randn(8, 4)
    for step in range(6):
        for network, optimizer in ((ours, paper), (theirs, stock)):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        if step == 2:
            state = pickle.loads(pickle.dumps(paper.state_dict()))
            paper = PaperSGD(ours.parameters())
            paper.load_state_dict(state)
    torch.testing.assert_close(ours.weight, theirs.weight)
    with pytest.raises(ValueError, match="lr must be >= 0, got -1"):
        PaperSGD(ours.parameters(), lr=-1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 40, 40), "original: input_size must be >= 52, got 40, at which pool5 reads windows of 3 × 3"),
        (
            (1, 3, 300, 300),
            "original: images must have 224 × 224 pixels, got 300 × 300, of which fc6 would read ",
        ),
        (
            (1, 3, 224, 300),
            "original: images must have 224 × 224 pixels, got 224 × 300, of which fc6 would read ",
        ),
        ((1, 1, 224, 224), "original: images must be (N, 3, 224, 224), got (1, 1, 224, 224)"),
        (
            (3, 224, 224),
            "original: images must be (N, 3, 224, 224), got (3, 224, 224); a single image needs a batch dimension: "
            "images[None]",
        ),
    ],
)
def test_images_of_a_wrong_size_name_the_layer(shape, message):
    with pytest.raises(ValueError) as error:
        alexnet.create("original", 5)(torch.zeros(shape))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", [*SCHEDULES, "original", "one-tower"])
def test_a_schedule_drives_a_scheduler_of_torch(name):
    network = nn.Linear(3, 2)
    optimizer = alexnet.optim.PaperSGD(network.parameters(), lr=0.3)
    if name == "plateau":
        with pytest.raises(ValueError, match=r"use torch\.optim\.lr_scheduler\.ReduceLROnPlateau"):
            alexnet.schedules.lr_factor(name, steps=20)
        return
    scheduler = lr_scheduler.LambdaLR(optimizer, alexnet.schedules.lr_factor(name, steps=20))
    seen = []
    for _ in range(20):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    schedule = SCHEDULES[name](0.3, 1.0, 0.1) if name in SCHEDULES else RECIPES[name].schedule
    scale = 0.3 if name in RECIPES and name not in SCHEDULES else 1
    expected = [schedule.learning_rates(step / 20, []).weights for step in range(20)]
    assert seen == pytest.approx([lr * (30 if scale == 0.3 else 1) for lr in expected])


@pytest.mark.parametrize("name", ["small", "original", "modern"])
def test_the_papers_optimizer_and_a_scheduler_have_the_rates_of_the_recipe(name):
    optimizer = alexnet.optim.paper_optimizer(alexnet.create("cifar-18"), name)
    scheduler = lr_scheduler.LambdaLR(optimizer, alexnet.schedules.lr_factor(name, steps=20))
    for step in range(20):
        expected = RECIPES[name].learning_rates(step / 20, [])
        group = next(group for group in optimizer.param_groups if group["name"] == "fc8.weight")
        assert group["lr"] == pytest.approx(expected.weights)
        optimizer.step()
        scheduler.step()
