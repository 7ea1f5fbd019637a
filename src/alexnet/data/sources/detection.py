"""Labelled images where they lie: each kind of place is a small file that makes a table of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...files import cache_folder
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..source import Source
from ..storage.archives import is_archive
from ..storage.download import SCHEMES, download, redact
from ..storage.image_formats import is_image
from ..storage.remote import STORES, kept_remote
from ..storage.trees import Folder, Packed, Remote, Tree
from .bundled import emoji_source
from .cifar import cifar_source
from .folders import folder_source
from .idx import IMAGES as IDX_IMAGES
from .idx import idx_source
from .imagenet import imagenet_source
from .lists import listed_source

MAY_BE = (
    "a data set may be a folder with train/ and val/, each with a folder per class or with a list beside its images; a "
    "folder with a folder per class; a list (CSV, TSV, text, JSON lines); a zip or tar file of these; ImageNet's, "
    "CIFAR's or idx files; an address (https, s3, gs, hf); or the word emoji for the bundled set"
)
"""Ends the messages about what is no data set."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Suffixes by which a file of a remote store is taken for an archive."""


def open_source(data: str | Path, split_seed: int = 0, track=None) -> Source:
    """The labelled images of a place, fit to be trained on.

    Raises:
        ValueError: the place holds no data set of a known layout, or something in it must be put right first.
    """
    source = detect_source(data, split_seed, track)
    source.check_fatal()
    return source


def detect_source(data: str | Path, split_seed: int = 0, track=None) -> Source:
    """The labelled images of a place, with what is wrong with them in its `problems`.

    Args:
        data: "emoji", a path or a URL.
        track: a function that wraps an iterable of counts, given (counts, total), to show how many bytes are
            downloaded or unpacked.

    Raises:
        ValueError: the place holds no data set of a known layout, or cannot be read.
    """
    try:
        return _source_of(data, split_seed, track, ())
    except (OSError, RuntimeError) as error:  # the latter of ~NAME, where there is no such user
        raise ValueError(f"{data} cannot be read: {error}") from error


def _source_of(data: str | Path, split_seed: int, track, lists: tuple[Path, ...]) -> Source:
    """As `detect_source`, for the `lists` that have led here."""
    name = str(data)
    if name == "emoji":  # a folder of that name is ./emoji
        return emoji_source()
    folder = cache_folder() / "archives"
    if "://" in name:
        return _remote_source(name, folder, split_seed, track)
    path = Path(data).expanduser()
    if name and path.is_dir():
        return imagenet_source(path, folder, split_seed, track) or _tree_source(Folder(path), split_seed)
    if not path.is_file():
        kind = "no file or folder" if name and path.exists() else "not there"
        raise ValueError(f"{name or 'no name'} is {kind}; {MAY_BE}")
    if is_archive(path):
        return _tree_source(Packed(path, folder, track), split_seed)
    if IDX_IMAGES.fullmatch(path.name):
        return _tree_source(Folder(path.parent), split_seed)
    if path.suffix.lower() in LABEL_SUFFIXES:
        if path.resolve() in lists:
            raise ValueError(f"{path} is, as it says, a list of images of itself")
        above = (*lists, path.resolve())
        return listed_source(path, split_seed, partial(_source_of, split_seed=split_seed, track=track, lists=above))
    raise ValueError(f"{data} is a file of no known kind; {MAY_BE}")


def image_files(folder: Path) -> list[Path]:
    """Image files below a folder, sorted; hidden ones and hidden folders are left out."""
    return [folder / name for name in Folder(folder).files if is_image(name)]


def _tree_source(tree: Tree, split_seed: int) -> Source:
    return cifar_source(tree, split_seed) or idx_source(tree, split_seed) or folder_source(tree, split_seed)


def _remote_source(url: str, folder: Path, split_seed: int, track) -> Source:
    scheme = url.partition("://")[0]
    if scheme in SCHEMES:
        path = download(url, folder, track=track)
        if not is_archive(path):
            raise ValueError(
                f"{redact(url)} is no zip or tar file; an address may be of one, as a server lists no files"
            )
        return _tree_source(Packed(path, folder, track), split_seed)
    if scheme in STORES and url.lower().endswith(ARCHIVES):
        return _tree_source(Packed(kept_remote(url, folder), folder, track), split_seed)
    return _tree_source(Remote(url), split_seed)
