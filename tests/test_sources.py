"""Every kind of source, made here in its official format, and damaged ones."""

import csv
import gzip
import io
import json
import pickle
import shutil
import tarfile
import threading
import zipfile
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import COLORS, write_colors
from PIL import Image

from alexnet.cli import main
from alexnet.data.labels.class_names import imagenet_class_names, readable_class_name
from alexnet.data.pack.packing import make_pack
from alexnet.data.source import SPLITS
from alexnet.data.sources.detection import detect_source, open_source
from alexnet.data.sources.lists import write_list
from alexnet.specs.settings import LabelMaps


def table_of(source):
    """What a source says: name → (class, split)."""
    return {
        name: (source.classes[label], SPLITS[split])
        for name, label, split in zip(source.names, source.labels, source.splits, strict=True)
    }


def is_of_its_color(source):
    """Whether every image shows the color that its class is named by."""
    for number in range(len(source)):
        color = np.asarray(source.open(number).convert("RGB"), float).mean((0, 1))
        assert np.abs(color - COLORS[source.classes[source.labels[number]]]).max() < 12, source.names[number]
    return True


@pytest.fixture
def flat(tmp_path):
    """train/, val/ and test/ with images directly inside, and what each shows."""
    shown = {}
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        colors = write_colors(tmp_path / "by class" / split, count, seed=count)
        (tmp_path / "flat" / split).mkdir(parents=True)
        for number, path in enumerate(sorted(colors.rglob("*.png"))):
            shown[f"{split}/{split}_{number:03}.png"] = path.parent.name
            shutil.copy(path, tmp_path / "flat" / split / f"{split}_{number:03}.png")
    return tmp_path / "flat", shown


@pytest.mark.parametrize("keys", ["with suffix", "without suffix", "with folder"])
def test_flat_folders_with_a_map_to_labels_and_one_to_indices(flat, keys):
    root, shown = flat
    key = {
        "with suffix": lambda path: Path(path).name,
        "without suffix": lambda path: Path(path).stem,
        "with folder": lambda path: path,
    }[keys]
    (root / "labels.json").write_text(json.dumps({key(path): label for path, label in shown.items()}))
    indices = {"green": 0, "red": 1, "blue": 3}
    (root / "label_to_index.json").write_text(json.dumps(indices))
    source = open_source(root)
    assert source.classes == ("green", "red", "unused 2", "blue") and source.unused_classes == {"unused 2"}
    assert table_of(source) == {path: (label, path.split("/")[0]) for path, label in shown.items()}
    assert Counter(source.labels) == {indices[label]: 11 for label in COLORS}
    assert is_of_its_color(source)
    packed = make_pack(source, 8)  # the class that is none has no images, and need not
    assert packed.classes == source.classes


@pytest.mark.parametrize(
    "classes",
    [
        {"0": "red", "1": "blue", "2": "green"},
        {"0": ["n1", "x"], "1": ["n2", "x"], "2": ["n3", "x"]},
        ["red", "blue", "green"],
    ],
)
def test_labels_may_be_indices_and_classes_may_be_listed_by_them(flat, classes):
    root, shown = flat
    order = ["red", "blue", "green"]
    (root / "labels.json").write_text(json.dumps({path: order.index(label) for path, label in shown.items()}))
    (root / "classes.json").write_text(json.dumps(classes))
    source = open_source(root)
    assert source.classes == (("n1", "n2", "n3") if "n1" in str(classes) else tuple(order))
    (root / "classes.json").unlink()
    source = open_source(root)
    assert source.classes == ("0", "1", "2")
    assert {path: order[int(label)] for path, (label, _) in table_of(source).items()} == shown


