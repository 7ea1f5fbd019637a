import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from ..specs.settings import LabelMaps
from .flags import check_size, print_json

if TYPE_CHECKING:
    from ..data.check import CheckReport
    from ..data.source import Finding


def check(
    data: Positional[str],
    /,
    size: int | None = None,
    brief: bool = False,
    fix: Path | None = None,
    strict: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    workers: int | None = None,
    *,
    maps: LabelMaps,
) -> None:
    """Report what a data set holds and what is wrong with it. The exit status is 1 if something must be fixed first.

    Args:
        data: As for `alexnet train`.
        size: Side of the packed square images, pixels (default: that of the network that suits it).
        brief: Check only a hundred images, as `train` does first.
        fix: File for a list (CSV) of the images to train on, without unreadable ones and duplicates, for `alexnet train
            LIST`. Your images are not changed.
        strict: Make any unreadable image and any warning an error.
        as_json: Print JSON.
        workers: Number of processes that decode images (default: one per core).
    """
    from ..console import console, progress_bar
    from ..data.check import check_source
    from ..data.pack.packing import PackOptions
    from ..data.sources.detection import detect_source
    from ..data.sources.lists import write_list
    from ..data.storage.download import redact
    from ..runs.run import is_run
    from ..specs.variants import variant
    from ..training.plan import variant_for

    check_size(1 if size is None else size)
    source = detect_source(data, 0, progress_bar("reading"), is_run, maps)
    if size is None:
        size = variant(variant_for(source)[0]).stored_size
    report = check_source(source, size, PackOptions(None, workers, strict), brief, progress_bar("checking"))
    report = replace(report, findings=(*report.findings, *_few_images(report)))
    if fix is not None:
        kept = [index for index in range(len(source)) if index not in report.dropped]
        write_list(fix, source, kept)
    if as_json:
        print_json(report.summary())
    else:
        _print_report(report)
        if fix is not None:
            arguments = shlex.quote(str(fix)) + source.arguments.removeprefix(shlex.quote(redact(data)))
            console.print(f"next:   alexnet train {arguments}  ({len(kept):,} images)", soft_wrap=True)
    if {finding.level for finding in report.findings} & ({"error", "warning"} if strict else {"error"}):
        raise SystemExit(1)


FEW_IMAGES = 20
"""Validation or test images below which an error on them is uncertain by more than 20 points up and down."""
USES = {
    "validation image": "hardly tells which epoch, setting or network is better",
    "test image": "hardly tells how good a network is, or which of two is better",
}


def _few_images(report: "CheckReport") -> "Iterator[Finding]":
    """Splits on which an error says little, and what that means."""
    from ..data.source import Finding
    from ..evaluation.metrics import confidence_interval
    from ..specs.names import counted

    for (noun, use), count in zip(USES.items(), report.counts.sum(0).tolist()[1:], strict=True):
        if 0 < count < FEW_IMAGES:
            low, high = confidence_interval(0.5, count)
            interval = f"an error on them has a 95% confidence interval of up to ±{50 * (high - low):.0f} points"
            yield Finding("note", f"only {counted(count, noun)}: {interval}, so it {use}")


def _print_report(report: "CheckReport") -> None:
    from ..console import console, print_facts, print_table, print_text
    from ..data.labels.class_names import readable_class_name
    from ..data.source import SPLITS
    from ..specs.names import counted

    source = report.source
    print_facts({"data": source.name} | source.reading | report.facts)
    console.print()
    each = zip(map(readable_class_name, source.classes), report.counts, strict=True)
    rows = [(name, *(f"{count:,}" for count in counts)) for name, counts in each]
    shown = rows if len(rows) <= 40 else [*rows[:20], (f"… {len(rows) - 20:,} more", "", "", "")]
    print_table([*shown, ("all", *(f"{count:,}" for count in report.counts.sum(0)))], ("class", *SPLITS))
    console.print()
    for finding in report.findings:
        print_text("\n    ".join([f"{finding.level}: {finding.text}", *finding.examples]))
    checked = "all" if report.checked == len(source) else f"{report.checked:,} of {len(source):,}"
    findings = counted(len(report.findings), "finding") if report.findings else "nothing found"
    console.print(f"{checked} images checked; {findings}")
