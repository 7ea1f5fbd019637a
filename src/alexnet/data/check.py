"""What is wrong with a data set, said before anything is trained on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from os import PathLike
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..device import fits_memory, memory, processors
from ..files import cache_folder
from .pack.packing import PackOptions
from .pack.resizing import ORIENTATION
from .pack.workers import Failed, run_task
from .pack.writing import most_unread
from .source import SPLITS, TRAIN, Reader, Source
from .storage.image_formats import is_mislabelled

Level = Literal["error", "warning", "note"]
EXAMPLES = 5
BRIEF = 100
"""Images looked at before a training."""
LONG = 3.0
"""Ratio of the sides beyond which the central square shows little of a picture."""
UNEVEN = 10.0
"""Times as many images as the smallest class has."""
KINDS = {
    "grey": "grey values become three equal colors",
    "palette": "palettes become colors",
    "transparent": "transparent parts become white",
    "16 bit": "of 16 bits the upper eight are kept",
    "CMYK": "inks become colors without their profile",
    "other colors": "they are converted to RGB",
    "animated": "the first picture is taken",
    "turned": "they are turned upright by their EXIF tag",
    "long": "the central square shows less than a third of them",
    "blank": "they are of one color all over",
}
"""What may be odd about an image, and what becomes of it."""


@dataclass(frozen=True)
class Finding:
    level: Level
    """An error must be put right before training; a warning should be looked at; a note is good to know."""
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}{f' ({self.examples[0]} …)' if self.examples else ''}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one image is like."""

    width: int
    height: int
    format: str | None
    kinds: frozenset[str]
    digest: bytes
    """Of what is stored of it, 16 bytes."""


