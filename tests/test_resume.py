"""A run that is cut off at any moment, or whose files are spoilt, ends as one that was left alone, or says why not."""

import json
import os
import resource
import shutil
import signal
from dataclasses import replace

import kills
import numpy as np
import pytest
import torch
from conftest import Killed, fit_until_killed

from alexnet import Classifier
from alexnet.cli import main
from alexnet.files import LOCK
from alexnet.model import bundle
from alexnet.runs.checkpoints import NotSaved
from alexnet.runs.run import BEST, EARLIER, LAST, Run
from alexnet.specs.recipes import recipe
from alexnet.specs.schedules import LinearWarmupDecay

QUICK = replace(
    recipe("cifar-18"), name="quick", schedule=LinearWarmupDecay(peak_lr=0.001), epochs=3, min_steps=0, batch_size=24
)
"""Few steps, in which the validation error falls."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return kills.write_images(tmp_path_factory.mktemp("images") / "images", 40)


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    """The files of a run that was left alone."""
    run = tmp_path_factory.mktemp("whole") / "run"
    fit(images, run)
    return kills.contents(run)


def fit(data, run, chosen=QUICK, resume=None, **how):
    """Train, or go on where something is there, with a checkpoint after every step."""
    resume = (run / "run.json").exists() if resume is None else resume
    how = {"checkpoint_minutes": 0, "keep_checkpoints": True, "verbose": False} | how
    return Classifier("cifar-18", "cpu", "fp32").fit(data, recipe=chosen, output=run, resume=resume, **how)


def cut_off(data, run, steps, chosen=QUICK, **how):
    """Be killed after so many steps."""
    how = {"resume": run != "auto" and (run / "run.json").exists()} | how
    fit_until_killed(Classifier("cifar-18", "cpu", "fp32"), data, steps, recipe=chosen, output=run, **how)


@pytest.mark.parametrize("case", [kills.CASES[0], kills.CASES[3]], ids=str)
def test_runs_that_are_killed_at_random_moments_end_as_those_that_are_not(case, images, tmp_path):
    found = kills.killed_and_resumed(case, 5, images, tmp_path, seed=1)
    assert found.kills == 5 and found.differences == []


def test_a_kill_between_any_two_files_changes_nothing(images, expected, tmp_path, monkeypatch):
    """Once before each file that takes its name, in turn, and each run from its beginning."""
    monkeypatch.setattr("alexnet.runs.checkpoints.EPOCH_S", 0)
    replace_file = os.replace
    number = 0
    while True:
        number += 1
        left = number

        def replace_or_die(*names):
            nonlocal left
            left -= not str(names[1]).endswith(LOCK)  # which goes with the file that it guards
            if left == 0:
                raise Killed
            replace_file(*names)

        run = tmp_path / f"{number}"
        monkeypatch.setattr(os, "replace", replace_or_die)
        try:
            fit(images, run, checkpoint_minutes=10)
        except Killed:
            monkeypatch.setattr(os, "replace", replace_file)
            fit(images, run)
            assert kills.contents(run) == expected, f"killed before file {number}"
            shutil.rmtree(run)
        else:
            break
    assert number > 15 and kills.contents(run) == expected


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_flipped_bit_is_found_wherever_it_is(images, tmp_path, name):
    fit(images, tmp_path / "run")
    path = tmp_path / "run" / name
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, 8 * len(whole), 200).tolist() + list(range(0, 8 * 4000, 997)):
        spoilt = bytearray(whole)
        spoilt[at // 8] ^= 1 << at % 8
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=path.name):
            bundle.read_notes(path)
            bundle.read_extra(path, "velocity.")
            bundle.ModelBundle.load(path)


def test_a_resumed_run_logs_and_keeps_as_it_was_asked_to_unless_asked_anew(images, tmp_path):
    run, asked = tmp_path / "run", {"log": (), "checkpoint_minutes": 0.5, "keep_checkpoints": True}
    cut_off(images, run, 3, **asked)
    Classifier("cifar-18", "cpu", "fp32").fit(images, output=run, resume=True, checkpoint_minutes=0, verbose=False)
    record = Run(run).record()
    assert record["log"] == [] and record["keep_checkpoints"] and record["checkpoint_minutes"] == 0
    assert {LAST, *EARLIER} <= {path.name for path in run.iterdir()} and not (run / "tensorboard").exists()


@pytest.mark.parametrize("spoil", ["truncated", "flipped", "emptied"])
@pytest.mark.parametrize("newest", [1, 2])
def test_a_damaged_checkpoint_is_skipped_with_a_word(spoil, newest, images, expected, tmp_path, capsys):
    run = tmp_path / "run"
    cut_off(images, run, 9)
    for name in (LAST, *EARLIER)[:newest]:
        content = bytearray((run / name).read_bytes())
        content[-5] ^= 8
        (run / name).write_bytes({"truncated": content[:-100], "flipped": content, "emptied": b""}[spoil])
    fit(images, run, verbose=True)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Resuming from {EARLIER[newest - 1]}, after epoch 1 and {5 - newest} steps" in said and f"{LAST}" in said
    assert kills.contents(run) == expected
    assert (run / f"{LAST}.damaged").exists()


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_best_weights_that_are_gone_are_made_again_where_they_can_be(spoil, images, expected, tmp_path, capsys):
    run, lost = tmp_path / "run", tmp_path / "lost"
    cut_off(images, run, 5)  # two steps after the first epoch, whose checkpoint is still there
    spoil(run / BEST)
    fit(images, run)
    assert kills.contents(run) == expected
    cut_off(images, lost, 9)
    best = json.loads((lost / "metrics.jsonl").read_text().splitlines()[0])
    assert bundle.read_notes(lost / LAST)["progress"]["epochs"][0] == best, "the first epoch is the best"
    spoil(lost / BEST)
    fit(images, lost, verbose=True)
    assert "no checkpoint can restore it" in " ".join(capsys.readouterr().out.split())
    found = kills.contents(lost)
    assert all(found[key] == value for key, value in expected.items() if BEST not in key)


def test_weights_of_a_run_that_are_gone_are_not_replaced_by_others(images, tmp_path):
    run = tmp_path / "run"
    fit(images, run)
    chosen = run / json.loads((run / "run.json").read_text())["weights"]
    chosen.unlink()
    with pytest.raises(ValueError, match=f"{chosen.name}, the weights of this run, is missing"):
        Classifier.load(run)


def test_without_a_whole_checkpoint_the_user_decides(images, tmp_path):
    run = tmp_path / "run"
    cut_off(images, run, 2)
    for name in (LAST, *EARLIER):
        if (run / name).exists():
            (run / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint to resume from.*Remove them to start over"):
        fit(images, run)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread fails too
@pytest.mark.parametrize("bytes_left", [20_000, 60_000, 100_000])
def test_a_full_disk_stops_the_run_with_a_word_and_loses_nothing(bytes_left, images, expected, tmp_path):
    """A limit on the size of files stands for the disk; a checkpoint of this network has 130,000 bytes."""
    run = tmp_path / "run"
    cut_off(images, run, 3)
    held = {name: (run / name).read_bytes() for name in (LAST, BEST, *EARLIER) if (run / name).exists()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written.*too large.* is intact.*resume=True") as error:
            fit(images, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(error.value, NotSaved)
    assert held == {name: (run / name).read_bytes() for name in held}
    assert not list(run.glob("*.part"))
    fit(images, run)
    assert kills.contents(run) == expected


def test_a_folder_that_became_read_only_stops_the_run_with_a_word(images, expected, tmp_path, monkeypatch):
    run = tmp_path / "run"
    cut_off(images, run, 3)
    with monkeypatch.context() as patch:

        def refuse(path, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        patch.setattr("pathlib.Path.touch", refuse)
        with pytest.raises(NotSaved, match=f"Permission denied.*{LAST} is intact"):
            fit(images, run)
    fit(images, run)
    assert kills.contents(run) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_is_refused_before_training(images, tmp_path):
    (tmp_path / "run").mkdir(mode=0o555)
    with pytest.raises(ValueError, match="cannot be written to"):
        fit(images, tmp_path / "run")
    with pytest.raises(ValueError, match="cannot be written to"):
        fit(images, tmp_path / "run" / "deeper")


def test_only_one_process_trains_in_a_folder(images, tmp_path):
    cut_off(images, tmp_path / "run", 2)
    with Run(tmp_path / "run").lock(), pytest.raises(ValueError, match="another process is training in"):
        fit(images, tmp_path / "run")


def test_changes_are_listed_and_those_of_the_mathematics_need_a_word(images, tmp_path, capsys):
    run = tmp_path / "run"
    cut_off(images, run, 4)
    about = json.loads((run / "run.json").read_text())
    about["versions"]["torch"], about["threads"] = "1.13", 77
    (run / "run.json").write_text(json.dumps(about))
    changed = replace(QUICK, momentum=0.5, batch_size=12)
    changes = r"recipe\.batch_size: was 24, is now 12\n.*momentum: was 0\.9"
    with pytest.raises(ValueError, match=rf"allow_changes=True resumes anyway.*\n.*{changes}"):
        fit(images, run, changed)
    fit(images, run, changed, allow_changes=True, verbose=True)
    said = capsys.readouterr().out
    assert "versions.torch: was 1.13" in said and "threads: was 77" in said and "a different run from here on" in said
    assert Run(run).history()["epoch"] == [1, 2, 3]
    about = json.loads((run / "run.json").read_text())
    assert about["recipe"]["batch_size"] == 12 and "recipe.momentum: was 0.9, is now 0.5" in about["changed"]


def test_a_data_set_that_changed_is_refused_and_its_images_stay_in_their_splits(images, tmp_path):
    data, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(images, data)
    cut_off(data, run, 4)
    before = dict(line.rsplit(",", 1) for line in (run / "split.csv").read_text().splitlines())
    files = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for number in range(8):
        shutil.copy(data / "red" / f"{number:02}.png", data / "red" / f"new-{number}.png")
    (data / "blue" / "00.png").unlink()
    with pytest.raises(ValueError, match="data: 1 images are gone, 8 are new"):
        fit(data, run)
    assert all(path.read_bytes() == content for path, content in files.items())
    fit(data, run, allow_changes=True)
    after = dict(line.rsplit(",", 1) for line in (run / "split.csv").read_text().splitlines())
    assert len(after.keys() - before.keys()) == 8 and all(
        before.get(name, split) == split for name, split in after.items()
    )


def test_a_split_that_was_kept_once_is_kept_ever_after(images, expected, tmp_path):
    """Also by the mean image, so that a run cut off once more ends as one that was not."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    for run in (once, twice):
        cut_off(images, run, 2)
        before = (run / "split.csv").read_bytes()
    with pytest.raises(ValueError, match="in another split"):
        fit(images, once, split_seed=5)
    fit(images, once, split_seed=5, allow_changes=True)
    cut_off(images, twice, 3, split_seed=5, allow_changes=True)
    fit(images, twice)
    assert (twice / "split.csv").read_bytes() == before
    assert kills.contents(once) == kills.contents(twice) == expected


