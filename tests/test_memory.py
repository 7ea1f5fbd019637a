"""Images in memory: every kind that people have, through the same pack, names and splits as files."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLORS, write_colors
from PIL import Image

import alexnet
from alexnet.data.pack.packing import make_pack, source_fingerprint
from alexnet.data.sources.detection import detect_source, open_source
from alexnet.data.sources.memory import hold, location_of
from alexnet.specs.settings import LabelMaps

FEW = {"variant": "small", "epochs": 1, "batch_size": 8, "precision": "fp32", "verbose": False}


class Pictures:
    """Twelve pictures of each color, as files, arrays and labels."""

    def __init__(self, root: Path):
        self.root = write_colors(root, 12)
        self.files = sorted(self.root.rglob("*.png"))
        self.names = [path.parent.name for path in self.files]
        self.labels = np.array([sorted(COLORS).index(name) for name in self.names])
        self.images = np.stack([np.asarray(Image.open(path)) for path in self.files])


class Torch(torch.utils.data.Dataset):
    classes = tuple(sorted(COLORS))

    def __init__(self, pictures, view=lambda image: image):
        self.pictures, self.view = pictures, view

    def __len__(self):
        return len(self.pictures.files)

    def __getitem__(self, index):
        return self.view(self.pictures.images[index]), self.pictures.labels[index]


class Column(list):
    tolist = list.copy


class Frame:
    """What of a pandas data frame is used."""

    def __init__(self, **columns):
        self.columns, self.values = list(columns), list(columns.values())
        self.iloc = self

    def __getitem__(self, rows_and_column):
        return Column(self.values[rows_and_column[1]])


class ClassLabel:
    names = sorted(COLORS)


class HuggingFaceImage:
    def __init__(self, decode=True):
        self.decode = decode


HuggingFaceImage.__name__ = "Image"


class HuggingFace:
    """What of a data set of `datasets` is used; its images are files, encoded or decoded."""

    def __init__(self, pictures, indices=None, feature=None):
        self.pictures = pictures
        self.indices = range(len(pictures.files)) if indices is None else indices
        self.features = {"image": feature or HuggingFaceImage(), "label": ClassLabel()}
        self.column_names = list(self.features)

    def __len__(self):
        return len(self.indices)

    def cast_column(self, name, feature):
        assert name == "image"
        return HuggingFace(self.pictures, self.indices, feature)

    def __getitem__(self, index):
        assert not self.features["image"].decode  # or it would be decoded in one process
        path = self.pictures.files[self.indices[index]]
        image = {"path": str(path), "bytes": None if index % 2 else path.read_bytes()}
        return {"image": image, "label": int(self.pictures.labels[self.indices[index]])}


@pytest.fixture
def pictures(tmp_path):
    return Pictures(tmp_path / "colors")


KINDS = {
    "uint8": lambda p: (p.images, p.labels),
    "lists": lambda p: (list(p.images), p.labels.tolist()),
    "floats from 0 to 1": lambda p: (p.images / 255, p.names),
    "whole floats": lambda p: (p.images.astype(np.float32), p.names),
    "integers": lambda p: (p.images.astype(np.int64), p.names),
    "tensors, channels first": lambda p: (torch.from_numpy(p.images).permute(0, 3, 1, 2), torch.from_numpy(p.labels)),
    "arrays of paths": lambda p: (np.array(list(map(str, p.files))), np.array(p.names)),
    "paths": lambda p: list(zip(p.files, p.names, strict=True)),
    "paths as text": lambda p: list(zip(map(str, p.files), p.names, strict=True)),
    "Pillow": lambda p: [(Image.open(path), name) for path, name in zip(p.files, p.names, strict=True)],
    "bytes": lambda p: [(path.read_bytes(), name) for path, name in zip(p.files, p.names, strict=True)],
    "data set of arrays": lambda p: Torch(p),
    "data set of tensors": lambda p: Torch(p, lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255),
    "data set of Pillow images": lambda p: Torch(p, Image.fromarray),
    "table": lambda p: Frame(label=p.names, path=p.files),
    "table of images": lambda p: Frame(image=list(map(Image.fromarray, p.images)), **{"class": p.names}),
    "Hugging Face": HuggingFace,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_pixels_classes_and_splits_of_the_files(pictures, kind):
    source = open_source(KINDS[kind](pictures))
    packed, of_files = make_pack(source, 16), make_pack(open_source(pictures.root), 16)
    rows = {of_files.names[index]: of_files.images[index] for index in range(len(of_files.labels))}
    for index, path in enumerate(pictures.files):
        np.testing.assert_array_equal(packed.images[index], rows[f"{path.parent.name}/{path.name}"], err_msg=kind)
    assert packed.classes in (tuple(sorted(COLORS)), ("0", "1", "2")) and packed.labels.tolist() == [*pictures.labels]
    counts = Counter(zip(packed.labels.tolist(), packed.splits.tolist(), strict=True))
    assert counts == {(label, split): n for label in range(3) for split, n in ((0, 10), (1, 1), (2, 1))}
    assert packed.unreadable == {} and len(set(packed.names)) == 36 and not source.has_splits
    assert source_fingerprint(detect_source(KINDS[kind](pictures))) == source_fingerprint(source)


def test_gray_images(pictures):
    for images in (
        pictures.images[..., 0],
        pictures.images[..., :1],
        torch.from_numpy(pictures.images[:, None, ..., 0]),
    ):
        packed = make_pack(open_source((images, pictures.names)), 36)
        assert (packed.images[5][..., 1] == packed.images[5][..., 2]).all()
        np.testing.assert_array_equal(packed.images[5][..., 0], pictures.images[5][:, 2:38, 0])


@pytest.mark.parametrize("kind", ["dict", "Hugging Face", "table"])
def test_splits_that_are_given_are_kept(pictures, kind):
    is_test = np.arange(36) % 4 == 0
    data = {
        "dict": lambda: {
            "training": (pictures.images[~is_test], pictures.labels[~is_test]),
            "test": (pictures.images[is_test], pictures.labels[is_test]),
        },
        "Hugging Face": lambda: {
            "train": HuggingFace(pictures, np.flatnonzero(~is_test)),
            "test": HuggingFace(pictures, np.flatnonzero(is_test)),
        },
        "table": lambda: Frame(file=pictures.files, label=pictures.names, split=np.where(is_test, "test", "train")),
    }[kind]()
    source = open_source(data)
    assert source.has_splits and Counter(source.splits.tolist()) == {0: 24, 1: 3, 2: 9}
    shown = [int(np.asarray(source.open(index).convert("RGB")).mean((0, 1)).argmax()) for index in range(36)]
    brightest = {name: int(np.argmax(color)) for name, color in COLORS.items()}
    assert shown == [brightest[sorted(COLORS)[label]] for label in source.labels]


def test_real_data_frames_and_data_sets(pictures):
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    frame = pandas.DataFrame({"path": pictures.files, "label": pictures.names})
    made = datasets.Dataset.from_dict({"image": [*map(str, pictures.files)], "label": pictures.labels.tolist()})
    made = made.cast_column("image", datasets.Image()).cast_column("label", datasets.ClassLabel(names=sorted(COLORS)))
    for data in (frame, made):
        source = open_source(data)
        assert source.classes == tuple(sorted(COLORS)) and source.labels.tolist() == pictures.labels.tolist()
        np.testing.assert_array_equal(np.asarray(source.open(7)), pictures.images[7])
    assert Counter(open_source(made.train_test_split(6, seed=0)).splits.tolist()) == {0: 27, 1: 3, 2: 6}


def test_a_subset_of_a_data_set_has_its_classes(pictures):
    train, test = torch.utils.data.random_split(Torch(pictures), [24, 12], torch.Generator().manual_seed(0))
    source = open_source({"train": train, "test": test})
    assert source.classes == Torch.classes and Counter(source.splits.tolist()) == {0: 21, 1: 3, 2: 12}
    assert source.labels[21:].tolist() == [pictures.labels[index] for index in train.indices][21:] + [
        pictures.labels[index] for index in test.indices
    ]


def test_classes_that_no_image_has_keep_their_index(pictures):
    few = Torch(pictures)
    few.classes = ("amber", *sorted(COLORS))
    source = open_source(few)
    assert source.classes == few.classes and source.unused_classes == {"red"}  # its labels are 0 to 2
    assert make_pack(source, 8).classes == few.classes


def test_a_file_may_name_the_indices(pictures, tmp_path):
    (tmp_path / "indices.json").write_text(json.dumps({"sky": 0, "grass": 1, "fire": 2}))
    maps = LabelMaps(None, tmp_path / "indices.json")
    assert open_source((pictures.images, pictures.labels), maps=maps).classes == ("sky", "grass", "fire")
    with pytest.raises(ValueError, match="arrays: labels must be among sky, grass, fire, got 3"):
        open_source((pictures.images, pictures.labels + 1), maps=maps)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda p: (p.images, p.labels[:5]), "X and y must have the same length, got 36 and 5"),
        (
            lambda p: (p.images / 127.5 - 1, p.labels),
            "must be uint8, floats from 0 to 1, or integers from 0 to 255, got float64 from -1 to 1",
        ),
        (
            lambda p: (p.images.reshape(36, -1), p.labels),
            "an image array must have shape (images, height, width[, 1, 3 or 4]), got (36, 4320)",
        ),
        (lambda p: (p.images, np.eye(3)[p.labels]), "y must have a label for each image, got rows of 3; y.argmax(1)"),
        (lambda p: (p.images, p.labels + 0.5), "arrays[0]: a label must be a name or an integer, got 0.5"),
        (lambda p: p.images, "or a dict of these by split, got ndarray"),
        (lambda p: torch.utils.data.DataLoader(Torch(p)), "by split, got DataLoader; pass its dataset"),
        (lambda p: iter([]), "by split, got list_iterator"),
        (lambda p: [], "images has no images"),
        (lambda p: p.files, "images[0]: an item must be (image, label), got "),
        (
            lambda p: [(1, "a")],
            "images[0]: an image must be a path, bytes, a Pillow image, an array or a tensor, got 1",
        ),
        (lambda p: {"extra": Torch(p)}, "the keys of a dict of data must be train, val, test, got 'extra'"),
        (lambda p: Frame(path=p.files, color=p.names), "a table must have columns image and label, got path, color"),
        (lambda p: Frame(path=p.files, label=p.names, split=["now"] * 36), "one of train, val, test, got 'now'"),
        (lambda p: Torch(p, lambda image: 1 / 0), "Torch[0]: division by zero"),
        (lambda p: [(p.files[0], "red"), (p.files[0], "blue")], "00.png has two labels or two splits"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(pictures, data, message):
    with pytest.raises(ValueError) as caught:
        open_source(data(pictures))
    assert message in str(caught.value)


@pytest.mark.parametrize("unknown", [-1, np.int64(-1), "-1"])
def test_the_label_minus_one_is_unknown(pictures, unknown):
    labels = [unknown if index % 4 == 0 else int(label) for index, label in enumerate(pictures.labels)]
    source = detect_source((pictures.images, labels))
    assert len(source) == 27 and source.classes == ("0", "1", "2")
    assert [str(finding) for finding in source.findings] == [
        "skipped 9 images with the label -1, which stands for an unknown label"
    ]
    kept = np.flatnonzero(np.arange(36) % 4)
    assert all((np.asarray(source.open(index)) == pictures.images[row]).all() for index, row in enumerate(kept))
    with pytest.raises(ValueError, match="all 36 labels are -1"):
        open_source((pictures.images, [unknown] * 36))


def test_broken_images_are_skipped_and_named(pictures):
    pairs = [(path.read_bytes(), name) for path, name in zip(pictures.files, pictures.names, strict=True)]
    pairs[3] = (b"no picture", "blue")
    packed = make_pack(open_source(pairs), 8)
    assert packed.unreadable == {3: "not an image of a known format, or its header is damaged"}
    assert packed.names[3] == "images#3"


def test_training_evaluating_and_resuming(pictures, tmp_path):
    data = pictures.images, pictures.names
    classifier = alexnet.Classifier()
    classifier.fit(data, output=tmp_path / "run", **FEW)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"] == location_of(hold(data)) and record["data"].startswith("in-memory:")
    assert len((tmp_path / "run" / "split.csv").read_text().splitlines()) == 37
    errors = classifier.evaluate(verbose=False)
    again = alexnet.load(tmp_path / "run").evaluate(data, verbose=False)
    assert again.split == errors.split == "test" and again.all_views.top1 == errors.all_views.top1
    with pytest.raises(ValueError, match=r"was in the memory of the process that .*; data must be passed again"):
        alexnet.load(tmp_path / "run").evaluate(verbose=False)
    others = {"train": data, "val": (pictures.images[:6], pictures.names[:6])}
    assert len(classifier.evaluate(others, "val", verbose=False).indices) == 6


def test_a_run_on_data_in_memory_resumes_on_the_same_data_only(pictures, tmp_path):
    data = pictures.images, pictures.names
    intact = alexnet.Classifier()
    intact.fit(data, output=tmp_path / "intact", **FEW | {"epochs": 2})
    settings = {name: value for name, value in FEW.items() if name != "verbose"} | {"epochs": 2}
    events = alexnet.Classifier().fit_events(data, output=tmp_path / "run", **settings)
    for event in events:
        if isinstance(event, alexnet.Epoch):
            next(events)  # its checkpoint
            break
    events.close()
    with pytest.raises(ValueError, match="data: images or labels have changed"):
        alexnet.Classifier().fit((255 - data[0], data[1]), output=tmp_path / "run", resume=True, verbose=False)
    resumed = alexnet.Classifier()
    resumed.fit(data, output=tmp_path / "run", resume=True, verbose=False)
    for name, weights in intact.network.state_dict().items():
        assert torch.equal(weights, resumed.network.state_dict()[name]), name


@pytest.mark.parametrize("name", ["~nobody-of-that-name/photos", "a\0b"])
def test_a_path_that_cannot_be_located_is_refused_by_its_name(name):
    with pytest.raises(ValueError, match="cannot be read"):
        location_of(name)