TABLES = {
    "labels.csv": lambda rows: "image,label\n" + "".join(f"{path},{label}\n" for path, label in rows),
    "no header.csv": lambda rows: "".join(f"{path};{label}\n" for path, label in rows),
    "swapped.csv": lambda rows: "".join(f"{label},{path},7\n" for path, label in rows),
    "labels.tsv": lambda rows: "# by hand\nclass\tfilename\n" + "".join(f"{label}\t{path}\n" for path, label in rows),
    "labels.txt": lambda rows: "".join(f"{path} {label}\n" for path, label in rows),
    "labels.jsonl": lambda rows: "".join(json.dumps({"file_name": p, "label": label}) + "\n" for p, label in rows),
    "labels.json": lambda rows: json.dumps([{"path": path, "category": label} for path, label in rows]),
    "bom.csv": lambda rows: "\ufeffImage,Label\r\n" + "".join(f'"{path}","{label}"\r\n' for path, label in rows),
}


@pytest.mark.parametrize("name", TABLES)
def test_lists_of_every_form_beside_the_images_or_alone(flat, name):
    root, shown = flat
    for path in list(shown):  # a name with a space in it
        (root / path).rename(root / path.replace("_", " "))
    shown = {path.replace("_", " "): label for path, label in shown.items()}
    (root / "readme.txt").write_text("Pictures of colors.\n\nBy hand.\n")
    (root / name).write_text(TABLES[name](list(shown.items())), encoding="utf-8")
    source = open_source(root)
    assert table_of(source) == {path: (label, path.split("/")[0]) for path, label in shown.items()}
    assert is_of_its_color(source)
    alone = open_source(root / name)
    assert {path: label for path, (label, _) in table_of(alone).items()} == shown
    assert Counter(split for _, split in table_of(alone).values()) == {"train": 27, "val": 3, "test": 3}
    assert is_of_its_color(alone)


def test_a_list_may_name_splits_and_images_elsewhere(flat, tmp_path):
    root, shown = flat
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = [(str(root / path), label, path.split("/")[0]) for path, label in shown.items()]
    with (lists / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "subset"), *rows])
    assert table_of(open_source(lists / "all.csv")) == {path: (label, split) for path, label, split in rows}
    (lists / "all.csv").write_text((lists / "all.csv").read_text().replace(str(root), "../flat"))
    assert is_of_its_color(open_source(lists / "all.csv"))


def test_tiny_imagenet(tmp_path):
    """train/CLASS/images/*, val/images/* with val_annotations.txt, test/images/* without labels."""
    root, wnids = tmp_path / "tiny-imagenet-200", {"blue": "n01", "green": "n02", "red": "n03"}
    colors = write_colors(tmp_path / "colors", 8)
    lines = []
    for color, wnid in wnids.items():
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(8):
            picture = colors / color / f"{number:02}.png"
            if number < 5:
                shutil.copy(picture, root / "train" / wnid / "images" / f"{wnid}_{number}.png")
            else:
                split = "val" if number < 7 else "test"
                (root / split / "images").mkdir(parents=True, exist_ok=True)
                shutil.copy(picture, root / split / "images" / f"{split}_{color}{number}.png")
                if split == "val":
                    lines.append(f"val_{color}{number}.png\t{wnid}\t0\t0\t44\t39\n")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.png\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "words.txt").write_text("n01\tblue\nn02\tgreen\n")
    for location in (root, tmp_path):  # the archive has the folder in it
        if location == tmp_path:
            shutil.rmtree(colors)
        source = open_source(location)
        assert source.classes == ("n01", "n02", "n03")
        assert Counter(split for _, split in table_of(source).values()) == {"train": 15, "val": 6}
        for name, (wnid, split) in table_of(source).items():
            assert split == "train" or f"val_{ {w: c for c, w in wnids.items()}[wnid] }" in name
        assert "skipped 3 images without a label" in " ".join(finding.text for finding in source.findings)


