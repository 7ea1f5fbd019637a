"""Which split a folder, a file or a word is named after."""

import re

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}
GENERIC_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "pics", "photos", "data", "png", "jpg")
"""Folders that are not a class if one of them holds all images of a split."""
GENERIC_WORDS = {*GENERIC_FOLDERS, "set", "dataset", "split", "folder", "dir", "files", "jpegs", "labels", "label", "x"}
"""Words beside that of a split which do not make a class of it: train_images, test-set."""
_ENDINGS = ("set", "data", "images", "imgs")
"""What is written together with a split: trainset."""


def split_of(name: str) -> str | None:
    """The split that a folder, file or word is named after."""
    return SPLIT_NAMES.get(name.lower())


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: train, labels, 2 of "trainLabels_2"."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+", name)]


def split_in(name: str) -> str | None:
    """The one split that occurs among the words of a name; None if none or several do."""
    splits = {split for word in words_of(name) if (split := _split_of_word(word))}
    return splits.pop() if len(splits) == 1 else None


def words_beside_split(name: str) -> frozenset[str]:
    """The words of a name that tell more than a split and that it holds images."""
    others = (word for word in words_of(name) if not _split_of_word(word))
    return frozenset(word for word in others if word not in GENERIC_WORDS and not word.isdecimal())


def _split_of_word(word: str) -> str | None:
    return next(filter(None, (split_of(word.removesuffix(ending)) for ending in ("", *_ENDINGS))), None)
