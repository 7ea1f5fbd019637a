from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from ..specs.settings import LabelMaps
from .flags import check_picture, print_json

if TYPE_CHECKING:
    from ..classifier import Classifier


def search(
    run: Positional[str],
    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE")] = (),
    /,
    among: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None,
    layer: str | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    k: int = 6,
    split: Literal["train", "val", "test"] | None = None,
    compare: bool = False,
    output: Path = Path("search.png"),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    device: str = "auto",
    *,
    maps: LabelMaps,
) -> None:
    """Find the images whose features are nearest to those of an image (Figure 4, right), and draw a contact sheet.

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        images: Files, folders, patterns such as 'photos/*.jpg' or URLs.
        among: Images to search: a data set as for `alexnet train`, or a folder of images without labels (default: what
            it was trained on). Their features are kept and used again.
        layer: Layer whose features are compared (default: the last hidden one, as relu7).
        metric: Distance of features: Euclidean, or 1 - cosine.
        k: Images to find.
        split: Split that is searched (default: all images).
        compare: Say which of the last layers and which distance retrieves best, by the classes of these images.
        output: File for the picture: .png, .svg, .pdf ...
        as_json: Print a line of JSON for each image.
        device: auto, cpu, cuda, cuda:1, mps ...
    """
    from ..analysis.inside_figures import neighbors_figure
    from ..classifier import load
    from ..console import console

    check_picture(output)
    if not images and not compare:
        raise ValueError("IMAGE must be a file, a folder, a pattern or a URL, got none")
    classifier = load(run, device)
    if compare:
        _compare(classifier, among, split, maps)
    if not images:
        return
    results = classifier.search(images, among, layer, metric, k, split, not as_json, maps)
    neighbors_figure(results, metric).savefig(output, dpi=150)
    for each in results:
        if as_json:
            print_json(each.facts())
            continue
        console.print(each.query, style="bold", soft_wrap=True)
        for neighbor in each.facts()["nearest"]:
            console.print(f"  {neighbor['distance']:9.4g}  {neighbor['label']}  {neighbor['path']}", soft_wrap=True)
        for path in each.facts()["duplicates"]:
            console.print(f"  the same pixels: {path}", soft_wrap=True)
    if not as_json:
        console.print(f"figure: {output}", soft_wrap=True)


def _compare(classifier: "Classifier", among: str | None, split: str | None, maps: LabelMaps) -> None:
    from ..console import print_table, print_text

    rows, count = classifier.compare_retrieval(among, split, maps=maps)
    print_text(f"Fraction of the 10 nearest images that have the class of the query; {count:,} queries")
    print_table(rows)
    print_text("")
