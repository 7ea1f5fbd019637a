"""Processes that are started here: what comes of them, and what happens when one of them ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import kills
import numpy as np
import pytest
import torch

from alexnet import Classifier
from alexnet.diagnosis.layers import Diverged
from alexnet.parallel.group import Group
from alexnet.parallel.launch import Killed, launch
from alexnet.session import Interrupted
from alexnet.training.loop import Step


def counting(stop, dies: int | None, fails: int | None, folder: Path):
    """On each of several processes: count together, until somebody wishes to stop."""
    group = Group.current()
    (folder / f"{group.rank}").write_text(str(os.getpid()))
    for count in range(1, 1000):
        yield count, group.all_reduce(torch.ones(1)).item()
        if group.all_reduce(torch.tensor([float(stop())])).item():
            raise Interrupted(f"at {count} of process 0")
        if count == 3 and dies == group.rank and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if count == 3 and fails == group.rank:
            raise Diverged(f"process {group.rank} is lost")
        if count == 6 and stop is not None and dies is not None:
            return
        time.sleep(0.01)


def nobody_is_left(folder: Path) -> bool:
    return not any(kills.is_running(int(path.read_text())) for path in folder.glob("[0-9]"))


def test_an_error_on_one_process_is_the_error_of_all(tmp_path, capfd):
    with pytest.raises(Diverged, match=r"^process 1 is lost$"):
        list(launch(counting, (None, 1, tmp_path), 2, max_restarts=1))
    assert nobody_is_left(tmp_path) and capfd.readouterr() == ("", "")


def test_a_process_that_is_killed_ends_all_with_one_message(tmp_path, capfd):
    with pytest.raises(Killed, match=r"^process 1 of 2 was killed by SIGKILL$"):
        list(launch(counting, (1, None, tmp_path), 2))
    assert nobody_is_left(tmp_path) and capfd.readouterr() == ("", "")


def test_or_all_start_again(tmp_path):
    counts = [count for count, _ in launch(counting, (1, None, tmp_path), 2, max_restarts=1)]
    assert counts[:3] == [1, 2, 3] and counts[-6:] == [1, 2, 3, 4, 5, 6] and nobody_is_left(tmp_path)


def test_a_wish_to_stop_reaches_all_between_two_steps(tmp_path):
    results = []
    with pytest.raises(Interrupted, match=r"^at ") as stopped:
        results.extend(launch(counting, (None, None, tmp_path), 2, stops=lambda: (tmp_path / "1").exists()))
    assert str(stopped.value) and nobody_is_left(tmp_path)
    with closing(launch(counting, (None, None, tmp_path), 2)) as counts:
        assert next(counts) == (1, 2.0)
    assert nobody_is_left(tmp_path)


def test_what_cannot_be_sent_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match=r"functions that several processes use must be in a module .* and no lambda"):
        next(launch(counting, (lambda: None,), 2))


def test_arrays_are_trained_on_two_processes_as_on_one(capsys):
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), np.arange(60) % 3
    settings = {"epochs": 2, "batch_size": 15}
    two, one = (Classifier("cifar-18", "cpu", "fp32") for _ in range(2))
    history = two.fit(data, **settings, processes=2)
    said = capsys.readouterr().out
    assert said.count("2, each with its part of every batch (data parallel)") == 1 and said.count(" 2/2 ") == 1
    expected = one.fit(data, **settings, verbose=False)
    assert history["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
    assert history["val_error"] == expected["val_error"]
    np.testing.assert_allclose(two.predict(data[0][0]), one.predict(data[0][0]), rtol=1e-4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return kills.write_images(tmp_path_factory.mktemp("images"), 20)


def test_a_run_goes_on_when_a_process_is_killed_and_ends_with_the_same_bits(images, tmp_path):
    settings = {"epochs": 2, "batch_size": 16, "keep_checkpoints": True, "checkpoint_minutes": 0, "log": ()}
    for name in ("left alone", "killed"):
        classifier, steps = Classifier("cifar-18", "cpu", "fp32"), 0
        how = settings | {"processes": 2, "max_restarts": 1, "output": tmp_path / name}
        for event in classifier.fit_events(images, **how):
            steps += isinstance(event, Step)
            if steps == 4 and name == "killed" and isinstance(event, Step):
                os.kill(kills.children(os.getpid())[-1], signal.SIGKILL)
    assert kills.contents(tmp_path / "killed") == kills.contents(tmp_path / "left alone")


def test_two_nodes_under_torchrun_are_one_run(images, tmp_path, monkeypatch):
    """Each launch is as on a machine of its own; the first one speaks."""
    how = ["--variant", "cifar-18", "--epochs", "1", "--batch-size", "16", "--precision", "fp32"]
    port, nodes = str(20_000 + os.getpid() % 20_000), []
    for _ in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
        command += ["-m", "alexnet", "train", str(images), *how, "--output", str(tmp_path / "run")]
        nodes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = "".join(node.communicate(timeout=120)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0]
    assert said.count("\nreport: ") == 1 and (tmp_path / "run" / "report.html").exists()
