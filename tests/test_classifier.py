import csv
import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from conftest import COLORS
from PIL import Image

import alexnet
from alexnet.cli import main
from alexnet.runs.run import Run
from alexnet.specs.recipes import RECIPES, recipe
from alexnet.specs.variants import VARIANTS
from alexnet.training.plan import default_variant


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `small` on three colors, by the command."""
    from conftest import write_colors

    place = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(place / "cache"))
        data = write_colors(place / "colors", 20)
        settings = "--variant small --epochs 8 --batch-size 8 --lr 0.02 --precision fp32"
        main(["train", str(data), *settings.split(), "--output", str(place / "run")])
    return place / "run"


def test_training_leaves_all_that_the_readme_promises(run):
    names = "last.safetensors metrics.jsonl layers.jsonl run.json split.csv report.html"
    pictures = "curves.png kernels.png confusion.png predictions.png layers.png"
    for name in f"{names} {pictures}".split():
        assert (run / name).stat().st_size > 0, name
    assert len(list(run.glob("*.safetensors"))) == 1, "checkpoints are of no use any more"
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert 'src="http' not in page
    results = json.loads((run / "run.json").read_text())["results"]
    assert results["split"] == "test" and results["all_views"]["images"] == 6


def test_predict_gives_all_classes_and_predict_n_the_likeliest(run):
    classifier = alexnet.load(run, precision="fp32")
    picture = Image.new("RGB", (70, 50), COLORS["green"])
    probabilities = classifier.predict(picture)
    assert probabilities.shape == (3,) and probabilities.sum() == pytest.approx(1, abs=1e-5)
    named = classifier.predict_n(picture, 2)
    assert named[0][0] == "green" and len(named) == 2
    assert named[0][1] == pytest.approx(probabilities.max())
    both = classifier.predict([picture, Image.new("RGB", (64, 64), COLORS["red"])])
    assert both.shape == (2, 3) and classifier.classes[both[1].argmax()] == "red"
    np.testing.assert_allclose(both[0], probabilities, rtol=1e-4)


def test_ten_views_are_the_mean_of_ten_predictions(run):
    """Each of the ten views, cut by hand and shown alone as a center crop of a larger stored image."""
    import torch

    classifier = alexnet.load(run, precision="fp32")
    inputs, network = classifier.bundle.preprocessing, classifier.network
    stored = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    views = []
    for top, left in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)):
        crop = stored[top : top + 56, left : left + 56].astype(np.float32)
        views += [crop, crop[:, ::-1]]
    x = torch.from_numpy((np.stack(views) - inputs.mean.numpy()) / inputs.std.numpy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(x.float()).softmax(1).mean(0)
    np.testing.assert_allclose(classifier.predict(stored), expected, rtol=1e-4)
    with torch.no_grad():
        center = network(x[4:5].float()).softmax(1)[0]
    np.testing.assert_allclose(classifier.predict(stored, all_views=False), center, rtol=1e-4)


def test_a_saved_classifier_answers_alike_and_needs_nothing_else(run, tmp_path):
    classifier = alexnet.load(run, precision="fp32")
    classifier.save(tmp_path / "saved")
    again = alexnet.load(tmp_path / "saved", precision="fp32")
    picture = np.random.default_rng(1).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    np.testing.assert_array_equal(again.predict(picture), classifier.predict(picture))
    assert again.classes == classifier.classes
    assert classifier.evaluate(verbose=False).all_views.top1 >= 0.5
    with pytest.raises(ValueError, match="does not know what it was trained on"):
        again.evaluate()


def test_an_image_is_fetched_from_a_url(run, tmp_path, capsys):
    Image.new("RGB", (64, 64), COLORS["blue"]).save(tmp_path / "sky.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        main(["predict", str(run), f"{url}/sky.png", "--json", "--top", "1"])
        assert json.loads(capsys.readouterr().out)["classes"][0]["name"] == "blue"
        with pytest.raises(SystemExit):
            main(["predict", str(run), f"{url}/missing.png"])
        assert "missing.png cannot be fetched: the server answers 404 File not found" in capsys.readouterr().err
        server.shutdown()


def test_predict_goes_on_after_an_image_that_cannot_be_read(run, tmp_path, capsys):
    Image.new("RGB", (64, 64), COLORS["red"]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(run), str(tmp_path), "--json"])
    captured = capsys.readouterr()
    assert stop.value.code == 1 and "b.png cannot be read as an image" in captured.err
    assert json.loads(captured.out)["image"].endswith("a.png")


def test_evaluate_counts_every_image_once_and_writes_their_probabilities(run, tmp_path, capsys):
    table = tmp_path / "probabilities.csv"
    main(["evaluate", str(run), "--json", "--csv", str(table), "--precision", "fp32"])
    found = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(table.open()))
    assert found["all_views"]["images"] == len(rows) == len({row["image"] for row in rows}) == 6
    right = sum(row["class"] == max(COLORS, key=lambda name: float(row[name])) for row in rows)
    assert found["all_views"]["top1_accuracy"] == pytest.approx(right / 6)


def test_evaluate_takes_all_images_of_a_folder_without_splits_by_class_name(run, tmp_path, capsys):
    for name in ("red", "blue"):  # another order and fewer classes than in training
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (64, 64), COLORS[name]).save(tmp_path / name / f"{number}.png")
    main(["evaluate", str(run), str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["all_views"]["images"] == 6 and found["all_views"]["top1_accuracy"] == 1
    (tmp_path / "pink").mkdir()
    Image.new("RGB", (64, 64), "pink").save(tmp_path / "pink" / "0.png")
    with pytest.raises(ValueError, match="classes that the network does not know: pink; it knows blue, green, red"):
        alexnet.load(run).evaluate(tmp_path, verbose=False)


def test_the_own_data_is_known_by_any_spelling_and_grows_without_a_leak(run, capsys, monkeypatch):
    """The test part stays the six images of the run, also after images were added, which may move the split."""
    from conftest import write_colors

    data = run.parent / "colors"
    for spelled in ([], [str(data)], [f"{data}/"], ["../colors"]):
        monkeypatch.chdir(run)
        main(["evaluate", str(run), *spelled, "--json"])
        found = json.loads(capsys.readouterr().out)
        assert (found["split"], found["all_views"]["images"]) == ("test", 6), spelled
    more = write_colors(run.parent / "more", 7, seed=9)
    for picture in more.rglob("*.png"):
        picture.rename(data / picture.parent.name / f"new-{picture.name}")
    main(["evaluate", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["all_views"]["images"] == 6
    for picture in data.rglob("new-*.png"):
        picture.unlink()


def test_names_are_printed_as_they_are(run, tmp_path, capsys):
    place = tmp_path / "[bold]$a_$1 :cat: é"
    place.mkdir()
    Image.new("RGB", (64, 64), COLORS["red"]).save(place / "[x].png")
    main(["predict", str(run), str(place)])
    assert "[bold]$a_$1 :cat: é/[x].png" in capsys.readouterr().out


def test_class_names_of_all_kinds_reach_the_report(tmp_path):
    from conftest import write_colors

    data = write_colors(tmp_path / "data [1]", 4)
    for old, new in (("red", "a_$1_$2"), ("blue", "[b]<i>"), ("green", "ü &amp;")):
        (data / old).rename(data / new)
    main(["train", str(data), "--variant", "cifar-18", "--epochs", "1", "--output", str(tmp_path / "run")])
    assert "[b]&lt;i&gt;" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_errors_are_one_line(run, tmp_path, capsys):
    for arguments, said in (
        (["predict", str(tmp_path), "x.png"], "holds no trained network"),
        (["train", str(tmp_path / "nowhere")], "does not exist; a data set must be"),
        (["describe", "lexnet"], "variant must be one of paper, original"),
        (["describe", "--recipe", "magic"], "recipe must be one of original, paper"),
        (["describe", "--output", "rates.png"], "--output needs --recipe NAME, --recipes or NAME --towers"),
        (["describe", "--recipe", "paper", "--output", "rates.abc"], "Format 'abc' is not supported"),
        (["train", "emoji", "--recipe", "magic"], ", modern, got 'magic'"),
        (["train", "emoji", "--lr", "0"], "lr must be > 0, got 0.0"),
        (["train", "emoji", "--epochs", "0"], "alexnet: --epochs must be an integer >= 1, got 0"),
        (["train", "emoji", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["evaluate", str(run), "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["evaluate", str(run), "--csv", str(tmp_path / "no" / "a.csv")], "--csv must be in an existing folder, got"),
        (["predict", str(run), str(tmp_path)], "no images found in"),
        (["train", "emoji", "--seed", "-1"], "seed must be an integer from 0 to"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 1 and said in error and error.count("\n") == 1, arguments


def test_a_damaged_file_of_weights_is_refused(run, tmp_path):
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes((run / "last.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        alexnet.load(tmp_path)
    with pytest.raises(ValueError, match="not trained yet"):
        alexnet.Classifier().predict(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("side", "images", "has_gpu", "expected"),
    [
        (32, 50_000, True, ("cifar-keras", "for images of about 32 pixels")),
        (64, 100_000, True, ("small", "for images of about 64 pixels")),
        (500, 9_999, True, ("small", "as fewer than 10,000 images are too few for original's 61 million parameters")),
        (500, 10_000, False, ("small", "as original would take days without a GPU")),
        (500, 10_000, True, ("original", "for 10,000 images or more and a GPU")),
    ],
)
def test_the_default_network_follows_the_images_and_the_device(side, images, has_gpu, expected):
    assert default_variant(side, images, has_gpu) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_is_described(name, capsys):
    main(["describe", name])
    printed = capsys.readouterr().out
    assert "conv1" in printed and "parameters" in printed


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_described_in_words_and_numbers(name, capsys):
    main(["describe", "--recipe", name])
    printed = capsys.readouterr().out
    assert "learning rate" in printed and "weight decay" in printed and f" – {RECIPES[name].epochs}" in printed


def test_a_recipe_is_described_by_its_segments_and_plotted(tmp_path, capsys):
    main(["describe", "--recipe", "by-hand", "--output", str(tmp_path / "rates.svg")])
    lines = capsys.readouterr().out.splitlines()
    (segment,) = (line for line in lines if line.startswith("68 – 72"))
    assert segment.split() == ["68", "–", "72", "0.0001", "0.002", "conv1", "1e-05,", "0.002", "off"]
    assert any(line.startswith("72 – 78") and "conv1 frozen" in line for line in lines)
    assert "<svg" in (tmp_path / "rates.svg").read_text()
    main(["describe", "--recipes", "--output", str(tmp_path / "all.png")])
    assert "warm-restart" in capsys.readouterr().out
    width, height = Image.open(tmp_path / "all.png").size
    assert width > 1000 and height > 1000


def test_saving_replaces_a_saved_classifier_and_no_other_files(run, tmp_path):
    classifier, folder = alexnet.load(run, "cpu"), tmp_path / "pets"
    classifier.save(classifier.save(folder))
    (folder / "notes.txt").write_text("mine")
    classifier.save(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "model.safetensors").write_bytes(b"mine")
    for path in (folder, folder / "notes.txt"):
        with pytest.raises(ValueError, match="folder must be"):
            classifier.save(path)
    assert (folder / "model.safetensors").read_bytes() == b"mine"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(ValueError, match=r"but .*photos holds cat\.jpg"):
        classifier.save(photos)


@pytest.mark.parametrize("name", ["cifar-18", "cifar-13", "cifar-11", "cifar-keras", "original"])
def test_other_variants_train_too(name, tmp_path):
    """One step with the network's own recipe, on as few images as can be."""
    from conftest import write_colors

    chosen = replace(recipe(VARIANTS[name].recipe), epochs=1, min_steps=0, batch_size=4)
    classifier = alexnet.Classifier(name, "cpu", "fp32")
    history = classifier.fit(write_colors(tmp_path / "data", 2), recipe=chosen, verbose=False)
    assert np.isfinite(history["train_loss"]).all()


