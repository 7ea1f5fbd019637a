"""Finds what is wrong with a data set before anything is trained on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice, pairwise
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image

from ..device import fits_memory, memory, processors
from ..files import cache_folder
from .pack.packing import PackOptions
from .pack.resizing import ORIENTATION
from .pack.workers import Failed, run_task
from .pack.writing import max_unreadable
from .progress import Track, run_tracked
from .source import SPLITS, TRAIN, Finding, ImageReader, Level, Source
from .storage.image_formats import has_wrong_suffix

EXAMPLES = 5
BRIEF = 100
"""Images checked before a training."""
ELONGATED = 3.0
"""Aspect ratio above which the central square shows little of an image."""
IMBALANCED = 10.0
"""Ratio between the sizes of the largest and the smallest class."""
TRAITS = {
    "grayscale": "converted to RGB",
    "palette": "converted to RGB",
    "transparent": "transparent parts become white",
    "16-bit": "the upper eight bits are kept",
    "CMYK": "converted to RGB without a color profile",
    "other color mode": "converted to RGB",
    "animated": "the first frame is used",
    "rotated": "turned upright according to the EXIF orientation",
    "elongated": "the center square holds less than a third of the image",
    "blank": "all pixels have the same color",
}
"""What is unusual about an image, and what happens to it."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    width: int
    height: int
    format: str | None
    traits: frozenset[str]
    """Those of TRAITS that the image has."""
    digest: bytes
    """A hash of the stored bytes."""


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it."""

    source: Source
    checked: int
    """Images that were decoded."""
    findings: tuple[Finding, ...]
    facts: dict[str, str]
    dropped: frozenset[int]
    """Indices of images that are better not trained on."""

    @property
    def has_errors(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    @property
    def counts(self) -> np.ndarray:
        """Images by class and split, (classes, splits)."""
        cells = self.source.labels * len(SPLITS) + self.source.splits
        return np.bincount(cells, minlength=len(self.source.classes) * len(SPLITS)).reshape(-1, len(SPLITS))

    def summary(self) -> dict:
        """The report as JSON."""
        return {
            "name": self.source.name,
            "layout": self.source.layout,
            "looked_at": self.checked,
            "images": dict(zip(SPLITS, self.counts.sum(0).tolist(), strict=True)),
            "classes": {
                name: dict(zip(SPLITS, row, strict=True))
                for name, row in zip(self.source.classes, self.counts.tolist(), strict=True)
            },
            "findings": [vars(finding) for finding in self.findings],
            **self.facts,
        }


def check_source(
    source: Source,
    side: int,
    options: PackOptions = PackOptions(),
    brief: bool = False,
    track: Track | None = None,
) -> CheckReport:
    """Decode every image of a source, or BRIEF of them, and report what is wrong.

    Args:
        side: side of the squares that would be stored, pixels.
        options: with which it would be packed.
        track: shows how many images are decoded.
    """
    count = len(source)
    indices = np.arange(count)
    if brief and count > BRIEF:
        indices = np.unique(np.linspace(0, count - 1, BRIEF).astype(np.int64))
    started = time.perf_counter()
    inspected: list[ImageInfo | Failed] = []

    def inspect() -> Iterator[int]:
        locations = ((index, source.locate(index)) for index in indices.tolist())
        workers = options.workers or processors()
        for results in run_task(_Inspect(source.reader), locations, len(indices), workers):
            inspected.extend(results)
            yield len(results)

    run_tracked(inspect(), len(indices), track)
    seconds_per_image = (time.perf_counter() - started) / max(len(indices), 1)
    facts = _facts(source, side, seconds_per_image)
    limit = len(indices) if brief else max_unreadable(count, options.strict)  # packing will count them all
    images = dict(zip(indices.tolist(), inspected, strict=True))
    failed = {index: each for index, each in images.items() if isinstance(each, Failed)}
    readable = {index: each for index, each in images.items() if isinstance(each, ImageInfo)}
    duplicates, dropped = _duplicate_findings(source, readable)
    findings = [
        *source.findings,
        *_class_findings(source),
        *_unreadable_findings(source, failed, limit),
        *_trait_findings(source, readable, side),
        *duplicates,
    ]
    free = shutil.disk_usage(_existing(cache_folder())).free
    if free < count * side * side * 3:
        text = f"the pack needs {facts['pack']}, but only {_bytes(free)} are free in {cache_folder()}"
        findings.append(Finding("warning", text))
    return CheckReport(source, len(indices), tuple(findings), facts, frozenset(dropped | failed.keys()))


@dataclass(frozen=True)
class _Inspect:
    """Worker task."""

    reader: ImageReader

    def run(self, index: int, location: Any) -> ImageInfo | Failed:
        try:
            digest = blake2b(self.reader.read_bytes(location), digest_size=16).digest()
            with self.reader.open(location) as image:
                return ImageInfo(*image.size, image.format, frozenset(_traits(image)), digest)
        except Exception as error:  # decoders raise all kinds for a broken file
            return Failed.of(error)


def _traits(image: Image.Image) -> Iterator[str]:
    """Those of TRAITS that an image has; decodes it."""
    mode = image.mode
    if getattr(image, "is_animated", False):
        yield "animated"
    if image.getexif().get(ORIENTATION, 1) != 1:
        yield "rotated"
    if max(image.size) > ELONGATED * min(image.size):
        yield "elongated"
    image.load()
    if image.has_transparency_data:
        yield "transparent"
    if mode.startswith("I"):
        yield "16-bit"
    elif mode in ("1", "L", "LA", "La"):
        yield "grayscale"
    elif mode in ("P", "PA"):
        yield "palette"
    elif mode == "CMYK":
        yield "CMYK"
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        yield "other color mode"
    extrema = image.getextrema()
    if all(low == high for low, high in (extrema if isinstance(extrema[0], tuple) else [extrema])):
        yield "blank"


def _class_findings(source: Source) -> Iterator[Finding]:
    if len(source.classes) == 1:
        yield Finding("error", f"training needs at least two classes, got only {source.classes[0]!r}")
    counts = np.bincount(source.labels[source.splits == TRAIN], minlength=len(source.classes))
    if not counts.any():
        yield Finding("error", "there are no training images; they must be in train/CLASS/…")
        return
    used = [label for label, name in enumerate(source.classes) if name not in source.unused_classes]
    if empty := [source.classes[label] for label in used if not counts[label]]:
        yield Finding("error", f"{_plural(len(empty), 'class', 'classes')} without training images", _first(empty))
    for split, name in enumerate(SPLITS[1:], 1):
        present = set(source.labels[source.splits == split].tolist())
        if present and (absent := [source.classes[label] for label in used if label not in present]):
            classes = _plural(len(absent), "class", "classes")
            yield Finding("warning", f"{classes} without {name} images", _first(absent))
    largest, smallest = int(counts.argmax()), min(used, key=lambda label: counts[label])
    if counts[smallest] and counts[largest] > IMBALANCED * counts[smallest]:
        fraction = counts[largest] / counts.sum()
        yield Finding(
            "warning",
            f"class imbalance: {source.classes[largest]} has {counts[largest]:,} training images, "
            f"{source.classes[smallest]} {counts[smallest]:,}; always predicting the former is {fraction:.0%} right",
        )


def _unreadable_findings(source: Source, failed: dict[int, Failed], limit: int) -> Iterator[Finding]:
    """What cannot be decoded, if anything; more than `limit` images are an error."""
    if failed:
        empty = 0 if source.sizes is None else sum(source.sizes[index] == 0 for index in failed)
        yield Finding(
            "error" if len(failed) > limit else "warning",
            f"{_plural(len(failed), 'image')} cannot be read{f' ({empty:,} of size 0)' if empty else ''}; at most "
            f"{limit:,} may be skipped",
            _first(f"{source.names[index]}: {each.reason}" for index, each in failed.items()),
        )


def _trait_findings(source: Source, images: dict[int, ImageInfo], side: int) -> Iterator[Finding]:
    names = source.names
    for trait, effect in TRAITS.items():
        if having := [index for index, image in images.items() if trait in image.traits]:
            level: Level = "warning" if trait == "blank" else "note"
            yield Finding(
                level, f"{_plural(len(having), 'image')}: {trait} ({effect})", _first(names[index] for index in having)
            )
    if small := [index for index, image in images.items() if min(image.width, image.height) < side / 2]:
        level = "warning" if len(small) * 10 > len(images) else "note"
        text = f"{_plural(len(small), 'image')}: smaller than half of {side} pixels (upscaled)"
        yield Finding(level, text, _first(names[index] for index in small))
    wrong = [index for index, image in images.items() if has_wrong_suffix(names[index], image.format)]
    if wrong:
        examples = _first(f"{names[index]} is {images[index].format}" for index in wrong)
        yield Finding("note", f"{_plural(len(wrong), 'image')}: wrong file extension (read by content)", examples)


def _duplicate_findings(source: Source, images: dict[int, ImageInfo]) -> tuple[list[Finding], set[int]]:
    """Images with the same bytes as another, and those to drop.

    Of duplicates with different labels none is kept; of duplicates in different splits the one that is tested on, so
    that no tested image was trained on.
    """
    order = sorted(images, key=lambda index: (images[index].digest, -int(source.splits[index]), index))
    duplicates, in_two_classes, in_two_splits, dropped = [], [], [], set()
    for index, other in pairwise(order):
        if images[index].digest != images[other].digest:
            continue
        pair = f"{source.names[index]} and {source.names[other]}"
        labels = [source.classes[source.labels[each]] for each in (index, other)]
        splits = [SPLITS[source.splits[each]] for each in (index, other)]
        duplicates.append(pair)
        dropped.add(other)
        if labels[0] != labels[1]:
            in_two_classes.append(f"{pair} are {' and '.join(labels)}")
            dropped.add(index)
        elif splits[0] != splits[1]:
            in_two_splits.append(f"{pair} are in {' and '.join(splits)}")
    findings: list[tuple[Level, list[str], str]] = [
        ("warning", in_two_classes, " in two classes"),
        ("warning", in_two_splits, " in two splits (data leakage)"),
        ("note", duplicates, ""),
    ]
    return [
        Finding(level, f"{_plural(len(pairs), 'duplicate image')}{where}", _first(pairs))
        for level, pairs, where in findings
        if pairs
    ], dropped


def _facts(source: Source, side: int, seconds_per_image: float) -> dict[str, str]:
    counts = np.bincount(source.labels[source.splits == TRAIN], minlength=len(source.classes))
    size = len(source) * side * side * 3
    minutes = max(round(len(source) * seconds_per_image / 60), 1)
    shuffled = "" if fits_memory(size) else "; too small for the pack, which is therefore shuffled by blocks"
    facts = {
        "pack": f"{_bytes(size)} at {side} pixels",
        "memory": f"{_bytes(memory())}{shuffled}",
        "packing": f"about {_plural(minutes, 'minute')} on this machine",
    }
    if counts.any():
        largest = int(counts.argmax())
        accuracy = counts[largest] / counts.sum()
        facts["baseline"] = f"{accuracy:.1%} accuracy by always predicting {source.classes[largest]}"
    return facts


def _first(examples: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(examples, EXAMPLES))


def _plural(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _existing(folder: PathLike) -> PathLike:
    while not folder.exists():
        folder = folder.parent
    return folder