def test_caffes_val_txt_has_indices_of_the_sorted_classes(split_folder):
    shutil.rmtree(split_folder / "test")
    lines = []
    for path in sorted((split_folder / "val").rglob("*.png")):
        label = sorted(COLORS).index(path.parent.name)
        path.rename(split_folder / "val" / f"{path.parent.name}{path.name}")
        lines.append(f"{path.parent.name}{path.name} {label}\n")
    for color in COLORS:
        (split_folder / "val" / color).rmdir()
    with pytest.raises(ValueError, match=r"colors/val has 12 images \(first val/blue00.png\) without labels"):
        open_source(split_folder)
    (split_folder / "val.txt").write_text("".join(lines))
    source = open_source(split_folder)
    assert source.classes == tuple(sorted(COLORS)) and is_of_its_color(source)
    (split_folder / "val.txt").write_text("".join(lines).replace(" 2", " 3"))  # counted from 1
    with pytest.raises(ValueError, match=r"val/3 is not a class of train/, which has blue, green, red"):
        open_source(split_folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "labels.csv",
            "image,label\na.png,red\nb.png\n",
            r"line 3: a line must have an image and a label, got 1 field",
        ),
        ("labels.csv", "image,label\na.png,\n", r"labels.csv, line 2: a label must be a name or an integer, got ''"),
        (
            "labels.csv",
            "image,label,split\na.png,red,often\n",
            r"line 2: the split must be one of train, val, test, got 'often'",
        ),
        ("labels.csv", "image,label\na.png,red\na.png,blue\n", r"line 3: 'a.png' is 'blue', but 'red' in line 2"),
        (
            "labels.json",
            '{"a.png": "red",\n "b.png": }',
            r"labels.json, line 2: not valid JSON \(Expecting value, column 11\)",
        ),
        ("labels.json", '{"a.png": "red", "a.png": "blue"}', r"duplicate key 'a.png'"),
        (
            "labels.json",
            '{"a.png": [1, 2]}',
            r"labels.json: a label must be a name or an integer, got \[1, 2\] for 'a.png'",
        ),
        (
            "labels.jsonl",
            '{"image": "a.png", "label": 1}\n{"image": }\n',
            r"labels.jsonl, line 2: not valid JSON \(Expecting value",
        ),
        (
            "labels.jsonl",
            '{"image": "a.png", "label": 1}\n[]\n',
            r"line 2: must be like {'image': …, .*, got \[\]",
        ),
        ("labels.txt", "a.png red\n\x81", r"labels.txt, line 2: label files must be UTF-8, but byte 10 is not"),
    ],
)
def test_a_damaged_label_file_is_named_with_its_line(tmp_path, name, content, message):
    for image in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{image}.png")
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    for location in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=message):
            open_source(location)


def test_contradictions_and_absurd_indices_are_refused(flat):
    root, shown = flat
    labels = {Path(path).name: label for path, label in shown.items()}
    (root / "labels.json").write_text(json.dumps(labels))
    (root / "more.csv").write_text("image,label\ntrain_000.png,red\n")
    with pytest.raises(ValueError, match=r"train_000.png is 'blue' in labels.json, but 'red' in more.csv, line 2"):
        open_source(root)
    (root / "more.csv").unlink()
    for indices, message in (
        ({"red": 0, "green": 1, "blue": 1}, "index 1 is that of 'green' and of 'blue'"),
        ({"red": 0, "green": 1, "blue": 70_000}, "got 0 to 70,000 for 3 labels"),
        ({"red": 0, "green": 1, "blue": -2}, "got -2 to 1"),
    ):
        (root / "indices.json").write_text(json.dumps(indices))
        with pytest.raises(ValueError, match=message):
            open_source(root)
    (root / "indices.json").write_text(json.dumps({"red": 0, "green": 1}))
    with pytest.raises(ValueError, match=r"train/blue is not a class of indices\.json, which has red, green"):
        open_source(root)
    (root / "indices.json").unlink()
    (root / "val" / "train_000.png").write_bytes((root / "val" / "val_000.png").read_bytes())
    with pytest.raises(
        ValueError, match=r"labels.json: 'train_000.png' is ambiguous, it fits train/\S+ and val/train_000.png"
    ):
        open_source(root)


def zipped(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent))
        archive.writestr("__MACOSX/colors/._a.png", b"no picture")
    return to


