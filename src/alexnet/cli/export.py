from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def export(
    run: Positional[str],
    /,
    format: Literal["onnx", "torch-export", "torchvision", "caffe", "npy", "keras", "safetensors", "huggingface"],
    output: Path | None = None,
    preprocessing: bool = False,
) -> None:
    """Write a trained network for another framework, and print the lines of Python that use the file.

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        format: Format of the file; docs/weights.md describes each.
        output: File, or folder for caffe and huggingface (default: named after the run, in the current folder).
        preprocessing: For onnx and torch-export: include center crop and normalization; the input is then uint8 pixels,
            and an ONNX file has the output probabilities, too.
    """
    from ..classifier import load
    from ..console import console, print_facts
    from ..interchange.exporting import FORMATS, export_weights
    from ..interchange.usage import usage

    bundle = load(run, device="cpu").bundle
    name = Path(run).resolve().name if Path(run).is_dir() else Path(run).stem
    named = Path(name + (FORMATS[format][1] or f"-{format}"))
    if output is None and named.exists():
        raise ValueError(f"{named} exists; choose another --output, or pass --output {named} to overwrite it")
    path = export_weights(bundle, output or named, format, preprocessing, source=run)
    inputs = bundle.preprocessing
    mean, std = inputs.colors_in_words
    side = f"{bundle.network.input_size} × {bundle.network.input_size}"
    units = f"pixels of 0 … 255, RGB, minus the mean ({mean}), divided by the standard deviation ({std}), {side}"
    if format in ("caffe", "npy"):
        units = f"pixels of 0 … 255, BGR, minus the mean (as RGB: {mean}), {side}"
    if preprocessing:
        units = f"pixels of 0 … 255, RGB, {inputs.stored_size} × {inputs.stored_size}, channels last"
    print_facts({"network": bundle.network.architecture.name, "input": units})
    console.print(f"{path}\n", soft_wrap=True)
    console.print(usage(bundle, path, format, preprocessing), soft_wrap=True)
