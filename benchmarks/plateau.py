"""Steps that each network needs, with its own recipe, to leave the initial plateau of the loss.

A network that has learned nothing has a loss of ln(classes). Each variant is trained at the initial learning rates of
its recipe until the mean loss of the last 20 steps is at most 0.8 · ln(classes). Prints a table.

    python benchmarks/plateau.py DATA [VARIANT ...] [--side 131] [--max-steps 2000] [--precision auto] [--seed 0]

All variants are trained if none is named.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from dataclasses import replace

import shared

from alexnet.data.sources.detection import open_source
from alexnet.specs.architecture import Architecture
from alexnet.specs.recipes import recipe
from alexnet.specs.settings import TrainSettings
from alexnet.specs.variants import VARIANTS
from alexnet.training.loop import Step, Training, train
from alexnet.training.plan import make_plan

WINDOW = 20
LOSS_FRACTION = 0.8


def steps_to_leave(
    architecture: Architecture, data: str, max_steps: int, seed: int, device, precision
) -> tuple[int | None, float]:
    """Steps until the loss is low enough, None if it is not after `max_steps`; and the final mean loss."""
    chosen = recipe(architecture.recipe)
    if not getattr(chosen.schedule, "warmup", 0):
        chosen = replace(chosen, epochs=100_000)  # so long that the learning rates stay at their initial values
    plan = make_plan(open_source(data), TrainSettings(variant=architecture, recipe=chosen))
    goal = LOSS_FRACTION * math.log(len(plan.packed.classes))
    losses: deque[float] = deque(maxlen=WINDOW)
    for event in train(Training(plan, seed, device, precision)):
        if not isinstance(event, Step):
            continue
        losses.append(event.step_loss)
        mean = sum(losses) / len(losses)
        if event.step % WINDOW == 0:
            print(f"{architecture.name}: {event.step} steps, loss {mean:.3f}", file=sys.stderr, flush=True)
        if len(losses) == WINDOW and mean <= goal:
            return event.step, mean
        if event.step == max_steps:
            break
    return None, mean


def main() -> None:
    parser = shared.argument_parser(__doc__, list(VARIANTS))
    parser.add_argument("--max-steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device, precision = shared.start(arguments.precision)
    for name in arguments.variants:
        architecture = shared.sized(name, arguments.side)
        limits = arguments.max_steps, arguments.seed
        steps, loss = steps_to_leave(architecture, arguments.data, *limits, device, precision)
        shown = steps or f"more than {arguments.max_steps}"
        print(f"| `{name}` | `{architecture.recipe}` | {shown} | {loss:.3f} |", flush=True)


if __name__ == "__main__":
    main()