def tarred(folder: Path, to: Path) -> Path:
    with tarfile.open(to, "w:gz" if to.suffix == ".tgz" else "w") as archive:
        archive.add(folder, folder.name)
    return to


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_an_archive_is_like_the_folder_in_it(split_folder, tmp_path, name):
    path = (zipped if name.endswith("zip") else tarred)(split_folder, tmp_path / name)
    in_archive, in_folder = open_source(path), open_source(split_folder)
    expected = {f"colors/{name}": row for name, row in table_of(in_folder).items()}
    assert table_of(in_archive) == expected and is_of_its_color(in_archive)
    packed, same = make_pack(in_archive, 16), make_pack(in_folder, 16)
    index_of = {name.removeprefix("colors/"): number for number, name in enumerate(packed.names)}
    for number, name in enumerate(same.names):
        np.testing.assert_array_equal(packed.images[index_of[name]], same.images[number])


def test_a_flat_folder_with_its_list_in_an_archive(flat, tmp_path):
    root, shown = flat
    (root / "labels.csv").write_text(TABLES["labels.csv"](list(shown.items())))
    source = open_source(zipped(root, tmp_path / "flat.zip"))
    assert {name.removeprefix("flat/"): label for name, (label, _) in table_of(source).items()} == shown


def cifar_rows(count: int, classes: int, seed: int = 0):
    """Labels and official rows of images of one color each, which tells the label."""
    labels = np.random.default_rng(seed).permutation(np.arange(count) % classes)
    pixels = np.repeat((labels[:, None] * 2 + np.array([0, 5, 10])).astype(np.uint8), 1024, axis=1)
    return labels, pixels


