"""`alexnet check`: every problem that it promises to find, made on purpose."""

import json
import shutil

import numpy as np
import pytest
from conftest import write_colors
from PIL import Image

from alexnet.cli import main
from alexnet.data.check import check_source
from alexnet.data.sources.detection import detect_source, open_source
from alexnet.data.storage import image_formats


def findings_in(root, side=16, **settings):
    """Findings by their text."""
    return {finding.text: finding for finding in check_source(detect_source(root), side, **settings).findings}


def find_one(root, words, **settings):
    """The one finding whose text contains the words."""
    matching = [each for text, each in findings_in(root, **settings).items() if words in text]
    assert len(matching) == 1, findings_in(root, **settings)
    return matching[0]


@pytest.fixture
def clean(tmp_path):
    return write_colors(tmp_path / "colors", 20)


def picture(mode="RGB", size=(40, 36), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_a_clean_data_set_has_no_findings(tmp_path, capsys):
    clean = write_colors(tmp_path / "colors", 67)  # 7 of each class in val and in test
    assert findings_in(clean) == {}
    main(["check", str(clean)])
    printed = capsys.readouterr().out
    assert "all images checked; nothing found" in printed and "CLASS/IMAGE" in printed


def test_few_images_to_measure_errors_on_are_said_to_be_few(clean, capsys):
    """Wilson's interval for 3 of 6, by his formula: 0.5 ± 1.96 · √(0.25/6 + 1.96²/144) / (1 + 1.96²/6)."""
    main(["check", str(clean), "--strict"])
    told = " ".join(capsys.readouterr().out.split())
    half = 1.96 * (0.25 / 6 + 1.96**2 / 144) ** 0.5 / (1 + 1.96**2 / 6)
    interval = f"an error on them has a 95% confidence interval of up to ±{100 * half:.0f} points"
    assert f"note: only 6 validation images: {interval}, so it hardly tells which epoch, setting or network" in told
    assert f"note: only 6 test images: {interval}, so it hardly tells how good a network is" in told


def odd(mode, name, **how):
    return lambda path: picture(mode, seed=hash(name) % 1000).save(path / name, **how)


def save_16_bit(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (36, 40), dtype=np.uint16)).save(path / "deep.png")


def save_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path / "turned.jpg", exif=exif)


def save_animated(path):
    picture().save(path / "moving.gif", save_all=True, append_images=[picture(seed=1), picture(seed=2)])


ODD = {
    "grayscale (": odd("L", "gray.jpg"),
    "palette (": odd("P", "palette.png"),
    "transparent (": odd("RGBA", "alpha.png"),
    "CMYK (": odd("CMYK", "inks.jpg"),
    "other color mode (": odd("YCbCr", "ycc.tif"),
    "16-bit (": save_16_bit,
    "rotated (": save_turned,
    "animated (": save_animated,
    "elongated (": lambda path: picture(size=(200, 30)).save(path / "long.png"),
    "blank (": lambda path: Image.new("RGB", (40, 36), "red").save(path / "blank.png"),
    "smaller than half of 16 pixels": lambda path: picture(size=(7, 40)).save(path / "small.png"),
    "wrong file extension": lambda path: picture().save(path / "png.jpg", format="PNG"),
}


@pytest.mark.parametrize("words", ODD)
def test_unusual_images_are_counted_and_named(clean, words):
    if words == "transparent (":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 40, 4), dtype=np.uint8)).save(
            clean / "red" / "a.png"
        )
    else:
        ODD[words](clean / "red")
    finding = find_one(clean, words)
    assert finding.text.startswith("1 image: ") and finding.examples[0].startswith("red/")
    assert finding.level == ("warning" if words == "blank (" else "note")
    new = [name for name in open_source(clean).names if not name.rpartition("/")[2][:2].isdigit()]
    assert finding.examples[0].split(" is ")[0] in new


def test_broken_and_empty_files(clean, capsys):
    (clean / "red" / "00.png").write_bytes(b"")
    finding = find_one(clean, "cannot be read")
    assert finding.level == "warning" and "1 image cannot be read (1 of size 0)" in finding.text
    assert finding.examples[0].startswith("red/00.png: ")
    for number in range(1, 6):
        (clean / "blue" / f"{number:02}.png").write_bytes((clean / "blue" / f"{number:02}.png").read_bytes()[:300])
    finding = find_one(clean, "cannot be read")
    assert finding.level == "error" and len(finding.examples) == 5
    assert finding.text == "6 images cannot be read (1 of size 0); at most 5 may be skipped"
    with pytest.raises(SystemExit) as ended:
        main(["check", str(clean)])
    assert ended.value.code == 1 and "error: 6 images cannot be read" in capsys.readouterr().out
    assert find_one(clean, "cannot be read", brief=True).level == "note"  # packing counts them all


