from alexnet.console import TrainingBar, counting
from alexnet.training.loop import Report


def test_the_bar_counts_images_and_stays_silent_where_told(capsys):
    bar = TrainingBar(2, 100, shown=False)
    with bar:
        bar.step(Report(1, 1, 2, 0.7, 0.7, 50, 0.0))
        assert bar.progress.tasks[0].completed == 50
        bar.step(Report(2, 2, 2, 0.7, 0.7, 50, 0.0))
        assert bar.progress.tasks[0].completed == 200
        bar.epoch({"epoch": 1, "rate": 0.1, "train_loss": 1.0, "train_error": 0.5, "images_per_s": 10.0})
    assert capsys.readouterr().out == ""


def test_counting_passes_everything_on():
    assert list(counting("packing")(iter([3, 4, 2]), 9)) == [3, 4, 2]
