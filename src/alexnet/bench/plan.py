"""How long a training takes on more GPUs than are at hand: a small model, from bytes that the placement declares.

A step computes, exchanges and sums:

    compute    a fixed time for starting kernels and updating weights, and the images of a GPU at its speed
    exchange   activations and their gradients between towers, or between the parts of the fully connected layers:
               a GPU waits for them
    sum        of gradients, in a ring: those of the fully connected layers, 96% of the parameters, come first in the
               backward pass and are summed while that of the convolutions goes on; those of the convolutions are in the
               last bucket, which nothing is left to hide

A message takes its bytes at the link's speed and a delay for each doubling of the number of GPUs. Losses that a model
of three terms cannot know (stragglers, reading images, several GPUs behind one network card) are not in it, so that its
times are lower bounds. (No torch here.)
"""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ..parallel.placement import Placement, Way, placement_of
from ..specs.operations import Linear
from ..specs.variants import VARIANTS

IMAGES, EPOCHS = 1_281_167, 90
"""ImageNet's training images, and the paper's epochs (section 5)."""
SUSTAINED = 0.8
"""Fraction of a link's nominal speed that messages of megabytes reach; assumed."""
GPUS, BATCH_SIZES = (2, 8, 64, 512), (128, 1024, 8192, 65_536)
"""The table of steps has these, where each GPU gets an image at least."""
TRAININGS = (1, 128), (8, 1024), (64, 8192), (512, 65_536)
"""GPUs and the whole batch of the table of trainings: 128 images a GPU."""


PAGE = r"""# Training on many GPUs: a plan

Written by `alexnet bench --plan --output docs/scaling.md`; `src/alexnet/bench/plan.py` has the formulas. **Nothing here
was measured**, except for the trainings of others at the end. The bytes are exact: tests compare them with those that
processes really exchange.

{assumed}

Your own numbers: `alexnet bench step` measures images per second, and
`alexnet bench --plan --images-per-s 9000 --gpu-hour 1.5` plans with them.

## A step

Three ways to divide the work (`--parallel`): `data` parallel (each GPU has the network and a part of the images), the
two `towers` of 2012 (each GPU has half of the kernels and sees all images), and the `hybrid` of 2014 (data parallel in
the convolutions, each GPU with a part of the units of the fully connected layers). **<** marks the fastest over a link.
Sums of gradients are hidden behind the backward pass of the convolutions as far as they fit. Sending them as bf16
(`--compress-gradients`) halves the bytes of `data`.

{steps}

{limits}
- Within a machine with NVLink, computing hides the sums, and the trick of 2014 gains a little for small batches alone.
  Over Ethernet it wins as long as the batch is small, which it need not be since LARS (2017).
- NVLink ends at the machine, at best at the rack: read its column for 64 GPUs and more as the limit of a perfect link.

## ImageNet, 90 epochs

With 128 images on each GPU, by the fastest way; validation and reading are left out. A whole batch above 1,024 or so
needs a scaled learning rate, warmup and LARS for the same accuracy.

{trainings}

## What others measured

{published}

You, Jia and Sun are quoted from their abstracts; Krizhevsky's rows, and what is marked (\*), are from memory, and not
checked. Sun et al. also report that common systems of 2019 reached a speedup of 2.5 on 64 GPUs.
"""


