"""Learning-rate schedules, for training loops of your own.

scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, alexnet.schedules.lr_factor("cosine", steps=10_000))
schedule = alexnet.schedules.SmoothDecay(peak_lr=0.05, final_div_factor=1000, shape="cosine", warmup=0.05)
schedule.learning_rates(fraction_done=0.5, val_errors=[]).weights
"""

from collections.abc import Callable

from .specs.names import not_one_of
from .specs.recipe import Recipe, is_integer
from .specs.recipes import RECIPES
from .specs.schedules import SCHEDULES as SCHEDULES
from .specs.schedules import DiscretizedExponential as DiscretizedExponential
from .specs.schedules import LearningRates as LearningRates
from .specs.schedules import LinearWarmupDecay as LinearWarmupDecay
from .specs.schedules import MultiStepDecay as MultiStepDecay
from .specs.schedules import Piecewise as Piecewise
from .specs.schedules import ReduceOnPlateau as ReduceOnPlateau
from .specs.schedules import Schedule as Schedule
from .specs.schedules import Segment as Segment
from .specs.schedules import SmoothDecay as SmoothDecay
from .specs.schedules import StepDecay as StepDecay


def lr_factor(schedule: str | Schedule, steps: int) -> Callable[[int], float]:
    """The learning rate of each step, from 0, as a fraction of the highest, for `torch.optim.lr_scheduler.LambdaLR`.

    The optimizer has the highest learning rate, and `scheduler.step()` is called after every step.

    Args:
        schedule: "constant", "step", "linear", "exponential", "cosine" or "warmup-linear"; the name of another recipe,
            for the learning rates of its weights; or a schedule.
        steps: of the entire training.

    Raises:
        ValueError: there is no such schedule, or it follows the validation error.
    """
    if not is_integer(steps, 1):
        raise ValueError(f"steps must be an integer >= 1, got {steps!r}")
    if isinstance(schedule, str):
        if schedule not in SCHEDULES and schedule not in RECIPES:
            raise ValueError(not_one_of("schedule", schedule, [*SCHEDULES, *RECIPES]))
        schedule = SCHEDULES[schedule](1.0, 1.0, 0.1) if schedule in SCHEDULES else RECIPES[schedule].schedule
    if isinstance(schedule, ReduceOnPlateau):
        raise ValueError("this schedule follows the validation error: use torch.optim.lr_scheduler.ReduceLROnPlateau")
    highest = Recipe("yours", "", schedule).peak_lr()
    return lambda step: schedule.learning_rates(min(step, steps - 1) / steps, []).weights / highest