class Python2(pickle._Pickler):
    """Strings of bytes as Python 2 wrote them."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value):
        head = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + len(value).to_bytes(4, "little")
        self.write(head + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python_2_pickle(value) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue()


NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar(root: Path, version: str, classes: int = 10) -> dict[str, np.ndarray]:
    """CIFAR in its official format, small; the labels of each file."""
    root.mkdir()
    files = {10: [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"], 100: ["train", "test"]}[classes]
    given = {}
    names = NAMES if classes == 10 else [f"fine {number}" for number in range(100)]
    for seed, name in enumerate(files):
        labels, pixels = cifar_rows(20 if classes == 10 else 400, classes, seed)
        given[name] = labels
        if version == "binary":
            before = labels[:, None] if classes == 10 else np.stack([labels // 5, labels], 1)
            (root / f"{name}.bin").write_bytes(np.concatenate([before.astype(np.uint8), pixels], 1).tobytes())
        else:  # as Python 2 wrote them
            key = b"labels" if classes == 10 else b"fine_labels"
            batch = {b"data": pixels, key: labels.tolist(), b"batch_label": b"training", b"filenames": [b"a.png"]}
            (root / name).write_bytes(python_2_pickle(batch))
    if version == "binary":
        meta = "batches.meta.txt" if classes == 10 else "fine_label_names.txt"
        (root / meta).write_text("\n".join(name.replace(" ", "_") for name in names) + "\n\n")
    else:
        key = b"label_names" if classes == 10 else b"fine_label_names"
        meta = {key: [name.encode() for name in names], b"num_vis": 3072}
        (root / ("batches.meta" if classes == 10 else "meta")).write_bytes(python_2_pickle(meta))
    return given


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar(tmp_path, version, classes, packed):
    root = tmp_path / f"cifar-{classes}-batches"
    given = write_cifar(root, version, classes)
    source = open_source(tarred(root, tmp_path / "cifar.tgz") if packed else root)
    assert len(source.classes) == classes and (classes == 100 or source.classes == tuple(NAMES))
    indices = {}
    for number, name in enumerate(source.names):
        file, row = Path(name).name.split("#")
        indices.setdefault(file.removesuffix(".bin"), {})[int(row)] = number
        assert (SPLITS[source.splits[number]] == "test") == file.startswith("test")
    for file, labels in given.items():
        assert [source.labels[indices[file][row]] for row in range(len(labels))] == labels.tolist()
        for row in (0, len(labels) - 1):
            pixel = np.asarray(source.open(indices[file][row]))[17, 5]
            assert pixel.tolist() == [labels[row] * 2, labels[row] * 2 + 5, labels[row] * 2 + 10]
    assert 0 < (source.splits == 1).sum() < len(source) / 4  # cut from train, as there is no val
    assert make_pack(source, 32).images.shape == (len(source), 32, 32, 3)


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("hostile-was-here"),)


def test_a_hostile_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cifar"
    write_cifar(root, "python")
    (root / "data_batch_2").write_bytes(pickle.dumps({b"data": Hostile(), b"labels": [1]}))
    with pytest.raises(ValueError, match=r"_2 cannot be read as a file of CIFAR-10: it asks for pathlib.Path"):
        open_source(root)
    assert not (tmp_path / "hostile-was-here").exists()
    (root / "data_batch_2").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="cifar/data_batch_2 cannot be read as a file of CIFAR-10"):
        open_source(root)
    (root / "data_batch_2").unlink()
    with pytest.raises(ValueError, match="cifar lacks data_batch_2 of CIFAR-10"):
        open_source(root)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files(tmp_path, ending):
    root, generator = tmp_path / "mnist", np.random.default_rng(0)
    root.mkdir()
    given = {}
    for word, count in (("train", 50), ("t10k", 10)):
        images, labels = generator.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        given[word] = images, labels
        for kind, array in ((f"{word}-images-idx3-ubyte", images), (f"{word}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (root / f"{kind}{ending}").write_bytes(gzip.compress(content) if ending else content)
    for location in (root, root / f"train-images-idx3-ubyte{ending}"):
        source = open_source(location)
        assert source.classes == tuple("0123456789") and Counter(source.splits) == {0: 40, 1: 10, 2: 10}
        for number, name in enumerate(source.names):
            file, row = name.split("#")
            images, labels = given[file.split("-")[0]]
            assert source.labels[number] == labels[int(row)]
            np.testing.assert_array_equal(np.asarray(source.open(number)), images[int(row)])
    (root / "classes.txt").write_text("\n".join(["T-shirt", "trouser", "pullover", "dress", "coat"]))
    with pytest.raises(ValueError, match=r"labels must be 0 … 4, because 5 classes are named; got 0 … 9"):
        open_source(root)
    intact = (root / f"train-labels-idx1-ubyte{ending}").read_bytes()
    (root / f"train-labels-idx1-ubyte{ending}").write_bytes(intact[:-3])
    with pytest.raises(ValueError, match="or its labels cannot be read as idx"):
        open_source(root)


def write_imagenet(root: Path, devkit: str) -> dict[str, str]:
    """ILSVRC2012's archives with three classes; the class of each image of val."""
    scipy = pytest.importorskip("scipy.io")
    root.mkdir()
    colors = write_colors(root / "colors", 7)
    wnids = dict(zip(sorted(COLORS), sorted(imagenet_class_names())[5:8], strict=True))
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for color, wnid in wnids.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for number in range(4):
                    archive.add(colors / color / f"{number:02}.png", f"{wnid}_{number}.png")
            info = tarfile.TarInfo(f"{wnid}.tar")
            info.size = len(inner.getvalue())
            outer.addfile(info, io.BytesIO(inner.getvalue()))
    shown, order = {}, ["red", "blue", "green"]  # the devkit's own order
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in range(9):
            color, name = order[number % 3], f"ILSVRC2012_val_{number + 1:08}.png"
            archive.add(colors / color / f"{4 + number // 3:02}.png", name)
            shown[name] = wnids[color]
    shutil.rmtree(colors)
    truth = "".join(f"{number % 3 + 1}\n" for number in range(9))
    if devkit == "val.txt":
        lines = [f"{name} {sorted(wnids.values()).index(wnid)}\n" for name, wnid in shown.items()]
        (root / "val.txt").write_text("".join(lines))
        return shown
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnids[color], color, 0) for number, color in enumerate(order, 1)] + [
        (1001, "n00000000", "thing", 3)
    ]
    folder = root / "ILSVRC2012_devkit_t12"
    (folder / "data").mkdir(parents=True)
    scipy.savemat(folder / "data" / "meta.mat", {"synsets": np.array(rows, kinds)})
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    if devkit == "packed":
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        shutil.rmtree(folder)
    return shown


