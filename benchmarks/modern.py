"""Accuracy of networks, each with its own recipe, on the same images: mean and standard deviation over seeds.

    python benchmarks/modern.py DATA [VARIANT ...] [--side 99] [--epochs 40] [--seeds 0 1 2] [--precision auto]

By default `original` (the recipe of 2012) and `batch-norm` (the recipe `modern`). Accuracy is that of the last weights,
which no image chose, on test, or on val if there is no test split. `--epochs` stretches or compresses every schedule.
"""

from __future__ import annotations

from collections import deque
from statistics import mean, stdev

import shared

from alexnet.data.sources.detection import open_source
from alexnet.evaluation.evaluation import evaluate
from alexnet.session import evaluation_images
from alexnet.specs.settings import TrainSettings
from alexnet.training.loop import Training, train
from alexnet.training.plan import make_plan


def accuracy(settings: TrainSettings, data: str, seed: int, device, precision) -> float:
    """Top-1 accuracy over all views after training from scratch."""
    training = Training(make_plan(open_source(data), settings), seed, device, precision)
    deque(train(training), maxlen=0)
    packed = training.plan.packed
    return evaluate(training.bundle, packed, evaluation_images(packed), precision=precision).all_views.top1


def main() -> None:
    parser = shared.argument_parser(__doc__, ["original", "batch-norm"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    device, precision = shared.start(arguments.precision)
    for name in arguments.variants:
        architecture = shared.sized(name, arguments.side)
        settings = TrainSettings(variant=architecture, epochs=arguments.epochs)
        accuracies = [accuracy(settings, arguments.data, seed, device, precision) for seed in arguments.seeds]
        spread = f" ± {stdev(accuracies):.1%}" if len(accuracies) > 1 else ""
        each = ", ".join(f"{one:.1%}" for one in accuracies)
        print(f"| `{name}` | `{architecture.recipe}` | {mean(accuracies):.1%}{spread} | {each} |", flush=True)


if __name__ == "__main__":
    main()
