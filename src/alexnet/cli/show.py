from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from .flags import check_picture

if TYPE_CHECKING:
    import numpy as np

    from ..model.bundle import ModelBundle
    from ..notebook import Figure


def show(
    what: Positional[Literal["kernels", "views", "augmentation", "network"]],
    network: Annotated[Positional[str], tyro.conf.arg(metavar="NETWORK")],
    image: Annotated[Positional[str | None], tyro.conf.arg(metavar="[IMAGE]")] = None,
    /,
    output: Path | None = None,
) -> None:
    """Draw a figure of the paper for a network: the kernels of its first layer (Figure 3); the ten views of an image,
    with its prediction for each; an image as augmentation changes it (section 4.1); its layers and towers (Figure 2).

    Args:
        what: The figure.
        network: Run, saved classifier or weights as for `alexnet predict`, or the name of a network.
        image: For views and augmentation: file or URL (default: a drawing of a tiger).
        output: File for the picture: .png, .svg, .pdf ... (default: a new .png named after the figure).
    """
    from ..console import console
    from ..files import unused

    output = output or unused(Path(f"{what}.png"))
    check_picture(output)
    if image is not None and what in ("kernels", "network"):
        raise ValueError(f"{what} takes no image, got {image}")
    _figure(what, network, image).savefig(output, dpi=150)
    console.print(f"figure: {output}", soft_wrap=True)


def _figure(what: str, name: str, image: str | None) -> "Figure":
    import torch

    from ..analysis.figures import augmentation_figure, kernels_figure, views_figure
    from ..analysis.network_figure import network_figure
    from ..classifier import load
    from ..interchange.public_weights import PUBLIC
    from ..model.network import AlexNet
    from ..preprocessing.preprocessing import Preprocessing
    from ..runs.run import Run
    from ..specs.names import did_you_mean
    from ..specs.recipes import recipe
    from ..specs.shapes import infer_shapes
    from ..specs.storage import from_json
    from ..specs.variants import VARIANTS, variant

    if not Path(name).exists() and Path(name).parent == Path() and "://" not in name and name not in VARIANTS:
        raise ValueError(f"there is no run, file or network {name!r}{did_you_mean(name, VARIANTS)}")
    has_weights = Path(name).exists() or name not in VARIANTS or (name in PUBLIC and what in ("kernels", "views"))
    bundle = load(name, device="cpu").bundle if has_weights else None
    architecture = bundle.network.architecture if bundle else variant(name)
    if what == "kernels":
        figure = kernels_figure(bundle.network if bundle else AlexNet(architecture))
        if not bundle:
            figure.suptitle("initial weights, not trained", fontsize=10)
        return figure
    if what == "network":
        return network_figure(bundle.network.placed if bundle else infer_shapes(architecture), architecture.name)
    sizes = architecture.stored_size, architecture.input_size
    preprocessing = bundle.preprocessing if bundle else Preprocessing(*sizes, torch.zeros(1, 1, 3), torch.ones(3))
    stored = _stored(image, preprocessing.stored_size)
    if what == "views":
        return views_figure(stored, preprocessing, _predictions(bundle, stored) if bundle else ())
    record = Run(Path(name)).record() if Path(name).is_dir() else {}
    chosen = from_json(record["recipe"]) if "recipe" in record else recipe(architecture.recipe)
    return augmentation_figure(stored, chosen, preprocessing)


def _stored(image: str | None, side: int) -> "np.ndarray":
    from ..data.sources.bundled import emoji_source
    from ..preprocessing.images import stored_image

    if image is not None:
        return stored_image(image, side)
    source = emoji_source()
    tiger = next(index for index, name in enumerate(source.names) if name.endswith("noto tiger face"))
    return stored_image(source.reader.open(source.locate(tiger)), side)


def _predictions(bundle: "ModelBundle", stored: "np.ndarray") -> list[str]:
    """The most probable class of each view, and its probability."""
    import torch

    from ..data.labels.class_names import readable_class_name

    views = bundle.preprocessing.all_views(torch.tensor(stored[None]))
    with torch.inference_mode(), bundle.for_inference("fp32") as network:
        probabilities, labels = network(views).float().softmax(1).max(1)
    names = [readable_class_name(bundle.classes[label]) for label in labels]
    return [f"{name[:14]} {probability:.0%}" for name, probability in zip(names, probabilities, strict=True)]
