from tyro.conf import Positional

from ..specs.settings import TrainSettings
from .flags import with_config


def train(data: Positional[str], /, settings: TrainSettings) -> None:
    """Train a network on labeled images, evaluate it and write a report.

    Args:
        data: A folder, a list or an archive of labeled images, or the URL of one (see docs/data.md); or
            emoji, the bundled drawings.
    """
    import shlex
    from dataclasses import replace

    from ..analysis.figures import colorfulness
    from ..classifier import Classifier
    from ..console import console, print_table
    from ..device import keep_freed_memory
    from ..specs.shapes import count_towers

    settings = with_config(settings)
    keep_freed_memory()
    classifier = Classifier()
    classifier.fit(data, replace(settings, output=settings.output or "auto"))
    if (evaluation := classifier.evaluation) is None or classifier.report is None:
        return  # torchrun has started several processes, of which the first one reports
    console.print(f"\n{evaluation.split}: {len(evaluation.indices):,} images")
    print_table(evaluation.rows())
    if count_towers((network := classifier.bundle.network).placed) == 2 and network.in_channels == 3:
        colors = (f"tower {name} {value:.2f}" for name, value in zip("ab", colorfulness(network), strict=True))
        console.print(f"\ncolorfulness of conv1 (0: gray, 0.67: initial weights): {', '.join(colors)}", soft_wrap=True)
    next_command = f"alexnet predict {shlex.quote(str(classifier.run))} IMAGE"
    console.print(f"\nreport: {classifier.report}\nnext:   {next_command}", soft_wrap=True)
