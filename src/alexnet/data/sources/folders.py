"""Labeled images in a tree of files: by their folders, by label files beside them, or both.

root/{train,val,test}/CLASS/…      root/CLASS/…      also one level deeper, as CLASS/images/…
root/{train,val,test}/…            root/…            with label files in root or beside the images
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from posixpath import commonpath

import numpy as np

from ..labels.assignment import NONE, UNSPLIT, ImageFiles, labeled_source
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..labels.label_files import LabelFile, NoLabels, read_labels, split_of
from ..source import SPLITS, Finding, Source
from ..storage.image_formats import SUFFIXES, is_image_file
from ..storage.string_table import StringTable
from ..storage.trees import Tree, read_file

GENERIC_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
"""Folders that are not a class if one of them holds all images of a split."""


def folder_source(tree: Tree, split_seed: int = 0, labels: Sequence[LabelFile] = ()) -> Source:
    """The labeled images of a tree, with classes and splits as `labeled_source` assigns them.

    Args:
        labels: label files that are not in the tree.

    Raises:
        ValueError: there are no images, or a label file is damaged.
    """
    root = _data_root(name for name in tree.files if is_image_file(name))
    split_folders = _split_folders(tree, root)
    indices, splits, folders = array("q"), bytearray(), array("q")
    folder_names: dict[str, int] = {}
    label_files, outside = [], array("q")
    for index, name in enumerate(tree.files):
        if not name.startswith(root):
            continue
        path = name[len(root) :]
        *parents, file = path.split("/")
        split = split_of(parents[0]) if parents and parents[0] in split_folders else None
        inner = parents[1:] if split else parents
        if not is_image_file(file):
            is_beside_images = not inner or (len(inner) == 1 and inner[0].lower() in GENERIC_FOLDERS)
            if is_beside_images and file.lower().endswith(LABEL_SUFFIXES):
                label_files.append((index, path))
        elif split or not split_folders:
            indices.append(index)
            splits.append(SPLITS.index(split) if split else UNSPLIT)
            folders.append(folder_names.setdefault(inner[0], len(folder_names)) if inner else NONE)
        else:
            outside.append(index)
    if not indices:
        raise ValueError(f"{tree.name} has no images ({', '.join(sorted(SUFFIXES))})")
    findings = []
    if outside:
        first = tree.files[outside[0]][len(root) :]
        text = f"{tree.name}: {len(outside):,} images are not in the folder of a split, first {first}"
        findings.append(Finding("warning", text))
    split_array = np.array(splits, np.uint8)
    images = ImageFiles(
        indices=np.array(indices, np.int64),
        splits=split_array,
        folders=_without_generic(np.array(folders, np.int64), split_array, list(folder_names)),
        folder_names=list(folder_names),
        paths=StringTable.from_strings(tree.files[index][len(root) :] for index in indices)
        if root
        else tree.files.select(indices),
    )
    in_tree = list(_read_label_files(tree, images, label_files)) if (images.folders == NONE).any() else []
    return labeled_source(tree, images, [*labels, *in_tree], findings, split_seed)


def _data_root(images: Iterable[str]) -> str:
    """The folder, with "/", that holds all images and is neither a split nor their class; "" for the root."""
    folders = {name.rpartition("/")[0] for name in images}
    common = [folder for folder in commonpath(folders or [""]).split("/") if folder]
    common = common[: next((level for level, folder in enumerate(common) if split_of(folder)), len(common))]
    depth = max((folder.count("/") + bool(folder) for folder in folders), default=0)
    if len(common) == depth:  # all images are in one folder, which may be a class
        common = common[:-1]
    return "".join(f"{folder}/" for folder in common)


def _split_folders(tree: Tree, root: str) -> set[str]:
    """Folders in `root` that are named after a split and hold images."""
    below = (name[len(root) :] for name in tree.files if name.startswith(root))
    folders = {path.partition("/")[0] for path in below if "/" in path}

    def holds_images(folder: str) -> bool:
        return any(name.startswith(f"{root}{folder}/") and is_image_file(name) for name in tree.files)

    return {folder for folder in folders if split_of(folder) and holds_images(folder)}


def _without_generic(folders: np.ndarray, splits: np.ndarray, names: list[str]) -> np.ndarray:
    """The folder of each image, or NONE if its split has only that folder and its name is generic."""
    for split in range(UNSPLIT + 1):
        used = set(folders[splits == split].tolist())
        if len(used) == 1 and used != {NONE} and names[min(used)].lower() in GENERIC_FOLDERS:
            folders[splits == split] = NONE
    return folders


def _read_label_files(tree: Tree, images: ImageFiles, candidates: list[tuple[int, str]]) -> Iterator[LabelFile]:
    known: set[str] = set()
    for image in np.flatnonzero(images.folders == NONE):
        name = images.paths[image].rpartition("/")[2]
        known |= {name, name.rpartition(".")[0]}

    def knows_image(key: str) -> bool:
        return key.replace("\\", "/").rpartition("/")[2] in known

    for index, path in candidates:
        try:
            yield read_labels(path, read_file(tree, index), knows_image)
        except NoLabels:  # a readme, or what another program wrote
            continue
