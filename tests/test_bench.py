import json
import os
from functools import partial

import gpu
import pytest
import scaling
import torch
from processes import run

import alexnet
from alexnet.bench import parts
from alexnet.bench.measure import compare, summarized
from alexnet.cli import main

ONE_ROUND = parts.Settings(torch.device("cpu"), "fp32", rounds=1)


def test_a_row_holds_medians():
    row = summarized("task", [0.2, 0.1, 0.4], "peer", [1.0, 1.0, 1.0], 100, "images/s")
    assert (row.speedup, row.min_speedup, row.max_speedup) == (5, 2.5, 10)
    assert (row.ours, row.theirs) == ("500 images/s", "100 images/s")


@pytest.mark.parametrize(
    ("peer", "reason"), [(partial(int, "no number"), "ValueError: invalid literal"), (partial(os._exit, 3), "Broken")]
)
def test_a_peer_that_fails_is_a_note(peer, reason):
    assert f"task, against peer: not measured ({reason}" in compare(ONE_ROUND, "task", print, "peer", peer)


def test_what_fails_here_is_no_note():
    with pytest.raises(ZeroDivisionError):
        compare(ONE_ROUND, "task", lambda: 1 / 0, "peer", partial(partial, print, "peer"))


def test_ours_and_the_peer_run_equally_often(tmp_path):
    count, file = [], tmp_path / "peer"
    compare(ONE_ROUND, "task", partial(count.append, 1), "peer", partial(partial, _write_more, file), rounds=3)
    assert (len(count), file.read_text()) == (5, "....")  # with warmup; ours also after the setup of the peer


def _write_more(file):
    with file.open("a") as opened:
        opened.write(".")


def test_the_operations_of_a_step_are_those_of_the_layers():
    """torchvision's alexnet has 714,188,480 multiply-adds an image, 70,276,800 of them in conv1."""
    assert parts.flops_per_image("torchvision") == 2 * (3 * 714_188_480 - 70_276_800)


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "speed"])
    assert "parts must be one of machine, norm, step" in capsys.readouterr().err


def test_a_part_measures_ours_beside_its_peer_and_appends_a_table(tmp_path, capsys):
    main(["bench", "norm", "--rounds", "1", "--precision", "fp32", "--output", str(tmp_path / "speeds.md")])
    rows = [line for line in (tmp_path / "speeds.md").read_text().splitlines() if line.startswith("| norm,")]
    assert len([row for row in rows if "nn.LocalResponseNorm" in row and "images/s" in row]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    without_onednn = "not measured (ModuleNotFoundError: needs pip install onednn-cpu-gomp)"
    assert printed.count("not measured") == printed.count(without_onednn)


def test_the_gpu_benchmark_runs_each_part_by_itself_and_writes_both_files(tmp_path, capsys):
    gpu.main(["optimizer", "--device", "cpu", "--output", str(tmp_path)])
    assert "optimizer: finished" in capsys.readouterr().out
    (part,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert len(part["results"]) == 3 and all(check["passed"] for check in part["results"])
    assert "| fc.weight after ten updates |" in (tmp_path / "gpu.md").read_text()


def test_steps_of_several_processes_are_measured():
    """Data parallel sends 4 bytes a parameter, and two numbers that are summed."""
    case = scaling.Case("cifar-18", 8, 2, seconds=0.0)
    parameters = sum(each.numel() for each in alexnet.create("cifar-18", 10).parameters())
    for measured in run(2, scaling.steps, case):
        assert measured.megabytes == (4 * parameters + 2 * 4) / 1e6
        assert 0 < measured.after_backward < measured.in_exchange < 1 < measured.images_per_s
    (alone,) = run(1, scaling.steps, case)
    assert alone.megabytes == alone.in_exchange == 0


def test_several_gpus_are_compared_with_one(monkeypatch):
    def measured(case, limit):
        return scaling.Measured(100 * case.processes, 0.25, 0.5, 1.0)

    monkeypatch.setattr(scaling, "measured", measured)
    rows = list(gpu.several(torch.device("cpu")))
    assert [(row["GPUs"], row["batch size"], row["way"], row["speedup"]) for row in rows] == [
        (1, 16, "data", "1.00"),
        (2, 16, "data", "2.00"),
        (2, 32, "data", "2.00"),
        (2, 16, "towers", "2.00"),
        (2, 16, "hybrid", "2.00"),
    ]
    about = {"device": "cpu", "torch": "2"}
    table = gpu.markdown(about, [{"part": "several", "status": "finished", "seconds": 1, "results": rows}])
    assert "| 2 | 32 | data | 200 | 2.00 | 25.0% | 1.0 |" in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_benchmark_says_that_there_is_no_gpu(tmp_path, capsys):
    gpu.main(["--output", str(tmp_path / "results")])
    assert capsys.readouterr().out == "skipped: torch finds no CUDA device on this machine\n"
    assert not (tmp_path / "results").exists()