@dataclass(frozen=True)
class Check:
    """A data set, looked at."""

    source: Source
    looked_at: int
    """Images."""
    findings: tuple[Finding, ...]
    facts: dict[str, str]
    dropped: frozenset[int]
    """Numbers of the images that are better left out."""

    @property
    def has_errors(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    @property
    def counts(self) -> np.ndarray:
        """Images by class and split, (classes, splits)."""
        cells = self.source.labels * len(SPLITS) + self.source.splits
        return np.bincount(cells, minlength=len(self.source.classes) * len(SPLITS)).reshape(-1, len(SPLITS))

    def summary(self) -> dict:
        """All of it, as JSON has it."""
        return {
            "name": self.source.name,
            "layout": self.source.layout,
            "looked_at": self.looked_at,
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
    track=None,
) -> Check:
    """Look at a data set: every image is decoded, or BRIEF of them.

    Args:
        side: of the stored squares that it would be packed to, pixels.
        options: how it would be packed.
        track: as for `pack`.
    """
    count = len(source)
    numbers = (
        np.unique(np.linspace(0, count - 1, BRIEF).astype(np.int64)) if brief and count > BRIEF else np.arange(count)
    )
    started = time.perf_counter()
    looked = run_task(
        _Look(source.reader, side),
        ((int(number), source.place(int(number))) for number in numbers),
        len(numbers),
        options.workers or processors(),
    )
    seen: list[Seen | Failed] = []
    counted = _counted(looked, seen)
    for _ in track(counted, len(numbers)) if track else counted:
        pass
    seconds = time.perf_counter() - started
    facts = _facts(source, side, seconds / max(len(numbers), 1))
    findings = [Finding("error" if problem.fatal else "warning", problem.text) for problem in source.problems]
    findings += _of_classes(source)
    most = len(numbers) if brief else most_unread(count, options.strict)  # packing counts them all
    found, dropped = _of_images(source, numbers, seen, side, most)
    room = shutil.disk_usage(_existing(cache_folder())).free
    if room < count * side * side * 3:
        found.append(Finding("warning", f"{cache_folder()} has {_bytes(room)} free; the pack takes {facts['pack']}"))
    return Check(source, len(numbers), (*findings, *found), facts, frozenset(dropped))


@dataclass(frozen=True)
class _Look:
    """The task of a process."""

    reader: Reader
    side: int

    def do(self, number: int, place: Any) -> Seen | Failed:
        try:
            digest = blake2b(self.reader.content(place), digest_size=16).digest()
            with self.reader.open(place) as image:
                return Seen(*image.size, image.format, frozenset(_kinds(image)), digest)
        except Exception as error:  # whatever a broken file makes a decoder raise
            return Failed(str(error) or type(error).__name__)


def _kinds(image: Image.Image) -> Iterator[str]:
    """Which of KINDS an image is; decodes it."""
    mode = image.mode
    if getattr(image, "is_animated", False):
        yield "animated"
    if image.getexif().get(ORIENTATION, 1) != 1:
        yield "turned"
    if max(image.size) > LONG * min(image.size):
        yield "long"
    image.load()
    if image.has_transparency_data:
        yield "transparent"
    if mode.startswith("I"):
        yield "16 bit"
    elif mode in ("1", "L", "LA", "La"):
        yield "grey"
    elif mode in ("P", "PA"):
        yield "palette"
    elif mode == "CMYK":
        yield "CMYK"
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        yield "other colors"
    extremes = image.getextrema()
    if all(low == high for low, high in (extremes if isinstance(extremes[0], tuple) else [extremes])):
        yield "blank"


def _counted(looked: Iterable[list], seen: list) -> Iterator[int]:
    for some in looked:
        seen += some
        yield len(some)


def _of_classes(source: Source) -> list[Finding]:
    """About the numbers of images."""
    findings = []
    if len(source.classes) == 1:
        findings.append(
            Finding("error", f"there is the one class {source.classes[0]!r}; two or more can be told apart")
        )
    counts = np.bincount(source.labels[source.splits == TRAIN], minlength=len(source.classes))
    if not counts.any():
        return [*findings, Finding("error", "there are no images to train on; they may be in train/CLASS/…")]
    used = [label for label, name in enumerate(source.classes) if name not in source.unused]
    empty = [source.classes[label] for label in used if not counts[label]]
    if empty:
        findings.append(Finding("error", f"{len(empty)} classes have no image to train on", tuple(empty[:EXAMPLES])))
    for split, name in enumerate(SPLITS[1:], 1):
        there = set(source.labels[source.splits == split].tolist())
        if there and (lacking := [source.classes[label] for label in used if label not in there]):
            findings.append(Finding("warning", f"{name} lacks {len(lacking)} classes", tuple(lacking[:EXAMPLES])))
    largest, smallest = int(counts.argmax()), min(used, key=lambda label: counts[label])
    if counts[smallest] and counts[largest] > UNEVEN * counts[smallest]:
        share = counts[largest] / counts.sum()
        findings.append(
            Finding(
                "warning",
                f"class {source.classes[largest]} has {counts[largest]:,} images to train on, "
                f"{source.classes[smallest]} {counts[smallest]:,}; always answering the former is right in {share:.0%}",
            )
        )
    return findings


def _of_images(
    source: Source, numbers: np.ndarray, seen: Sequence[Seen | Failed], side: int, most: int
) -> tuple[list[Finding], set[int]]:
    """About single images, and which of them are better left out.

    Args:
        most: how many may be unreadable.
    """
    names, findings, dropped = source.names, [], set()
    whole = {int(number): each for number, each in zip(numbers, seen, strict=True) if isinstance(each, Seen)}
    failed = {int(number): each for number, each in zip(numbers, seen, strict=True) if isinstance(each, Failed)}
    if failed:
        empty = source.sizes is not None and sum(source.sizes[number] == 0 for number in failed)
        findings.append(
            Finding(
                "error" if len(failed) > most else "warning",
                f"{len(failed):,} images cannot be read{f', {empty:,} of them are empty files' if empty else ''}; up "
                f"to {most:,} are left out",
                tuple(f"{names[number]}: {each.reason}" for number, each in list(failed.items())[:EXAMPLES]),
            )
        )
        dropped |= failed.keys()
    kinds = {kind: [number for number, each in whole.items() if kind in each.kinds] for kind in KINDS}
    for kind, those in kinds.items():
        if those:
            level: Level = "warning" if kind == "blank" else "note"
            findings.append(Finding(level, f"{len(those):,} images are {kind}: {KINDS[kind]}", _some(names, those)))
    small = [number for number, each in whole.items() if min(each.width, each.height) < side / 2]
    if small:
        text = f"{len(small):,} images are smaller than half of {side} pixels: they are enlarged"
        findings.append(Finding("warning" if len(small) * 10 > len(whole) else "note", text, _some(names, small)))
    wrong = [number for number, each in whole.items() if is_mislabelled(names[number], each.format)]
    if wrong:
        said = tuple(f"{names[number]} is {whole[number].format}" for number in wrong[:EXAMPLES])
        findings.append(
            Finding("note", f"{len(wrong):,} images have the suffix of another format, which is ignored", said)
        )
    found, better_dropped = _of_duplicates(source, whole)
    return findings + found, dropped | better_dropped


def _of_duplicates(source: Source, whole: dict[int, Seen]) -> tuple[list[Finding], set[int]]:
    """About images that are stored twice, byte for byte.

    Of a picture with two labels none is kept; of one in two splits the one that is tested on, so that what is tested
    was not trained on.
    """
    order = sorted(whole, key=lambda number: (whole[number].digest, -int(source.splits[number]), number))
    same, contradictory, across, dropped = [], [], [], set()
    for number, after in pairwise(order):
        if whole[number].digest == whole[after].digest:
            pair = f"{source.names[number]} and {source.names[after]}"
            same.append(pair)
            dropped.add(after)
            if source.labels[number] != source.labels[after]:
                contradictory.append(
                    f"{pair} are {source.classes[source.labels[number]]} and {source.classes[source.labels[after]]}"
                )
                dropped.add(number)
            elif source.splits[number] != source.splits[after]:
                across.append(f"{pair} are in {SPLITS[source.splits[number]]} and {SPLITS[source.splits[after]]}")
    findings = []
    for level, those, text in (
        ("warning", contradictory, "are of two classes"),
        ("warning", across, "are in two splits: what is tested was trained on"),
        ("note", same, "are there twice"),
    ):
        if those:
            findings.append(Finding(level, f"{len(those):,} pictures {text}", tuple(those[:EXAMPLES])))
    return findings, dropped


def _facts(source: Source, side: int, seconds_an_image: float) -> dict[str, str]:
    counts = np.bincount(source.labels[source.splits == TRAIN], minlength=len(source.classes))
    size = len(source) * side * side * 3
    facts = {"pack": f"{_bytes(size)} at {side} pixels"}
    shuffled = "" if fits_memory(size) else "; the pack is shuffled by blocks, as it is too large for that"
    facts["memory"] = f"{_bytes(memory())}{shuffled}"
    minutes = len(source) * seconds_an_image / 60
    facts["packing"] = f"about {max(minutes, 1):,.0f} minute{'s' if round(minutes) > 1 else ''} on this machine"
    if counts.any():
        largest = int(counts.argmax())
        facts["baseline"] = f"{counts[largest] / counts.sum():.1%} right by always answering {source.classes[largest]}"
    return facts


def _some(names: Sequence[str], numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(names[number] for number in numbers[:EXAMPLES])


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
