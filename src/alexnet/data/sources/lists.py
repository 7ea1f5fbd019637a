"""A list of images, wherever they are stored: CSV, TSV, text (`path label`), JSON lines or JSON."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from reprlib import repr as short

import numpy as np

from ...files import CsvWriter, atomic_write, open_regular_file, read_regular_file
from ...specs.names import counted, from_csv_cell, listed
from ..labels.assignment import NONE, UNSPLIT, ImageFiles, labeled_source
from ..labels.label_files import MAX_PATH, LabelFile, is_text, read_labels
from ..labels.lookup import Lookup, folded, normalized
from ..source import SPLITS, Finding, Source
from ..storage.image_formats import is_image_file
from ..storage.string_table import StringTable
from ..storage.trees import MAX_LABEL_FILE_BYTES, Tree, file_state, folder_tree
from .folders import folder_source

HEADING = "# images of "
"""Begins a list of images of another data set, by their names there; the data set follows."""


def read_list(path: Path) -> tuple[LabelFile, str | None]:
    """The rows of a list, and the data set that its first line names: a path or a URL; None if they are files."""
    content = read_regular_file(path, MAX_LABEL_FILE_BYTES)
    labels = read_labels(path.name, content, lambda key: os.path.isfile(path.parent / key))
    if not labels.rows:
        raise ValueError(f"{path} names classes, but no images; a list must have an image and a label in each line")
    first = content.partition(b"\n")[0].decode("utf-8", "replace").strip()
    if not first.startswith(HEADING):
        return labels, None
    data = first.removeprefix(HEADING)
    if len(first) > MAX_PATH:
        raise ValueError(f"{path}, line 1: {short(data)} is not a data set")
    return labels, data


def list_source(path: Path, labels: LabelFile, label_files: Sequence[LabelFile]) -> Source:
    """The images in a list, by their paths relative to its folder.

    Args:
        label_files: those that the user named.
    """
    if any(file.rows for file in label_files):
        raise ValueError(f"labels must be for images in a folder, an archive or remote storage; {path} has labels")
    tree = _listed_tree(path, labels)
    if tree is None:
        return _near_the_list(path, label_files)
    count = len(tree.files)
    images = ImageFiles(
        indices=np.arange(count),
        splits=np.full(count, UNSPLIT, np.uint8),
        folders=np.full(count, NONE),
        folder_names=[],
        paths=tree.files,
        layout=f"a list, {path.name}",
    )
    return labeled_source(tree, images, [replace(labels, is_given=True), *label_files])


def write_list(path: Path, source: Source, indices: Iterable[int]) -> None:
    """Write a list of some images of a source, with their splits, to train on these only.

    Raises:
        ValueError: a name is not UTF-8; or the location of the source, as it is recorded, does not lead to it.
    """
    data = source.location
    if data.endswith("?…") or not is_text(data) or "\n" in data:
        raise ValueError(f"a list cannot refer to {data!r}; download or rename it")
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{HEADING}{data}\n")
        writer = CsvWriter(file)
        writer.writerow(("image", "label", "split"))
        for index in indices:
            name = source.names[index]
            if not is_text(name):
                raise ValueError(f"names in a list must be UTF-8, got {os.fsencode(name)!r}; rename the file")
            writer.writerow((name, source.classes[source.labels[index]], SPLITS[source.splits[index]]))


def _near_the_list(path: Path, label_files: Sequence[LabelFile]) -> Source:
    """The images below the folder of a list that it names in another way than by their paths."""
    folder = path.resolve().parent
    is_huge = folder in (Path.home(), Path(folder.anchor))  # it may hold millions of files
    tree = None if is_huge else folder_tree(folder)
    images = [name for name in tree.files if is_image_file(name)] if tree else []
    stems = {folded(PurePosixPath(name).name) for name in images}
    labels = read_labels(path.name, path.read_bytes(), lambda key: folded(normalized(key).rpartition("/")[2]) in stems)
    lookup = Lookup(labels)
    if tree is None or all(lookup.find(name) is None for name in images):
        raise ValueError(
            f"{path}: none of its {len(labels.rows):,} images exists, first {short(labels.rows[0].image)}; paths are "
            f"relative to the folder of the list, {folder}"
        )
    return folder_source(tree, [replace(labels, is_given=True), *label_files])


def _listed_tree(path: Path, labels: LabelFile) -> Tree | None:
    """The files in a list as a tree, or None if none of them exists. Some may; reading finds out which."""
    folder, exists = str(path.resolve().parent), False
    files = StringTable.from_strings(dict.fromkeys(row.image for row in labels.rows))
    sizes, digest = np.zeros(len(files), np.int64), hashlib.sha256(str(path.resolve()).encode())
    for index, image in enumerate(files):
        try:
            status = os.stat(os.path.join(folder, image))
        except (OSError, ValueError):
            continue
        exists, sizes[index] = True, status.st_size
        digest.update(file_state(image, status))
    if not exists:
        return None
    fingerprint = digest.hexdigest()
    return Tree(
        path.stem, files, sizes, fingerprint, open_regular_file, lambda index: os.path.join(folder, files[index])
    )


def subset(path: Path, labels: LabelFile, source: Source) -> Source:
    """The images of a source that are in a list, with the list's labels and splits."""
    rows = {from_csv_cell(row.image): row for row in labels.rows}
    indices = np.array([index for index, name in enumerate(source.names) if name in rows], np.int64)
    chosen = [
        replace(rows[name], image=name, label=from_csv_cell(str(rows[name].label)))
        for name in map(source.names.__getitem__, indices)
    ]
    class_index = {name: index for index, name in enumerate(source.classes)}
    if unknown := next((row for row in chosen if row.label not in class_index), None):
        known = listed(source.classes, 20)
        raise ValueError(f"{path}, line {unknown.line}: the label must be one of {known}, got {unknown.label!r}")
    findings = source.findings
    if missing := len(rows) - len(indices):
        text = f"{path.name}: {counted(missing, 'image')} no longer in {source.name}"
        findings = (*findings, Finding("warning", text))
    return replace(
        source,
        layout=f"{source.layout}; of these the {len(indices):,} in {path.name}",
        names=StringTable.from_strings(row.image for row in chosen),
        labels=np.array([class_index[row.label] for row in chosen], np.int64),
        splits=np.array([SPLITS.index(row.split or "train") for row in chosen], np.uint8),
        locate=lambda index: source.locate(int(indices[index])),
        sizes=None if source.sizes is None else source.sizes[indices],
        findings=findings,
    )
