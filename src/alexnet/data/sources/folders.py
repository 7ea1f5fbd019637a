"""Labeled images in a tree of files: by their folders, by label files, or both; see `folder_roles`."""

import contextlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...specs.names import counted, listed
from ..labels.assignment import NONE, UNSPLIT, ImageFiles, labeled_source
from ..labels.columns import COLUMN_NAMES
from ..labels.exports import NUMBERED, records_of_numbered
from ..labels.file_names import labels_in_names
from ..labels.label_files import (
    PIXELS,
    UNDECIDED,
    Label,
    LabelFile,
    LabelFileError,
    NoLabels,
    Row,
    check_label,
    read_labels,
)
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..labels.lookup import folded, normalized
from ..labels.split_names import split_in, words_of
from ..source import SPLITS, Finding, ImageFileReader, Source
from ..storage.image_formats import NO_IMAGES, SUFFIXES, ignored_files, is_image_file
from ..storage.string_table import StringTable
from ..storage.trees import Tree, read_file
from .folder_roles import Roles, roles_of
from .unknown_files import images_by_content

SIDECARS, MAX_SIDECAR = (".cls", ".json"), 1_000_000
"""Suffixes of files with the label of one image, and their bytes."""
MAX_LISTS = 200
"""Label files in a folder, beyond which they are annotations of an image each."""
LIST_WORDS = {
    "label",
    "labels",
    "train",
    "val",
    "test",
    "class",
    "classes",
    "annotations",
    "split",
    "truth",
    "metadata",
}
"""In the names of files that were probably meant to be read."""


def folder_source(tree: Tree, labels: Sequence[LabelFile]) -> Source:
    """The labeled images of a tree, with classes and splits as `labeled_source` assigns them.

    Label files are `labels` and, unless the user named some, those in the tree.
    """
    indices, folders, folder_of, others = _images_and_others(tree)
    if not len(indices):
        instead = f"; other files: {', '.join(filter(None, ignored_files(others.values())))}" if others else ""
        for index, name in others.items():
            if name.lower().endswith(".csv") and b"pixel" in _beginning(tree, index).lower():
                instead = f"; {name}: {PIXELS}"
        raise ValueError(f"{tree.name} has no images ({', '.join(sorted(SUFFIXES))}){instead}")
    roles = roles_of(folders)
    images, findings = _image_files(tree, roles, indices, folders, folder_of)
    if given := [file for file in labels if file.is_given and file.rows]:
        images.folders[:] = NONE
    sidecars = [] if given else [*_sidecar_labels(tree, roles, images, others), *_numbered_labels(tree, roles, others)]
    in_tree, unused = ([], {}) if given else _read_label_files(tree, roles, images, others)
    in_tree += sidecars
    if not (labels or in_tree) and (in_names := _labels_in_names(images)):
        in_tree.append(in_names)
        text = f"labels are taken from the names of the images, as {in_names.rows[0].label} of {in_names.rows[0].image}"
        findings.append(Finding("warning", text))
    findings += _imageless(tree, roles, folders, {*others.values()} - {roles.root + file.name for file in in_tree})
    looks_like_list = (name for name in unused if LIST_WORDS & {*words_of(name)} or UNDECIDED in unused[name])
    findings += [Finding("warning", f"{name} is not used: {unused[name]}") for name in looks_like_list]
    source = labeled_source(tree, images, [*labels, *in_tree], findings)
    return replace(source, unused=tuple(f"{name}: {reason}" for name, reason in unused.items()))


def unlabeled_source(tree: Tree) -> Source:
    """All images of a tree, for looking at; their one class is called ""."""
    indices, *_ = _images_and_others(tree)
    none = np.zeros(len(indices), np.int64)
    return Source(
        name=tree.name,
        layout="images without labels",
        classes=("",),
        names=tree.files.select(indices),
        labels=none,
        splits=none.astype(np.uint8),
        reader=ImageFileReader(tree.open),
        locate=lambda index: tree.locate(int(indices[index])),
        files_fingerprint=tree.fingerprint,
        has_splits=False,
        sizes=tree.sizes[indices],
    )


