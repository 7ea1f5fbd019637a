import shlex
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


def import_weights(
    path: Annotated[Positional[str], tyro.conf.arg(metavar="FILE")],
    /,
    output: Path,
    variant: str | None = None,
    classes: Path | None = None,
    mean: tuple[float, float, float] | Path | None = None,
    std: tuple[float, float, float] | None = None,
    input_size: int | None = None,
    partial: bool = False,
) -> None:
    """Convert weights from torchvision, PyTorch, Caffe, TensorFlow, Keras or Hugging Face to a classifier.

    Args:
        path: A file, whose format is detected from its content, a folder with model.safetensors, torchvision, caffe,
            caffenet, a URL or hf://OWNER/REPO.
        output: Folder for the classifier, which evaluate, predict and export accept.
        variant: Network of the weights; `alexnet describe` lists them (default: detected from the file).
        classes: File with the class names: one per line, perhaps with their indices, JSON, YAML or CSV (default: those
            in the file; else ImageNet's if there are 1,000, else indices).
        mean: Mean subtracted from pixels of 0 ... 255: red, green, blue, or a mean image (.binaryproto, .npy)
            (default: the file's; if it has none, a guess, which the report says).
        std: Standard deviation by which they are then divided: red, green, blue (default: the file's).
        input_size: Side of the images that the network sees, pixels (default: the file's, or the network's own).
        partial: Load the layers that fit, initialize those that are missing, and leave out what has no place
            (strict=False).
    """
    from ..classifier import Classifier
    from ..console import console, print_facts, progress_bar
    from ..interchange.importing import import_weights
    from ..interchange.public_weights import local_weights
    from ..model.bundle import FILE

    if output.is_file() or (output / FILE).exists():
        kind = "a file" if output.is_file() else "a classifier"
        raise ValueError(f"--output must be a new folder, got {kind}: {output}")
    classifier = Classifier(device="cpu")
    path = local_weights(path, progress_bar("downloading"))
    classifier.bundle, report = import_weights(path, variant, classes, mean, std, input_size, strict=not partial)
    print_facts(report.facts())
    saved = shlex.quote(str(classifier.save(output)))
    console.print(f"\nnext:   alexnet predict {saved} IMAGE", soft_wrap=True)
