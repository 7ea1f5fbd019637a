"""Build Emoji-13, the bundled example data set: emoji drawings of six vendors, 64 x 64 pixels, 13 classes.

The drawings are SVG icons of six packages of the npm registry, the labels and groups come from the package
`emojibase-data`. `SOURCES` pins the version and the SHA-256 of every package; the `npm` client downloads them.
Each drawing is rendered on white by resvg. The files written into the output folder are:

    strips/NNN.webp   lossless strips of up to 128 tiles side by side
    images.csv        strip, column, class, split, concept, vendor and name of each tile
    build.json        record of the build: sources, tools, rules and counts

The file NOTICE in the same folder holds the licenses. It is written by hand: check it when a pin changes.

The parts train, val and test have no concept in common. A concept is the label of an emoji without the words for
gender, age, hair, skin, direction, size and color, and concepts are joined when they share an identical drawing.

    python -m pip install resvg-py==0.5.0 pillow==13.0.0
    python tools/build_emoji.py

The same pins give the same bytes.
"""

import argparse
import csv
import hashlib
import io
import itertools
import json
import re
import subprocess
import tarfile
import unicodedata
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

import resvg_py
from PIL import Image, ImageChops, ImageStat

TILE, STRIP_TILES = 64, 128
SAME_BELOW = 8  # difference of two drawings, of 255, below which their concepts are joined
BLANK_BELOW = 2  # mean distance from white, of 255, below which a drawing is left out
SPLITS = ("train", "val", "test")
SPLIT_SHARES = {"train": 0.7, "val": 0.1}  # the rest is test
CLASSES = ["face", "hand", "person", "animal", "plant", "food", "vehicle", "place", "sky", "clothing", "object"]
CLASSES += ["flag", "sign"]
LABELS = "emojibase-data"

