"""Opens a data set, whatever its kind: detects the kind of source by what is there."""

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...files import cache_folder, read_regular_file, siblings
from ...specs.names import did_you_mean
from ...specs.settings import LabelMaps
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..labels.label_files import LabelFile, read_labels
from ..progress import Track
from ..source import SPLITS, Data, Source, hold_out
from ..storage.archives import is_archive
from ..storage.download import SCHEMES, download, kept_if_useful, redact
from ..storage.remote import STORES, download_remote
from ..storage.trees import (
    ARCHIVE_SUFFIXES,
    MAX_LABEL_FILE_BYTES,
    SkipFolder,
    Tree,
    archive_tree,
    folder_tree,
    remote_tree,
    with_archives_opened,
)
from .bundled import emoji_source
from .cifar import cifar_source
from .folders import folder_source, unlabeled_source
from .idx import IMAGE_FILE, idx_source
from .imagenet import imagenet_source
from .lists import list_source, read_list, subset
from .memory import PREFIX, InMemory, hold, location_of, memory_source
from .tables import table_source

EXPECTED = (
    "a data set must be a folder with train/ and val/, each with a folder per class or with a list beside its images; "
    "a folder with a folder per class; a list (CSV, TSV, text, JSON lines); a zip or tar file of these; ImageNet's, "
    "CIFAR's or idx files; a URL (https, s3, gs, hf); or the word emoji for the bundled set"
)
"""Ends the messages about what is not a data set."""
MAX_NESTED_ARCHIVES = 2
"""Archives in a folder, and archives in these."""
MAX_ARRAY_FILES = 1000
"""Files in a tree beyond which no files of arrays are looked for."""


def open_source(data: Data, *arguments: Any, **named: Any) -> Source:
    """A data set to train on; arguments as for `detect_source`.

    Raises:
        ValueError: there is no data set of a known layout, or it has an error that must be fixed first.
    """
    source = detect_source(data, *arguments, **named)
    for finding in source.findings:
        if finding.level == "error":
            raise ValueError(finding.text)
    return source


def detect_source(
    data: Data,
    split_seed: int = 0,
    track: Track | None = None,
    skip_folder: SkipFolder | None = None,
    maps: LabelMaps = LabelMaps(),
    val_fraction: float | None = None,
    needs_labels: bool = True,
) -> Source:
    """A data set, with its errors in `findings`.

    Args:
        data: "emoji", a path, a URL, or images in memory.
        split_seed: of splits that are missing, which are held out from train.
        maps: label files that the user named.
        val_fraction: how much of each class is held out for a split; a tenth if None.
        needs_labels: whether images of which none has a label are an error, or have one class, called "".

    Raises:
        ValueError: there is no data set of a known layout, or it cannot be read.
    """
    data = hold(data, track)
    location = location_of(data)
    try:
        label_files = _given_files(maps)
        if isinstance(data, InMemory):
            source = memory_source(data, label_files)
        else:
            opener = _Opener(track, skip_folder, label_files, needs_labels)
            source = opener.open(data)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~NAME of an unknown user, in a list
        raise ValueError(f"{redact(str(data))} cannot be read: {error}") from error
    splits = hold_out(source.names, source.labels, source.splits, split_seed, val_fraction or 0.1)
    drawn = [name for split, name in enumerate(SPLITS) if (splits == split).any() > (source.splits == split).any()]
    held_out = f"{' and '.join(drawn)} held out from train" if drawn else ""
    splits_from = "; ".join(filter(None, (source.splits_from, held_out)))
    flags = {"--labels": maps.labels, "--label-indices": maps.label_indices}
    words = [data, *itertools.chain.from_iterable(flag for flag in flags.items() if flag[1])]
    arguments = "" if isinstance(data, InMemory) else shlex.join(redact(str(word)) for word in words)
    return replace(source, splits=splits, splits_from=splits_from, location=location, arguments=arguments)


