import csv
import shlex
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
import torch
from conftest import COLORS
from PIL import Image
from safetensors import safe_open

from alexnet.data.batches import BLOCK, BLOCKS_IN_MEMORY, _resident_batches, epoch_order, read_batches
from alexnet.data.pack import workers
from alexnet.data.pack.packing import PackOptions, make_pack
from alexnet.data.pack.reading import open_pack
from alexnet.data.pack.resizing import stored_square
from alexnet.data.source import SPLITS, hold_out
from alexnet.data.sources.detection import open_source
from alexnet.preprocessing.images import stored_image


def splits_of(source):
    return [SPLITS[split] for split in source.splits]


def test_a_folder_with_splits_keeps_them(split_folder):
    packed = make_pack(open_source(split_folder), 16)
    assert packed.classes == tuple(sorted(COLORS))
    for split, count in (("train", 16), ("val", 4), ("test", 5)):
        numbers = packed.indices(split)
        assert Counter(packed.labels[numbers]) == {0: count, 1: count, 2: count}
        assert all(packed.names[number].startswith(split) for number in numbers)
    for number in range(len(packed.labels)):
        expected = COLORS[packed.classes[packed.labels[number]]]
        assert np.abs(packed.images[number].mean((0, 1)) - expected).max() < 12


def test_a_folder_of_classes_is_split_by_class_and_reproducibly(folder):
    source = open_source(folder)
    counts = Counter(zip(source.labels, splits_of(source), strict=True))
    assert counts == {(label, split): n for label in range(3) for split, n in (("train", 16), ("val", 2), ("test", 2))}
    assert len(set(source.names)) == 60
    assert splits_of(open_source(folder)) == splits_of(source)
    assert splits_of(open_source(folder, split_seed=1)) != splits_of(source)


def test_a_new_class_does_not_move_the_others(folder):
    source = open_source(folder)
    before = dict(zip(source.names, splits_of(source), strict=True))
    (folder / "amber").mkdir()
    Image.new("RGB", (30, 30), "orange").save(folder / "amber" / "1.png")
    source = open_source(folder)
    after = dict(zip(source.names, splits_of(source), strict=True))
    assert {name: after[name] for name in before} == before
    assert after["amber/1.png"] == "train"


def test_fractions_held_out():
    labels = np.array([0] * 1000 + [1] * 10 + [2] * 2)
    names = [str(n) for n in range(1012)]
    splits = hold_out(names, labels, np.zeros(1012, np.uint8), 0)
    assert Counter(splits[:1000]) == {0: 800, 1: 100, 2: 100}
    assert Counter(splits[1000:1010]) == {0: 8, 1: 1, 2: 1}
    assert sorted(splits[1010:].tolist()) == [0, 1]  # few, but not without a val
    fifth = hold_out(names, labels, np.zeros(1012, np.uint8), 0, fraction=0.2)
    assert Counter(fifth[:1000]) == {0: 600, 1: 200, 2: 200}


def test_a_missing_val_is_held_out_from_train(split_folder):
    import shutil

    shutil.rmtree(split_folder / "val")
    source = open_source(split_folder)
    assert all(
        name.startswith("test/") == (split == "test")
        for name, split in zip(source.names, splits_of(source), strict=True)
    )
    assert Counter(splits_of(source)) == {"train": 42, "val": 6, "test": 15}


def test_val_alone_can_be_listed_but_not_trained_on(split_folder):
    import shutil

    from alexnet import Classifier

    shutil.rmtree(split_folder / "train")
    assert set(splits_of(open_source(split_folder))) == {"val", "test"}
    with pytest.raises(ValueError, match="there are no training images"):
        Classifier("small").fit(split_folder, verbose=False)
    for name in ("red", "blue"):
        shutil.rmtree(split_folder / "val" / name)
        shutil.rmtree(split_folder / "test" / name)
    with pytest.raises(ValueError, match="training needs at least two classes, got only one class, 'green'"):
        Classifier("small").fit(split_folder, verbose=False)


