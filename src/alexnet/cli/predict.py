import contextlib
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec

from ..specs.settings import InferenceSettings
from .flags import check_table, print_json

if TYPE_CHECKING:
    from ..evaluation.prediction import Prediction


def _table(texts: list[str]) -> Path:
    if len(texts) > 1:
        raise ValueError(f"at most one FILE must follow, got {' '.join(texts)}; put the images before --csv")
    return Path(texts[0] if texts else "-")


Table = Annotated[
    Path | None,
    tyro.conf.arg(name="csv"),
    PrimitiveConstructorSpec("*", "[FILE]", _table, lambda table: table is None, lambda _: []),
]


def predict(
    run: Positional[str],
    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE")],
    /,
    top: int = 5,
    views: Literal["all", "center"] = "all",
    table: Table = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    *,
    settings: InferenceSettings,
) -> None:
    """Classify images.

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        images: Files, folders, patterns such as 'photos/*.jpg', URLs, or - for the bytes of an image on standard input.
        top: Number of classes to print for each image.
        views: Average over all ten views (ten-crop), or use the center crop alone.
        table: Write a table (CSV): image, class, probability, then the next classes (without FILE: to standard output).
        as_json: Print a line of JSON for each image.
    """
    if top < 1:
        raise ValueError(f"--top must be >= 1, got {top}")
    if table and as_json:
        raise ValueError("--csv and --json must not be given together")
    if table:
        check_table(table)
    if not images:
        raise ValueError("IMAGE must be a file, a folder, a pattern, a URL or -, got none")

    from ..classifier import load
    from ..console import progress_bar
    from ..device import keep_freed_memory
    from ..preprocessing.images import each_image
    from ..runs.run import is_run

    classifier = load(run, **vars(settings))
    keep_freed_memory()
    given = [sys.stdin.buffer if each == "-" else each for each in images]
    files = [file for _, file in each_image(given, is_run, _warn)]
    failed, counts = 0, repeat(1, len(files))
    with contextlib.ExitStack() as stack:
        if table:
            show = _table_writer(table, min(top, len(classifier.classes)), stack)
            counts = progress_bar("predicting")(counts, len(files)) if str(table) != "-" else counts
        else:
            show = _print_json if as_json else _print
        for prediction, _ in zip(classifier.predict_each(files, views == "all"), counts, strict=False):
            if prediction.error:
                failed += 1
                _warn(prediction.error)
            if table or not prediction.error:
                show(prediction, top)
    if table and str(table) != "-":
        print(f"{table}: {len(files) - failed:,} of {len(files):,} images classified")
    if failed:
        raise SystemExit(1)


def _warn(message: object) -> None:
    from ..console import print_error

    print_error(f"alexnet: {message}")


def _print(prediction: "Prediction", top: int) -> None:
    from ..console import console
    from ..data.labels.class_names import readable_class_name

    console.print(prediction.image, style="bold", soft_wrap=True)
    for name, probability in prediction.top(top):
        console.print(f"  {probability:6.1%}  {readable_class_name(name)}")


def _print_json(prediction: "Prediction", top: int) -> None:
    classes = [{"name": name, "probability": probability} for name, probability in prediction.top(top)]
    print_json({"image": prediction.image, "classes": classes})


def _table_writer(table: Path, columns: int, stack: contextlib.ExitStack) -> Callable[["Prediction", int], None]:
    """A function that appends a row. The file appears, complete, when the stack is closed without an error."""
    from ..files import NAMES, CsvWriter, atomic_write

    file = sys.stdout
    if str(table) != "-":
        temporary = stack.enter_context(atomic_write(table))
        file = stack.enter_context(temporary.open("w", newline="", **NAMES))
    writer = CsvWriter(file)
    ranks = [""] + [f" {rank}" for rank in range(2, columns + 1)]
    writer.writerow(("image", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability"))))

    def append(prediction: "Prediction", top: int) -> None:
        best = [("", "")] * columns if prediction.error else prediction.top(top)
        cells = (cell for name, value in best for cell in (name, f"{value:.6g}" if name else value))
        writer.writerow((prediction.image, *cells))

    return append