def test_images_that_were_moved_or_touched_are_the_same(images, expected, tmp_path):
    data, run, moved = tmp_path / "one" / "images", tmp_path / "run", tmp_path / "two" / "photos"
    shutil.copytree(images, data)
    cut_off(data, run, 4)
    shutil.copytree(data, moved)
    shutil.rmtree(data)
    (moved / "README.txt").write_text("about them")
    os.utime(moved / "red" / "00.png", (1, 1))
    fit(moved, run)
    assert kills.contents(run) == expected
    assert json.loads((run / "run.json").read_text())["data"] == str(moved)


def test_what_is_refused_leaves_the_run_as_it_was(images, tmp_path):
    run, new = tmp_path / "run", tmp_path / "new"
    cut_off(images, run, 4)
    files = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with Run(run).lock(), pytest.raises(ValueError, match="another process is training in"):
        fit(images, run, replace(QUICK, momentum=0.5), allow_changes=True)
    more = kills.write_images(tmp_path / "more", 40)
    shutil.copytree(more / "red", more / "pink")
    with pytest.raises(ValueError, match="of another network or other classes"):
        fit(more, run, allow_changes=True)
    assert all(path.read_bytes() == content for path, content in files.items())
    with pytest.raises(ValueError, match="micro_batch must be an integer >= 1"):
        fit(images, new, micro_batch=0)
    fit(images, new)  # nothing is in the way


