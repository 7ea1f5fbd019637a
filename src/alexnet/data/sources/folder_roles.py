"""What the folders of images stand for: splits, classes, or neither.

In this order:
1. Folders that all images are in stand for nothing; the rest is about what lies below.
2. Folders named after splits are splits: `train`, and beside another one also `train_images` or `seg_train`. Where they
   hold images as their neighbors do, which are no splits, all are classes.
3. Names of split and class may be one: train_cat, train_dog, test_cat, test_dog.
4. In a split, a single folder `images`, or one named like the split again, stands for nothing.
5. Folders of splits may be in the folders of classes: cat/train, cat/test.
6. If all folders hold folders of nearly the same names, these are the classes, not those that hold them.
7. Else the folders are the classes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from posixpath import commonpath

from ...specs.names import listed
from ..labels.split_names import GENERIC_FOLDERS, split_in, split_of, words_beside_split
from ..source import Finding

MASK_FOLDERS = ("annotations", "annotation", "masks", "mask", "trimaps", "groundtruth", "ground_truth", "labels")
"""Folders whose images are no photos, beside one that is called `images`."""
NEARLY = 0.6
"""Fraction of all names that each folder must have for names to be nearly the same."""


@dataclass
class Roles:
    root: str
    """The folder that holds all images, with "/"; "" for the root of the tree."""
    places: dict[str, tuple[str | None, str | None]]
    """Split and class of the images in each folder."""
    class_folders: set[str] = field(default_factory=set)
    """Paths of the folders that are classes."""
    outside: set[str] = field(default_factory=set)
    """Folders that are not in that of a split, where others are, or hold masks."""
    findings: list[Finding] = field(default_factory=list)
    patterns: dict[str, None] = field(default_factory=dict)
    """The layout, a pattern such as train/CLASS/IMAGE for each split."""

    @property
    def layout(self) -> str:
        return ", ".join(self.patterns)


def roles_of(folders: Collection[str]) -> Roles:
    """The roles of all folders that hold images directly."""
    masks = _mask_folders(folders)
    folders = [folder for folder in folders if folder not in masks]
    root = data_root(folders)
    parts = {folder: tuple(filter(None, f"{folder}/"[len(root) : -1].split("/"))) for folder in folders}
    roles = Roles(root, {}, outside=set(masks))
    tops: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for inner in parts.values():
        tops[inner[0] if inner else ""].append(inner[1:])
    if names := _splits_with_classes(tops):
        roles.places = {folder: names[inner[0]] for folder, inner in parts.items()}
        roles.class_folders = {root + top for top in tops}
        roles.patterns = {"SPLIT_CLASS/IMAGE": None}
        return roles
    splits = _split_folders(tops, roles.findings)
    if splits:
        roles.outside |= {folder for folder, inner in parts.items() if not inner or inner[0] not in splits}
    inside = {folder: inner for folder, inner in parts.items() if folder not in roles.outside}
    split_by_folder = {folder: splits[inner[0]] if splits else None for folder, inner in inside.items()}
    heads = _wrappers(inside, split_by_folder)
    rests = {folder: _without_generic(inner[len(heads[folder]) :]) for folder, inner in inside.items()}
    nested = [rest for rest in rests.values() if rest]
    inner_splits = _splits_in_classes(nested) if not splits and len(nested) == len(rests) else {}
    if inner_splits:
        split_by_folder = {folder: inner_splits[rest[1]] for folder, rest in rests.items()}
        nested = [(rest[0], *rest[2:]) for rest in nested]
    level = _class_level(nested, root, roles.findings) * (2 if inner_splits else 1)
    for folder, inner in inside.items():
        head, rest = heads[folder], rests[folder]
        name = rest[level] if len(rest) > level else None
        roles.places[folder] = split_by_folder[folder], name
        if name is not None:
            roles.class_folders.add(root + "/".join(inner[: inner.index(name, len(head)) + 1]))
        above = (*head, *("*" for _ in rest[:level]), *(("CLASS",) if name is not None else ()))
        roles.patterns["/".join((*above, "IMAGE"))] = None
    if inner_splits:
        names = "|".join(sorted(inner_splits))  # below versions, as in color/train/CLASS, or in classes
        roles.patterns = {f"*/{names}/CLASS/IMAGE" if level else f"CLASS/{names}/IMAGE": None}
    return roles


def data_root(folders: Collection[str]) -> str:
    """The one of the images' folders, with "/", that holds all and is neither a split nor a class; "" for the root."""
    common = [folder for folder in commonpath(folders or [""]).split("/") if folder]
    common = common[: next((level for level, folder in enumerate(common) if split_of(folder)), len(common))]
    depth = max((folder.count("/") + bool(folder) for folder in folders), default=0)
    if len(common) == depth:  # all images are in one folder, which may be a class
        common = common[:-1]
    return "".join(f"{folder}/" for folder in common)


