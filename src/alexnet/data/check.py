"""Finds what is wrong with a data set before anything is trained on it."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from ..device import decoders, fits_memory, memory
from ..files import cache_folder
from ..specs.names import counted
from .pack.packing import PackOptions, lost_classes, make_pack, max_unreadable
from .pack.reading import Pack
from .pack.resizing import DEEP_MODES, ORIENTATION
from .pack.workers import Failed, run_task
from .progress import Track, run_tracked
from .source import SPLITS, TRAIN, Finding, ImageReader, Level, Source
from .storage.image_formats import has_wrong_suffix

EXAMPLES = 5
"""Names in a finding."""
BRIEF = 100
"""Images checked before a training."""
TRAITS = {
    "grayscale": "converted to RGB",
    "palette": "converted to RGB",
    "transparent": "transparent parts become white",
    "16-bit": "the upper eight bits of the range are kept",
    "float": "1 becomes white, or 256 in images with values above 1",
    "hardly any range": "at most 16 of 256 shades are left",
    "CMYK": "converted to RGB without a color profile",
    "other color mode": "converted to RGB",
    "animated": "the first frame is used",
    "rotated": "turned upright according to the EXIF orientation",
    "elongated": "the center square leaves out more than a third; --aspect squash or pad keeps all",
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
    extrema: tuple[float, float] | None = None
    """Least and most of the values, of gray of more than eight bits."""


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
    counts: np.ndarray
    """Images by class and split but those that cannot be read, (classes, splits)."""
    white: float | None = None
    """What becomes white in gray of more than eight bits, where that is not the format's own; see `Squares`."""

    def summary(self) -> dict:
        """The report as JSON."""
        rows = np.vstack([self.counts.sum(0), self.counts]).tolist()
        images, *classes = (dict(zip(SPLITS, row, strict=True)) for row in rows)
        about = {"name": self.source.name, **self.source.reading, "looked_at": self.checked, "images": images}
        by_class = dict(zip(self.source.classes, classes, strict=True))
        return about | {"classes": by_class, "findings": [vars(each) for each in self.findings]} | self.facts


def check_source(
    source: Source, side: int, options: PackOptions = PackOptions(), brief: bool = False, track: Track | None = None
) -> CheckReport:
    """Decode every image of a source, or BRIEF of them, and report what is wrong.

    Args:
        side: side of the squares that would be stored, pixels.
    """
    count = len(source)
    indices = np.linspace(0, count - 1, min(count, BRIEF)).astype(np.int64) if brief else np.arange(count)
    started = time.perf_counter()
    inspected: list[ImageInfo | Failed] = []

    def inspect() -> Iterator[int]:
        locations = ((index, source.locate(index)) for index in indices.tolist())
        for results in run_task(_Inspect(source.reader), locations, len(indices), options.workers or decoders()):
            inspected.extend(results)
            yield len(results)

    run_tracked(inspect(), len(indices), track)
    seconds_per_image = (time.perf_counter() - started) / max(len(indices), 1)
    counts = np.zeros((len(source.classes), len(SPLITS)), np.int64)
    np.add.at(counts, (source.labels, source.splits), 1)
    facts = _facts(source, side, seconds_per_image, counts[:, TRAIN])
    limit = max_unreadable(count, options.strict)
    images = dict(zip(indices.tolist(), inspected, strict=True))
    failed = {index: each for index, each in images.items() if isinstance(each, Failed)}
    readable = {index: each for index, each in images.items() if isinstance(each, ImageInfo)}
    empty = 0 if source.sizes is None else sum(source.sizes[index] == 0 for index in failed)
    unreadable = f" cannot be read{f' ({empty:,} of size 0)' if empty else ''}"
    unreadable += "" if brief else f"; at most {limit:,} may be skipped"
    reasons = [f"{source.names[index]}: {each.reason}" for index, each in failed.items()]
    duplicates, dropped = _duplicate_findings(source, readable)
    of_classes, traits = _class_findings(source, counts), _trait_findings(source, readable, side)
    lost = [] if brief else [source.classes[label] for label in lost_classes(source, failed)]
    findings = [
        *source.findings,
        *of_classes,
        # Packing will count them all, and then stop or say which are skipped.
        *_group("note" if brief else "error" if len(failed) > limit else "warning", reasons, "image", unreadable),
        *_group("error", lost, "class", " without a readable training image"),
        *traits,
        *duplicates,
    ]
    cache = cache_folder()
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if free < count * side * side * 3:
        text = f"the pack needs {facts['pack']}, but only {_bytes(free)} are free in {cache}"
        findings.append(Finding("warning", text))
    white, of_depth = _white(list(readable.values()))
    kept = frozenset(dropped | failed.keys())
    np.subtract.at(counts, (source.labels[[*failed]], source.splits[[*failed]]), 1)
    return CheckReport(source, len(indices), (*findings, *of_depth), facts, kept, counts, white)


