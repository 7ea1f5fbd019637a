from pathlib import Path

from tyro.conf import Positional

from ..specs.settings import TrainSettings
from .flags import check_picture, with_config


def find_lr(data: Positional[str], /, settings: TrainSettings, steps: int = 100, plot: Path | None = None) -> None:
    """Find a learning rate (range test): train for some steps while it grows, plot the loss, and suggest one.

    Args:
        data: As for `alexnet train`.
        steps: Steps to take; the test ends early when the smoothed loss is four times its lowest.
        plot: File for the plot: .png, .svg, .pdf ... (default: a new find-lr.png).
    """
    import shlex

    from ..classifier import find_lr
    from ..console import console, print_text
    from ..files import unused

    plot = plot or unused(Path("find-lr.png"))
    check_picture(plot, "--plot")
    test = find_lr(data, with_config(settings), steps=steps)
    test.plot(plot)
    print_text(f"\n{test}\nplot: {plot}")
    if test.suggestion is not None:
        command = f"alexnet train {shlex.quote(data)} --lr {test.suggestion:.2g}"
        console.print(f"next: {command}, with the same flags", soft_wrap=True)