def test_errors_name_what_is_not_a_data_set(tmp_path, split_folder):
    with pytest.raises(ValueError, match=r"nowhere does not exist; a data set must be"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        open_source(tmp_path / "empty")
    for name in ("violet", ".hidden"):  # an empty folder is no class, nor is a hidden one
        (split_folder / "val" / name).mkdir()
    picture = (split_folder / "val" / "red" / "00.png").read_bytes()
    (split_folder / "val" / ".hidden" / "a.png").write_bytes(picture)
    assert len(open_source(split_folder).classes) == 3
    (split_folder / "val" / "violet" / "a.png").write_bytes(picture)
    with pytest.raises(ValueError, match="violet is not a class of train/, which has blue, green, red"):
        open_source(split_folder)


def test_a_pack_is_reused_until_an_image_changes(folder):
    first = make_pack(open_source(folder), 16)
    written = first.path.stat().st_mtime_ns
    again = make_pack(open_source(folder), 16)
    assert again.path == first.path and again.path.stat().st_mtime_ns == written
    Image.new("RGB", (36, 40), "white").save(folder / "red" / "00.png")
    changed = make_pack(open_source(folder), 16)
    assert changed.path != first.path
    assert changed.images[changed.names.index("red/00.png")].min() == 255
    assert make_pack(open_source(folder), 8).side == 8


def test_a_pack_is_independent_of_the_number_of_processes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MAX_INLINE", 0)
    contents = [
        make_pack(open_source(folder), 16, tmp_path / str(n), PackOptions(workers=n)).path.read_bytes() for n in (1, 3)
    ]
    assert contents[0] == contents[1]


DEADLY = """
import os, time

class Deadly:
    def run(self, index, location):
        if location == "deadly":
            os._exit(3)
        if location == "endless":
            time.sleep(60)
        return index * 10
"""


def test_an_image_that_crashes_or_hangs_its_decoder_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(workers, "MAX_INLINE", 0)
    monkeypatch.setattr(workers, "TIMEOUT_S", 1.5)
    import deadly

    places = ["deadly" if number == 7 else "endless" if number == 40 else "" for number in range(60)]
    results = [each for some in workers.run_task(deadly.Deadly(), enumerate(places), 60, 2) for each in some]
    assert results.pop(40) == workers.Failed("the process that decoded it timed out after 2 seconds", is_passing=True)
    assert results.pop(7) == workers.Failed("the process that decoded it crashed (exit code 3)")
    assert results == [number * 10 for number in range(60) if number not in (7, 40)]


def test_a_pack_is_a_safetensors_file(folder):
    packed = make_pack(open_source(folder), 16)
    with safe_open(packed.path, "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("images"), packed.images)
        np.testing.assert_array_equal(file.get_tensor("labels"), packed.labels)
        assert bytes(file.get_tensor("names")).decode().split("\n") == list(packed.names)


def test_a_truncated_pack_is_refused(folder):
    packed = make_pack(open_source(folder), 16)
    with open(packed.path, "r+b") as file:
        file.truncate(packed.path.stat().st_size - 1)
    with pytest.raises(ValueError, match="is truncated"):
        open_pack(packed.path)


def test_few_unreadable_images_are_skipped_and_many_are_an_error(tmp_path):
    from conftest import write_colors

    root = write_colors(tmp_path / "many", 50)
    (root / "red" / "07.png").write_bytes(b"no picture")
    packed = make_pack(open_source(root), 8)
    assert [packed.names[number] for number in packed.unreadable] == ["red/07.png"]
    assert sum(len(packed.indices(split)) for split in SPLITS) == 149
    for number in range(4):
        (root / "blue" / f"{number:02}.png").write_bytes((root / "blue" / f"{number:02}.png").read_bytes()[:40])
    assert len(make_pack(open_source(root), 8).unreadable) == 5
    (root / "blue" / "04.png").write_bytes(b"")
    with pytest.raises(ValueError, match="6 of the first 112 images cannot be read") as caught:
        make_pack(open_source(root), 8)
    problem = "not an image of a known format, or its header is damaged"
    assert str(caught.value).splitlines() == [
        "many: 6 of the first 112 images cannot be read; at most 5 may be skipped. To leave them out: "
        f"alexnet check {root} --fix kept.csv && alexnet train kept.csv",
        *(f"  blue/{number:02}.png: {problem}" for number in range(5)),
        f"  red/07.png: {problem}",
    ]


def test_commands_in_messages_are_quoted_for_the_shell(tmp_path, monkeypatch):
    from conftest import write_colors

    root = write_colors(tmp_path / "Fotos für's Büro", 3)
    for path in root.rglob("0[01].png"):
        path.write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="6 of 9 images cannot be read") as caught:
        make_pack(open_source("Fotos für's Büro"), 8)
    first = str(caught.value).splitlines()[0]
    command = first.partition("To leave them out: ")[2].split(" && ")[0]
    assert shlex.split(command) == ["alexnet", "check", "Fotos für's Büro", "--fix", "kept.csv"]


def test_a_class_of_which_no_image_can_be_read_is_an_error(tmp_path):
    from conftest import write_colors

    root = write_colors(tmp_path / "colors", 3)
    for path in (root / "red").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"colors: no training image of class red can be read:\n  red/00.png: not an"):
        make_pack(open_source(root), 8)