def checked_pack(
    source: Source, side: int, options: PackOptions, track: Track | None, notify: Callable[[str], object]
) -> Pack:
    """The pack of a source to train on, after a brief check; arguments as for `make_pack`.

    Raises:
        ValueError: the check finds an error, or as for `make_pack`.
    """
    report = check_source(source, side, options, brief=True)
    for finding in report.findings:
        if finding.level == "error":
            raise ValueError(f"{source.name}: {finding}")
        if finding.level == "warning":
            more = f"; see alexnet check {source.arguments}" if source.arguments else ""
            notify(f"{source.name}: {finding}{more}")
    if report.white is not None and options.squares.white is None:
        options = replace(options, squares=replace(options.squares, white=report.white))
    return make_pack(source, side, options=options, track=track, notify=notify)


def _white(images: Sequence[ImageInfo]) -> tuple[float | None, list[Finding]]:
    """What becomes white in gray of more than eight bits, None for the format's own, and what is to be said of it.

    Integers have as many bits as the largest needs: 8, 10, 12, 14 or 16; floats end at 1, at 256, or as integers.
    """
    extrema = [image.extrema for image in images if image.extrema]
    if not extrema:
        return None, []
    least, most = min(low for low, _ in extrema), max(high for _, high in extrema)
    is_float = any("float" in image.traits for image in images)
    white = 1 if is_float and most <= 1 else next((2.0**bits for bits in (8, 10, 12, 14, 16) if most < 2**bits), most)
    findings = []
    if white != 65536 or least < 0:
        text = f"{counted(len(extrema), 'image')}: gray of more than 8 bits with values from {least:g} to {most:g}"
        findings = [Finding("warning", f"{text}; of this range, 0 becomes black and {white:,.0f} white")]
    return white, findings


@dataclass(frozen=True)
class _Inspect:
    reader: ImageReader

    def run(self, index: int, location: Any) -> ImageInfo | Failed:
        try:
            digest = self.reader.digest(location)
            with self.reader.open(location) as image:
                traits = frozenset(_traits(image))
                extrema = image.getextrema() if image.mode.startswith(DEEP_MODES) else None
                return ImageInfo(*image.size, image.format, traits, digest, extrema)
        except Exception as error:  # decoders raise all kinds for a broken file
            return Failed.of(error)


def _traits(image: Image.Image) -> Iterator[str]:
    """Those of TRAITS that an image has; decodes it."""
    mode = image.mode
    if getattr(image, "is_animated", False):
        yield "animated"
    if image.getexif().get(ORIENTATION, 1) != 1:
        yield "rotated"
    if 2 * max(image.size) > 3 * min(image.size):
        yield "elongated"
    image.load()
    if image.has_transparency_data:
        yield "transparent"
    if mode.startswith("I"):
        yield "16-bit"
    elif mode == "F":
        yield "float"
    elif mode in ("1", "L", "LA", "La"):
        yield "grayscale"
    elif mode in ("P", "PA"):
        yield "palette"
    elif mode == "CMYK":
        yield "CMYK"
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        yield "other color mode"
    extrema = image.getextrema()
    ranges = [high - low for low, high in (extrema if isinstance(extrema[0], tuple) else [extrema])]
    if not any(ranges):
        yield "blank"
    elif max(ranges) < 16 and mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        yield "hardly any range"


