"""What users write, for type checkers alone: `test_typing.py` shows it to mypy and pyright; nobody runs it."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import alexnet


def train(photos: Path) -> float:
    classifier = alexnet.Classifier("small", device="cpu")
    history = classifier.fit(photos, epochs=5, lr=0.01, freeze=("conv1",), precision="bf16", output="auto")
    history.plot("curves.png")
    settings = alexnet.TrainSettings(epochs=5, lr_scale={"conv1": 0.1})
    classifier.fit("photos", settings, verbose=False)
    classifier.save(photos / "saved")
    errors: list[float] = history["val_error"]
    best: float = min(errors)
    return best


def watch(classifier: alexnet.Classifier) -> None:
    with contextlib.closing(classifier.fit_events("photos", epochs=5)) as events:
        for event in events:
            match event:
                case alexnet.Step():
                    print(event.step, event.loss)
                case alexnet.Epoch(row):
                    print(row["val_error"])


def classify(pixels: np.ndarray, tensors: Iterator[torch.Tensor]) -> str:
    classifier = alexnet.load("saved", precision="fp32")
    for image in (
        "cat.jpg",
        Path("cat.jpg"),
        b"",
        io.BytesIO(),
        Image.new("RGB", (8, 8)),
        pixels,
        torch.zeros(3, 8, 8),
    ):
        probabilities: np.ndarray = classifier.predict(image)
        print(probabilities.argmax())
    name, probability = classifier.predict_n("cat.jpg", 3)[0]
    for best in classifier.predict_n(["cat.jpg", Path("dog.jpg")]):
        first, _ = best[0]
        print(first.upper())
    for prediction in classifier.predict_each(tensors):
        if prediction.error is None:
            print(prediction.image, prediction.top(3)[0][0].upper())
    print(classifier.evaluate("photos").center.top1 + probability)
    return name


def build() -> torch.Tensor:
    network = alexnet.create("original", num_classes=10)
    activations = network.features(torch.zeros(1, 3, 224, 224), ["relu5"])
    normed = alexnet.response_norm(activations["relu5"], size=5, k=2.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    optimizer.step()
    return alexnet.spatial_norm(normed)


def names() -> list[str]:
    return alexnet.variants() + alexnet.recipes() + [alexnet.__version__]