@pytest.mark.parametrize("devkit", ["packed", "unpacked", "val.txt"])
def test_imagenet_as_downloaded(tmp_path, devkit):
    shown = write_imagenet(tmp_path / "imagenet", devkit)
    source = open_source(tmp_path / "imagenet")
    assert source.classes == tuple(sorted(set(shown.values())))
    assert Counter(source.splits) == {0: 12, 1: 9}
    assert {n.removeprefix("val/"): wnid for n, (wnid, split) in table_of(source).items() if split == "val"} == shown
    colors = dict(zip(source.classes, sorted(COLORS), strict=True))
    for number in range(len(source)):
        color = np.asarray(source.open(number), float).mean((0, 1))
        assert np.abs(color - COLORS[colors[source.classes[source.labels[number]]]]).max() < 12
    assert len(make_pack(source, 16).labels) == 21


def test_imagenet_without_its_labels_says_what_is_missing(tmp_path):
    write_imagenet(tmp_path / "imagenet", "val.txt")
    (tmp_path / "imagenet" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"no labels for its images; it must have ILSVRC2012_devkit_t12"):
        open_source(tmp_path / "imagenet")


def test_the_thousand_classes_have_a_thousand_names():
    names = imagenet_class_names()
    assert len(names) == len(set(names.values())) == 1000 and list(names) == sorted(names)
    assert readable_class_name("n01440764") == "tench (n01440764)" and readable_class_name("tench") == "tench"
    assert names["n02119789"] == "kit fox" and names["n15075141"] == "toilet tissue"  # the last


@pytest.fixture
def server(tmp_path):
    """An HTTP server over a folder, and its address."""
    location = tmp_path / "served"
    location.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(location))
    handler.log_message = lambda *words: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield location, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_an_archive_at_a_url(split_folder, server):
    location, address = server
    zipped(split_folder, location / "colors.zip")
    source = open_source(f"{address}/colors.zip")
    assert len(source) == 75 and is_of_its_color(source)
    (location / "colors.zip").unlink()  # it is kept
    assert len(open_source(f"{address}/colors.zip")) == 75
    (location / "page.html").write_text("<html>")
    with pytest.raises(ValueError, match=r"127.0.0.1:\d+/page.html must be a zip or tar file"):
        open_source(f"{address}/page.html")
    with pytest.raises(ValueError, match="ftp"):
        open_source("ftp://127.0.0.1/a.zip")


