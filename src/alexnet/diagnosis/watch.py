"""Looks into a network from time to time while it trains."""

import math

from ..training.loop import Step, Training
from .causes import Diagnosis, Facts, diagnosed
from .layers import data_facts, is_due, layer_statistics

PATIENCE = 1000
"""Steps before an unfinished run is called stuck: docs/networks.md has how long networks take to start learning."""


class Watch:
    """Adds rows of layer statistics to the progress of a training, and says once what is wrong with it."""

    def __init__(self, training: Training):
        self.training = training

    def step(self, step: Step) -> bool:
        """Right after a step, add a row if one is due or the loss is not finite; whether there is a new one."""
        rows, plan = self.training.progress.layers, self.training.plan
        ends_epoch = step.batch == max(1, plan.training_images // plan.recipe.batch_size)
        finite = math.isfinite(step.step_loss)
        if finite and not is_due(step.step, ends_epoch, step.epoch == plan.recipe.epochs, rows):
            return False
        row = {"epoch": step.epoch, "step": step.step, "loss": step.step_loss if finite else None, "lr": step.lr}
        row |= {"peak_lr": plan.recipe.peak_lr()} | layer_statistics(self.training, step.views)
        if not rows:
            row["data"] = data_facts(plan)
        rows.append(row)
        return True

    def epoch(self) -> Diagnosis | None:
        """After an epoch, what is wrong; None if nothing is, if it was said before, or if it is too early to tell."""
        progress = self.training.progress
        is_over = progress.epoch == self.training.plan.recipe.epochs
        if progress.diagnosed or not (is_over or progress.epochs[-1]["steps"] >= PATIENCE):
            return None
        diagnosis = diagnosed(Facts(progress.epochs, progress.layers))
        progress.diagnosed = diagnosis is not None
        return diagnosis
