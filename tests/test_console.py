import sys
from types import SimpleNamespace

from alexnet.console import TrainingBar, console, print_facts, print_text, progress_bar


def step(epoch, batch):
    return SimpleNamespace(epoch=epoch, batch=batch, batches=2, loss=0.7, images=50, waited_s=0.0)


def test_the_training_bar_counts_images_and_is_silent_if_not_shown(capsys):
    bar = TrainingBar(2, 100, shown=False)
    with bar.progress:
        bar.step(step(1, 1))
        assert bar.progress.tasks[0].completed == 50
        bar.step(step(2, 2))
        assert bar.progress.tasks[0].completed == 200
        bar.epoch({"epoch": 1, "lr": 0.1, "train_loss": 1.0, "train_error": 0.5, "images_per_s": 10.0})
    assert capsys.readouterr().out == ""


def test_an_epoch_is_a_line_below_the_names_of_the_columns(capsys):
    row = {"epoch": 3, "lr": 0.01, "train_loss": 1.5, "train_error": 0.25, "images_per_s": 1234.0, "elapsed_s": 9.0}
    bar = TrainingBar(10, 100)
    bar.epoch(row | {"val_loss": 1.25, "val_error": 0.5})
    bar.epoch(row | {"epoch": 4})
    assert capsys.readouterr().out.splitlines() == [
        "    epoch       lr    loss  error  val loss val error  images/s     left",
        "     3/10     0.01   1.500  25.0%     1.250     50.0%     1,234  0:01:03",
        "     4/10     0.01   1.500  25.0%                         1,234  0:00:54",
    ]


def test_text_is_wrapped_between_words_and_paths_stay_whole(capsys):
    path = "/tmp/" + 90 * "x"
    print_text(f"a line\n  {'word ' * 20}{path} end")
    assert capsys.readouterr().out.splitlines() == [
        "a line",
        "  " + " ".join(["word"] * 15),
        "    " + " ".join(["word"] * 5),
        f"    {path}",
        "    end",
    ]
    print_facts({"data": "word " * 20, "network": "small"})
    assert capsys.readouterr().out.splitlines() == [
        "data     " + " ".join(["word"] * 14),
        "         " + " ".join(["word"] * 6),
        "network  small",
    ]


def test_a_bar_in_a_notebook_is_html_and_vanishes(monkeypatch):
    """By a made-up IPython, as the real one is no dependency."""
    shown = []
    handle = SimpleNamespace(update=shown.append)
    ipython = SimpleNamespace(HTML=str, display=lambda html, display_id: handle)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setattr(console, "is_jupyter", True)
    assert list(progress_bar("packing")(iter([3, 4, 2]), 9)) == [3, 4, 2]
    assert "packing <progress value='0' max='9'></progress> 0/9 " in shown[0] and shown[-1] == ""
    assert list(progress_bar("downloading")(iter([5]), None)) == [5] and "downloading <progress></progress> 0 " in shown
    bar = TrainingBar(2, 100)
    with bar.progress:
        bar.step(step(2, 1))
        assert shown[-1].startswith("epoch 2/2 <progress value='150' max='200'></progress> loss 0.700  ")


def test_a_progress_bar_passes_items_on():
    assert list(progress_bar("packing")(iter([3, 4, 2]), 9)) == [3, 4, 2]