@dataclass(frozen=True)
class _Opener:
    """How what is not in memory is opened; see `detect_source`."""

    track: Track | None
    skip_folder: SkipFolder | None
    label_files: Sequence[LabelFile]
    """Those that the user named."""
    needs_labels: bool

    def open(self, data: str | Path, lists: tuple[Path, ...] = ()) -> Source:
        """As `detect_source`; `lists` are the lists that have led here."""
        has_labels = any(file.rows for file in self.label_files)
        name = str(data)
        if name.startswith(PREFIX):
            raise ValueError(f"{name} was in the memory of the process that trained on it; data must be passed again")
        if name == "emoji":  # a folder of that name is ./emoji
            return emoji_source(self.label_files)
        cache = cache_folder() / "archives"
        if "://" in name:
            return self._tree_source(_tree_of_url(name, cache, self.track))
        path = Path(data).expanduser()
        if name and path.is_dir():
            source = None if has_labels else imagenet_source(path, cache, self.track)
            return source or self._tree_source(folder_tree(path, self.skip_folder))
        if not path.is_file():
            problem = "is not a file or folder" if name and path.exists() else "does not exist"
            hint = did_you_mean(path.name, siblings(path), 0.75) if name and not path.exists() else ""
            raise ValueError(f"{name or 'an empty name'} {problem}{hint or f'; {EXPECTED}'}")
        if is_archive(path):
            return self._tree_source(archive_tree(path, cache, self.track))
        if IMAGE_FILE.fullmatch(path.name):
            return idx_source(folder_tree(path.parent, self.skip_folder), path.name)
        if path.suffix.lower() in LABEL_SUFFIXES:
            return self._list_source(path, lists)
        raise ValueError(f"{data} is a file of an unknown kind; {EXPECTED}")

    def _list_source(self, path: Path, lists: tuple[Path, ...]) -> Source:
        """The images in a list, or those of another data set that it names."""
        if path.resolve() in lists:
            raise ValueError(f"{path} is a list of images of itself")
        labels, data = read_list(path)
        if data is None:
            return list_source(path, labels, self.label_files)
        try:
            source = self.open(data, (*lists, path.resolve()))
        except ValueError as error:
            raise ValueError(f"{path} lists images of another data set: {error}") from error
        return subset(path, labels, source)

    def _tree_source(self, tree: Tree) -> Source:
        """The first layout that fits; a new one goes before `folder_source`, which takes any tree with images."""
        cache = cache_folder() / "archives"
        for _ in range(MAX_NESTED_ARCHIVES):
            tree = with_archives_opened(tree, cache, self.track)
        may_be_arrays = len(tree.files) <= MAX_ARRAY_FILES and not self.label_files
        source = may_be_arrays and (cifar_source(tree) or idx_source(tree) or table_source(tree))
        source = source or folder_source(tree, self.label_files)
        return source if len(source) or self.needs_labels else unlabeled_source(tree)


def _given_files(maps: LabelMaps) -> list[LabelFile]:
    """The label files that the user named, read."""
    files = []
    for setting, location in (("labels", maps.labels), ("label_indices", maps.label_indices)):
        if location is None:
            continue
        path = _local_file(str(location), cache_folder() / "labels")
        name = str(location).partition("?")[0].rpartition("/")[2]
        try:
            content = read_regular_file(path, MAX_LABEL_FILE_BYTES)
        except OSError as error:
            raise ValueError(f"{setting}: {redact(str(location))} cannot be read: {error.strerror}") from error
        names_images = setting == "labels"
        file = read_labels(name, content, lambda key, answer=names_images: answer)
        if setting == "labels" and all(row.label is None for row in file.rows):
            raise ValueError(f"labels must map images to labels, as in {{'cat1.jpg': 'cat'}}, got {name}")
        if setting == "label_indices" and file.indices is None:
            raise ValueError(f"label_indices must map labels to indices, as in {{'cat': 0}}, got {name}")
        files.append(replace(file, is_given=True))
    return files


def _local_file(location: str, cache: Path) -> Path:
    """The file at a path, or the cached copy of a file at a URL."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return Path(location).expanduser()
    return download(location, cache) if scheme in SCHEMES else download_remote(location, cache)


def _tree_of_url(url: str, cache: Path, track: Track | None) -> Tree:
    scheme = url.partition("://")[0]
    if scheme in SCHEMES:
        path = download(url, cache, track=track)
        with kept_if_useful(path):
            if not is_archive(path):
                must_be = "must be a zip or tar file, because web servers do not list their files"
                raise ValueError(f"{redact(url)} {must_be}")
            return archive_tree(path, cache, track)
    if scheme in STORES and url.lower().endswith(ARCHIVE_SUFFIXES):
        return archive_tree(download_remote(url, cache), cache, track)
    return remote_tree(url)
