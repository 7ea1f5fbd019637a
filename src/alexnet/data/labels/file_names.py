"""Labels in the names of images: cat.0.jpg, Abyssinian_12.jpg."""

import re
from collections import Counter
from collections.abc import Sequence

from .label_files import LabelFile, Row
from .split_names import GENERIC_WORDS, split_in, words_of

NAME = re.compile(r"(?P<label>.*?[^\W\d_].*?)[-_. ]*\(?\d+\)?\.[^.]*")
"""A label, a number and a suffix."""
CAMERAS = {"img", "dsc", "dscn", "dscf", "pxl", "photo", "pic", "frame", "scan", "screenshot", "mvimg", "imgp", "file"}
"""Words with which cameras, phones and programs begin names."""
FEWEST = 3
"""Images that a class must have on average; fewer are titles rather than labels."""


def labels_in_names(paths: Sequence[str]) -> LabelFile | None:
    """The labels of images, if each has a name of a label and a number, and labels are few."""
    rows = []
    for path in paths:
        match = NAME.fullmatch(path.rpartition("/")[2])
        if match is None or {*words_of(match["label"])} & (CAMERAS | GENERIC_WORDS) or split_in(match["label"]):
            return None
        rows.append(Row(path, match["label"]))
    counts = Counter(row.label for row in rows)
    return LabelFile("the names of the images", tuple(rows)) if 1 < len(counts) <= len(rows) / FEWEST else None
