"""The history of a run in TensorBoard, Weights & Biases or MLflow: each epoch, over the number of steps."""

import os
import uuid
from collections.abc import Iterable, Sequence
from importlib import import_module

from .run import TENSORBOARD, Run

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Loggers:
    """Writes each epoch to the loggers that were asked for; TensorBoard needs the folder of a run.

    Args:
        names: None for TensorBoard, if it is installed.
        run: where an interrupted run finds the identifiers under which it was logged.
        record: what the run is, as run.json says.
        epochs: rows of the epochs before an interruption.

    Raises:
        ValueError: a package is not installed.
    """

    def __init__(self, names: Sequence[str] | None, run: Run | None, record: dict, epochs: Iterable[dict] = ()):
        modules = logging_modules(names)
        self.loggers = [KINDS[name](modules[name], run, record) for name in modules if run or name != "tensorboard"]
        for row in epochs:
            self.epoch(row)

    def epoch(self, row: dict) -> None:
        values = {key: value for key, value in row.items() if key != "steps" and value is not None}
        for logger in self.loggers:
            logger.epoch(values, row["steps"])

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def logging_modules(names: str | Sequence[str] | None) -> dict:
    """The packages of loggers, imported.

    Raises:
        ValueError: one is not installed.
    """
    modules = {}
    for name in (names,) if isinstance(names, str) else ("tensorboard",) if names is None else names:
        try:
            modules[name] = import_module(MODULES[name])
        except ImportError:
            if names is not None:
                raise ValueError(f"log {name} needs a package: pip install 'alexnet[{name}]'") from None
    return modules


class TensorBoard:
    """Scalars in the folder of the run; what an interrupted attempt wrote is replaced."""

    def __init__(self, tensorboard, run: Run, record: dict):
        self.writer = tensorboard.SummaryWriter(str(run.folder / TENSORBOARD), purge_step=0)

    def epoch(self, values: dict, steps: int) -> None:
        for key, value in values.items():
            split, _, name = key.partition("_")
            if key != "epoch":  # both curves of a loss stand in one plot
                self.writer.add_scalar(f"{name}/{split}" if split in ("train", "val") else key, value, steps)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run in the project alexnet, or that of WANDB_PROJECT."""

    def __init__(self, wandb, run: Run | None, record: dict):
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "alexnet"),
            name=run and run.folder.name,
            dir=run and str(run.folder),
            config=record,
            id=_identifier(run, "wandb_id", uuid.uuid4().hex[:12]),
            resume="allow",
        )

    def epoch(self, values: dict, steps: int) -> None:
        if steps >= self.run.step:  # else it was logged before an interruption
            self.run.log(values, step=steps)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run in the experiment of MLFLOW_EXPERIMENT_NAME, on the server of MLFLOW_TRACKING_URI."""

    def __init__(self, mlflow, run: Run | None, record: dict):
        self.mlflow, known = mlflow, run and run.record().get("mlflow_id")
        started = mlflow.start_run(run_id=known, run_name=run and run.folder.name)
        self.epochs_before = started.data.metrics.get("epoch", 0)
        if known is None:
            _identifier(run, "mlflow_id", started.info.run_id)
            mlflow.log_params(_parameters(record))

    def epoch(self, values: dict, steps: int) -> None:
        if values["epoch"] > self.epochs_before:
            self.mlflow.log_metrics(values, step=steps)

    def close(self) -> None:
        self.mlflow.end_run()


KINDS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


def _identifier(run: Run | None, key: str, new: str) -> str:
    """The identifier under which a run is known elsewhere, kept in its run.json."""
    known = run.record().get(key) if run else None
    if run and known is None:
        run.update({key: new})
    return known or new


def _parameters(record: dict, prefix: str = "") -> dict:
    """Numbers and words of a record by their path: seed, recipe.momentum, recipe.schedule.peak_lr …"""
    parameters = {}
    for key, value in record.items():
        if isinstance(value, dict):
            parameters |= _parameters(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            parameters[prefix + key] = value
    return parameters
