"""Images among files whose names do not say what they are: by the first bytes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from ..labels.label_files import SUFFIXES as LABEL_SUFFIXES
from ..storage.image_formats import NO_IMAGES, begins_like_image, is_helped
from ..storage.trees import Tree

MAX_SUFFIX = 5
"""Characters of a suffix; what is longer, as in a name with dots, is none."""
MAY_BE_JPEG = (".heic", ".heif", ".hif")
"""Suffixes that programs leave on photos which they have made JPEG; what is none needs a package."""
MAX_LOOKS = 2000
"""Files that are opened."""


def images_by_content(tree: Tree, others: Mapping[int, str]) -> Iterator[int]:
    """Indices of files that are images, though no suffix says so.

    The first file of a suffix in a folder speaks for all of them, but for MAY_BE_JPEG.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, path in others.items():
        folder, _, name = path.rpartition("/")
        suffix = name.rpartition(".")[2].lower() if "." in name else ""
        suffix = f".{suffix}" if suffix.isalnum() and len(suffix) <= MAX_SUFFIX else ""
        if suffix in MAY_BE_JPEG:
            groups[path, suffix].append(index)
        elif suffix not in (*LABEL_SUFFIXES, *NO_IMAGES) and not is_helped(path) and tree.sizes[index] != 0:
            groups[folder, suffix].append(index)
    for (_, suffix), indices in list(groups.items())[:MAX_LOOKS]:
        try:
            with tree.open(tree.locate(indices[0])) as file:
                head = file.read(32)
        except (OSError, ValueError):  # whoever reads it as something else says so
            continue
        if begins_like_image(head) and not (suffix in MAY_BE_JPEG and head[4:8] == b"ftyp"):
            yield from indices
