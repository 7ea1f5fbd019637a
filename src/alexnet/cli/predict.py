import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..specs.settings import InferenceSettings
from .flags import print_json


def predict(
    run: Positional[Path],
    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE")],
    /,
    top: int = 5,
    views: Literal["all", "center"] = "all",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    *,
    settings: InferenceSettings,
) -> None:
    """Classify images.

    Args:
        run: Folder of a run, a saved classifier, or a file of weights.
        images: Files, folders (all images below them) or URLs.
        top: How many classes to print for each.
        views: Average over all ten views (ten-crop), or use the center crop alone.
        as_json: Print a line of JSON for each image.
    """
    from ..classifier import load
    from ..console import console
    from ..data.labels.class_names import readable_class_name

    classifier = load(run, settings.device, settings.precision, settings.fc_precision)
    paths, failed = list(_all_images(images)), 0
    if not paths:
        raise ValueError(f"no images found in {', '.join(images) or 'the arguments'}")
    for path in paths:
        try:
            predictions = classifier.predict_n(path, top, all_views=views == "all")
        except ValueError as error:
            failed += 1
            print(f"alexnet: {error}", file=sys.stderr)
            continue
        if as_json:
            classes = [{"name": name, "probability": probability} for name, probability in predictions]
            print_json({"image": path, "classes": classes})
        else:
            console.print(path, style="bold", soft_wrap=True)
            for name, probability in predictions:
                console.print(f"  {probability:6.1%}  {readable_class_name(name)}")
    if failed:
        raise SystemExit(1)


def _all_images(images: Iterable[str]) -> Iterable[str]:
    """Each file and URL as given, and every image below each folder."""
    from ..data.sources.detection import image_files
    from ..runs.run import is_run

    for image in images:
        if Path(image).is_dir():
            yield from map(str, image_files(Path(image), is_run))
        else:
            yield image
