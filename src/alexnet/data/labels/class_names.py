"""The names of ImageNet's classes."""

from functools import cache
from importlib.resources import files


@cache
def imagenet_class_names() -> dict[str, str]:
    """The 1,000 classes of ILSVRC2012: WordNet's number and a name, as people say it, which is no other's."""
    text = (files(__package__) / "imagenet.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def readable_class_name(name: str) -> str:
    """The name of a class as people say it: "tench (n01440764)" for n01440764."""
    return f"{imagenet_class_names()[name]} ({name})" if name in imagenet_class_names() else name
