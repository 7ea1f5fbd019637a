from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..specs.settings import LabelMaps
from .flags import check_picture, print_json


def shift(
    run: Positional[str],
    data: Annotated[Positional[str | None], tyro.conf.arg(metavar="[DATA]")] = None,
    /,
    images: int = 100,
    split: Literal["train", "val", "test"] | None = None,
    output: Path = Path("shift.png"),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    device: str = "auto",
    *,
    maps: LabelMaps,
) -> None:
    """Draw how the probability of the true class and the features change while images move, grow and turn (Zeiler and
    Fergus 2013, Figure 5), and count how often two random crops of an image get the same class (consistency).

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        data: As for `alexnet train`, with classes that the network knows (default: what it was trained on).
        images: Images of which the curves are means; the consistency is measured on all.
        split: Split to use (default: test if there is one, else val, else all images).
        output: File for the picture: .png, .svg, .pdf ...
        as_json: Print JSON.
        device: auto, cpu, cuda, cuda:1, mps ...
    """
    from ..analysis.inside_figures import shift_figure
    from ..classifier import load
    from ..console import console, print_text

    check_picture(output)
    measured = load(run, device).shift(data, images, split, not as_json, maps)
    shift_figure(measured).savefig(output, dpi=150)
    if as_json:
        return print_json(measured.facts())
    print_text(f"{measured}")
    console.print(f"figure: {output}", soft_wrap=True)
