"""Files of labels as annotation tools write them: COCO and FiftyOne."""

from collections.abc import Mapping

NUMBERED = ("images.txt", "train_test_split.txt", "image_class_labels.txt", "classes.txt")


def records_of_exports(value: Mapping) -> list[dict] | None:
    """A record of image, label and perhaps split for each image of an export; None if it is none.

    Images with two classes are left out, because they have no label.
    """
    if {"images", "annotations", "categories"} <= value.keys():
        return _from_coco(value)
    if isinstance(value.get("samples"), list):
        return [record for sample in value["samples"] if (record := _from_fiftyone(sample))]
    classes, labels = value.get("classes"), value.get("labels")
    if isinstance(labels, dict) and isinstance(classes, list):  # FiftyOneImageClassificationDataset
        names = dict(enumerate(classes))
        return [
            {"image": image, "label": names.get(label, label)} for image, label in labels.items() if label is not None
        ]
    return None


def records_of_numbered(tables: Mapping[str, str]) -> list[dict]:
    """A record of image, split and perhaps label from NUMBERED, which say by the number of an image or a class what
    it is, as in CUB-200 and NABirds; none if they lack images.txt or the split.

    Args:
        tables: content by name.
    """
    parsed = {
        name: dict(line.strip().partition(" ")[::2] for line in text.splitlines() if line.strip())
        for name, text in tables.items()
    }
    images, is_train, class_of, names = (parsed.get(name, {}) for name in NUMBERED)
    if not is_train.keys() & images.keys() or {*is_train.values()} - {"0", "1"}:
        return []
    return [
        {
            "image": image,
            "label": names.get(class_of.get(number, ""), class_of.get(number)),
            "split": "train" if is_train.get(number) == "1" else "test",
        }
        for number, image in images.items()
    ]


def _from_coco(value: Mapping) -> list[dict]:
    names = {category["id"]: category["name"] for category in value["categories"]}
    labels: dict[object, set[str]] = {}
    for annotation in value["annotations"]:
        labels.setdefault(annotation["image_id"], set()).add(names[annotation["category_id"]])
    of_one_class = ((image, labels.get(image["id"], ())) for image in value["images"])
    return [{"image": image["file_name"], "label": min(label)} for image, label in of_one_class if len(label) == 1]


def _from_fiftyone(sample: Mapping) -> dict | None:
    labels = (
        each["label"] for each in sample.values() if isinstance(each, dict) and each.get("_cls") == "Classification"
    )
    label = next(labels, None)
    return None if label is None else {"image": sample["filepath"], "label": label}