def test_duplicate_images(split_folder, tmp_path):
    here = split_folder
    shutil.copy(here / "train" / "red" / "00.png", here / "train" / "red" / "again.png")
    shutil.copy(here / "train" / "red" / "01.png", here / "val" / "red" / "leak.png")
    shutil.copy(here / "train" / "red" / "02.png", here / "train" / "blue" / "contradiction.png")
    assert find_one(here, "1 duplicate image in the same class and split").level == "note"
    across = find_one(here, "in two splits")
    assert across.level == "warning"
    assert across.examples == ("val/red/leak.png and train/red/01.png are in val and train",)
    contradictory = find_one(here, "in two classes")
    assert contradictory.examples == ("train/blue/contradiction.png and train/red/02.png are blue and red",)
    source = detect_source(here)
    dropped = {source.names[number] for number in check_source(source, 16).dropped}
    twice = {"train/red/again.png", "train/red/00.png"}
    assert len(dropped & twice) == 1
    assert dropped - twice == {"train/red/01.png", "train/red/02.png", "train/blue/contradiction.png"}


def test_fix_writes_a_list_that_is_trained_on_and_leaves_the_images_alone(split_folder, tmp_path, capsys):
    (split_folder / "train" / "red" / "00.png").write_bytes(b"no picture")
    shutil.copy(split_folder / "train" / "red" / "01.png", split_folder / "val" / "red" / "leak.png")
    before = {path: path.read_bytes() for path in split_folder.rglob("*") if path.is_file()}
    main(["check", str(split_folder), "--fix", str(tmp_path / "kept.csv")])
    assert {path: path.read_bytes() for path in split_folder.rglob("*") if path.is_file()} == before
    kept = open_source(tmp_path / "kept.csv")
    left_out = {"train/red/00.png", "train/red/01.png"}
    assert set(kept.names) == set(open_source(split_folder).names) - left_out
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    main(["train", str(tmp_path / "kept.csv"), *few, "--output", str(tmp_path / "run")])
    assert "to train on" in capsys.readouterr().out
    assert (tmp_path / "run" / "split.csv").read_text().count("\n") == 75 + 1 - 2 + 1


def test_class_imbalance_and_the_baseline(clean):
    for number in range(1, 20):
        (clean / "red" / f"{number:02}.png").unlink()
    finding = find_one(
        clean, "class imbalance: blue has 16 training images, red 1; always predicting the former is 48% right"
    )
    assert finding.level == "warning"
    assert check_source(open_source(clean), 16).facts["baseline"] == "48.5% accuracy by always predicting blue"


def test_classes_that_only_some_splits_have(split_folder, capsys):
    shutil.rmtree(split_folder / "val" / "red")
    finding = find_one(split_folder, "1 class without val images")
    assert finding.examples == ("red",) and finding.level == "warning"
    (split_folder / "val" / "violet").mkdir()
    shutil.copy(split_folder / "train" / "red" / "00.png", split_folder / "val" / "violet")
    assert find_one(split_folder, "colors/val/violet is not a class of train/").level == "error"
    with pytest.raises(SystemExit):
        main(["train", str(split_folder)])
    assert "violet is not a class of train/, which has blue, green, red" in capsys.readouterr().err


def test_the_summary_is_json_and_counts_every_image(split_folder, capsys):
    main(["check", str(split_folder), "--json", "--size", "64"])
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == {"train": 48, "val": 12, "test": 15} and told["looked_at"] == 75
    assert told["classes"]["red"] == {"train": 16, "val": 4, "test": 5}
    assert told["pack"] == "922 KB at 64 pixels"  # 75 × 64 × 64 × 3
    assert [each["text"][:22] for each in told["findings"]] == ["only 12 validation ima", "only 15 test images: a"]


def test_strict_makes_warnings_count(clean):
    Image.new("RGB", (40, 36), "red").save(clean / "red" / "blank.png")
    main(["check", str(clean)])
    with pytest.raises(SystemExit):
        main(["check", str(clean), "--strict"])


