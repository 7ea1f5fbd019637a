from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from .flags import check_picture


def explain(
    run: Positional[str],
    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE")],
    /,
    by: Literal["gradcam", "occlusion", "gradients"] = "gradcam",
    target: str | None = None,
    layer: str | None = None,
    window: int | None = None,
    output: Path = Path("explained.png"),
    device: str = "auto",
) -> None:
    """Draw which pixels of an image speak for a class, beside the image as the network saw it and its five likeliest
    classes. Needs captum: pip install 'alexnet[inside]'.

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        images: Files, folders, patterns such as 'photos/*.jpg' or URLs.
        by: Grad-CAM: feature maps of a layer, weighted by their mean gradients; occlusion: how much the probability
            drops when a square hides the pixels; gradients: the slope of the score.
        target: Name of the class (default: the likeliest).
        layer: For gradcam: a layer with feature maps (default: their last ReLU, such as relu5).
        window: For occlusion: side of the square, pixels (default: an eighth of the side of the image).
        output: File for the picture: .png, .svg, .pdf ...
        device: auto, cpu, cuda, cuda:1, mps ...
    """
    from ..analysis.inside_figures import explanations_figure
    from ..classifier import load
    from ..console import console

    check_picture(output)
    if not images:
        raise ValueError("IMAGE must be a file, a folder, a pattern or a URL, got none")
    explanations = load(run, device).explain(images, by, target, layer, window)
    explanations_figure(explanations).savefig(output, dpi=150)
    for each in explanations:
        best = each.probabilities.argsort()[::-1][:5]
        words = ", ".join(f"{each.classes[label]} {each.probabilities[label]:.1%}" for label in best)
        console.print(f"{each.image}: {words}", soft_wrap=True)
    console.print(f"figure: {output}", soft_wrap=True)
