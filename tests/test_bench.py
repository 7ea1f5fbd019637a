import contextlib
import json
from functools import partial

import gpu
import pytest
import torch

from alexnet.bench import measure, parts
from alexnet.bench.measure import PeerFailed, compare
from alexnet.cli import main


def test_a_row_holds_medians_of_what_was_measured_after_the_first_round(monkeypatch):
    ours, theirs = iter([9.0, 0.2, 0.1, 0.4]), iter([9.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(measure, "_seconds", lambda work: next(ours))
    monkeypatch.setattr(measure, "_peer_process", lambda factory: contextlib.nullcontext(lambda: next(theirs)))
    row = compare("task", print, "peer", print, count=100, rounds=3)
    assert (row.speedup, row.min_speedup, row.max_speedup) == (5, 2.5, 10)
    assert (row.ours, row.theirs) == ("500 images/s", "100 images/s")


def test_a_peer_that_fails_is_a_note():
    with pytest.raises(PeerFailed, match="ValueError: invalid literal"):
        compare("task", print, "peer", partial(int, "no number"))
    settings = parts.Settings(device=None, precision="fp32")
    assert "not measured (ValueError" in settings.compare("task", print, "peer", partial(int, "no number"))


def test_the_operations_of_a_step_are_those_of_the_layers():
    """torchvision's alexnet has 714,188,480 multiply-adds an image, 70,276,800 of them in conv1."""
    assert parts.flops_per_image("torchvision") == 2 * (3 * 714_188_480 - 70_276_800)


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "speed"])
    assert "parts must be among machine, norm, step" in capsys.readouterr().err


def test_a_part_measures_ours_beside_its_peer_and_appends_a_table(tmp_path, capsys):
    main(["bench", "norm", "--rounds", "1", "--precision", "fp32", "--output", str(tmp_path / "speeds.md")])
    rows = [line for line in (tmp_path / "speeds.md").read_text().splitlines() if line.startswith("| norm,")]
    assert len(rows) == 2 and all("nn.LocalResponseNorm" in row and "images/s" in row for row in rows)
    assert "not measured" not in capsys.readouterr().out


def test_the_gpu_benchmark_runs_each_part_by_itself_and_writes_both_files(tmp_path, capsys):
    gpu.main(["optimizer", "--device", "cpu", "--output", str(tmp_path)])
    assert "optimizer: finished" in capsys.readouterr().out
    (part,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert len(part["results"]) == 3 and all(check["passed"] for check in part["results"])
    assert "| fc.weight after ten updates |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_says_that_there_is_no_gpu(tmp_path, capsys):
    gpu.main(["--output", str(tmp_path / "results")])
    assert capsys.readouterr().out == "skipped: torch finds no CUDA device on this machine\n"
    assert not (tmp_path / "results").exists()