def test_help_answers_without_importing_torch():
    code = "import sys\nfrom alexnet.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'numpy', 'matplotlib', 'PIL') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "predict" in printed and printed.strip().endswith("[]")


def test_describe_needs_no_torch():
    code = "import sys\nfrom alexnet.cli import main\nmain(['describe', 'original'])\n"
    code += "main(['describe', '--recipe', 'levels'])\n"
    code += "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_data_fitted_on_is_known_by_name_without_a_run(folder):
    """Else its own split is unknown, and images that it was trained on are counted."""
    classifier = alexnet.Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(folder, epochs=1, split_seed=3, verbose=False)
    own, named = classifier.evaluate(verbose=False), classifier.evaluate(folder, verbose=False)
    trained_on = set(classifier.evaluate(folder, "train", verbose=False).indices)
    assert np.array_equal(own.indices, named.indices) and not trained_on & set(named.indices)
    assert not trained_on & set(classifier.evaluate(folder, "val", verbose=False).indices)


def test_a_val_split_that_was_held_out_beside_test_is_that_of_the_run(split_folder, tmp_path):
    """Its split seed is part of it; another seed would draw training images."""
    shutil.rmtree(split_folder / "val")
    classifier = alexnet.Classifier("cifar-18", "cpu", "fp32")
    classifier.fit(split_folder, epochs=1, split_seed=3, output=tmp_path / "run", verbose=False)
    val = alexnet.load(tmp_path / "run", "cpu").evaluate(split="val", all_views=False, verbose=False)
    assert set(val.names) == {name for name, split in Run(tmp_path / "run").splits().items() if split == "val"}