# Version, license and SHA-256 of each npm package; a vendor's package is named after the vendor.
SOURCES = {
    "noto": ("1.2.9", "Apache-2.0", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "noto-v1": ("1.2.5", "Apache-2.0", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "fxemoji": ("1.2.2", "Apache-2.0, CC-BY-4.0", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    "fluent-emoji-flat": ("1.2.6", "MIT", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    "twemoji": ("1.2.5", "CC-BY-4.0", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "emojione": ("1.2.3", "CC-BY-4.0", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    LABELS: ("17.0.0", "MIT", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}

# Class of each group or subgroup of emojibase; a subgroup's entry counts before its group's. Groups with no entry
# (activities, components) and those at None are left out.
CLASS_OF_GROUP = {
    "smileys-emotion": "face", "heart": None, "emotion": "sign", "cat-face": "animal", "monkey-face": "animal",
    "people-body": "person", "body-parts": None, "hand-fingers-open": "hand", "hand-fingers-partial": "hand",
    "hand-single-finger": "hand", "hand-fingers-closed": "hand", "hands": "hand", "hand-prop": "hand",
    "animals-nature": "animal", "plant-flower": "plant", "plant-other": "plant",
    "food-drink": "food", "dishware": "object",
    "travel-places": "place", "transport-ground": "vehicle", "transport-water": "vehicle", "transport-air": "vehicle",
    "hotel": "object", "time": "object", "sky-weather": "sky",
    "objects": "object", "clothing": "clothing", "symbols": "sign", "flags": "flag",
}  # fmt: skip

# Labels whose drawing is not what its subgroup says; None leaves them out.
CLASS_OF_LABEL = {
    label: class_name
    for class_name, labels in {
        None: "footprints; fingerprint; empty nest; nest with eggs; paw prints; rosette; hole",
        "object": "compass; brick; rock; wood; barber pole; oil drum; fuel pump; wheel; police car light; anchor; "
        "horizontal traffic light; vertical traffic light; ring buoy; seat; thermometer; closed umbrella; umbrella; "
        "umbrella with rain drops; umbrella on ground; prayer beads; lipstick; gem stone; folding hand fan; hair pick",
        "place": "bus stop; motorway; railway track; station",
        "sign": "stop sign; construction; skull and crossbones",
    }.items()
    for label in labels.split("; ")
}

# Words left out of a concept's name, and words that differ only in gender.
VARIANT_WORD = re.compile(
    "(wo)?(man|men)s?|person|people|(fe)?male|boy|girl|adult|child|older|old|mrs|mx|santa|hair|blond|curly|bald|beard|"
    "left|right|up|down|(left|right|up|down)wards|facing|pointing|pointed|oncoming|front|tilted|(counter)?clockwise|"
    "vertical(ly)?|horizontal(ly)?|small|medium|large|big|high|low|heavy|skin|tone|and|"
    "red|orange|yellow|green|blue|purple|brown|black|white|pink|grey"
)
SAME_WORD = {"princess": "prince", "mermaid": "merperson", "merman": "merperson"}
# Icons that are not what their name says, or drawn as a black box.
UNFIT_ICONS = {("fxemoji", "kiss"), ("fxemoji", "tramcar")}

RULES = [
    "skin tones, clock faces, hearts, activities, body parts and drawings with no label in emojibase are left out",
    "icons are matched by code points (chars.json), else by name; mirrored copies of an icon are left out",
    "of drawings of a vendor with identical pixels in the same class the first is kept; drawings whose mean is within "
    f"{BLANK_BELOW} of white are left out",
    "a concept is a class and a label without words for gender, age, hair, skin, direction, size and color; "
    "the labels of country and subdivision flags stay whole",
    "concepts with an identical drawing, also of two vendors, are one concept, and so are concepts of a class with two "
    f"drawings of a vendor whose root mean square difference is below {SAME_BELOW} of 255 in each channel",
    "in each class the concepts, ordered by the SHA-256 of their names, are cut at 70 and 80 percent",
]


def npm_name(source):
    """Return the name of a source's npm package."""
    return source if source == LABELS else f"@iconify-json/{source}"


def fetch(source, folder):
    """Return the archive of a source as an open tarfile; download it unless the folder holds it already."""
    pinned, _, sha256 = SOURCES[source]
    path = folder / f"{npm_name(source).removeprefix('@').replace('/', '-')}-{pinned}.tgz"
    if not path.exists():
        command = ["npm", "pack", "--silent", f"{npm_name(source)}@{pinned}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {sha256}")
    return tarfile.open(path)


def read_json(source, folder, *members):
    """Return the parsed JSON files of a source."""
    with fetch(source, folder) as archive:
        return [json.load(archive.extractfile(f"package/{member}")) for member in members]


def read_icons(vendor, folder):
    """Return a vendor's icons, the icon of each alias, and the icon of each code, empty where the package has none."""
    icons, chars = read_json(vendor, folder, "icons.json", "chars.json")
    aliases = {name: alias["parent"] for name, alias in icons.get("aliases", {}).items() if alias.keys() == {"parent"}}
    found = {code: aliases.get(name, name) for code, name in chars.items()}
    return icons, aliases, {code: icon for code, icon in found.items() if icon in icons["icons"]}


SPELLED_OUT = str.maketrans({"&": " and ", "#": " pound ", "*": " asterisk "})


def words_of(text):
    """Return the words of a text: lower case, without accents, apostrophes and punctuation."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=\w)['’]", "", text).translate(SPELLED_OUT))


def name_key(name):
    """Return the form in which names are compared: its words run together, without the old prefix of flags."""
    return re.sub(r"^flagfor(flag)?", "flag", "".join(words_of(name)))


def plain_code(hexcode):
    """Return a hexcode in lower case without variation selectors, the form of the keys of chars.json."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def class_of(emoji, groups):
    """Return the class of an emoji of emojibase, None if it is left out."""
    label, group, subgroup = emoji["label"], emoji.get("group"), emoji.get("subgroup")
    if group is None or re.search(r"(o’clock|-thirty)$", label):
        return None
    if label in CLASS_OF_LABEL:
        return CLASS_OF_LABEL[label]
    group, subgroup = groups["groups"][str(group)], groups["subgroups"][str(subgroup)]
    return CLASS_OF_GROUP[subgroup] if subgroup in CLASS_OF_GROUP else CLASS_OF_GROUP.get(group)


def concept_of(emoji, class_name):
    """Return the name of an emoji's concept before concepts with an identical drawing are joined."""
    label = emoji["label"]
    if re.match(r"flag: ", label):
        return f"{class_name}/{label.removeprefix('flag: ')}"
    label = re.sub(r"^(kiss|couple with heart|family): .*", r"\1", label)
    kept = [SAME_WORD.get(word, word) for word in words_of(label) if not VARIANT_WORD.fullmatch(word)]
    return f"{class_name}/{' '.join(kept) or class_name}"


def code_by_name(emojis, unicode_names, packages):
    """Return the code of each known name: labels first, then Unicode's names, then names of icons with a code."""
    codes = {}
    for emoji in emojis:
        codes.setdefault(name_key(emoji["label"]), plain_code(emoji["hexcode"]))
    for code, name in unicode_names.items():
        codes.setdefault(name_key(name), plain_code(code))
    for icons, aliases, icon_of_code in packages.values():
        code_of_icon = {icon: code for code, icon in sorted(icon_of_code.items(), reverse=True)}
        for name in sorted([*icons["icons"], *aliases]):
            if aliases.get(name, name) in code_of_icon:
                codes.setdefault(name_key(name), code_of_icon[aliases.get(name, name)])
    return codes


def match_by_name(icons, aliases, codes):
    """Return the icon of each code where a package lists no codes; an icon's own name counts before its aliases."""
    found = {}
    for name in [*sorted(icons["icons"]), *sorted(aliases)]:
        code, icon = codes.get(name_key(name)), aliases.get(name, name)
        if code and code not in found and icon not in found.values():
            found[code] = icon
    return found


def render(icons, name):
    """Return an icon as an RGB image on white, or None if next to nothing is to be seen on it."""
    icon = {"left": 0, "top": 0, "width": icons["width"], "height": icons["height"]} | icons["icons"][name]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{TILE}" '
        f'height="{TILE}" viewBox="{icon["left"]} {icon["top"]} {icon["width"]} {icon["height"]}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True))
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return image if 255 - ImageStat.Stat(image.convert("L")).mean[0] >= BLANK_BELOW else None


def draw_all(emojis, groups, packages, codes):
    """Return one row a drawing: class, concept, vendor, name and image."""
    rows = []
    for vendor, (icons, aliases, icon_of_code) in packages.items():
        icon_of_code = icon_of_code or match_by_name(icons, aliases, codes)
        for emoji in sorted(emojis, key=lambda emoji: emoji.get("order", 0)):
            class_name, icon = class_of(emoji, groups), icon_of_code.get(plain_code(emoji["hexcode"]))
            image = render(icons, icon) if class_name and icon and (vendor, icon) not in UNFIT_ICONS else None
            if image:
                row = {"class": class_name, "concept": concept_of(emoji, class_name), "vendor": vendor}
                rows.append(row | {"name": emoji["label"], "image": image})
    return rows


def same_drawings(rows):
    """Yield pairs of rows that show one drawing: the same pixels, or nearly so within a vendor and class."""
    first_with, alike = {}, defaultdict(list)
    for row in rows:
        yield first_with.setdefault(row["image"].tobytes(), row), row
        alike[row["vendor"], row["class"]].append((row, ImageStat.Stat(row["image"]).mean[1]))
    for (a, mean_a), (b, mean_b) in (pair for group in alike.values() for pair in itertools.combinations(group, 2)):
        # The means of a channel differ by no more than the root mean square: most pairs need no second look.
        if a["concept"] == b["concept"] or abs(mean_a - mean_b) >= SAME_BELOW:
            continue
        if max(ImageStat.Stat(ImageChops.difference(a["image"], b["image"])).rms) < SAME_BELOW:
            yield a, b


def join_concepts(rows):
    """Give the concepts of one drawing one name, the first of theirs in order."""
    parent = {row["concept"]: row["concept"] for row in rows}

    def root(concept):
        while parent[concept] != concept:
            concept = parent[concept]
        return concept

    for pair in same_drawings(rows):
        low, high = sorted(root(row["concept"]) for row in pair)
        parent[high] = low
    for row in rows:
        row["concept"] = root(row["concept"])


def without_repeats(rows):
    """Return the rows without those that repeat the pixels of an earlier row of their vendor and class."""
    return list({(row["vendor"], row["class"], row["image"].tobytes()): row for row in reversed(rows)}.values())[::-1]


def split_concepts(rows):
    """Set the split of each row. The class of a concept is the one its name begins with."""
    concepts = defaultdict(set)
    for row in rows:
        concepts[row["concept"].split("/")[0]].add(row["concept"])
    split_of = {}
    for names in concepts.values():
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        train_end = round(SPLIT_SHARES["train"] * len(ordered))
        val_end = round(sum(SPLIT_SHARES.values()) * len(ordered))
        for place, name in enumerate(ordered):
            split_of[name] = SPLITS[(place >= train_end) + (place >= val_end)]
    for row in rows:
        row["split"] = split_of[row["concept"]]


def write_strips(rows, folder):
    """Write the strips and set strip and column of each row. Like drawings lie side by side: they compress better."""
    (folder / "strips").mkdir(parents=True, exist_ok=True)
    for old in (folder / "strips").glob("*.webp"):
        old.unlink()
    for start in range(0, len(rows), STRIP_TILES):
        tiles = rows[start : start + STRIP_TILES]
        strip = Image.new("RGB", (TILE * len(tiles), TILE))
        for column, row in enumerate(tiles):
            strip.paste(row["image"], (TILE * column, 0))
            row |= {"strip": f"{start // STRIP_TILES:03d}.webp", "column": column}
        strip.save(folder / "strips" / tiles[0]["strip"], lossless=True, quality=100, method=6, exact=True)


def write_tables(rows, folder):
    """Write images.csv and build.json."""
    with open(folder / "images.csv", "w", encoding="utf-8", newline="") as file:
        fields = ["strip", "column", "class", "split", "concept", "vendor", "name"]
        table = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    images = Counter((row["class"], row["split"]) for row in rows)
    concepts = Counter((c, split) for c, split, _ in {(row["class"], row["split"], row["concept"]) for row in rows})
    record = {
        "data_set": "Emoji-13",
        "classes": CLASSES,
        "sources": {
            source: {"package": npm_name(source), "version": pinned, "licence": licence, "sha256": sha256}
            for source, (pinned, licence, sha256) in SOURCES.items()
        },
        "tools": {name: version(name) for name in ("resvg-py", "pillow")},
        "rules": RULES,
        "images": len(rows),
        "images_by_vendor": dict(Counter(row["vendor"] for row in rows)),
        "images_by_split": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
        "images_by_class_and_split": {c: {split: images[c, split] for split in SPLITS} for c in CLASSES},
        "concepts_by_class_and_split": {c: {split: concepts[c, split] for split in SPLITS} for c in CLASSES},
    }
    (folder / "build.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def main():
    """Build the data set from the pinned packages."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=root / "src/alexnet/data/emoji", help="folder of the data set")
    parser.add_argument("--downloads", type=Path, default=root / "build/emoji", help="folder of the npm archives")
    args = parser.parse_args()
    args.downloads.mkdir(parents=True, exist_ok=True)
    emojis, groups, unicode_names = read_json(
        LABELS, args.downloads, "en/data.json", "meta/groups.json", "meta/unicode-names.json"
    )
    packages = {vendor: read_icons(vendor, args.downloads) for vendor in SOURCES if vendor != LABELS}
    rows = draw_all(emojis, groups, packages, code_by_name(emojis, unicode_names, packages))
    join_concepts(rows)
    rows = without_repeats(rows)
    split_concepts(rows)
    rows.sort(key=lambda row: (list(SOURCES).index(row["vendor"]), CLASSES.index(row["class"])))
    write_strips(rows, args.out)
    record = write_tables(rows, args.out)
    print(json.dumps({key: record[key] for key in record if key.startswith("images")}, indent=2))


if __name__ == "__main__":
    main()
