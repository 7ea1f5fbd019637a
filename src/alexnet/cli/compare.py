from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from .flags import check_picture


def compare(
    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")],
    /,
    data: str | None = None,
    layers: tuple[str, ...] = (),
    images: int = 300,
    split: Literal["train", "val", "test"] | None = None,
    output: Path = Path("compare.png"),
    device: str = "auto",
) -> None:
    """Compare networks layer by layer: debiased CKA, and correlation of dissimilarity matrices (RSA), with intervals
    over images, and the untrained network as the baseline. Runs of one network and recipe are a group of seeds.

    Args:
        runs: Two or more: runs, saved classifiers, files of weights, torchvision, caffe ...
        data: As for `alexnet train`, or a folder of images without labels (default: what the first was trained on).
        layers: Layers that all networks have (default: all activation functions, and the scores).
        images: Images on which they are compared, evenly spread.
        split: Split whose images are used (default: all images).
        output: File for the picture: .png, .svg, .pdf ...; the matrices are written beside it, as .npz.
        device: auto, cpu, cuda, cuda:1, mps ...
    """
    from ..analysis.inside_figures import comparison_figure
    from ..classifier import compare as compare_networks
    from ..classifier import load
    from ..console import console, print_table

    check_picture(output)
    comparison = compare_networks([load(run, device) for run in runs], data, layers, images, split)
    print_table(comparison.rows(), right=(2, 3, 4))
    comparison_figure(comparison).savefig(output, dpi=150)
    comparison.save(output.with_suffix(".npz"))
    console.print(f"figure: {output}\nmatrices: {output.with_suffix('.npz')}", soft_wrap=True)