def _class_findings(source: Source, counts: np.ndarray) -> Iterator[Finding]:
    used = [label for label, name in enumerate(source.classes) if name not in source.unused_classes]
    if len(used) == 1:
        yield Finding("error", f"training needs at least two classes, got only one class, {source.classes[used[0]]!r}")
    train = counts[:, TRAIN]
    if not train.any():
        yield Finding("error", "there are no training images; they must be in train/CLASS/…")
        return
    for split in np.flatnonzero(counts.any(0)):
        level, images = ("error", "training") if split == TRAIN else ("warning", SPLITS[split])
        absent = [source.classes[label] for label in used if not counts[label, split]]
        yield from _group(level, absent, "class", f" without {images} images")
    smallest = min(used, key=lambda label: train[label])
    if 0 < 10 * train[smallest] < train.max():
        text = (
            f"class imbalance: {source.classes[train.argmax()]} has {train.max():,} training images, "
            f"{source.classes[smallest]} {train[smallest]:,}; always predicting the former is "
            f"{train.max() / train.sum():.0%} right"
        )
        yield Finding("warning", text)


def _trait_findings(source: Source, images: dict[int, ImageInfo], side: int) -> Iterator[Finding]:
    names = source.names
    for trait, effect in TRAITS.items():
        having = [names[index] for index, image in images.items() if trait in image.traits]
        level: Level = "warning" if trait in ("blank", "hardly any range") else "note"
        yield from _group(level, having, "image", f": {trait} ({effect})")
    small = [names[index] for index, image in images.items() if min(image.width, image.height) < side / 2]
    level = "warning" if len(small) * 10 > len(images) else "note"
    yield from _group(level, small, "image", f": smaller than half of {side} pixels (upscaled)")
    formats = ((names[index], image.format) for index, image in images.items())
    wrong = [f"{name} is {format}" for name, format in formats if has_wrong_suffix(name, format)]
    yield from _group("note", wrong, "image", ": wrong file extension (read by content)")


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
        dropped.add(other)
        if labels[0] != labels[1]:
            in_two_classes.append(f"{pair} are {' and '.join(labels)}")
            dropped.add(index)
        elif splits[0] != splits[1]:
            in_two_splits.append(f"{pair} are in {' and '.join(splits)}")
        else:
            duplicates.append(pair)
    return [
        *_group("warning", in_two_classes, "duplicate image", " in two classes"),
        *_group("warning", in_two_splits, "duplicate image", " in two splits (data leakage)"),
        *_group("note", duplicates, "duplicate image", " in the same class and split"),
    ], dropped


def _facts(source: Source, side: int, seconds_per_image: float, train: np.ndarray) -> dict[str, str]:
    """What the data set takes; `train` counts the training images of each class."""
    size = len(source) * side * side * 3
    minutes = max(round(len(source) * seconds_per_image / 60), 1)
    shuffled = "" if fits_memory(size) else "; too small for the pack, which is therefore shuffled by blocks"
    facts = {
        "pack": f"{_bytes(size)} at {side} pixels",
        "memory": f"{_bytes(memory())}{shuffled}",
        "packing": f"about {counted(minutes, 'minute')} on this machine",
    }
    if train.any():
        largest = source.classes[train.argmax()]
        facts["baseline"] = f"{train.max() / train.sum():.1%} accuracy by always predicting {largest}"
    return facts


def _group(level: Level, examples: Sequence[str], noun: str, text: str) -> list[Finding]:
    """One finding that counts the examples, if any, and shows the first of them."""
    return [Finding(level, f"{counted(len(examples), noun)}{text}", tuple(examples[:EXAMPLES]))] if examples else []


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
