import contextlib

import pytest

from alexnet.bench import measure, parts
from alexnet.bench.measure import PeerFailed, compare
from alexnet.cli import main


def test_a_row_holds_medians_of_what_was_measured_after_the_first_round(monkeypatch):
    ours, theirs = iter([9.0, 0.2, 0.1, 0.4]), iter([9.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(measure, "_seconds", lambda work: next(ours))
    monkeypatch.setattr(measure, "_elsewhere", lambda *given: contextlib.nullcontext(lambda: next(theirs)))
    row = compare("work", print, "peer", print, (), "images/s", count=100, rounds=3)
    assert (row.ratio, row.least, row.most) == (5, 2.5, 10)
    assert (row.ours, row.theirs) == ("500 images/s", "100 images/s")


def test_a_peer_that_fails_is_a_note():
    with pytest.raises(PeerFailed, match="ValueError: invalid literal"):
        compare("work", print, "peer", int, ("no number",), "images/s")
    assert "not measured (ValueError" in parts._row("work", print, "peer", int, ("no number",), "images/s")


def test_multiplications_of_a_step_are_those_of_the_layers():
    """torchvision's alexnet has 714,188,480 multiply-adds an image, 70,276,800 of them in conv1."""
    assert parts.flops_of_a_step("torchvision") == 2 * (3 * 714_188_480 - 70_276_800)


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "speed"])
    assert "no part 'speed'; it may be one of machine, norm, step" in capsys.readouterr().err


def test_a_part_measures_ours_beside_its_peer_and_appends_a_table(tmp_path, capsys):
    main(["bench", "norm", "--rounds", "1", "--precision", "fp32", "--output", str(tmp_path / "found.md")])
    rows = [line for line in (tmp_path / "found.md").read_text().splitlines() if line.startswith("| norm,")]
    assert len(rows) == 2 and all("nn.LocalResponseNorm" in row and "images/s" in row for row in rows)
    assert "not measured" not in capsys.readouterr().out
