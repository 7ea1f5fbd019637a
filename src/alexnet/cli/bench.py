import platform
import re
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..bench.plan import Assumptions


def bench(
    parts: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="PART")] = (),
    /,
    batch_size: int = 128,
    rounds: int = 5,
    images: int = 1000,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    output: Path | None = None,
    plan: bool = False,
    *,
    assumed: Assumptions,
) -> None:
    """Benchmark training, inference and data loading on this machine, each beside a baseline.

    Args:
        parts: What to measure: machine, norm, step, inference, packing, reading, keras (default: all).
        batch_size: Images per step.
        rounds: Rounds, in which each is measured once in turn; the table shows medians.
        images: Number of JPEG files for packing and reading.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: Type of convolutions and matrix products, ours and the baselines'.
        output: File to append the table to, as Markdown; with --plan, file to write.
        plan: Measure nothing: compute the bytes and the time of a step of `original`, and the hours and the cost of
            ImageNet, on up to 512 GPUs, from a small model (docs/scaling.md).
    """
    if plan:
        return _plan(assumed, output)
    import torch

    from ..bench.measure import HEADER, Row
    from ..bench.parts import PARTS, Settings
    from ..console import print_text
    from ..device import describe_device, keep_freed_memory, pick_device, pick_precision, set_threads
    from ..specs.names import counted, not_one_of

    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(not_one_of("parts", unknown[0], PARTS))
    for name, value in (("batch-size", batch_size), ("rounds", rounds), ("images", images)):
        if value < 1:
            raise ValueError(f"--{name} must be >= 1, got {value}")
    keep_freed_memory()
    set_threads()
    where = pick_device(device)
    settings = Settings(where, pick_precision(precision, where), batch_size, rounds, images)
    about = f"{describe_device(where, settings.precision)}; {processor()}; torch {torch.__version__}"
    title = f"{about}, Python {platform.python_version()}; medians of {counted(rounds, 'round')}"
    print_text(title)
    rows, notes, last = [], [], None
    for part in parts or PARTS:
        for result in PARTS[part](settings):
            if isinstance(result, Row):
                rows.append(result.cells())
                if result.task != last:
                    last = result.task
                    print_text(f"\n{last}", style="bold")
                extent = f"{result.min_speedup:.2f} … {result.max_speedup:.2f}×"
                print_text(f"  {result.speedup:.2f}×  {result.ours} against {result.theirs}, {result.peer} ({extent})")
            else:
                notes.append(result)
                print_text(f"\n{result}")
    if output:
        table = [HEADER, ("---",) * len(HEADER), *rows]
        lines = [title, "", *(f"| {' | '.join(cells)} |" for cells in table), "", *(f"- {note}" for note in notes), ""]
        with output.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def _plan(assumed: Assumptions, output: Path | None) -> None:
    from ..bench import plan
    from ..console import console, print_table, print_text

    if output:
        output.write_text(plan.page(assumed), encoding="utf-8")
        return console.print(output)
    for title, header, rows, right in (
        ("A step", plan.STEP_HEADER, plan.step_rows(assumed), None),
        ("ImageNet, 90 epochs", plan.TRAINING_HEADER, plan.training_rows(assumed), None),
        ("What others measured", plan.PUBLISHED_HEADER, plan.published_rows(), (3, 4, 5)),
    ):
        console.print(f"{title}\n", style="bold")
        print_table([*rows], header, right)
        console.print()
    for line in plan.remarks(assumed):
        print_text(line)


def processor() -> str:
    """Model name of the processor, if the system knows it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