def _images_and_others(tree: Tree) -> tuple[np.ndarray, list[str], np.ndarray, dict[int, str]]:
    """Indices of the images in the tree, their folders, the index of each image's folder, and all other files."""
    others: dict[int, str] = {}
    indices, numbers, folder_of = array("q"), {}, array("q")
    for index, name in enumerate(tree.files):
        if is_image_file(name):
            indices.append(index)
            folder_of.append(numbers.setdefault(name.rpartition("/")[0], len(numbers)))
        else:
            others[index] = name
    for index in images_by_content(tree, others):
        indices.append(index)
        folder_of.append(numbers.setdefault(others.pop(index).rpartition("/")[0], len(numbers)))
    order = np.argsort(indices, kind="stable")
    return np.array(indices, np.int64)[order], list(numbers), np.array(folder_of, np.int64)[order], others


def _image_files(
    tree: Tree, roles: Roles, indices: np.ndarray, folders: Sequence[str], folder_of: np.ndarray
) -> tuple[ImageFiles, list[Finding]]:
    findings = list(roles.findings)
    names: dict[str, int] = {}
    places = [roles.places.get(folder, (None, None)) for folder in folders]
    splits = np.array([SPLITS.index(split) if split else UNSPLIT for split, _ in places], np.uint8)
    labels = np.array([NONE if name is None else names.setdefault(name, len(names)) for _, name in places], np.int64)
    is_outside = np.array([folder in roles.outside for folder in folders], bool)[folder_of]
    if is_outside.any():
        first = tree.files[indices[is_outside][0]].removeprefix(roles.root)
        text = f"{tree.name}: {counted(int(is_outside.sum()), 'image')} not in the folder of a split, first {first}"
        findings.append(Finding("warning", text))
    indices, folder_of = indices[~is_outside], folder_of[~is_outside]
    paths = tree.files.select(indices)
    relative = StringTable.from_strings(path[len(roles.root) :] for path in paths) if roles.root else paths
    return ImageFiles(indices, splits[folder_of], labels[folder_of], list(names), relative, roles.layout), findings


def _read_label_files(
    tree: Tree, roles: Roles, images: ImageFiles, others: Mapping[int, str]
) -> tuple[list[LabelFile], dict[str, str]]:
    """The label files of a tree that can be read, and why others cannot, by name."""
    in_question = np.flatnonzero((images.folders == NONE) | (images.splits == UNSPLIT))
    candidates = [*_candidates(roles, others)] if len(in_question) else []
    if not candidates:
        return [], {}
    known = {folded(f"{path.rpartition('/')[2]}") for path in (images.paths[image] for image in in_question)}

    def knows_image(key: str) -> bool:
        name = normalized(key).rpartition("/")[2]
        return name.casefold() in known or (is_image_file(name) and folded(name) in known)

    must_be_read = bool((images.folders == NONE).any())
    files, unused = [], {}
    for index, path in candidates:
        name = path.removeprefix(roles.root)
        try:
            files.append(read_labels(name, read_file(tree, index), knows_image, {*images.folder_names}))
        except NoLabels as problem:
            unused[name] = str(problem).removeprefix(name).lstrip(",: ")
        except LabelFileError as problem:
            if must_be_read:
                raise
            unused[name] = str(problem).removeprefix(name).lstrip(",: ")
    return files, unused


def _sidecar_labels(tree: Tree, roles: Roles, images: ImageFiles, others: dict[int, str]) -> Iterator[LabelFile]:
    """The labels in files beside the images, a.cls or a.json beside a.jpg, as in the shards of WebDataset."""
    stems = {path.rpartition(".")[0] for path in images.paths}
    for suffix in SIDECARS:
        beside = {
            index: name.removeprefix(roles.root).removesuffix(suffix)
            for index, name in others.items()
            if name.endswith(suffix)
        }
        beside = {index: path for index, path in beside.items() if path in stems}
        if 2 * len(beside) < len(stems):
            continue
        rows = []
        for index, path in beside.items():
            label = _label_in(read_file(tree, index, MAX_SIDECAR), suffix)
            if label is not None:
                check_label(label, 0, f" for {path}")
                rows.append(Row(path, label, split_in(path.partition("/")[0])))
        if rows:
            yield LabelFile(f"*{suffix}", tuple(rows))
            for index in beside:
                del others[index]