@dataclass(frozen=True)
class Assumptions:
    """What a plan is made from, none of it measured here."""

    images_per_s: float = 25_000
    """With --plan: images per second of one GPU in large batches, as `alexnet bench step` measures them."""
    step_ms: float = 2
    """With --plan: milliseconds of a step that do not depend on the batch: starting kernels, updating weights."""
    gpu_hour: float = 3
    """With --plan: price of a GPU for an hour."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < math.inf or (name == "images_per_s" and value == 0):
                raise ValueError(f"{name} must be {'> 0' if name == 'images_per_s' else '>= 0'}, got {value}")


@dataclass(frozen=True)
class Link:
    """What connects the GPUs."""

    name: str
    bytes_per_s: float
    """Nominal, in each direction, of one GPU."""
    delay_s: float
    """Time that a message takes beside its bytes; assumed."""

    def seconds(self, size: float, messages: int, processes: int) -> float:
        """Time of so many messages to all processes, of `size` bytes together."""
        return size / (SUSTAINED * self.bytes_per_s) + messages * self.delay_s * math.ceil(math.log2(processes))


LINKS = (Link("NVLink 4", 450e9, 5e-6), Link("100 Gb/s", 12.5e9, 20e-6), Link("25 Gb/s", 3.125e9, 20e-6))
"""NVLink of an H100 (900 GB/s in both directions together), and Ethernet."""


@dataclass(frozen=True)
class Published:
    """A training of an AlexNet on ImageNet that others have measured."""

    who: str
    hardware: str
    batch: str
    epochs: int
    hours: float
    speedup: str
    source: str


PUBLISHED = (
    Published("Krizhevsky 2014", "1 K20", "128", 90, 98.05, "1", "arXiv 1404.5997"),
    Published("Krizhevsky 2014, hybrid", "8 K20", "1,024", 90, 15.68, "6.25", "arXiv 1404.5997"),
    Published("the same, fc batches of 128", "8 K20", "1,024, 128", 90, 15.91, "6.16", "arXiv 1404.5997 (*)"),
    Published("You 2017, LARS", "1,024 CPUs", "32,768", 100, 11 / 60, "", "arXiv 1709.05011"),
    Published("Jia 2018, in fp16", "1,024 P40", "65,536 (*)", 95, 4 / 60, "", "arXiv 1807.11205"),
    Published("Sun 2019, sparse sums", "512 GPUs, 56 Gb/s", "65,536 (*)", 95, 1.5 / 60, "410.2", "arXiv 1902.06855"),
)
"""You, Jia and Sun as their abstracts say; Krizhevsky's rows, and what is marked (*), are from memory."""


@dataclass(frozen=True)
class Step:
    """The parts of a step, and what a GPU sends in it."""

    sent_bytes: float
    compute_s: float
    exchange_s: float
    sum_s: float
    """What the backward pass does not hide."""

    @property
    def seconds(self) -> float:
        return self.compute_s + self.exchange_s + self.sum_s


def step(placement: Placement, batch_size: int, link: Link, given: Assumptions) -> Step:
    """A training step with this whole batch."""
    count = placement.processes
    images_s = batch_size / count / given.images_per_s
    compute_s = given.step_ms / 1e3 + images_s
    if count == 1:
        return Step(0, compute_s, 0, 0)
    connected = [isinstance(each.step.operation, Linear) for each in placement.divisions]
    first = connected.index(True)
    costs = [each.step.multiply_adds for each in placement.divisions]
    hiding_s = images_s * 2 / 3 * sum(costs[:first]) / sum(costs)  # the backward pass takes twice the forward pass
    last = sum(each.step.parameters for each in placement.divisions[:first]) / max(placement.replicated, 1)
    sum_s = 0.0
    if placement.replicated:
        all_s = link.seconds(placement.summed_bytes(), 2, count)
        sum_s = max(min(last, 1) * all_s, all_s - hiding_s)
    exchanged = batch_size * placement.exchanged_bytes()
    messages = sum(1 + each.backward for each in placement.exchanges)
    exchange_s = link.seconds(exchanged, messages, count) if messages else 0.0
    return Step(placement.step_bytes(batch_size), compute_s, exchange_s, sum_s)


@dataclass(frozen=True)
class Training:
    """90 epochs of ImageNet."""

    gpus: int
    batch_size: int
    way: Way
    hours: float
    cost: float
    speedup: float
    """Over one GPU with the batch of 128."""


def training(gpus: int, batch_size: int, link: Link, given: Assumptions, network: str = "original") -> Training:
    """The fastest of the ways."""
    ways = {way: step(each, batch_size, link, given) for way, each in ways_on(network, gpus).items()}
    way = min(ways, key=lambda name: ways[name].seconds)
    hours = EPOCHS * math.ceil(IMAGES / batch_size) * ways[way].seconds / 3600
    (alone,) = ways_on(network, 1).values()
    one = EPOCHS * math.ceil(IMAGES / 128) * step(alone, 128, link, given).seconds / 3600
    return Training(gpus, batch_size, way, hours, hours * gpus * given.gpu_hour, one / hours)


