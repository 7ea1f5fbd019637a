"""Opens a data set, whatever its kind: detects the kind of source by what is there."""

from pathlib import Path

from ...files import cache_folder
from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..progress import Track
from ..source import Source
from ..storage.archives import is_archive
from ..storage.download import SCHEMES, download, redact
from ..storage.image_formats import is_image_file
from ..storage.remote import STORES, download_remote
from ..storage.trees import SkipFolder, Tree, archive_tree, folder_tree, remote_tree
from .bundled import emoji_source
from .cifar import cifar_source
from .folders import folder_source
from .idx import IMAGE_FILE, idx_source
from .imagenet import imagenet_source
from .lists import list_source

EXPECTED = (
    "a data set must be a folder with train/ and val/, each with a folder per class or with a list beside its images; "
    "a folder with a folder per class; a list (CSV, TSV, text, JSON lines); a zip or tar file of these; ImageNet's, "
    "CIFAR's or idx files; a URL (https, s3, gs, hf); or the word emoji for the bundled set"
)
"""Ends the messages about what is not a data set."""
MAX_ARRAY_FILES = 1000
"""Files in a tree beyond which no files of arrays are looked for."""
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Suffixes that mark a file of a remote store as an archive."""


def open_source(
    data: str | Path, split_seed: int = 0, track: Track | None = None, skip_folder: SkipFolder | None = None
) -> Source:
    """A data set to train on; arguments as for `detect_source`.

    Raises:
        ValueError: there is no data set of a known layout, or it has an error that must be fixed first.
    """
    source = detect_source(data, split_seed, track, skip_folder)
    source.raise_errors()
    return source


def detect_source(
    data: str | Path, split_seed: int = 0, track: Track | None = None, skip_folder: SkipFolder | None = None
) -> Source:
    """A data set, with its errors in `findings`.

    Args:
        data: "emoji", a path or a URL.
        split_seed: seed of splits that are held out from train.

    Raises:
        ValueError: there is no data set of a known layout, or it cannot be read.
    """
    try:
        return _open(data, split_seed, track, skip_folder, ())
    except (OSError, RuntimeError) as error:  # RuntimeError: ~NAME of an unknown user
        raise ValueError(f"{data} cannot be read: {error}") from error


def image_files(folder: Path, skip_folder: SkipFolder | None = None) -> list[Path]:
    """Image files below a folder, sorted; without hidden files and folders."""
    return [folder / name for name in folder_tree(folder, skip_folder).files if is_image_file(name)]


def _open(
    data: str | Path, split_seed: int, track: Track | None, skip_folder: SkipFolder, lists: tuple[Path, ...]
) -> Source:
    """As `detect_source`; `lists` are the lists that have led here."""
    name = str(data)
    if name == "emoji":  # a folder of that name is ./emoji
        return emoji_source()
    cache = cache_folder() / "archives"
    if "://" in name:
        return _tree_source(_tree_of_url(name, cache, track), split_seed)
    path = Path(data).expanduser()
    if name and path.is_dir():
        source = imagenet_source(path, cache, split_seed, track)
        return source or _tree_source(folder_tree(path, skip_folder), split_seed)
    if not path.is_file():
        problem = "is not a file or folder" if name and path.exists() else "does not exist"
        raise ValueError(f"{name or 'an empty name'} {problem}; {EXPECTED}")
    if is_archive(path):
        return _tree_source(archive_tree(path, cache, track), split_seed)
    if IMAGE_FILE.fullmatch(path.name):
        return _tree_source(folder_tree(path.parent, skip_folder), split_seed)
    if path.suffix.lower() in LABEL_SUFFIXES:
        if path.resolve() in lists:
            raise ValueError(f"{path} is a list of images of itself")
        lists = (*lists, path.resolve())
        return list_source(path, split_seed, lambda data: _open(data, split_seed, track, skip_folder, lists))
    raise ValueError(f"{data} is a file of an unknown kind; {EXPECTED}")


def _tree_source(tree: Tree, split_seed: int) -> Source:
    """The first layout that fits; a new one goes before `folder_source`, which takes any tree with images."""
    source = len(tree.files) <= MAX_ARRAY_FILES and (cifar_source(tree, split_seed) or idx_source(tree, split_seed))
    return source or folder_source(tree, split_seed)


def _tree_of_url(url: str, cache: Path, track: Track | None) -> Tree:
    scheme = url.partition("://")[0]
    if scheme in SCHEMES:
        path = download(url, cache, track=track)
        if not is_archive(path):
            raise ValueError(f"{redact(url)} must be a zip or tar file, because web servers do not list their files")
        return archive_tree(path, cache, track)
    if scheme in STORES and url.lower().endswith(ARCHIVE_SUFFIXES):
        return archive_tree(download_remote(url, cache), cache, track)
    return remote_tree(url)
