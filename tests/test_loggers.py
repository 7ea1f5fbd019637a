"""Loggers of the history: stubs of Weights & Biases and MLflow, and the table."""

import csv
import re
import sys
import types

import pytest
from conftest import fit_until_killed, train

from alexnet import Classifier


class FakeRun:
    """What wandb.init and mlflow.start_run return."""

    def __init__(self, logged, **how):
        rows = [each for each in logged if each != "end"]
        self.logged, self.how, self.info = logged, how, types.SimpleNamespace(run_id="m1")
        self.step = rows[-1][1] + 1 if rows else 0
        metrics = {key: value for values, _ in rows for key, value in values.items()}
        self.data = types.SimpleNamespace(metrics=metrics)

    def log(self, values, step):
        self.logged.append((values, step))
        self.step = step + 1

    def finish(self):
        self.logged.append("end")


@pytest.fixture
def loggers(monkeypatch):
    """Stubs of wandb and mlflow, and what was logged to each."""
    logged = {"wandb": [], "mlflow": [], "started": []}

    def start(where, **how):
        logged["started"].append((where, how))
        return FakeRun(logged[where], **how)

    wandb, mlflow = types.ModuleType("wandb"), types.ModuleType("mlflow")
    wandb.init = lambda **how: start("wandb", **how)
    mlflow.start_run = lambda **how: start("mlflow", **how)
    mlflow.log_params = lambda values: logged.update(params=values)
    mlflow.log_metrics = lambda values, step: logged["mlflow"].append((values, step))
    mlflow.end_run = lambda: logged["mlflow"].append("end")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return logged


def test_a_run_is_logged_and_resumed_under_one_identifier(split_folder, tmp_path, loggers):
    how = {"epochs": 3, "batch_size": 16, "log": ("wandb", "mlflow"), "output": tmp_path / "run"}
    cut = Classifier("cifar-18", "cpu", "fp32")
    fit_until_killed(cut, split_folder, 4, **how)
    again = Classifier(device="cpu", precision="fp32")
    history = again.fit(split_folder, output=tmp_path / "run", resume=True, log=("wandb", "mlflow"), verbose=False)
    for name in ("wandb", "mlflow"):
        rows = [each for each in loggers[name] if each != "end"]
        assert [step for _, step in rows] == history["steps"], "each once"
        assert [values["val_loss"] for values, _ in rows] == history["val_loss"]
    (_, first), _, (_, second), (_, mlflow) = loggers["started"]
    assert first["id"] == second["id"] and first["project"] == "alexnet" and first["config"]["recipe"]["epochs"] == 3
    assert mlflow["run_id"] == "m1" and loggers["params"]["recipe.momentum"] == 0.9
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_logger_that_is_not_installed_is_named(split_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=re.escape("log wandb needs a package: pip install 'alexnet[wandb]'")):
        train(split_folder, log="wandb")


def test_the_history_is_a_table_too(split_folder, tmp_path):
    _, history = train(split_folder, output=tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"] and [row["epoch"] for row in rows] == [
        *"123"
    ]
