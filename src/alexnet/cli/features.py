from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..specs.settings import LabelMaps


def features(
    run: Positional[str],
    data: Annotated[Positional[str | None], tyro.conf.arg(metavar="[DATA]")] = None,
    /,
    layers: tuple[str, ...] = (),
    output: Path = Path("features"),
    split: Literal["train", "val", "test"] | None = None,
    views: Literal["center", "ten"] = "center",
    pool: Literal["mean", "max"] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    parquet: bool = False,
    device: str = "auto",
    *,
    maps: LabelMaps,
) -> None:
    """Write the activations of layers for all images: a NumPy file per layer, images.csv (what each row is) and
    features.json. The same command resumes an interrupted one.

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        data: As for `alexnet train`, or a folder of images without labels (default: what it was trained on).
        layers: Layers, such as fc7 conv5; `alexnet describe` lists them (default: the last hidden one, as relu7).
        output: Folder to write to.
        split: Split whose images are used (default: all images).
        views: Features of the center crop, or their mean over the ten views.
        pool: Keep the mean or the maximum of each feature map (default: all positions).
        dtype: Type of the numbers in the files; they are computed in float32.
        parquet: Write everything into one table as well, features.parquet.
        device: auto, cpu, cuda, cuda:1, mps ...
    """
    from ..analysis.features import Extraction, FeatureSettings, import_pyarrow, last_hidden
    from ..classifier import load
    from ..console import console, print_text, progress_bar

    classifier = load(run, device)
    settings = FeatureSettings(layers or (last_hidden(classifier.network),), views, pool, dtype)
    extraction = Extraction(classifier.bundle, classifier.images(data, split, maps=maps), settings, output)
    if parquet:
        import_pyarrow()
    print_text(extraction.in_words())
    for layer, values in extraction.run(progress_bar("features")).items():
        console.print(f"{output / layer}.npy  {values.dtype} {values.shape}", soft_wrap=True)
    if parquet:
        console.print(extraction.write_parquet(), soft_wrap=True)
