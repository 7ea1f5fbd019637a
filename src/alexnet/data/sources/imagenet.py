"""ILSVRC2012 as downloaded, read from its archives: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the devkit.

The labels of val are in the devkit, as numbers of its own order, or in a list, as Caffe's val.txt.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

from ..labels.label_files import LabelFile, Row, read_labels
from ..source import Source
from ..storage.archives import Archive
from ..storage.trees import Packed, Several
from .folders import folder_source

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
DEVKIT = "ILSVRC2012_devkit_t12"
"""A folder of this name, or such a .tar.gz."""


def imagenet_source(root: Path, cache_folder: Path, split_seed: int = 0, track=None) -> Source | None:
    """ImageNet in a folder of downloads; None where the folder has none of its archives.

    Raises:
        ValueError: an archive is damaged, or the labels of val are not there.
    """
    archives = {"train": root / TRAIN, "val": root / VAL}
    trees = {split: Packed(path, cache_folder, track) for split, path in archives.items() if path.is_file()}
    if not trees:
        return None
    tree = Several("imagenet", trees)
    labels = [_val_labels(root, trees["val"], cache_folder)] if "val" in trees else []
    return folder_source(tree, split_seed, labels)


def _val_labels(root: Path, val: Packed, cache_folder: Path) -> LabelFile:
    for name in ("val.txt", "val.csv", "LOC_val_solution.csv"):
        if (root / name).is_file():
            return read_labels(f"val/{name}", (root / name).read_bytes(), lambda key: True)
    found = _devkit(root, cache_folder)
    if found is None:
        raise ValueError(
            f"{root} has {VAL}, but nothing that says what its images show; that may be {DEVKIT}.tar.gz, or val.txt "
            f"(an image and the index of its class in each line)"
        )
    truth, meta = found
    ids = _classes_of_devkit(meta)
    try:
        numbers = [int(line) for line in truth.split()]
    except ValueError as error:
        raise ValueError(f"{TRUTH} may have a number in each line: {str(error)[:80]}") from error
    images = sorted(PurePosixPath(name).name for name in val.files)
    if len(numbers) != len(images):
        raise ValueError(f"{TRUTH} has {len(numbers):,} labels for {len(images):,} images")
    if unknown := set(numbers) - set(ids):
        raise ValueError(f"{TRUTH} has class {min(unknown)}, which {META} does not name")
    return LabelFile(
        f"val/{TRUTH}", tuple(Row(image, ids[number]) for image, number in zip(images, numbers, strict=True))
    )


def _devkit(root: Path, cache_folder: Path) -> tuple[bytes, bytes] | None:
    """The truth of val and the names of classes."""
    folder, packed = root / DEVKIT / "data", root / f"{DEVKIT}.tar.gz"
    if (folder / TRUTH).exists() and (folder / META).exists():
        return (folder / TRUTH).read_bytes(), (folder / META).read_bytes()
    if not packed.exists():
        return None
    archive = Archive(packed, cache_folder)
    numbers = {PurePosixPath(name).name: number for number, name in enumerate(archive.names)}
    if TRUTH not in numbers or META not in numbers:
        raise ValueError(f"{packed} lacks {TRUTH} or {META}")
    return archive.read(archive.member(numbers[TRUTH])), archive.read(archive.member(numbers[META]))


def _classes_of_devkit(meta: bytes) -> dict[int, str]:
    """From the devkit's numbers of classes to WordNet's."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        said = f"{META} of the devkit is read by scipy, which is not here; try: pip install 'alexnet[imagenet]'"
        raise ValueError(said) from error
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # whatever a damaged file makes scipy raise
        raise ValueError(f"{META} of the devkit cannot be read: {error}") from error