def test_images_are_turned_upright_and_cut_square(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)
    pixels[:, 20:] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        stored = stored_square(image, 20)
    assert stored[2, 10].tolist() == [255, 0, 0] and stored[17, 10].tolist() == [0, 0, 255]
    assert stored_square(Image.fromarray(pixels), 20)[10, 0].tolist() == [255, 0, 0]


def test_resizing_follows_section_2():
    """One resize of the central square equals resizing the shorter side and cutting, up to the last bit."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)).resize((360, 240))
    resized = image.resize((96, 64), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((16, 0, 80, 64))).astype(int)
    assert np.abs(stored_square(image, 64).astype(int) - expected)[:, 2:-2].max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1", "PA"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    gray = Image.fromarray(np.full((10, 10), 128, np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.full((10, 10), 128 * 256, np.uint16))
    elif mode == "PA":
        image = gray.convert("RGBA").convert("P").convert("PA")
    else:
        image = gray.convert(mode)
    stored = stored_square(image, 10)
    assert stored.shape == (10, 10, 3) and stored.dtype == np.uint8
    assert abs(stored.mean() - 128) < 8 or mode == "1"


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (10, 10), (200, 0, 0, 0))
    assert stored_square(image, 10).min() == 255


def test_arrays_are_read_as_images():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(stored_image(pixels, 8), pixels)
    np.testing.assert_array_equal(stored_image(pixels / 255, 8), pixels)
    np.testing.assert_array_equal(stored_image(pixels[..., :1], 8)[..., 2], pixels[..., 0])
    for wrong, message in (
        (pixels.astype(np.int64) + 256, "int64"),
        (pixels / 100, r"0 to 1"),
        (np.zeros((2, 3, 8, 8)), r"got \(2, 3, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            stored_image(wrong, 8)


def test_order_is_a_permutation_fixed_by_seed_and_epoch():
    numbers = np.arange(100, 200)
    order = epoch_order(numbers, 0, 3, "epoch")
    assert sorted(order) == numbers.tolist()
    np.testing.assert_array_equal(order, epoch_order(numbers, 0, 3, "epoch"))
    assert not np.array_equal(order, epoch_order(numbers, 0, 4, "epoch"))
    assert not np.array_equal(order, epoch_order(numbers, 1, 3, "epoch"))
    np.testing.assert_array_equal(epoch_order(numbers, 0, 0, "once"), epoch_order(numbers, 0, 7, "once"))


def test_shuffling_by_blocks_reads_long_stretches_and_every_image_once():
    numbers = np.arange(1000, 1000 + BLOCK * BLOCKS_IN_MEMORY * 2 + 77)
    order = epoch_order(numbers, 0, 3, "blocks")
    assert sorted(order) == numbers.tolist()
    first = order[: BLOCK * (BLOCKS_IN_MEMORY - 1)]  # of 129 blocks
    assert len({(number - 1000) // BLOCK for number in first}) == BLOCKS_IN_MEMORY
    assert np.abs(np.diff(first)).mean() > BLOCK  # and yet neighbors are no neighbors
    np.testing.assert_array_equal(order, epoch_order(numbers, 0, 3, "blocks"))
    assert not np.array_equal(order, epoch_order(numbers, 0, 4, "blocks"))
    assert len(epoch_order(numbers[:0], 0, 0, "blocks")) == 0


def test_batches_from_device_memory_are_the_same(folder):
    packed = make_pack(open_source(folder), 8)
    order = epoch_order(np.arange(60), 0, 0, "epoch")
    firsts = range(16, 60, 16)

    def choose(indices):
        return slice(2, 9)

    for read, resident in zip(
        read_batches(packed, order, 16, start=1, choose=choose),
        _resident_batches(packed, order, 16, torch.device("cpu"), firsts, choose),
        strict=True,
    ):
        assert len(read.images) == 7 and len(read.labels) in (16, 12)
        assert torch.equal(read.images, resident.images) and torch.equal(read.labels, resident.labels)
        assert read.first == resident.first and (read.indices == resident.indices).all()


def test_batches_hold_every_image_once_and_can_start_late(folder):
    packed = make_pack(open_source(folder), 8)
    order = epoch_order(np.arange(60), 0, 0, "epoch")
    read = list(read_batches(packed, order, 16))
    assert [len(batch.labels) for batch in read] == [16, 16, 16, 12]
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in read]), order)
    for batch in read:
        np.testing.assert_array_equal(batch.images, packed.images[batch.indices])
        np.testing.assert_array_equal(batch.labels, packed.labels[batch.indices])
        assert order[batch.first] == batch.indices[0]
    rest = list(read_batches(packed, order, 16, start=2))
    assert torch.equal(rest[0].images, read[2].images) and len(rest) == 2


def test_an_error_in_the_reading_thread_is_raised(folder):
    packed = make_pack(open_source(folder), 8)
    with pytest.raises(IndexError):
        list(read_batches(packed, np.array([0, 1, 10_000]), 2))


@pytest.fixture(scope="module")
def rows():
    """The table of the bundled set."""
    with (files("alexnet.data") / "emoji" / "images.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_bundled_set_has_thirteen_classes_in_three_splits(rows):
    source = open_source("emoji")
    assert len(source.classes) == 13 and len(rows) == len(source) > 6000
    counts = Counter((row["class"], row["split"]) for row in rows)
    assert {name for name, _ in counts} == set(source.classes)
    for split, fraction in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert sum(n for (_, s), n in counts.items() if s == split) / len(rows) == pytest.approx(fraction, abs=0.03)


def test_no_concept_and_no_picture_is_in_two_splits(rows):
    splits_of_concept = {}
    for row in rows:
        splits_of_concept.setdefault(row["concept"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of_concept.values())
    packed = make_pack(open_source("emoji"), 64)
    split_of_pixels = {}
    for number, image in enumerate(packed.images):
        split_of_pixels.setdefault(image.tobytes(), set()).add(int(packed.splits[number]))
    assert all(len(splits) == 1 for splits in split_of_pixels.values())


def test_one_emoji_of_several_vendors_is_in_one_split(rows):
    splits_of_label = {}
    for row in rows:
        splits_of_label.setdefault((row["class"], row["name"]), set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of_label.values())


def test_no_picture_is_blank():
    packed = make_pack(open_source("emoji"), 64)
    assert (packed.images.reshape(len(packed.images), -1) < 250).any(1).all()


def test_authors_and_licenses_are_named():
    notice = (files("alexnet.data") / "emoji" / "NOTICE").read_text(encoding="utf-8")
    for word in ("Noto", "FxEmoji", "Fluent", "Twemoji", "EmojiOne", "emojibase", "CC BY 4.0", "MIT", "Apache"):
        assert word.lower() in notice.lower(), word