def test_train_warns_before_it_starts(clean, tmp_path, capsys):
    for number in range(1, 20):
        (clean / "red" / f"{number:02}.png").unlink()
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    main(["train", str(clean), *few, "--output", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert "blue has 16 training images, red 1" in printed and "see alexnet check" in printed


def test_a_run_among_the_images_is_not_part_of_the_data(clean, capsys):
    run = clean / "runs" / "first"
    run.mkdir(parents=True)
    shutil.copy(clean / "red" / "00.png", run / "curves.png")
    assert "runs" in detect_source(clean).classes
    for name in ("run.json", "split.csv"):
        (run / name).write_text("")
    main(["check", str(clean), "--json"])
    assert list(json.loads(capsys.readouterr().out)["classes"]) == ["blue", "green", "red"]
    main(["pack", str(clean), "--size", "8"])
    assert "3 classes" in capsys.readouterr().out


def test_files_that_are_no_images_are_counted_by_kind_with_what_helps(clean, tmp_path, capsys, monkeypatch):
    for name in ("red/a.mov", "red/b.MOV", "blue/c.pdf", "blue/d.cr2", "notes.txt", "Thumbs.db", "README"):
        (clean / name).write_bytes(b"x")
    (clean / "violet").mkdir()
    (clean / "violet" / "e.psd").write_bytes(b"x")
    (clean / "white" / "empty").mkdir(parents=True)
    texts = {text: finding.level for text, finding in findings_in(clean).items()}
    helped = "2 MOV (videos; save frames as images), 1 CR2 (raw photos; save them as JPEG), "
    helped += "1 PDF (save their pages as images), 1 PSD (save them as PNG)"
    texts = {text: finding.level for text, finding in findings_in(clean).items()}
    helped = "2 MOV (videos; save frames as images), 1 CR2 (raw photos; save them as JPEG), "
    helped += "1 PDF (save their pages as images), 1 PSD (save them as PNG)"
    texts = {text: finding.level for text, finding in findings_in(clean).items()}
    assert texts == {
        f"ignored files: {helped}; no image in 2 folders: violet, white": "warning",
        "ignored files: 1 without extension, 1 DB, 1 TXT": "note",
    }
    archive = shutil.make_archive(str(tmp_path / "colors"), "zip", clean)
    assert f"ignored files: {helped}; no image in 1 folder: violet" in findings_in(archive)
    monkeypatch.chdir(tmp_path)
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    main(["train", "colors", *few, "--output", "run"])
    printed = " ".join(capsys.readouterr().out.split())
    more = "no image in 2 folders: violet, white; see alexnet check colors"
    assert printed.count("ignored files") == 1 and f"colors: ignored files: {helped}; {more}" in printed


def test_a_class_or_a_split_of_which_nothing_can_be_read_is_named(split_folder, monkeypatch):
    monkeypatch.setattr(image_formats, "SUFFIXES", {".png": ("PNG",)})
    (split_folder / "train" / "violet").mkdir()
    shutil.rmtree(split_folder / "val")
    for name in ("train/violet/1.heic", "train/violet/2.HEIC", "val/red/3.heif"):
        (split_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (split_folder / name).write_bytes(b"x")
    helped = "2 HEIC, 1 HEIF (to read them, pip install 'alexnet[heic]')"
    text = f"ignored files: {helped}; no image in 2 folders: train/violet, val/red"
    assert find_one(split_folder, "ignored files").text == text
    for path in split_folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"colors has no images \(.*\); other files: 2 HEIC, 1 HEIF \(to read"):
        detect_source(split_folder)


def test_a_class_of_which_no_image_can_be_read_is_an_error(tmp_path):
    colors = write_colors(tmp_path / "colors", 4)
    for path in (colors / "green").iterdir():
        path.write_bytes(b"no picture")
    finding = find_one(colors, "1 class without a readable training image")
    assert finding.level == "error" and finding.examples == ("green",)


def test_heic_images_are_read_where_pillow_heif_is_installed(clean):
    pytest.importorskip("pillow_heif")
    image = picture(size=(64, 64))
    image.save(clean / "red" / "photo.HEIC", format="HEIF")
    source = open_source(clean)
    (index,) = (index for index, name in enumerate(source.names) if name.endswith("HEIC"))
    assert source.open(index).size == (64, 64) and findings_in(clean) == {}


def test_a_jpeg_that_is_called_heic_is_read_and_told(clean, monkeypatch):
    for suffix in (".heic", ".heif"):
        monkeypatch.delitem(image_formats.SUFFIXES, suffix, raising=False)  # as without pillow_heif
    picture().save(clean / "red" / "IMG_1.HEIC", format="JPEG")
    (clean / "red" / "IMG_0.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert "red/IMG_1.HEIC" in open_source(clean).names and "red/IMG_0.HEIC" not in open_source(clean).names
    assert find_one(clean, "wrong file extension").examples == ("red/IMG_1.HEIC is JPEG",)
    assert "1 HEIC (" in find_one(clean, "ignored files").text


def test_images_that_cannot_be_read_are_not_counted(clean, capsys):
    (clean / "red" / "00.png").write_bytes(b"")
    main(["check", str(clean), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert sum(told["classes"]["red"].values()) == 19 and sum(told["images"].values()) == 59


def test_photos_of_which_few_are_broken_are_trained_on_without_a_contradiction(clean, tmp_path, capsys):
    for number in range(3):
        (clean / "red" / f"{number:02}.png").write_bytes(b"no picture")
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    main(["train", str(clean), *few, "--output", str(tmp_path / "run")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "unreadable" in line or "cannot be read" in line]
    assert len(lines) == 1 and "3 unreadable images, first red/0" in lines[0]


def test_the_next_command_is_quoted_for_the_shell(clean, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clean.rename("Mamas Fotos")
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "8", "--precision", "fp32"]
    main(["train", "Mamas Fotos", *few])
    assert "next:   alexnet predict 'runs/Mamas Fotos-small-1' IMAGE" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "Mamas Fotos", "--output", "runs/Mamas Fotos-small-1", "--resume"])
    assert "--pretrained 'runs/Mamas Fotos-small-1'" in capsys.readouterr().err
    main(["check", "Mamas Fotos", "--fix", "die besten.csv"])
    assert "next:   alexnet train 'die besten.csv'  (60 images)" in capsys.readouterr().out