def test_names_of_version_0_1_still_work_and_name_todays(folder, tmp_path):
    classifier = alexnet.Classifier("cifar-18", "cpu", "fp32")
    with pytest.warns(FutureWarning, match="mirror is now called flip"):
        classifier.fit(folder, epochs=1, mirror=False, verbose=False)
    assert not classifier.bundle.preprocessing.flip
    with pytest.warns(FutureWarning, match="now called bundle"):
        assert classifier.trained is classifier.bundle
    with pytest.warns(FutureWarning, match="connected is now called fc_precision"):
        assert alexnet.load(classifier.save(tmp_path / "saved"), connected="int8").bundle.fc_precision == "int8"
    with pytest.warns(FutureWarning, match="zoom is now called crop_scale"):
        assert replace(recipe("modern"), zoom=(0.5, 1.0)).crop_scale == (0.5, 1.0)
    with pytest.raises(TypeError, match="there is no setting 'epoch'; did you mean 'epochs'"):
        classifier.fit(folder, epoch=1)
    pair = r"settings must be TrainSettings, got list; images and labels are one pair, fit\(\(X, y\)\)"
    for arguments, settings, message in (
        ((folder, [1, 2]), {}, pair),
        ((folder,), {"freeze": "conv1"}, "freeze must be a list of layers, got 'conv1'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            classifier.fit(*arguments, **settings)
    with pytest.raises(TypeError, match="there is no setting 'learning_rate'; did you mean 'lr'"):
        classifier.fit(folder, learning_rate=1)


def test_fit_with_an_output_folder_ends_as_the_command_does(folder, tmp_path):
    """The same files, with results and a report; a finished run is not resumed."""
    settings = {"variant": "cifar-18", "epochs": 1, "batch_size": 16, "precision": "fp32"}
    classifier = alexnet.Classifier()
    classifier.fit(folder, alexnet.TrainSettings(**settings), output=tmp_path / "python", verbose=False)
    flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    main(["train", str(folder), *flags, "--output", str(tmp_path / "shell")])
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("python", "shell")]
    assert files[0] == files[1] and "report.html" in files[0]
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("python", "shell")]
    assert records[0] == records[1] and records[0]["results"]["all_views"]["images"] == 6
    assert classifier.report == tmp_path / "python" / "report.html"
    assert classifier.evaluation.all_views.summary() == records[0]["results"]["all_views"]
    with pytest.raises(ValueError, match="is finished"):
        classifier.fit(folder, output=tmp_path / "python", resume=True)
