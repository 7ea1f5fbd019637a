"""Files below a place as labelled images: by their folders, by files of labels beside them, or by both.

root/{train,val,test}/CLASS/…      root/CLASS/…      also one level deeper, as CLASS/images/…
root/{train,val,test}/…            root/…            with files of labels in root or beside the images
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..labels.assignment import NONE, UNSPLIT, Images, labelled_source
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..labels.label_files import LabelFile, NoLabels, read_labels, split_of
from ..source import SPLITS, Problem, Source
from ..storage.image_formats import SUFFIXES, is_image
from ..storage.string_table import StringTable
from ..storage.trees import Tree, read_file

PLAIN = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
"""Folders that are no class where one of them holds all images of a split."""


def folder_source(tree: Tree, split_seed: int = 0, labels: Sequence[LabelFile] = ()) -> Source:
    """The labelled images of a tree; their classes and splits are as `labelled_source` says.

    Args:
        labels: more of them than are in the tree.

    Raises:
        ValueError: no images are found, or a file of labels is damaged.
    """
    top = _top(name for name in tree.files if is_image(name))
    below = {
        name[len(top) :].partition("/")[0] for name in tree.files if name.startswith(top) and "/" in name[len(top) :]
    }
    split_folders = {folder for folder in below if split_of(folder) and _holds_images(tree, f"{top}{folder}/")}
    numbers, splits, folders = array("q"), bytearray(), array("q")
    folder_names: dict[str, int] = {}
    label_files, elsewhere = [], array("q")
    for number, name in enumerate(tree.files):
        if not name.startswith(top):
            continue
        path = name[len(top) :]
        *above, file = path.split("/")
        split = split_of(above[0]) if above and above[0] in split_folders else None
        inside = above[1:] if split else above
        if not is_image(file):
            if file.lower().endswith(LABEL_SUFFIXES) and not inside[1:] and set(map(str.lower, inside)) <= {*PLAIN}:
                label_files.append((number, path))
        elif split or not split_folders:
            numbers.append(number)
            splits.append(SPLITS.index(split) if split else UNSPLIT)
            folders.append(folder_names.setdefault(inside[0], len(folder_names)) if inside else NONE)
        else:
            elsewhere.append(number)
    if not numbers:
        raise ValueError(f"{tree.name} has no image in it ({', '.join(sorted(SUFFIXES))})")
    problems = []
    if elsewhere:
        first = tree.files[elsewhere[0]][len(top) :]
        what = f"{len(elsewhere):,} images are in none of the folders of splits, the first {first}"
        problems.append(Problem(f"{tree.name}: {what}"))
    images = Images(
        np.array(numbers, np.int64),
        np.array(splits, np.uint8),
        _without_plain(np.array(folders, np.int64), np.array(splits, np.uint8), list(folder_names)),
        list(folder_names),
        StringTable.from_strings(tree.files[number][len(top) :] for number in numbers)
        if top
        else tree.files.select(numbers),
    )
    found = list(_label_files(tree, images, label_files)) if (images.folders == NONE).any() else []
    return labelled_source(tree, images, [*labels, *found], problems, split_seed)


def _top(images: Iterable[str]) -> str:
    """The folder, with "/", that holds all images and is neither a split nor their class; "" for the root."""
    common: list[str] | None = None
    deepest = 0
    for name in images:
        parts = name.split("/")[:-1]
        if common is None:
            common = parts
        elif parts[: len(common)] != common:
            shared = 0
            while shared < min(len(common), len(parts)) and common[shared] == parts[shared]:
                shared += 1
            common = common[:shared]
        deepest = max(deepest, len(parts))
    common = common or []
    for depth, part in enumerate(common):
        if split_of(part):
            common = common[:depth]
            break
    if len(common) == deepest:  # all images are in one folder, which may be a class
        common = common[:-1]
    return "".join(f"{part}/" for part in common)


def _holds_images(tree: Tree, folder: str) -> bool:
    return any(name.startswith(folder) and is_image(name) for name in tree.files)


def _without_plain(folders: np.ndarray, splits: np.ndarray, names: list[str]) -> np.ndarray:
    """The folder of each image, NONE where it is the one folder of its split and of the name of no class."""
    for split in range(UNSPLIT + 1):
        used = set(folders[splits == split].tolist())
        if len(used) == 1 and used != {NONE} and names[min(used)].lower() in PLAIN:
            folders[splits == split] = NONE
    return folders


def _label_files(tree: Tree, images: Images, candidates: list[tuple[int, str]]) -> Iterator[LabelFile]:
    known: set[str] = set()
    for image in np.flatnonzero(images.folders == NONE):
        name = images.paths[image].rpartition("/")[2]
        known |= {name, name.rpartition(".")[0]}

    def knows(key: str) -> bool:
        return key.replace("\\", "/").rpartition("/")[2] in known

    for number, path in candidates:
        try:
            yield read_labels(path, read_file(tree, number), knows)
        except NoLabels:  # a readme, or what another program wrote
            continue