def _label_in(content: bytes, suffix: str) -> Label | None:
    """The label in a file of one image."""
    text = content.decode("utf-8", "replace").strip()
    if suffix != ".json":
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = (value.get(name) for name in ("cls", *COLUMN_NAMES["label"])) if isinstance(value, dict) else ()
    return next((label for label in known if isinstance(label, (str, int)) and label != ""), None)


def _numbered_labels(tree: Tree, roles: Roles, others: dict[int, str]) -> Iterator[LabelFile]:
    """The labels and splits in tables by the numbers of images, as in CUB-200."""
    for index, path in list(others.items()):
        folder, _, name = path.rpartition("/")
        if name != NUMBERED[1]:
            continue
        tables = {other.rpartition("/")[2]: i for i, other in others.items() if other.rpartition("/")[0] == folder}
        contents = {
            each: read_file(tree, tables[each]).decode("utf-8", "replace") for each in NUMBERED if each in tables
        }
        if records := records_of_numbered(contents):
            rows = tuple(Row(each["image"], each["label"], each["split"]) for each in records)
            yield LabelFile(others.pop(index).removeprefix(roles.root), rows)
            for each in NUMBERED[:3]:
                others.pop(tables.get(each), None)


def _beginning(tree: Tree, index: int) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    with contextlib.suppress(OSError, ValueError), tree.open(tree.locate(index)) as file:
        return file.read(4096)
    return b""


def _labels_in_names(images: ImageFiles) -> LabelFile | None:
    """Labels in the names of images, where no folder is a class; those of test may have none."""
    train = images.splits != SPLITS.index("test")
    if (images.folders != NONE).any() or not train.any():
        return None
    return labels_in_names([images.paths[image] for image in np.flatnonzero(train)])


def _candidates(roles: Roles, others: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Index and name of each file that may have labels and is in no folder of a class."""
    by_folder: dict[str, list[tuple[int, str]]] = {}
    for index, name in others.items():
        if name.lower().endswith(LABEL_SUFFIXES):
            by_folder.setdefault(name.rpartition("/")[0], []).append((index, name))
    for folder, files in by_folder.items():
        parts = folder.split("/")
        above = {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
        if len(files) <= MAX_LISTS and not above & roles.class_folders:
            yield from files


def _imageless(tree: Tree, roles: Roles, folders: Sequence[str], others: set[str]) -> Iterator[Finding]:
    """Findings about files that are not images, by kind, and about folders of classes or splits without an image."""

    def folder_of_class(folder: str) -> str:
        parts = folder.removeprefix(roles.root).split("/")
        return "/".join(parts[: 2 if parts[0] in splits else 1])

    splits = {pattern.partition("/")[0] for pattern in roles.patterns if pattern.count("/") > 1}
    splits |= {*SPLITS}
    helped, harmless = ignored_files(others)
    plain = (*LABEL_SUFFIXES, *NO_IMAGES)
    suspicious = {
        *tree.empty_folders,
        *(name.rpartition("/")[0] for name in others if not name.lower().endswith(plain)),
    }
    full = {"", *(folder_of_class(f"{folder}/"[:-1]) for folder in folders)}
    empty = sorted({folder_of_class(folder) for folder in suspicious} - full)
    texts = [f"ignored files: {helped}"] if helped else []
    if empty:
        texts.append(f"no image in {counted(len(empty), 'folder')}: {listed(empty, 10)}")
    if texts:
        yield Finding("warning", "; ".join(texts))
    if harmless:
        yield Finding("note", f"ignored files: {harmless}")
