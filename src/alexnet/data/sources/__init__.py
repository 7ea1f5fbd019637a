"""Labelled images where they lie: each kind of place is a small file that lists them and opens one by its number."""

from __future__ import annotations

from pathlib import Path

from .base import SPLITS, Entry, Source
from .bundled import EmojiSource
from .folders import FolderSource, image_files

__all__ = ["SPLITS", "EmojiSource", "Entry", "FolderSource", "Source", "image_files", "open_source"]


def open_source(data: str | Path, split_seed: int = 0) -> Source:
    """The labelled images of a place: "emoji", or a folder of folders.

    Raises:
        ValueError: the place holds no data set of a known layout.
    """
    if str(data) == "emoji":  # a folder of that name is ./emoji
        return EmojiSource()
    path = Path(data).expanduser()
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise ValueError(
            f"{data} is {what}; a data set may be a folder with train/ and val/, each with a folder per class, "
            f"a folder with a folder per class, or the word emoji for the bundled set"
        )
    return FolderSource(path, split_seed)