def _splits_with_classes(tops: Mapping[str, list]) -> dict[str, tuple[str, str]]:
    """Split and class by folder, if the name of each holds both."""
    both = {top: (split_in(top), "_".join(words_beside_split(top))) for top in tops}
    by_split: dict[str | None, set[str]] = defaultdict(set)
    for split, name in both.values():
        by_split[split].add(name)
    classes = by_split.get("train", set())
    fits = len(by_split) > 1 and len(classes) > 1 and "" not in classes and None not in by_split
    fits = fits and all(names <= classes for names in by_split.values())
    return both if fits and not any(map(any, tops.values())) else {}


def _split_folders(tops: Mapping[str, list[tuple[str, ...]]], findings: list[Finding]) -> dict[str, str]:
    """The split of each folder that is one."""
    exact = {top: split for top in tops if (split := split_of(top))}
    loose = {top: split for top in tops if (split := split_in(top))}
    beside = {frozenset(words_beside_split(top)) for top in loose}
    splits = loose if len(set(loose.values())) > 1 and len(beside - {frozenset()}) <= 1 else exact
    others = [top for top in tops if top and top not in splits]
    if not splits or not others or len(set(splits.values())) > 1:
        return splits
    holds_folders = {top for top, rests in tops.items() if any(rests)}
    if holds_folders & splits.keys():
        return splits
    name, split = next(iter(splits.items()))
    text = f"is taken for a class, like {listed(others, 3)} beside it, and not for the {split} split of that name"
    findings.append(Finding("warning", f"{name}/ {text}"))
    return {}


def _wrappers(
    inside: Mapping[str, tuple[str, ...]], split_by_folder: Mapping[str, str | None]
) -> dict[str, tuple[str, ...]]:
    """For each folder, the first parts of its path that are no class: the split, and what holds all of it."""
    by_split: dict[tuple[str | None, str], list[str]] = defaultdict(list)
    for folder, inner in inside.items():
        split = split_by_folder[folder]
        by_split[split, inner[0] if split else ""].append(folder)
    heads = {folder: inner[: split_by_folder[folder] is not None] for folder, inner in inside.items()}
    while True:
        wrappers = {}
        for (split, top), folders in by_split.items():
            rests = [inside[folder][len(heads[folder]) :] for folder in folders]
            firsts = {rest[0] if rest else "" for rest in rests}
            if len(firsts) == 1 and (first := min(firsts)):
                is_generic = first.lower() in GENERIC_FOLDERS or first == top or (split and split_in(first) == split)
                wrappers[split, top] = is_generic, len({rest[1:2] for rest in rests}) > 1
            elif firsts != {""}:
                wrappers[split, top] = False, False
        holds_all = all(generic or wraps for generic, wraps in wrappers.values())
        stripped = [key for key, (generic, _) in wrappers.items() if generic or holds_all]
        if not stripped:
            return heads
        for folder in (folder for key in stripped for folder in by_split[key]):
            heads[folder] = inside[folder][: len(heads[folder]) + 1]


def _mask_folders(folders: Collection[str]) -> set[str]:
    """Folders of images that are masks of those in a folder `images` beside them."""
    paths = {"/".join(folder.split("/")[: depth + 1]) for folder in folders for depth in range(folder.count("/") + 1)}
    beside = {path.rpartition("/")[0] for path in paths if path.rpartition("/")[2].lower() in GENERIC_FOLDERS}
    named = (path for path in paths if path.rpartition("/")[2].lower() in MASK_FOLDERS)
    masks = {path for path in named if path.rpartition("/")[0] in beside}
    return {folder for folder in folders if any(f"{folder}/".startswith(f"{mask}/") for mask in masks)}


def _without_generic(rest: tuple[str, ...]) -> tuple[str, ...]:
    """Folders but those that stand for nothing, as images in amazon/images/mug; the first one is left alone."""
    return rest[:1] + tuple(name for name in rest[1:] if name.lower() not in GENERIC_FOLDERS)


def _splits_in_classes(rests: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """The split of each folder of the second level, if all are named after splits."""
    seconds = {rest[1] if len(rest) > 1 else "" for rest in rests}
    splits = {second: split for second in seconds if (split := split_of(second))}
    return splits if len(splits) == len(seconds) and len(set(splits.values())) > 1 else {}


def _class_level(rests: Iterable[tuple[str, ...]], root: str, findings: list[Finding]) -> int:
    """0 if the folders of the first level are the classes, 1 if those in them are."""
    below: dict[str, set[str]] = defaultdict(set)
    for rest in rests:
        below[rest[0]].add(rest[1] if len(rest) > 1 else "")
    if len(below) < 2 or any("" in names or len(names) < 2 for names in below.values()):
        return 0
    firsts, names = sorted(below), sorted(set().union(*below.values()))
    if all(len(inner) >= NEARLY * len(names) for inner in below.values()):
        text = (
            f"the folders {listed(firsts, 5)} hold folders of the same names, {listed(names, 5)}: these are taken for "
            f"the classes, and all their images for one data set. If {firsts[0]}/ and the others show the same things, "
            "train on one of them alone"
        )
        findings.append(Finding("warning", text))
        return 1
    text = f"the folders in each class are not told apart: {firsts[0]}/ holds {listed(sorted(below[firsts[0]]), 5)}"
    findings.append(Finding("warning", text))
    return 0
