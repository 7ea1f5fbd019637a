"""Classes of images without labels: decoded ahead by threads, predicted in batches, each with its result or error."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from ..data.progress import ahead
from ..device import Precision, decoders
from ..model.bundle import ModelBundle
from ..preprocessing.images import ImageLike, stored_image
from ..preprocessing.preprocessing import Preprocessing
from .inference import BATCH_SIZE, probabilities


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The prediction of a network for an image."""

    image: str
    """Its path or URL; else "image 3", counted from 0, or nothing if it is the only one."""
    classes: tuple[str, ...]
    probabilities: np.ndarray | None
    """The probability of every class, (classes,), float32; None if the image cannot be read."""
    error: ValueError | TypeError | None = None
    """Why it cannot be read."""

    def top(self, n: int = 5) -> list[tuple[str, float]]:
        """The n most likely classes with their probabilities, most likely first, ties in the order of the classes.

        Raises:
            ValueError: n is below 1, the image cannot be read, or the network was given another number of scores.
        """
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        if self.probabilities is None:
            raise self.error or ValueError(f"{self.image} has no probabilities")
        if len(self.probabilities) != len(self.classes):
            scores = f"the network gives {len(self.probabilities)} scores, got {len(self.classes)} classes"
            raise ValueError(f"{scores}; assign their names to classifier.bundle.classes")
        candidates = np.arange(len(self.classes))
        if n < len(candidates):  # sorts no more than it must of thousands of classes
            candidates = np.flatnonzero(self.probabilities >= np.partition(self.probabilities, -n)[-n])
        best = candidates[np.argsort(-self.probabilities[candidates], kind="stable")][:n]
        return [(self.classes[label], float(self.probabilities[label])) for label in best]

    def __repr__(self) -> str:
        if self.probabilities is not None and len(self.probabilities) != len(self.classes):
            return f"Prediction({self.image!r}: {len(self.probabilities)} probabilities without names)"
        result = self.error or ", ".join(f"{name} {probability:.1%}" for name, probability in self.top(3))
        return f"Prediction({self.image!r}: {result})"


def predict_each(
    bundle: ModelBundle,
    images: Iterable[tuple[str, ImageLike]],
    all_views: bool = True,
    precision: Precision = "fp32",
    batch_size: int | None = None,
) -> Generator[Prediction, None, None]:
    """A prediction for each named image, in order; see `Classifier.predict_each`."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    images, inputs = iter(images), bundle.preprocessing
    batch_size = batch_size or (BATCH_SIZE if all_views else 4 * BATCH_SIZE)
    batches = iter(lambda: list(islice(images, batch_size)), [])
    with ThreadPoolExecutor(decoders(), "images") as pool:  # Pillow decodes without holding Python's lock
        try:
            reading = ([(name, pool.submit(_read, name, image, inputs)) for name, image in batch] for batch in batches)
            for batch in ahead(reading, 1):
                yield from _predicted(bundle, batch, all_views, precision)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(name: str, image: ImageLike, inputs: Preprocessing) -> np.ndarray | ValueError | TypeError:
    try:
        return stored_image(image, inputs.stored_size, inputs.squares)
    except (ValueError, TypeError) as error:
        return error if isinstance(image, str) or name in str(error) else type(error)(f"{name}: {error}")


def _predicted(bundle: ModelBundle, batch: list, all_views: bool, precision: Precision) -> Iterator[Prediction]:
    read = [(name, future.result()) for name, future in batch]
    stored, rows = [result for _, result in read if isinstance(result, np.ndarray)], iter(())
    if stored:
        device = next(bundle.network.parameters()).device
        center, mean = probabilities(bundle, torch.from_numpy(np.stack(stored)).to(device), all_views, precision)
        rows = iter((center if mean is None else mean).cpu().numpy())
    for name, result in read:
        failed = not isinstance(result, np.ndarray)
        yield Prediction(name, bundle.classes, None if failed else next(rows), result if failed else None)
