from types import SimpleNamespace

from alexnet.console import TrainingBar, progress_bar


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


def test_an_epoch_is_a_line(capsys):
    row = {"epoch": 3, "lr": 0.01, "train_loss": 1.5, "train_error": 0.25, "images_per_s": 1234.0}
    TrainingBar(10, 100).epoch(row | {"val_loss": 1.25, "val_error": 0.5})
    line = capsys.readouterr().out
    assert line.startswith("epoch  3/10  lr 0.01  loss 1.500, error  25.0%")
    assert line.endswith("validation: loss 1.250, top-1 error  50.0%  1,234 images/s\n")


def test_a_progress_bar_passes_items_on():
    assert list(progress_bar("packing")(iter([3, 4, 2]), 9)) == [3, 4, 2]
