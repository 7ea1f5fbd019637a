"""The names of ImageNet's classes."""

from functools import cache
from importlib.resources import files


@cache
def imagenet_class_names() -> dict[str, str]:
    """The 1,000 classes of ILSVRC2012: a unique, readable name for each WordNet ID."""
    text = (files(__package__) / "imagenet.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def readable_class_name(name: str) -> str:
    """The name of a class for people: "tench (n01440764)" for n01440764; other names are unchanged."""
    readable = imagenet_class_names().get(name)
    return f"{readable} ({name})" if readable else name
