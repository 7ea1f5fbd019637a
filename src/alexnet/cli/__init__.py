"""One function per command; tyro turns their signatures and docstrings into flags and help.

torch is imported inside the commands that need it: importing it takes seconds, and `--help` should not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro

Positional = tyro.conf.Positional


def train(
    data: Positional[str],
    /,
    variant: str | None = None,
    recipe: str | None = None,
    pretrained: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    freeze: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER")] = (),
    slow: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER=SHARE")] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    flip: bool | None = None,
    seed: int | None = None,
    split_seed: int | None = None,
    output: Path | None = None,
    resume: bool = False,
    allow_changes: bool = False,
    checkpoint_minutes: float = 10,
    micro_batch: int | Literal["auto"] | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    jpeg: int | None = None,
    workers: int | None = None,
    strict: bool = False,
) -> None:
    """Train a network on labelled images, count its errors and write a report.

    Args:
        data: A folder, a list or an archive of labelled images, or the address of one (docs/data.md shows which); or
            "emoji", the bundled drawings.
        variant: The network (see `alexnet describe`). By default that of --from, or the one that suits the size of the
            images.
        recipe: How to train it (see `alexnet describe --recipes`). By default the network's own, or fine-tune.
        pretrained: A run, a saved classifier or a file of weights to go on from: layers of the same name and shape are
            taken, the last one where the classes are the same. By default all weights are new.
        freeze: Layers that stay as they are.
        slow: Layers and what their rates are multiplied by, as in conv3=0.1 conv4=0.5.
        epochs: Passes over the training images. By default the recipe's.
        batch_size: Images a step. By default the recipe's.
        lr: Highest learning rate; all others change in proportion. By default the recipe's.
        flip: Whether flipped images are as good as the images, which those of digits are not. By default the recipe's.
        seed: Of initial weights, order, crops and dropout. By default 0.
        split_seed: Of the split of a folder that has none. By default 0.
        output: Folder for weights, journal and report. By default the next free runs/DATA-VARIANT-1, -2 ...
        resume: Go on with an interrupted run, with its settings: the one in --output, or the newest on this data.
            It ends as if it had never been interrupted.
        allow_changes: Resume also with settings or images that make it another run from there on.
        checkpoint_minutes: Between checkpoints within an epoch; there is one after each epoch in any case.
        micro_batch: Images of a step worked on at a time, with the same mathematics; auto takes as many as fit into the
            memory. By default all.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: Of products; auto takes bf16 where the device has units for it. Weights and sums are always fp32.
        jpeg: Quality of JPEG by which images are packed, as for `alexnet pack`. By default their pixels are stored.
        workers: Processes that decode images. By default one per core.
        strict: Whether one image that cannot be read is an error. By default up to 1 % are left out.
    """
    from ..analysis.report import write_report
    from ..classifier import Classifier
    from ..console import console, print_table
    from ..data.source import SPLITS
    from ..device import keep_freed_memory
    from ..evaluation.tables import ERROR_HEAD, error_rows
    from ..runs.run import read_run, write_run

    keep_freed_memory()
    classifier = Classifier(variant, device, precision)
    place = output or "auto"
    history = classifier.fit(
        data,
        epochs,
        batch_size,
        lr,
        recipe,
        flip,
        seed,
        split_seed,
        place,
        resume=resume,
        jpeg=jpeg,
        workers=workers,
        strict=strict,
        pretrained=pretrained,
        lr_scale=_layer_scale(freeze, slow),
        checkpoint_minutes=checkpoint_minutes,
        micro_batch=micro_batch,
        allow_changes=allow_changes,
    )
    evaluation = classifier.evaluate()
    split = SPLITS[evaluation.packed.splits[evaluation.indices[0]]]
    results = {"split": split, "center": evaluation.center.summary(), "all_views": evaluation.mean.summary()}
    page = write_report(classifier.run, history, classifier.bundle, evaluation)
    write_run(classifier.run, read_run(classifier.run) | {"results": results})
    console.print(f"\n{split}: {len(evaluation.indices):,} images")
    print_table(error_rows(evaluation), ERROR_HEAD, (1, 2, 3, 4, 5))
    console.print(f"\nreport: {page}\nnext:   alexnet predict {classifier.run} IMAGE", soft_wrap=True)


def _layer_scale(freeze: Iterable[str], slow: Iterable[str]) -> dict[str, float] | None:
    """What the rates of layers are multiplied by, None where no layer is named."""
    scale = dict.fromkeys(freeze, 0.0)
    for each in slow:
        layer, _, share = each.partition("=")
        if layer in freeze:
            raise ValueError(f"{layer} is to be frozen and to be slow; it may be one of the two")
        try:
            scale[layer] = float(share)
        except ValueError:
            raise ValueError(f"slow is {each!r}; it may be a layer and a number, as in conv3=0.1") from None
    return scale or None


def doctor(run: Positional[Path], /, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """Say whether a run learns and, where it does not, the likely cause and what helps. Exit status 1 says it does not.

    Args:
        run: Its folder; it may still be going on.
        as_json: Print JSON.
    """
    from dataclasses import asdict

    from ..console import console, print_table
    from ..diagnosis.causes import diagnosed, examined
    from ..diagnosis.layers import HEAD, layer_rows

    facts = examined(run)
    found = diagnosed(facts)
    if as_json:
        print_json({"diagnosis": asdict(found) if found else None, "layers": facts.now})
    else:
        console.print(f"{facts}\n")
        print_table(layer_rows(facts.now), HEAD, range(1, len(HEAD)))
        console.print(f"\n{found or 'It learns.'}", soft_wrap=True)
    if found:
        raise SystemExit(1)


def evaluate(
    run: Positional[Path],
    more: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA|RUN")] = (),
    /,
    data: str | None = None,
    split: Literal["train", "val", "test"] | None = None,
    average: bool = False,
    weights: Literal["equal", "search"] = "equal",
    table: Annotated[Path | None, tyro.conf.arg(name="csv")] = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    fc_precision: Literal["same", "bf16", "int8"] = "same",
) -> None:
    """Count the errors of a trained network, by one view and by ten, from one pass; or of several, averaged.

    Args:
        run: Folder of a run, a saved classifier, or a file of weights.
        more: The data; with --average, further networks.
        data: As for `alexnet train`. By default what it was trained on.
        split: Part of the data. By default test if there is one, else val, else all images.
        average: Average the probabilities of all networks, each over ten views.
        weights: Of the networks in the average: equal, or searched on val, where they then look better than they are.
        table: File for the probabilities of every image by ten views.
        as_json: Print JSON.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: auto, fp32 or bf16.
        fc_precision: Smaller weights for the fully connected layers; what that changes is printed beside.
    """
    from ..classifier import load
    from ..console import console, print_table
    from ..data.labels.class_names import readable_class_name
    from ..device import keep_freed_memory
    from ..evaluation.tables import CLASS_HEAD, ERROR_HEAD, change_rows, class_rows, error_rows, write_probabilities

    keep_freed_memory()
    if table is not None and table.is_dir():
        raise ValueError(f"{table} is a folder; --csv may be a file")
    if table is not None and not table.parent.is_dir():
        raise ValueError(f"{table.parent} is no folder to write {table.name} into")
    if average:
        if fc_precision != "same":
            raise ValueError(f"fc_precision is {fc_precision}; with --average it may be same")
        return _evaluate_together([str(run), *more], data, split, weights, table, as_json, device, precision)
    if weights != "equal" or len(more) > 1 or (more and (data or (Path(more[0]) / "run.json").exists())):
        raise ValueError("one network and one data set are evaluated at a time; several networks with --average")
    data = more[0] if more else data

    classifier = load(run, device, precision, fc_precision)
    evaluation = classifier.evaluate(data, split, verbose=not as_json)
    whole = load(run, device, precision).evaluate(data, split, verbose=not as_json) if fc_precision != "same" else None
    if table is not None:
        write_probabilities(table, evaluation, classifier.classes)
    name, part = evaluation.packed.name, _part(evaluation)
    if as_json:
        views = {"center": evaluation.center.summary(), "all_views": evaluation.mean.summary()}
        if whole:
            views |= {
                "fc_precision": fc_precision,
                "same": {"center": whole.center.summary(), "all_views": whole.mean.summary()},
            }
        return print_json({"data": name, "split": part} | views)
    console.print(f"{name}, {part}: {len(evaluation.indices):,} images\n")
    changes = change_rows(evaluation, whole, f"fully connected layers in {fc_precision}") if whole else []
    print_table(error_rows(evaluation) + changes, ERROR_HEAD, (1, 2, 3, 4, 5))
    console.print()
    print_table(class_rows(evaluation.mean, [*map(readable_class_name, classifier.classes)]), CLASS_HEAD, (1, 2))


def _evaluate_together(
    runs: list[str],
    data: str | None,
    split: str | None,
    weights: Literal["equal", "search"],
    table: Path | None,
    as_json: bool,
    device: str,
    precision: Literal["auto", "fp32", "bf16"],
) -> None:
    """Several networks, each alone and averaged."""
    from ..classifier import evaluate_together, load
    from ..console import console, print_table
    from ..evaluation.tables import TOGETHER_HEAD, together_rows, write_probabilities

    networks = [load(run, device, precision) for run in runs]
    found = evaluate_together(networks, data, split, weights, verbose=not as_json)
    average, chosen_on = found.average, found.searched_on
    if table is not None:
        write_probabilities(table, average, average.packed.classes)
    if as_json:
        each = zip(runs, found.weights, found.each, strict=True)
        whole = sum(found.weights)
        alone = [{"network": run, "weight": weight / whole} | one.mean.summary() for run, weight, one in each]
        views = {"center": average.center.summary(), "all_views": average.mean.summary()}
        searched = {"searched_on": chosen_on.mean.summary()} if chosen_on else {}
        return print_json({"data": average.packed.name, "split": _part(average), "networks": alone} | views | searched)
    console.print(f"{average.packed.name}, {_part(average)}: {len(average.indices):,} images, all views\n")
    print_table(together_rows(found, runs), TOGETHER_HEAD, (1, 2, 3, 4))
    if chosen_on:
        console.print(
            f"\nThe weights were searched on {_part(chosen_on)}, {len(chosen_on.indices):,} images. The error there, "
            f"top-1 {1 - chosen_on.mean.top1:.1%} and top-5 {1 - chosen_on.mean.top5:.1%}, is too low: they fit it.",
            soft_wrap=True,
        )


def _part(evaluation) -> str:
    """Which split the images of an evaluation are."""
    from ..data.source import SPLITS

    counted = set(evaluation.packed.splits[evaluation.indices])
    return SPLITS[counted.pop()] if len(counted) == 1 else "all images"


def predict(
    run: Positional[Path],
    images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE")],
    /,
    top: int = 5,
    views: Literal["all", "center"] = "all",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    fc_precision: Literal["same", "bf16", "int8"] = "same",
) -> None:
    """Name what is in images.

    Args:
        run: Folder of a run, a saved classifier, or a file of weights.
        images: Files, folders (all images below them) or URLs.
        top: How many classes to print for each.
        views: Average over all ten views of each image, or look at its center alone.
        as_json: Print a line of JSON for each image.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: auto, fp32 or bf16.
        fc_precision: Smaller weights for the fully connected layers; `evaluate` says what that changes.
    """
    from ..classifier import load
    from ..console import console
    from ..data.labels.class_names import readable_class_name

    classifier = load(run, device, precision, fc_precision)
    found, failed = list(_all_images(images)), 0
    if not found:
        raise ValueError(f"no images are named, or in {', '.join(images) or 'the folders named'}")
    for image in found:
        try:
            named = classifier.predict_n(image, top, all_views=views == "all")
        except ValueError as error:
            failed += 1
            print(f"alexnet: {error}", file=sys.stderr)
            continue
        if as_json:
            print_json({"image": image, "classes": [{"name": name, "probability": share} for name, share in named]})
        else:
            console.print(image, style="bold", soft_wrap=True)
            for name, share in named:
                console.print(f"  {share:6.1%}  {readable_class_name(name)}")
    if failed:
        raise SystemExit(1)


def describe(
    name: Positional[str | None] = None,
    /,
    num_classes: int | None = None,
    in_channels: int = 3,
    input_size: int | None = None,
    recipe: str | None = None,
    recipes: bool = False,
    output: Path | None = None,
) -> None:
    """Print a network layer by layer, and how it differs from the paper's; or a recipe and its rates over the epochs.
    Without a name, list all networks.

    Args:
        name: One of the networks.
        num_classes: By default those of the data set that it was made for.
        in_channels: Of the images; 3 for color, 1 for grey.
        input_size: Side of the images that it sees, pixels. By default its own.
        recipe: A way of training.
        recipes: List all recipes.
        output: File for a drawing of the rates of the recipe, or of all of them: .png, .svg, .pdf ...
    """
    from ..console import console, print_facts, print_table
    from ..specs.description import HEAD, NUMBERS, differences, layer_rows, totals
    from ..specs.shapes import place
    from ..specs.variants import VARIANTS, variant

    if recipe or recipes:
        if name or num_classes or input_size:
            raise ValueError("a network and recipes are described one at a time; leave out the network, or the recipe")
        return _describe_recipes(recipe, output)
    if name is None and (num_classes or input_size):
        raise ValueError("num-classes and input-size are of a network; name one")
    if output is not None:
        raise ValueError("output is for a drawing of rates; name a recipe, or say --recipes")
    if name is None:
        rows = [
            (each.name, f"{sum(step.weights + step.biases for step in place(each)):,}", f"{each.classes}", each.about)
            for each in VARIANTS.values()
        ]
        print_table(rows, ("network", "parameters", "classes", "what it is"), (1, 2))
        return console.print("\nHow they are trained: alexnet describe --recipes")
    architecture = variant(name)
    placed = place(architecture, num_classes, in_channels, input_size)
    side = placed[0].inputs[1]
    console.print(f"{name}: {architecture.about}", style="bold")
    console.print(f"Sees {in_channels} × {side} × {side}; trained by the recipe {architecture.recipe}.\n")
    print_table(layer_rows(placed), HEAD, NUMBERS)
    console.print()
    print_facts(totals(placed))
    if name != "paper":
        console.print("\nHow it differs from paper", style="bold")
        for sentence in differences(architecture):
            console.print(f"  {sentence}")


def _describe_recipes(name: str | None, output: Path | None) -> None:
    """One recipe, or a list of all."""
    from ..console import console, print_facts, print_table
    from ..specs.recipe_description import recipe_facts
    from ..specs.recipes import RECIPES, recipe
    from ..specs.timeline import SPAN_HEAD, span_rows

    if output is not None and not output.suffix:
        raise ValueError(f"output is {output}; it may be a file that ends in .png, .svg, .pdf ...")
    shown = [recipe(name)] if name else list(RECIPES.values())
    if name:
        console.print(f"{name}: {shown[0].about}\n", style="bold")
        print_facts(recipe_facts(shown[0]))
        console.print()
        print_table(span_rows(shown[0]), SPAN_HEAD)
    else:
        rows = [(each.name, f"{each.epochs}", f"{each.batch_size:,}", each.about) for each in shown]
        print_table(rows, ("recipe", "epochs", "batch", "what it is"), (1, 2))
    if output is not None:
        from ..analysis.rates import rates_figure

        rates_figure(shown).savefig(output, dpi=110)
        console.print(f"\ndrawn: {output}", soft_wrap=True)


def pack(
    data: Positional[str],
    /,
    size: int = 256,
    jpeg: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    verify: bool = False,
) -> None:
    """Decode, resize and crop all images once, into the one file that training reads. `train` does it by itself.

    Args:
        data: As for `alexnet train`.
        size: Side of the stored squares, pixels.
        jpeg: Quality of JPEG, 1 to 95, by which they are stored. By default their pixels are, which take about ten
            times the room of JPEGs of quality 90, and no time to read.
        workers: Processes that decode. By default one per core.
        strict: Whether one image that cannot be read is an error. By default up to 1 % are left out.
        verify: Compare every stored image with its checksum, rather than a thousand of them.
    """
    from ..console import console, counting
    from ..data.pack.packing import PackOptions, make_pack
    from ..data.pack.reading import damaged_images, describe_splits
    from ..data.sources.detection import open_source

    if size < 1:
        raise ValueError(f"size is {size}; it may be 1 or more")
    source = open_source(data, track=counting("reading"))
    options = PackOptions(jpeg, workers, strict)
    packed = make_pack(source, size, options=options, track=counting("packing"), notify=console.print)
    console.print(f"{describe_splits(packed)}; {len(packed.classes)} classes\n{packed.path}", soft_wrap=True)
    if verify and (found := list(damaged_images(packed, range(len(packed.labels))))):
        raise ValueError(
            f"{packed.path} is damaged in {len(found):,} images, {found[0]} the first; remove it and pack again"
        )


def import_file(
    path: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE")],
    /,
    output: Path,
    variant: str | None = None,
    classes: Path | None = None,
    mean: tuple[float, float, float] | Path | None = None,
    std: tuple[float, float, float] | None = None,
    input_size: int | None = None,
    partial: bool = False,
) -> None:
    """Make a classifier of weights from torchvision, PyTorch, Caffe, TensorFlow, Keras or Hugging Face.

    Args:
        path: A file, which is recognised by its content, or a folder with model.safetensors.
        output: Folder for the classifier; evaluate, predict and export take it.
        variant: Which network it is, where the file does not say (see `alexnet describe`).
        classes: File with the names of the classes, one a line or as JSON. By default the file's; else ImageNet's where
            there are 1,000, or numbers.
        mean: Taken off the pixels of 0 ... 255: red, green and blue, or a file with a mean image (.binaryproto, .npy).
        std: What pixels less the mean are divided by: red, green and blue.
        input_size: Side of the images that the network sees, pixels. By default the file's or the network's own.
        partial: Take what fits, and leave the other weights new.
    """
    from ..classifier import Classifier
    from ..console import console, print_facts
    from ..interchange.importing import import_weights
    from ..model.bundle import FILE

    if output.is_file() or (output / FILE).exists():
        kind = "a file" if output.is_file() else "a classifier already"
        raise ValueError(f"{output} is {kind}; --output may be a new folder")
    classifier = Classifier(device="cpu")
    classifier.bundle, report = import_weights(path, variant, classes, mean, std, input_size, strict=not partial)
    print_facts(report.facts())
    console.print(f"\nnext:   alexnet predict {classifier.save(output)} IMAGE", soft_wrap=True)


def export(
    run: Positional[Path],
    /,
    format: Literal["onnx", "torch-export", "torchvision", "caffe", "npy", "keras", "safetensors", "huggingface"],
    output: Path | None = None,
    preprocessing: bool = False,
) -> None:
    """Write a trained network for another framework.

    Args:
        run: Folder of a run, a saved classifier, or a file of weights.
        format: Whose; docs/weights.md says what each holds.
        output: File, or folder for caffe and huggingface. By default named after the run, in the current folder.
        preprocessing: For onnx and torch-export: take pixels of 0 ... 255 as stored, and look at their center.
    """
    from ..classifier import load
    from ..console import console, print_facts
    from ..interchange.exporting import FORMATS, export_weights

    bundle = load(run, device="cpu").bundle
    name = run.resolve().name if run.is_dir() else run.stem
    named = Path(name + (FORMATS[format].suffix or f"-{format}"))
    if output is None and named.exists():
        raise ValueError(f"{named} is there already; --output may be another name, or the same to replace it")
    path = export_weights(bundle, output or named, format, preprocessing, source=run)
    inputs = bundle.preprocessing
    mean, std = (", ".join(f"{each:.4g}" for each in value) for value in (inputs.mean.mean((0, 1)), inputs.std))
    side = f"{bundle.network.input_size} × {bundle.network.input_size}"
    units = f"pixels of 0 … 255, RGB, less their mean (color {mean}), divided by ({std}), {side}"
    if format in ("caffe", "npy"):
        units = f"pixels of 0 … 255, BGR, less their mean (color, RGB: {mean}), {side}"
    if preprocessing:
        units = f"pixels of 0 … 255, RGB, {inputs.stored_size} × {inputs.stored_size}, channels last"
    print_facts({"network": bundle.network.architecture.name, "sees": units})
    console.print(f"{path}", soft_wrap=True)


def check(
    data: Positional[str],
    /,
    size: int | None = None,
    brief: bool = False,
    fix: Path | None = None,
    strict: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    workers: int | None = None,
) -> None:
    """Say what a data set holds and what is wrong with it. Ends with 1 where something must be put right first.

    Args:
        data: As for `alexnet train`.
        size: Side of the squares that it would be stored as, pixels. By default that of the network that suits it.
        brief: Look at a hundred images only, as `train` does by itself.
        fix: File for a list (CSV) of the images that are better trained on: without those that cannot be read or that
            are there twice. `alexnet train LIST` takes it. Your images are left as they are.
        strict: Whether one image that cannot be read, or one warning, is an error.
        as_json: Print JSON.
        workers: Processes that decode. By default one per core.
    """
    from ..console import console, counting, print_facts, print_table
    from ..data.check import check_source
    from ..data.labels.class_names import readable_class_name
    from ..data.pack.packing import PackOptions
    from ..data.source import SPLITS
    from ..data.sources.detection import detect_source
    from ..data.sources.lists import write_list
    from ..specs.variants import variant
    from ..training.plan import data_name, default_variant

    source = detect_source(data, track=counting("reading"))
    size = variant(default_variant(source)).stored_size if size is None else size
    found = check_source(source, size, PackOptions(None, workers, strict), brief, counting("looking"))
    if fix is not None:
        kept = [number for number in range(len(source)) if number not in found.dropped]
        write_list(fix, source, kept, data_name(data))
    if as_json:
        print_json(found.summary())
    else:
        print_facts({"data": source.name, "layout": source.layout} | found.facts)
        console.print()
        each = zip(map(readable_class_name, source.classes), found.counts, strict=True)
        rows = [(name, *(f"{count:,}" for count in counts)) for name, counts in each]
        shown = rows if len(rows) <= 40 else [*rows[:20], (f"… {len(rows) - 20:,} more", "", "", "")]
        print_table([*shown, ("all", *(f"{count:,}" for count in found.counts.sum(0)))], ("class", *SPLITS), (1, 2, 3))
        console.print()
        for finding in found.findings:
            console.print(f"{finding.level}: {finding.text}", soft_wrap=True)
            for example in finding.examples:
                console.print(f"    {example}", soft_wrap=True)
        looked = "all" if found.looked_at == len(source) else f"{found.looked_at:,} of {len(source):,}"
        console.print(f"{looked} images looked at; {len(found.findings) or 'nothing'} found")
        if fix is not None:
            console.print(f"next:   alexnet train {fix}  ({len(kept):,} images)", soft_wrap=True)
    if found.has_errors or (strict and any(finding.level == "warning" for finding in found.findings)):
        raise SystemExit(1)


def bench(
    parts: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="PART")] = (),
    /,
    batch_size: int = 128,
    rounds: int = 5,
    images: int = 1000,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    output: Path | None = None,
) -> None:
    """Measure on this machine how fast training, inference and reading are, beside what others would use.

    Args:
        parts: Some of machine, norm, step, inference, packing, reading, keras; all by default. A step at batch 128 of
            the stock modules may take ten seconds.
        batch_size: Images a step.
        rounds: Of ours and the peer in turns; the table shows medians.
        images: JPEGs for packing and reading.
        device: auto, cpu, cuda, cuda:1, mps ...
        precision: Of products, ours and the peers'.
        output: File to append the table to, as Markdown.
    """
    import platform

    import torch

    from ..bench.measure import HEAD, RIGHT, Row
    from ..bench.parts import PARTS, Settings
    from ..console import console, print_table
    from ..device import describe_device, keep_freed_memory, pick_device, pick_precision

    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"there is no part {unknown[0]!r}; it may be one of {', '.join(PARTS)}")
    for name, value in (("batch-size", batch_size), ("rounds", rounds), ("images", images)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it may be 1 or more")
    keep_freed_memory()
    where = pick_device(device)
    settings = Settings(where, pick_precision(precision, where), batch_size, rounds, images)
    about = f"{describe_device(where, settings.precision)}; {processor()}; torch {torch.__version__}"
    title = f"{about}, Python {platform.python_version()}; medians of {rounds} rounds"
    console.print(title, soft_wrap=True)
    rows, notes = [], []
    for part in parts or PARTS:
        found = list(PARTS[part](settings))
        rows += [row.cells() for row in found if isinstance(row, Row)]
        notes += [note for note in found if not isinstance(note, Row)]
        console.print(f"{part} measured", style="dim")
    console.print()
    if rows:
        print_table(rows, HEAD, RIGHT)
        console.print()
    for note in notes:
        console.print(note, soft_wrap=True)
    if output:
        table = [HEAD, ("---",) * len(HEAD), *rows]
        lines = [title, "", *(f"| {' | '.join(cells)} |" for cells in table), "", *(f"- {note}" for note in notes), ""]
        with output.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def processor() -> str:
    """The processor by name, where the system tells it."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def print_json(value: dict) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _all_images(images: Iterable[str]) -> Iterable[str]:
    """Each file and URL as given, and every image below each folder."""
    from ..data.sources.detection import image_files

    for image in images:
        if Path(image).is_dir():
            yield from map(str, image_files(Path(image)))
        else:
            yield image


def main(arguments: list[str] | None = None) -> None:
    """The command `alexnet`."""
    commands = {
        function.__name__: function
        for function in (train, doctor, evaluate, predict, describe, check, pack, export, bench)
    }
    commands["import"] = import_file  # whose own name is a keyword
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="alexnet",
            description="The whole of AlexNet: train, evaluate, predict and look inside.",
            args=arguments,
        )
    except BrokenPipeError:
        raise SystemExit(0) from None
    except (ValueError, OSError, ImportError) as error:
        print(f"alexnet: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt as stop:
        saved = "; what was learnt is saved, go on with --resume" if type(stop).__name__ == "Interrupted" else ""
        print(f"\nalexnet: interrupted{saved}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
