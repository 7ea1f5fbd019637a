"""Labeled images in a tree of files: by their folders, by label files beside them, or both.

root/{train,val,test}/CLASS/…      root/CLASS/…      also one level deeper, as CLASS/images/…
root/{train,val,test}/…            root/…            with label files in root or beside the images
"""

from array import array
from collections.abc import Iterator, Sequence
from posixpath import commonpath

import numpy as np

from ...specs.names import listed
from ..labels.assignment import NONE, UNSPLIT, ImageFiles, labeled_source
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..labels.label_files import LabelFile, NoLabels, read_labels, split_of
from ..source import SPLITS, Finding, Source, counted
from ..storage.image_formats import SUFFIXES, ignored_files, is_helped, is_image_file
from ..storage.string_table import StringTable
from ..storage.trees import Tree, read_file

GENERIC_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
"""Folders that are not a class if one of them holds all images of a split."""


def folder_source(tree: Tree, labels: Sequence[LabelFile]) -> Source:
    """The labeled images of a tree, with classes and splits as `labeled_source` assigns them.

    Label files are `labels` and, unless the user named some, those in the tree.
    """
    image_folders: set[str] = set()
    others: list[str] = []
    for name in tree.files:
        if is_image_file(name):
            image_folders.add(name.rpartition("/")[0])
        else:
            others.append(name)
    root = _data_root(image_folders)
    split_folders = {top for folder in image_folders if split_of(top := f"{folder}/"[len(root) :].partition("/")[0])}
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
        instead = f"; other files: {', '.join(filter(None, ignored_files(others)))}" if others else ""
        raise ValueError(f"{tree.name} has no images ({', '.join(sorted(SUFFIXES))}){instead}")
    findings = []
    if outside:
        first = tree.files[outside[0]][len(root) :]
        text = f"{tree.name}: {counted(len(outside), 'image')} not in the folder of a split, first {first}"
        findings = [Finding("warning", text)]
    paths = tree.files.select(indices)
    images = ImageFiles(
        indices=np.array(indices, np.int64),
        splits=np.array(splits, np.uint8),
        folders=np.array(folders, np.int64),
        folder_names=list(folder_names),
        paths=StringTable.from_strings(path[len(root) :] for path in paths) if root else paths,
    )
    for split in range(UNSPLIT + 1):
        in_split = images.splits == split
        used = set(images.folders[in_split].tolist())
        if len(used) == 1 and used != {NONE} and images.folder_names[min(used)].lower() in GENERIC_FOLDERS:
            images.folders[in_split] = NONE
    if given := [file for file in labels if file.is_given and file.rows]:
        images.folders[:] = NONE
    in_tree = list(_read_label_files(tree, images, label_files)) if not given and (images.folders == NONE).any() else []
    findings += _imageless(tree, root, image_folders, {*others} - {root + file.name for file in in_tree})
    return labeled_source(tree, images, [*labels, *in_tree], findings)


def _imageless(tree: Tree, root: str, image_folders: set[str], others: set[str]) -> Iterator[Finding]:
    """Findings about files that are not images, by kind, and about folders of classes or splits without an image."""

    def folder_of_class(folder: str) -> str:
        parts = folder.removeprefix(root).split("/")
        return "/".join(parts[: 2 if split_of(parts[0]) else 1])

    helped, harmless = ignored_files(others)
    suspicious = {*tree.empty_folders, *(name.rpartition("/")[0] for name in others if is_helped(name))}
    full = {"", *(folder_of_class(f"{folder}/"[:-1]) for folder in image_folders)}
    empty = sorted({folder_of_class(folder) for folder in suspicious} - full)
    texts = [f"ignored files: {helped}"] if helped else []
    if empty:
        texts.append(f"no image in {counted(len(empty), 'folder')}: {listed(empty, 10)}")
    if texts:
        yield Finding("warning", "; ".join(texts))
    if harmless:
        yield Finding("note", f"ignored files: {harmless}")


def _data_root(folders: set[str]) -> str:
    """The one of the images' folders, with "/", that holds all and is neither a split nor a class; "" for the root."""
    common = [folder for folder in commonpath(folders or [""]).split("/") if folder]
    common = common[: next((level for level, folder in enumerate(common) if split_of(folder)), len(common))]
    depth = max((folder.count("/") + bool(folder) for folder in folders), default=0)
    if len(common) == depth:  # all images are in one folder, which may be a class
        common = common[:-1]
    return "".join(f"{folder}/" for folder in common)


def _read_label_files(tree: Tree, images: ImageFiles, candidates: list[tuple[int, str]]) -> Iterator[LabelFile]:
    known = {images.paths[image].rpartition("/")[2] for image in np.flatnonzero(images.folders == NONE)}
    known |= {name.rpartition(".")[0] for name in known}

    def knows_image(key: str) -> bool:
        return key.replace("\\", "/").rpartition("/")[2] in known

    for index, path in candidates:
        try:
            yield read_labels(path, read_file(tree, index), knows_image)
        except NoLabels:
            continue  # a readme, or what another program wrote
