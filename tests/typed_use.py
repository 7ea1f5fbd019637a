"""What users write, for type checkers alone: `test_typing.py` shows it to mypy and pyright; nobody runs it."""

import contextlib
import io
from collections.abc import Iterable, Iterator
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
    alexnet.export_weights(classifier, "photos.onnx", "onnx", preprocessing=True)
    errors: list[float] = history["val_error"]
    best: float = min(errors)
    return best


class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3, 64, 64), index % 2


def train_on_what_is_in_memory(classifier: alexnet.Classifier, pixels: np.ndarray, labels: list[str]) -> None:
    classifier.fit((pixels, labels))
    classifier.fit([("cat.jpg", "cat"), (Path("dog.jpg"), "dog")])
    classifier.fit(
        {"train": Pictures(), "val": (pixels, labels)}, labels="labels.json", label_indices=Path("indices.json")
    )
    classifier.evaluate((pixels, labels), labels=None)


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


def train_on_what_people_have(pixels: np.ndarray, labels: np.ndarray, pairs: list[tuple[str, str]]) -> None:
    classifier = alexnet.Classifier()
    classifier.fit((pixels, labels), epochs=1)
    classifier.fit(pairs, pretrained="torchvision", patience=3, class_weights="balanced", schedule="cosine")
    classifier.fit("photos", milestones=(25, 50), gamma=0.1, set={"mixup": 0.2}, mean=(0.5, 0.5, 0.5))
    print(alexnet.find_lr("photos", variant="small").suggestion)


def train_by_hand(loader: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    network = alexnet.create("original", num_classes=10, pretrained=False)
    optimizer = alexnet.optim.PaperSGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, alexnet.schedules.lr_factor("cosine", steps=10_000))
    print(alexnet.transform("original", train=True)(Image.new("RGB", (300, 300))).shape)
    for images, labels in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()


def names() -> list[str]:
    return alexnet.variants() + alexnet.recipes() + [alexnet.__version__]
