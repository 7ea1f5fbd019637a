"""From labels to classes: their names, their order, and which class each label means."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence

from .label_files import Label


def class_table(
    name: str, labels: Collection[Label], of_train: Collection[Label], declared: Mapping[str, int] | None
) -> tuple[tuple[str, ...], frozenset[str], dict[Label, int | None]]:
    """The classes, those that only fill gaps between indices, and the class index of each label, if it is one.

    Integers are indices if they have few gaps, else names, as years are.

    Args:
        labels: all that images have.
        of_train: those that define the classes, unless `declared` gives the index of each.
    """
    integers = [label for label in labels if isinstance(label, int)]
    if declared is not None:
        names = {index: label for label, index in declared.items()}
    elif of_train and all(isinstance(label, int) for label in of_train):
        names = {label: str(label) for label in integers}
        if not _are_indices(names):
            names = dict(enumerate(map(str, sorted(names))))
    else:
        names = dict(enumerate(sorted(map(str, of_train))))
    if names and not _are_indices(names):
        raise ValueError(
            f"{name}: class indices must start at 0 and have few gaps, because each has an output; got "
            f"{min(names)} to {max(names):,} for {len(names):,} labels"
        )
    gaps = {index: f"unused {index}" for index in range(max(names, default=0)) if index not in names}
    classes = tuple(label for _, label in sorted((names | gaps).items()))
    index_of: dict[Label, int] = {label: index for index, label in enumerate(classes)}
    index_of |= {index: index for index in range(len(classes))}
    return classes, frozenset(gaps.values()), {each: index_of.get(str(each), index_of.get(each)) for each in labels}


def _are_indices(names: Mapping[int, str]) -> bool:
    return min(names) >= 0 and max(names) < 10 * len(names) + 100


def canonical(label: Label) -> Label:
    """A label whose composed characters are written in one way: macOS writes é as two."""
    return unicodedata.normalize("NFC", label) if isinstance(label, str) else label


def ignoring_case(label: str, classes: Sequence[str]) -> str | None:
    """The class that differs from a label in case only."""
    near = [name for name in classes if name.casefold() == label.casefold()]
    return near[0] if len(near) == 1 else None


def meaning_of_integers(
    labels: Collection[str], classes: Sequence[str], is_declared: bool
) -> tuple[dict[str, Label], str]:
    """What labels that are integers mean where classes have names, and what the user should know about it.

    They are names of classes if most of them are, 1 also for 001; else indices, from 1 if the last one says so.

    Args:
        classes: names of the classes in the order of their indices.
    """
    by_number = {str(int(name)): name for name in classes if name.isdecimal()}
    if len(by_number) == len(classes) and 2 * sum(str(int(label)) in by_number for label in labels) >= len(labels):
        return {label: by_number.get(str(int(label)), label) for label in labels}, ""
    if 2 * sum(label in classes for label in labels) >= len(labels):
        return {label: label for label in labels}, ""
    indices = {label: int(label) for label in labels}
    least, most = min(indices.values()), max(indices.values())
    if least == 1 and most == len(classes):
        note = f"labels from 1 to {most} are taken for the classes in their order, {classes[0]} to {classes[-1]}"
        return {label: index - 1 for label, index in indices.items()}, note
    if least > 0 and most < len(classes) and not is_declared:
        note = (
            f"no label is 0; labels are taken for indices from 0, so {least} is {classes[least]}. If they begin at 1, "
            "write names of classes instead"
        )
        return indices, note
    return indices, ""