def test_a_folder_of_a_remote_store_is_read_in_place(split_folder, monkeypatch, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    from alexnet.data.storage import remote

    monkeypatch.setitem(remote.STORES, "memory", "fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(split_folder), "/bucket/colors", recursive=True)
    zipped(split_folder, tmp_path / "colors.zip")
    store.put(str(tmp_path / "colors.zip"), "/bucket/colors.zip")
    for url in ("memory://bucket/colors", "memory://bucket/colors.zip"):
        source = open_source(url)
        assert len(source) == 75 and is_of_its_color(source), url
        assert len(make_pack(source, 8).unreadable) == 0
    with pytest.raises(ValueError, match="memory://bucket/nowhere cannot be listed"):
        open_source("memory://bucket/nowhere")
    store.rm("/bucket", recursive=True)


def test_a_list_selects_images(split_folder, tmp_path):
    source = open_source(split_folder)
    chosen = [number for number in range(len(source)) if number % 3]
    write_list(tmp_path / "chosen.csv", source, chosen)
    again = open_source(tmp_path / "chosen.csv")
    assert table_of(again) == {source.names[n]: table_of(source)[source.names[n]] for n in chosen}
    assert again.classes == source.classes and is_of_its_color(again)
    (split_folder / source.names[chosen[0]]).unlink()
    assert "1 image no longer in colors" in next(each.text for each in detect_source(tmp_path / "chosen.csv").findings)


def test_a_list_of_images_of_another_data_set_names_its_classes_and_gets_missing_splits(flat, tmp_path):
    root, shown = flat
    listed = tmp_path / "listed.csv"
    lines = [f"# images of {root}", "image,label", *(f"{path},{label}" for path, label in shown.items())]
    listed.write_text("\n".join(lines))
    (root / "labels.json").write_text(json.dumps(shown))
    assert set(open_source(listed).splits.tolist()) == {0, 1, 2}
    listed.write_text("\n".join(lines).replace("green", "violet"))
    with pytest.raises(ValueError, match=r"the label must be one of blue, green, red, got 'violet'"):
        open_source(listed)


def test_images_outside_the_splits_are_a_finding(split_folder):
    write_colors(split_folder / "more", 2)
    findings = [finding.text for finding in open_source(split_folder).findings]
    assert findings == ["colors: 6 images not in the folder of a split, first more/blue/00.png"]


def test_train_works_on_a_flat_folder_and_on_an_archive_by_one_command(flat, tmp_path, capsys):
    root, shown = flat
    (root / "labels.json").write_text(json.dumps({Path(path).name: label for path, label in shown.items()}))
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "9", "--precision", "fp32"]
    for location in (root, zipped(root, tmp_path / "flat.zip")):
        main(["train", str(location), *few, "--output", str(tmp_path / f"run of {location.name}")])
        results = json.loads((tmp_path / f"run of {location.name}" / "run.json").read_text())["results"]
        assert results["split"] == "test" and results["center"]["images"] == 9
    main(["evaluate", str(tmp_path / "run of flat"), "--json"])


@pytest.fixture
def maps(flat, tmp_path):
    """The flat folder, and elsewhere a map from its images to labels and one from labels to indices."""
    root, shown = flat
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "train labels.json").write_text(json.dumps({Path(path).name: name for path, name in shown.items()}))
    (elsewhere / "indices.json").write_text(json.dumps({"green": 0, "red": 1, "blue": 2}))
    return root, shown, LabelMaps(elsewhere / "train labels.json", elsewhere / "indices.json")


def test_the_two_maps_may_lie_anywhere(maps, tmp_path, server):
    root, shown, files = maps
    location, address = server
    for file in vars(files).values():
        shutil.copy(file, location / file.name.replace(" ", "-"))
    zipped(root, location / "flat.zip")
    urls = LabelMaps(f"{address}/train-labels.json", f"{address}/indices.json")
    places = {root: files, str(root): urls, zipped(root, tmp_path / "flat.zip"): files, f"{address}/flat.zip": urls}
    for data, given in places.items():
        source = open_source(data, maps=given)
        assert source.classes == ("green", "red", "blue") and is_of_its_color(source)
        table = {name.removeprefix("flat/"): row for name, row in table_of(source).items()}
        assert table == {path: (label, path.split("/")[0]) for path, label in shown.items()}
    assert open_source(root, maps=LabelMaps(files.labels)).classes == ("blue", "green", "red")


def test_given_labels_count_more_than_folders_and_files_beside_the_images(split_folder, tmp_path):
    names = [path.relative_to(split_folder).as_posix() for path in sorted(split_folder.rglob("*.png"))]
    (split_folder / "labels.csv").write_text("image,label\n" + "".join(f"{name},wrong\n" for name in names))
    (tmp_path / "parity.csv").write_text("image,label\n" + "".join(f"{n},{int(n[-5]) % 2}\n" for n in names))
    source = open_source(split_folder, maps=LabelMaps(str(tmp_path / "parity.csv")))
    assert table_of(source) == {name: (str(int(name[-5]) % 2), name.split("/")[0]) for name in names}
    (tmp_path / "order.txt").write_text("red\nblue\ngreen\n")
    (tmp_path / "order.txt").rename(tmp_path / "classes.txt")
    source = open_source(split_folder, maps=LabelMaps(None, tmp_path / "classes.txt"))
    assert source.classes == ("red", "blue", "green") and is_of_its_color(source)