def test_output_may_hold_nothing_and_foreign_files_are_no_runs(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, damaged = tmp_path / "mine", tmp_path / "runs" / "damaged-1"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"output must be a new or an empty folder, but .*mine holds report\.html"):
        fit(images, mine)
    with pytest.raises(ValueError, match=r"output must be a new or an empty folder, got the file .*report\.html"):
        fit(images, mine / "report.html", resume=False)
    assert (mine / "report.html").read_text() == "mine"
    cut_off(images, tmp_path / "runs" / "images-1", 2)
    for number, content in enumerate(("", "[1]", '{"name": "wandb"}')):
        other = damaged.with_name(f"damaged-{number}")
        other.mkdir(parents=True)
        (other / "run.json").write_text(content)
    classifier = Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(images, output="auto", resume=True, verbose=False)
    assert classifier.run == tmp_path.joinpath("runs", "images-1").relative_to(tmp_path)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        Classifier.load(tmp_path / "runs" / "damaged-0")
    with pytest.raises(ValueError, match="is the folder of a run"):
        classifier.save(classifier.run)


def test_runs_among_the_images_are_no_class(images, tmp_path):
    data = tmp_path / "images"
    shutil.copytree(images, data)
    cut_off(data, data / "runs" / "one", 4)
    shutil.copy(images / "red" / "00.png", data / "runs" / "one" / "curves.png")
    assert len(fit(data, data / "runs" / "one")) == 3
    assert Classifier.load(data / "runs" / "one").classes == ("blue", "green", "red")


def test_the_command_finds_its_run_and_overwrites_no_finished_one(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = [
        "train",
        str(images),
        "--variant",
        "cifar-18",
        "--epochs",
        "2",
        "--batch-size",
        "24",
        "--precision",
        "fp32",
    ]
    settings = {"epochs": 2, "batch_size": 24, "checkpoint_minutes": 0, "keep_checkpoints": False}
    cut_off(images, "auto", 3, None, **settings)
    main(["train", str(images), "--resume"])
    assert "resuming after epoch" in capsys.readouterr().out
    finished = tmp_path / "runs" / "images-cifar-18-1"
    for more, said in (([], "holds a finished run; choose another"), (["--resume"], "is finished")):
        with pytest.raises(SystemExit):
            main([*asked, "--output", str(finished), *more])
        assert said in capsys.readouterr().err
    main([*asked, "--output", "whole"])
    assert kills.contents(finished) == kills.contents(tmp_path / "whole")


def test_threads_other_than_those_of_the_run_are_named(images, tmp_path, capsys):
    cut_off(images, tmp_path / "run", 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        fit(images, tmp_path / "run", verbose=True)
    finally:
        torch.set_num_threads(before)
    assert f"threads: was {before}, is now {before + 1}" in capsys.readouterr().out
