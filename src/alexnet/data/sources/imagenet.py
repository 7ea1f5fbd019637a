"""ILSVRC2012 as downloaded, read from its archives: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the devkit.

The labels of val are in the devkit, as class IDs in an order of its own, or in a list, like Caffe's val.txt.
"""

import io
from pathlib import Path, PurePosixPath

from ..labels.class_names import imagenet_class_names
from ..labels.label_files import LabelFile, Row, read_labels
from ..progress import Track
from ..source import Source
from ..storage.trees import Tree, archive_tree, folder_tree, joined_tree, read_file
from .folders import folder_source

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
DEVKIT = "ILSVRC2012_devkit_t12"
"""A folder of this name, or the .tar.gz."""


def imagenet_source(root: Path, cache: Path, track: Track | None) -> Source | None:
    """ImageNet in a folder of downloads; None if the folder has none of its archives."""
    archives = {"train": root / TRAIN, "val": root / VAL}
    trees = {split: archive_tree(path, cache, track) for split, path in archives.items() if path.is_file()}
    if not trees:
        return None
    labels = [_val_labels(root, trees["val"], cache)] if "val" in trees else []
    return folder_source(joined_tree("imagenet", trees), labels)


def _val_labels(root: Path, val: Tree, cache: Path) -> LabelFile:
    images, classes = {PurePosixPath(image).stem for image in val.files}, imagenet_class_names().keys()
    for name in ("val.txt", "val.csv", "LOC_val_solution.csv"):
        if (root / name).is_file():
            content = (root / name).read_bytes()
            return read_labels(f"val/{name}", content, lambda key: PurePosixPath(key).stem in images, classes)
    ground_truth, meta = _read_devkit(root, cache)
    wordnet_ids = _wordnet_ids(meta)
    try:
        class_ids = [int(line) for line in ground_truth.split()]
    except ValueError as error:
        raise ValueError(f"{GROUND_TRUTH} must have an integer in each line: {str(error)[:80]}") from error
    images = sorted(PurePosixPath(name).name for name in val.files)
    if len(class_ids) != len(images):
        raise ValueError(f"{GROUND_TRUTH} must have {len(images):,} labels, one for each image, got {len(class_ids):,}")
    if unknown := set(class_ids) - set(wordnet_ids):
        raise ValueError(f"{GROUND_TRUTH} has class {min(unknown)}, which is not in {META}")
    rows = (Row(image, wordnet_ids[class_id]) for image, class_id in zip(images, class_ids, strict=True))
    return LabelFile(f"val/{GROUND_TRUTH}", tuple(rows))


def _read_devkit(root: Path, cache: Path) -> tuple[bytes, bytes]:
    """Contents of GROUND_TRUTH and META."""
    path = root / DEVKIT if (root / DEVKIT).is_dir() else root / f"{DEVKIT}.tar.gz"
    if not path.exists():
        raise ValueError(
            f"{root} has {VAL}, but no labels for its images; it must have {DEVKIT}.tar.gz, or val.txt (an image and "
            "the index of its class in each line)"
        )
    tree = folder_tree(path) if path.is_dir() else archive_tree(path, cache)
    indices = {PurePosixPath(name).name: index for index, name in enumerate(tree.files)}
    if not {GROUND_TRUTH, META} <= indices.keys():
        raise ValueError(f"{path} lacks {GROUND_TRUTH} or {META}")
    return read_file(tree, indices[GROUND_TRUTH]), read_file(tree, indices[META])


def _wordnet_ids(meta: bytes) -> dict[int, str]:
    """The WordNet ID of each class ID of the devkit."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(f"{META} of the devkit needs scipy: pip install 'alexnet[imagenet]'") from error
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # scipy raises all kinds for a damaged file
        raise ValueError(f"{META} of the devkit cannot be read: {error}") from error
