from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..specs.settings import LabelMaps
from .flags import check_picture


def patches(
    run: Positional[str],
    data: Annotated[Positional[str | None], tyro.conf.arg(metavar="[DATA]")] = None,
    /,
    layer: str | None = None,
    units: Annotated[tuple[int, ...], tyro.conf.arg(metavar="UNIT ...")] = (),
    count: int = 9,
    output: Path = Path("patches.png"),
    split: Literal["train", "val", "test"] | None = None,
    device: str = "auto",
    *,
    maps: LabelMaps,
) -> None:
    """Draw the patches of images that make each unit of a layer most active, cut by its receptive field, and beside
    each what in it does: its deconvolution (Zeiler and Fergus 2013, Figure 2).

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        data: As for `alexnet train`, or a folder of images without labels (default: what it was trained on).
        layer: Layer, such as conv3 (default: the last convolution).
        units: Feature maps to draw, counted from 0 (default: all).
        count: Patches of each, at most one of an image.
        output: File for the picture: .png, .svg, .pdf ...; the list of patches is written beside it, as .csv.
        split: Split whose images are used (default: all images).
        device: auto, cpu, cuda, cuda:1, mps ...
    """
    from ..analysis.inside_figures import patches_figure
    from ..classifier import load
    from ..console import console, print_text

    check_picture(output)
    classifier = load(run, device)
    strongest = classifier.patches(data, layer, units or None, count, split, maps=maps)
    patches_figure(strongest).savefig(output)
    strongest.write_table(output.with_suffix(".csv"))
    print_text(f"{strongest}")
    console.print(f"figure: {output}\ntable: {output.with_suffix('.csv')}", soft_wrap=True)