@pytest.mark.parametrize(
    ("labels", "indices", "message"),
    [
        ('["red"]', None, "labels must map images to labels, as in {'cat1.jpg': 'cat'}, got l.json"),
        (
            None,
            '[{"image": "a.png", "label": 1}]',
            "label_indices must map labels to indices, as in {'cat': 0}, got i.",
        ),
        ('{"a.png": "red"', None, "l.json, line 1: not valid JSON (Expecting ',' delimiter, column 16)"),
        ('{"a.png": "pink"}', '{"red": 0, "blue": 1}', "train/pink is not a class of i.json, which has red, blue"),
        ('{"b.png": "red"}', None, "flat/train has 1 image (first train/a.png) without labels in l.json"),
    ],
)
def test_maps_that_do_not_fit_are_named(flat, tmp_path, labels, indices, message):
    root, _ = flat
    for split in SPLITS:
        shutil.rmtree(root / split)
    (root / "train").mkdir()
    Image.new("RGB", (8, 8)).save(root / "train" / "a.png")
    (tmp_path / "l.json").write_text(labels or "")
    (tmp_path / "i.json").write_text(indices or "")
    given = LabelMaps(labels and tmp_path / "l.json", indices and tmp_path / "i.json")
    with pytest.raises(ValueError) as caught:
        open_source(root, maps=given)
    assert message in str(caught.value)


def test_maps_are_for_images_without_labels_of_their_own(maps, tmp_path):
    root, shown, files = maps
    listed = tmp_path / "list.csv"
    listed.write_text(TABLES["labels.csv"]([(str(root / path), label) for path, label in shown.items()]))
    for data in ("emoji", listed, ([np.zeros((8, 8), np.uint8)] * 2, ["red", "blue"])):
        with pytest.raises(ValueError, match=r"labels must be for images in a folder, an archive or remote storage; "):
            open_source(data, maps=LabelMaps(files.labels))
    assert open_source(listed, maps=LabelMaps(None, files.label_indices)).classes == ("green", "red", "blue")
    with pytest.raises(ValueError, match=r"labels must be a path or a URL, got \{'a': 1\}"):
        LabelMaps({"a": 1})
    with pytest.raises(ValueError, match=r"labels: \S+/gone.json cannot be read: No such file or directory"):
        open_source(root, maps=LabelMaps(tmp_path / "gone.json"))


def test_a_run_remembers_its_maps(maps, tmp_path, capsys, monkeypatch):
    root, _, files = maps
    monkeypatch.chdir(tmp_path)
    flags = ["--labels", "else where/train labels.json", "--label-indices", "else where/indices.json"]
    few = ["--variant", "small", "--epochs", "1", "--batch-size", "9", "--precision", "fp32"]
    for command in (["check", "flat", *flags, "--fix", "kept.csv"], ["pack", "flat", *flags, "--size", "8"]):
        main(command)
    printed = capsys.readouterr().out
    quoted = "--labels 'else where/train labels.json' --label-indices 'else where/indices.json'"
    assert f"next:   alexnet train kept.csv {quoted}  (33 images)" in printed and "3 classes" in printed
    main(["train", "flat", *flags, *few, "--output", "run"])
    record = json.loads(Path("run/run.json").read_text())
    assert [record[name] for name in ("labels", "label_indices")] == [str(file) for file in vars(files).values()]
    monkeypatch.chdir(root)  # what is remembered holds from every folder
    capsys.readouterr()
    main(["evaluate", "../run", "--json"])
    alone = json.loads(capsys.readouterr().out)
    main(["evaluate", "../run", "--data", str(root), "--json", "--labels", str(files.labels)])
    assert alone == json.loads(capsys.readouterr().out) and alone["center"]["images"] == 9
    main(["evaluate", "../run", str(root), "--json"])
    assert alone == json.loads(capsys.readouterr().out)


def test_the_list_that_check_writes_is_trained_on_with_the_same_maps(maps, tmp_path, monkeypatch):
    _, shown, files = maps
    monkeypatch.chdir(tmp_path)
    main(["check", "flat", "--labels", str(files.labels), "--fix", "kept.csv"])
    kept = open_source("kept.csv", maps=LabelMaps(files.labels))
    assert table_of(kept) == {path: (label, path.split("/")[0]) for path, label in shown.items()}
