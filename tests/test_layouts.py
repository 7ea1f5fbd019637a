"""Layouts of data sets as people have them: each is read as its owner means it, or the owner is told."""

import io
import json
import tarfile
import unicodedata
import zipfile
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from alexnet.data.check import check_source
from alexnet.data.source import SPLITS
from alexnet.data.sources.detection import detect_source, open_source


@dataclass
class Layout:
    """Images by their paths, other files, and what must come of them: images by class and split, and what is told."""

    images: list[str]
    texts: dict[str, str | bytes] = field(default_factory=dict)
    train: dict[str, int] = field(default_factory=dict)
    """Images to train and validate on, by class."""
    test: dict[str, int] = field(default_factory=dict)
    told: str = ""
    at: str = ""
    """What is opened; the folder that holds all if empty."""


def named(pattern: str, *classes: str, count: int = 6) -> list[str]:
    return [pattern.format(each, number) for each in classes for number in range(count)]


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def two_by_turns(row: str, count: int = 6, labels: tuple[str, str] = ("oak", "elm")) -> list[str]:
    return [row.format(number, labels[number % 2]) for number in range(count)]


OAK_ELM = {"oak": 6, "elm": 6}
THREE = {"oak": 3, "elm": 3}
LAYOUTS = {
    "several labels of one image": Layout(
        named("images/{1}.png", "any", count=9),
        {
            "list.csv": lines(
                "image,label", *(f"{n}.png,{label}" for n, label in enumerate(3 * ("oak", "elm", "elm|oak")))
            )
        },
        train={"oak": 3, "elm": 3, "elm|oak": 3},
        told="labels such as elm|oak seem to name several classes of one image; each combination is a class of its own",
    ),
    "splits by other names": Layout(
        [*named("TrainingData/{}/{}.png", *OAK_ELM), *named("TestData/{}/t{}.png", *OAK_ELM, count=2)],
        train=OAK_ELM,
        test={"oak": 2, "elm": 2},
    ),
    "splits twice, with images to predict": Layout(
        [
            *named("trees_train/trees_train/{}/{}.png", *OAK_ELM),
            *named("trees_val/trees_val/{}/v{}.png", *OAK_ELM, count=2),
            *named("trees_new/trees_new/{1}.png", "x"),
        ],
        train={"oak": 8, "elm": 8},
        told="6 images not in the folder of a split, first trees_new",
    ),
    "parts": Layout(
        [*named("part{}/oak/{}.png", "1", "2", count=3), *named("part{}/elm/e{}.png", "1", "2", count=3)],
        train=OAK_ELM,
        told="the folders part1, part2 hold folders of the same names, elm, oak",
    ),
    "split and class in one name": Layout(
        named("{}/{}.png", "trainOak", "trainElm", "testOak", "testElm"), train=OAK_ELM, test=OAK_ELM
    ),
    "splits in classes": Layout(
        named("{}/{}.png", "oak/train", "elm/train", "oak/test", "elm/test"), train=OAK_ELM, test=OAK_ELM
    ),
    "classes called as splits": Layout(
        named("{}/{}.png", "dev", "prod"), train={"dev": 6, "prod": 6}, told="dev/ is taken for a class, like prod"
    ),
    "a vehicle": Layout(
        named("{}/{}.png", "bus", "car", "train"), train={"bus": 6, "car": 6, "train": 6}, told="train/ is"
    ),
    "finer folders": Layout(
        named("{}/{}.png", "tree/oak", "tree/elm", "bird/owl", "bird/tit"),
        train={"tree": 12, "bird": 12},
        told="not told apart: bird/ holds owl, tit",
    ),
    "a list for numbered parts": Layout(
        named("photos_{}/{}.png", "a", count=3) + [f"photos_b/{number}.png" for number in range(3, 6)],
        {"metadata.csv": lines("lesion,image_id,dx", *two_by_turns("L{0},{0},{1}"))},
        train=THREE,
        told="the folders photos_a, photos_b are not taken for classes, because metadata.csv",
    ),
    "camel case and a header of its own": Layout(
        named("train/{1}.png", "x") + named("test/{1}.png", "x", count=2),
        {"TrainAnswers.csv": lines("Photo,Species", *two_by_turns("{},{}"))},
        train=THREE,
        told="skipped 2 images without a label",
    ),
    "a template of answers": Layout(
        named("train/{1}.png", "x") + named("test/t{1}.png", "x"),
        {
            "train.csv": lines("id,label", *two_by_turns("{},{}")),
            "blank.csv": lines("id,label", *(f"t{number},oak" for number in range(6))),
        },
        train=THREE,
        told="blank.csv is not used: it gives the same label to all 6 images",
    ),
    "withheld labels": Layout(
        named("train/{1}.png", "x") + named("test/t{1}.png", "x", count=2),
        {"train.csv": lines("id,label", *two_by_turns("{},{}")), "test.csv": lines("id,label", "t0,?", "t1,?")},
        train=THREE,
        told="skipped 2 images without a label",
    ),
    "one-hot": Layout(
        named("{1}.png", "x"),
        {"truth.csv": lines("image,oak,elm", *two_by_turns("{},{}", labels=("1.0,0.0", "0.0,1.0")))},
        train=THREE,
    ),
    "pandas' index": Layout(
        named("img/{1}.png", "x"), {"all.csv": lines(",file,kind", *two_by_turns("{0},{0}.png,{1}"))}, train=THREE
    ),
    "rows counted without a header": Layout(
        named("img/{1}.png", "x"), {"all.csv": lines(*two_by_turns("{0},img/{0}.png,{1}"))}, train=THREE, at="all.csv"
    ),
    "Windows": Layout(
        named("img/A{1}.PNG", "x"),
        {"all.csv": lines("sep=;", *two_by_turns("img\\a{}.png;{}"))},
        train=THREE,
        at="all.csv",
    ),
    "Windows-1252": Layout(
        named("{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("{},{}", labels=("chêne", "orme"))).encode("cp1252")},
        train={"chêne": 3, "orme": 3},
        told="all.csv is not UTF-8 and was read as Windows-1252",
    ),
    "UTF-16": Layout(
        named("{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("{},{}")).encode("utf-16"), "readme.txt": b"\x81\x8d \xfc"},
        train=THREE,
    ),
    "paths of another machine": Layout(
        named("img/{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("/home/me/trees/img/{}.png,{}"))},
        train=THREE,
    ),
    "repeated rows": Layout(
        named("{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("{},{}"), "0,oak", "0,oak")},
        train=THREE,
        told="all.csv lists 1 image several times, up to 3 times",
    ),
    "lists of splits": Layout(
        named("photos/{}/{}.png", *OAK_ELM),
        {
            "lists/train.txt": lines(*named("{}/{}", *OAK_ELM, count=4)),
            "lists/test.txt": lines("oak/4", "elm/4"),
        },
        train={"oak": 4, "elm": 4},
        test={"oak": 1, "elm": 1},
        told="2 images are in none of the lists",
    ),
    "labels in files of splits": Layout(
        named("photos/{1}.png", "x"),
        {
            "annotations/labels-train.csv": lines("name,label", *two_by_turns("{},{}")[:4]),
            "annotations/labels-test.csv": lines("name,label", *two_by_turns("{},{}")[4:]),
        },
        train={"oak": 2, "elm": 2},
        test={"oak": 1, "elm": 1},
    ),
    "a flag for a split": Layout(
        named("{1}.png", "x"),
        {"all.csv": lines("file,label,is_test", *(f"{n},{('oak', 'elm')[n % 2]},{int(n > 3)}" for n in range(6)))},
        train={"oak": 2, "elm": 2},
        test={"oak": 1, "elm": 1},
    ),
    "one map for all splits": Layout(
        named("train/a{1}.png", "x", count=4) + named("test/b{1}.png", "x", count=2),
        {
            "train-and-test.json": json.dumps(
                {"a0": "oak", "a1": "elm", "a2": "oak", "a3": "elm", "b0": "oak", "b1": "elm"}
            )
        },
        train={"oak": 2, "elm": 2},
        test={"oak": 1, "elm": 1},
    ),
    "a map from classes": Layout(
        named("photos/{1}.png", "x"),
        {"all.json": json.dumps({"oak": ["0", "2", "4"], "elm": ["1", "3", "5"]})},
        train=THREE,
    ),
    "COCO": Layout(
        named("photos/{1}.png", "x"),
        {
            "instances.json": json.dumps(
                {
                    "images": [{"id": n, "file_name": f"{n}.png"} for n in range(6)],
                    "annotations": [{"image_id": n, "category_id": 7 + n % 2} for n in range(6)],
                    "categories": [{"id": 7, "name": "oak"}, {"id": 8, "name": "elm"}],
                }
            )
        },
        train=THREE,
    ),
    "FiftyOne": Layout(
        named("data/{1}.png", "x"),
        {"labels.json": json.dumps({"classes": ["oak", "elm"], "labels": {str(n): n % 2 for n in range(6)}})},
        train=THREE,
    ),
    "StyleGAN": Layout(
        named("00000/img{1}.png", "x"),
        {"dataset.json": json.dumps({"labels": [[f"00000/img{n}.png", n % 2] for n in range(6)]})},
        train={"0": 3, "1": 3},
    ),
    "labels without the zeros of the folders": Layout(
        named("train/{}/{}.png", "01", "02", "11", count=4) + named("test/t{1}.png", "x", count=2),
        {"test.csv": lines("image,label", "t0,1", "t1,11")},
        train={"01": 4, "02": 4, "11": 4},
        test={"01": 1, "11": 1},
    ),
    "labels from 1": Layout(
        named("train/{}/{}.png", *OAK_ELM) + named("test/t{1}.png", "x", count=2),
        {"test.csv": lines("image,label", "t0,1", "t1,2")},
        train=OAK_ELM,
        test={"elm": 1, "oak": 1},
        told="test.csv: labels from 1 to 2 are taken for the classes in their order, elm to oak",
    ),
    "labels without a 0": Layout(
        named("train/{}/{}.png", "ash", *OAK_ELM) + named("test/t{1}.png", "x", count=1),
        {"test.csv": lines("image,label", "t0,1")},
        train={"ash": 6} | OAK_ELM,
        test={"elm": 1},
        told="test.csv: no label is 0",
    ),
    "postcodes": Layout(
        named("{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("{},{}", labels=("10115", "80331")))},
        train={"10115": 3, "80331": 3},
    ),
    "numbers that are no indices": Layout(
        named("{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("{},{}")), "image_stats.json": '{"oak": 3, "elm": 40}'},
        train=THREE,
    ),
    "two Unicode forms": Layout(
        named(f"train/{unicodedata.normalize('NFD', 'hêtre')}/{{1}}.png", "x")
        + named("train/oak/{1}.png", "x")
        + named(f"test/{unicodedata.normalize('NFC', 'hêtre')}/{{1}}.png", "x", count=1),
        train={"hêtre": 6, "oak": 6},
        test={"hêtre": 1},
    ),
    "another case": Layout(
        named("train/{}/{}.png", *OAK_ELM) + named("test/Oak/{1}.png", "x", count=1),
        train=OAK_ELM,
        test={"oak": 1},
        told="test/Oak is taken for oak of train/, which differs in case only",
    ),
    "labels in names": Layout(
        named("train/{}.{}.png", *OAK_ELM) + named("test1/{1}.png", "x", count=2),
        train=OAK_ELM,
        told="labels are taken from the names of the images, as elm of train/elm.0.png",
    ),
    "domains with folders of images": Layout(
        named("{}/images/{}.png", "web", "shop", count=0)
        + [f"{domain}/images/{name}/{n}.png" for domain in ("web", "shop") for name in OAK_ELM for n in range(3)],
        train=OAK_ELM,
        told="the folders shop, web hold folders of the same names",
    ),
    "several official splits": Layout(
        named("images/{}/{}.png", *OAK_ELM, count=3),
        {
            "labels/train1.txt": lines("oak/0.png", "oak/1.png", "elm/0.png", "elm/1.png"),
            "labels/test1.txt": lines("oak/2.png", "elm/2.png"),
            "labels/train2.txt": lines("oak/1.png", "oak/2.png", "elm/1.png", "elm/2.png"),
            "labels/test2.txt": lines("oak/0.png", "elm/0.png"),
        },
        train={"oak": 2, "elm": 2},
        test={"oak": 1, "elm": 1},
        told="of several official splits the first one is used, not labels/test2.txt, labels/train2.txt",
    ),
    "Roboflow": Layout(
        named("train/{1}.png", "x"),
        {"train/_classes.csv": lines("filename, oak, elm", *two_by_turns("{}.png, {}", labels=("1, 0", "0, 1")))},
        train=THREE,
    ),
    "Google's lists": Layout(
        named("a/{1}.png", "x"),
        {
            "all.csv": lines(
                *(f"{('TRAIN', 'TEST')[n > 3]},gs://bucket/a/{n}.png,{('oak', 'elm')[n % 2]}" for n in range(6))
            )
        },
        train={"oak": 2, "elm": 2},
        test={"oak": 1, "elm": 1},
    ),
    "masks beside images": Layout(
        named("images/{}_{}.png", *OAK_ELM) + named("annotations/masks/{}_{}.png", *OAK_ELM),
        {
            "annotations/list.txt": lines(
                "# name class size",
                *(f"{name}_{n} {label} 7" for label, name in ((1, "oak"), (2, "elm")) for n in range(6)),
            )
        },
        train={"1": 6, "2": 6},
        told="12 images not in the folder of a split, first annotations/masks",
    ),
    "numbered names, images and splits": Layout(
        named("images/{}/{}.png", *OAK_ELM, count=3),
        {
            "classes.txt": lines("1 oak", "2 elm"),
            "images.txt": lines(*(f"{n + 1} {('oak', 'elm')[n // 3]}/{n % 3}.png" for n in range(6))),
            "train_test_split.txt": lines(*(f"{n} {n % 2}" for n in range(1, 7))),
        },
        train={"oak": 2, "elm": 1},
        test={"oak": 1, "elm": 2},
    ),
    "numbered names and classes of images in one folder": Layout(
        named("images/{1}.png", "x"),
        {
            "classes.txt": lines("1 oak tree", "2 elm"),
            "images.txt": lines(*(f"{n} {n - 1}.png" for n in range(1, 7))),
            "image_class_labels.txt": lines(*(f"{n} {1 + n // 4}" for n in range(1, 7))),
            "train_test_split.txt": lines(*(f"{n} {n % 2}" for n in range(1, 7))),
        },
        train={"oak tree": 2, "elm": 1},
        test={"oak tree": 1, "elm": 2},
    ),
    "the column whose name holds the word": Layout(
        named("parts/{}/{}.png", "a", "b", count=3),
        {
            "entries.csv": lines(
                "Image Index,Finding Labels,Age",
                *(f"{'ab'[n // 3]}/{n % 3}.png,{('oak', 'elm')[n % 2]},{20 + n // 2}" for n in range(6)),
            )
        },
        train=THREE,
        told="the folders a, b are not taken for classes",
    ),
    "a count, a header without the image, and partitions by number without a header": Layout(
        named("celebrities/{1}.png", "x"),
        {
            "labels.txt": lines(*(f"{n}.png {('no', 'yes')[n // 3]}" for n in range(6))),
            "list_attr.txt": lines("6", "Male Smiling", *(f"{n}.png  {n % 2} {-(n % 3)}" for n in range(6))),
            "list_eval_partition.txt": lines(*(f"{n}.png {n % 3}" for n in range(6))),
        },
        train={"no": 2, "yes": 2},
        test={"no": 1, "yes": 1},
        told="list_attr.txt is not used: it does not say which of its columns is the label (Male, Smiling)",
    ),
    "partitions by number": Layout(
        named("photos/{1}.png", "x"),
        {
            "all.csv": lines(
                "file,label,partition", *(f"{n}.png,{('oak', 'elm')[n % 2]},{n // 3 * 2}" for n in range(6))
            )
        },
        train={"oak": 2, "elm": 1},
        test={"oak": 1, "elm": 2},
    ),
    "versions with splits": Layout(
        [
            f"{kind}/{split}/{name}/{n}.png"
            for kind in ("raw", "cut")
            for split in ("train", "test")
            for name in OAK_ELM
            for n in range(3)
        ],
        train=OAK_ELM,
        test=OAK_ELM,
        told="the folders cut, raw hold folders of the same names, elm, oak",
    ),
    "splits by usage": Layout(
        named("{1}.png", "x"),
        {
            "all.csv": lines(
                "file,label,usage",
                *(f"{n}.png,{('oak', 'elm')[n % 2]},{('Training', 'PublicTest')[n // 4]}" for n in range(6)),
            )
        },
        train={"oak": 2, "elm": 2},
        test={"oak": 1, "elm": 1},
    ),
    "a class of other files": Layout(
        named("{}/{}.png", *OAK_ELM), {"ash/0.npy": b"NUMPY"}, train=OAK_ELM, told="no image in 1 folder: ash"
    ),
    "a split in JSON": Layout(
        named("photos/{}/{}.png", *OAK_ELM),
        {
            "split.json": json.dumps(
                {"train": named("{}/{}.png", *OAK_ELM, count=5), "test": ["oak/5.png", "elm/5.png"]}
            )
        },
        train={"oak": 5, "elm": 5},
        test={"oak": 1, "elm": 1},
    ),
    "a disk of Windows": Layout(
        named("photos/a b{1}.png", "x"),
        {"all.csv": lines("image,label", *two_by_turns("C:\\trees\\photos\\a b{}.png,{}"))},
        train=THREE,
    ),
    "unknown suffixes": Layout(
        named("{}/{}.png", *OAK_ELM) + named("ash/{1}.jpg_large", "x") + named("yew/{1}", "x"),
        {"oak/notes": "no image"},
        train={"ash": 6, "yew": 6} | OAK_ELM,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_as_it_is_meant_or_told(tmp_path, name):
    layout = LAYOUTS[name]
    for number, path in enumerate(layout.images):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / path, "PNG")
    for path, content in layout.texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = open_source(tmp_path / layout.at)
    is_test = source.splits == SPLITS.index("test") if layout.test else np.zeros(len(source), bool)
    counts = [Counter(source.classes[label] for label in source.labels[which]) for which in (~is_test, is_test)]
    assert counts == [Counter(layout.train), Counter(layout.test)], (source.reading, source.findings)
    warnings = " ".join(finding.text for finding in source.findings if finding.level == "warning")
    assert layout.told in warnings if layout.told else not warnings


def test_deep_gray_is_stored_by_the_range_of_its_bits(tmp_path):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray((ramp * (3000 + number)).astype(np.uint16)).save(tmp_path / name / f"{number}.png")
    report = check_source(detect_source(tmp_path), 8)
    assert report.white == 4096
    assert any(
        "values from 0 to 3,002" in f.text.replace("3002", "3,002") for f in report.findings if f.level == "warning"
    )


def archived(path, images, suffix=""):
    """A tar or zip file of images of one pixel, or of what else is given as bytes, by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") if path.suffix == ".tar" else zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(images):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (number, len(images), 0)).save(file, "PNG")
            content = images[name] if isinstance(images, dict) and images[name] is not None else file.getvalue()
            if isinstance(archive, zipfile.ZipFile):
                archive.writestr(name, content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def counts_of(source):
    return Counter(
        (source.classes[label], SPLITS[split]) for label, split in zip(source.labels, source.splits, strict=True)
    )


def test_archives_are_folders_of_their_names(tmp_path):
    for name in ("oak", "elm"):
        archived(tmp_path / "by class" / f"{name}.tar", named("{1}.png", "x"))
    assert Counter(class_ for class_, _ in counts_of(open_source(tmp_path / "by class")).elements()) == OAK_ELM
    for split, count in (("train", 6), ("test", 2)):
        archived(tmp_path / "by split" / f"{split}.zip", named(split + "/{}/{}.png", *OAK_ELM, count=count))
    counts = counts_of(open_source(tmp_path / "by split"))
    assert counts["oak", "test"] == counts["elm", "test"] == 2 and counts.total() == 16
    inner = {f"parts/{path.name}": path.read_bytes() for path in sorted((tmp_path / "by class").iterdir())}
    source = open_source(archived(tmp_path / "all.zip", inner))
    assert set(source.classes) == {*OAK_ELM} and source.open(0).size == (8, 8)


def test_shards_of_web_datasets(tmp_path):
    for shard in ("train-000", "train-001", "val-000"):
        names = {f"{shard}{number}.{kind}": None for number in range(4) for kind in ("png", "cls")}
        labels = {name: str(int(name[-5]) % 2).encode() for name in names if name.endswith("cls")}
        archived(tmp_path / f"{shard}.tar", names | labels)
    counts = {("0", "train"): 4, ("1", "train"): 4, ("0", "val"): 2, ("1", "val"): 2}
    assert counts_of(open_source(tmp_path)) == counts


@pytest.mark.parametrize("key", ["cls", "label", "class"])
def test_shards_of_web_datasets_with_json(tmp_path, key):
    for shard in ("train-000", "test-000"):
        names = {f"{shard}{number}.{kind}": None for number in range(4) for kind in ("png", "json")}
        facts = {name: {"width": 8, key: ("oak", "elm")[int(name[-6]) % 2]} for name in names if name.endswith("json")}
        archived(tmp_path / f"{shard}.tar", names | {name: json.dumps(fact).encode() for name, fact in facts.items()})
    counts = {(name, split) for name in OAK_ELM for split in ("train", "test")}
    held_out = counts_of(open_source(tmp_path))
    assert {(name, "train" if split == "val" else split) for name, split in held_out} == counts
    assert held_out.total() == 8


def test_attributes_and_pixels_in_tables_are_told(tmp_path):
    for path in named("faces/{1}.png", "x"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    rows = (f"{n}.png,{(-1) ** n},{(-1) ** (n // 2)}" for n in range(6))
    (tmp_path / "list_attr.csv").write_text(lines("image_id,Male,Smiling", *rows))
    rows = (f"{n},{'ab'[n // 3]},{'xyz'[n % 3]}" for n in range(6))
    (tmp_path / "styles.csv").write_text(lines("id,mainCategory,subCategory", *rows))
    source, problem = detect_source(tmp_path), "it does not say which of its columns is the label"
    assert source.unused == (
        f"list_attr.csv: {problem} (Male, Smiling); a list of two columns does",
        f"styles.csv: {problem} (mainCategory, subCategory); a list of two columns does",
    )
    warnings = [finding.text for finding in source.findings if finding.level == "warning"]
    assert [text.partition(" is not used")[0] for text in warnings] == ["list_attr.csv", "styles.csv"]
    (tmp_path / "pixels").mkdir()
    for header in ("emotion,pixels,Usage", "label,pixel0,pixel1"):
        (tmp_path / "pixels" / "faces.csv").write_text(lines(header, "0,70 80 82,Training", "1,70 80 82,Training"))
        for data in (tmp_path / "pixels", tmp_path / "pixels" / "faces.csv"):
            with pytest.raises(ValueError, match=r"faces.csv.*it holds pixels as numbers; pass them as arrays"):
                open_source(data)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_of_hugging_face(tmp_path, kind):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["oak", "elm"]}}
    for split, count in (("train", 6), ("test", 2)):
        images = []
        for number in range(count):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        labels = [number % 2 for number in range(count - 1)] + [-1 if split == "test" else 1]
        table = pyarrow.table({"image": images, "label": pyarrow.array(labels, pyarrow.int64())})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (tmp_path / split).mkdir()
        if kind == "parquet":
            parquet.write_table(table, tmp_path / split / "0.parquet", row_group_size=4)
        else:
            with pyarrow.ipc.new_stream(tmp_path / split / "data-00000-of-00001.arrow", table.schema) as stream:
                stream.write_table(table)
    source = open_source(tmp_path)
    counts = counts_of(source)
    assert source.classes == ("oak", "elm") and counts["oak", "test"] == 1 and counts["elm", "test"] == 0
    shown = Counter((source.open(i).getpixel((0, 0))[0], source.classes[source.labels[i]]) for i in range(len(source)))
    assert shown == Counter([(0, "oak"), (0, "oak"), (1, "elm"), (2, "oak"), (3, "elm"), (4, "oak"), (5, "elm")])
    assert any("skipped 1 image without a label" in finding.text for finding in source.findings)
