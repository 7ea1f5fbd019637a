"""The names of a network's classes, from a file or a list."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..data.labels.class_names import imagenet_class_names

WORDNET_ID = re.compile(r"n[0-9]{8}")
"""ID of a noun, which is the name of an ImageNet class."""


def read_classes(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names as given, or in the order of the scores from a file with one per line or JSON.

    JSON must be a list of names, or an object of names by index or of indices by name. In "n01440764 tench, Tinca
    tinca" and in ["n01440764", "tench"], the name is the WordNet ID, as ImageNet's folders have it.

    Raises:
        ValueError: the file cannot be read or has other content, or a name is there twice.
    """
    is_file = isinstance(classes, (str, Path))
    names = _names_in(Path(classes).expanduser()) if is_file else classes
    if not len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes must be names in the order of the scores, or a file with names, got {classes!r}")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        source = Path(classes).expanduser() if is_file else "classes"
        raise ValueError(f"class names must be distinct; {source} has {repeated[0]!r} twice")
    return tuple(names)


def default_classes(count: int) -> tuple[str, ...]:
    """ImageNet's classes if there are 1,000, else "0", "1", …."""
    imagenet = imagenet_class_names()
    return tuple(imagenet) if count == len(imagenet) else tuple(map(str, range(count)))


def _names_in(path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; classes must be names or a file with names") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"class names must be UTF-8 text; {path} is not: {error}") from None
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError):
        entries = [line.strip() for line in content.splitlines() if line.strip()]
    if isinstance(entries, dict) and all(type(index) is int for index in entries.values()):
        entries = sorted(entries, key=entries.get) if len(set(entries.values())) == len(entries) else []
    elif isinstance(entries, dict):
        entries = [entries[index] for index in sorted(entries, key=int)] if all(map(str.isdecimal, entries)) else []
    names = list(map(_class_name, entries)) if isinstance(entries, list) else []
    if not names or None in names:
        raise ValueError(
            f"{path} has no class names; it must have one per line, or be JSON: a list of names, names by index, or "
            f"indices by name"
        )
    return names


def _class_name(entry) -> str | None:
    """The name in a line, or in a list such as Keras's ["n01440764", "tench"]; None if the entry is neither."""
    words = entry.split() if isinstance(entry, str) else entry
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        return None
    if WORDNET_ID.fullmatch(words[0]):
        return words[0]
    return entry if isinstance(entry, str) else words[-1]