@cache
def ways_on(network: str, gpus: int) -> dict[Way, Placement]:
    """The ways in which a network can be trained on so many GPUs."""
    placements: dict[Way, Placement] = {}
    for way in ("data", "towers", "hybrid") if gpus > 1 else ("data",):
        try:
            placements[way] = placement_of(VARIANTS[network], way, gpus)
        except ValueError:  # towers are two
            continue
    return placements


STEP_HEADER = "GPUs", "batch size", "way", "MB sent by a GPU", *(f"ms, {link.name}" for link in LINKS)
TRAINING_HEADER = "GPUs", "batch size", "link", "way", "hours", "cost", "speedup"
PUBLISHED_HEADER = "who", "on", "batch size", "epochs", "hours", "speedup", "source"


def step_rows(given: Assumptions, network: str = "original") -> Iterator[tuple[str, ...]]:
    """A row for each number of GPUs, batch size and way; the fastest way over a link is marked with <."""
    for gpus in GPUS:
        for batch_size in (size for size in BATCH_SIZES if size >= gpus):
            steps = {
                way: [step(each, batch_size, link, given) for link in LINKS]
                for way, each in ways_on(network, gpus).items()
            }
            fastest = [min(each.seconds for each in column) for column in zip(*steps.values(), strict=True)]
            for way, row in steps.items():
                times = [
                    f"{1e3 * each.seconds:,.1f}" + " <" * (each.seconds == best)
                    for each, best in zip(row, fastest, strict=True)
                ]
                yield f"{gpus}", f"{batch_size:,}", way, f"{row[0].sent_bytes / 1e6:,.1f}", *times


def training_rows(given: Assumptions, network: str = "original") -> Iterator[tuple[str, ...]]:
    for gpus, batch_size in TRAININGS:
        for link in LINKS if gpus > 1 else LINKS[:1]:
            row = training(gpus, batch_size, link, given, network)
            names = (link.name, row.way) if gpus > 1 else ("none", "one GPU")
            yield f"{gpus}", f"{batch_size:,}", *names, f"{row.hours:.2g}", f"{row.cost:,.2f}", f"{row.speedup:.1f}"


def published_rows() -> list[tuple[str, ...]]:
    return [
        (each.who, each.hardware, each.batch, f"{each.epochs}", f"{each.hours:.4g}", each.speedup, each.source)
        for each in PUBLISHED
    ]


def remarks(given: Assumptions, network: str = "original") -> list[str]:
    """What is assumed, and where each way sends less than the others, in sentences."""
    data, hybrid = (ways_on(network, 2)[way] for way in ("data", "hybrid"))
    fraction = 1 - hybrid.replicated / data.replicated
    lines = [
        f"{network}: {data.replicated:,} parameters, {fraction:.1%} of them in the fully connected layers. Assumed: "
        f"{given.images_per_s:,.0f} images/s on one GPU in large batches, {given.step_ms:g} ms of each step for the "
        f"rest, {SUSTAINED:.0%} of the nominal speed of a link, {given.gpu_hour:g} per GPU and hour. Losses that this "
        f"cannot know (GPUs that wait for the slowest, reading images, several GPUs behind one network card) are left "
        f"out, so real times are longer.",
        f"Hybrid sends less than data parallel up to a whole batch of {hybrid.breaks_even_at():,.0f} images, on any "
        f"number of GPUs: it sends activations of every image, and data parallel sends each gradient once.",
    ]
    if towers := ways_on(network, 2).get("towers"):
        lines.append(f"Towers, on two GPUs, send less up to a batch of {towers.breaks_even_at():,.0f}.")
    return lines


def page(given: Assumptions = Assumptions(), network: str = "original") -> str:
    """The plan in Markdown, docs/scaling.md."""
    assumed, *limits = remarks(given, network)
    return PAGE.format(
        assumed=textwrap.fill(assumed, 120),
        limits="\n".join(textwrap.fill(f"- {line}", 120, subsequent_indent="  ") for line in limits),
        steps=_table(STEP_HEADER, step_rows(given, network)),
        trainings=_table(TRAINING_HEADER, training_rows(given, network)),
        published=_table(PUBLISHED_HEADER, published_rows()),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (header, ("---",) * len(header), *rows))
    return lines.replace(" < ", " **<** ").replace("(*)", r"(\*)")
