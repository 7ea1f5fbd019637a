from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from ..specs.settings import EvaluationSettings, LabelMaps, TrainSettings
from .flags import check_table, print_json
from .processes import run_on_processes

if TYPE_CHECKING:
    from ..evaluation.ensembles import EnsembleEvaluation
    from ..evaluation.evaluation import Evaluation


def evaluate(
    run: Positional[str],
    more: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA|RUN")] = (),
    /,
    data: str | None = None,
    split: Literal["train", "val", "test"] | None = None,
    average: bool = False,
    weights: Literal["equal", "search"] = "equal",
    table: Annotated[Path | None, tyro.conf.arg(name="csv")] = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    *,
    maps: LabelMaps,
    settings: EvaluationSettings,
) -> None:
    """Evaluate a trained network or an ensemble: top-1 and top-5 errors by the center crop and by ten views (ten-crop).

    Args:
        run: A run, a saved classifier, a file of weights, torchvision, caffe, caffenet, a URL or hf://OWNER/REPO.
        more: The data; with --average, further networks.
        data: As for `alexnet train` (default: what it was trained on).
        split: Split to evaluate on (default: test if there is one, else val, else all images).
        average: Ensemble: average the softmax probabilities of all networks, each over ten views.
        weights: Weights of the networks in the ensemble: equal, or searched on val, whose error is then too low.
        table: CSV file to write: the probabilities of every image, averaged over ten views.
        as_json: Print JSON.
    """
    from ..classifier import evaluate_together, load
    from ..device import keep_freed_memory
    from ..parallel.group import Group
    from ..runs.record import processes_of
    from ..runs.run import Run

    if table is not None:
        check_table(table)
    asked, group = {"gpus": settings.gpus, "processes": settings.processes}, Group.current()
    if (processes := processes_of(TrainSettings(device=settings.device, **asked), group)) > group.size:
        named = {"data": data, "split": split, "average": average, "weights": weights, "table": table}
        each = EvaluationSettings(settings.device, settings.precision, settings.fc_precision)
        named |= {"as_json": as_json, "maps": LabelMaps(**vars(maps)), "settings": each}
        return run_on_processes(processes, evaluate, run, more, **named)
    keep_freed_memory()
    if average:
        if any(vars(maps).values()):
            raise ValueError("--labels and --label-indices must not be given with --average; give a list (CSV) as data")
        if settings.fc_precision != "same":
            raise ValueError(f"--fc-precision must be same with --average, got {settings.fc_precision}")
        runs = [run, *more]
        networks = [load(each, settings.device, settings.precision) for each in runs]
        ensemble = evaluate_together(networks, data, split, weights, verbose=not as_json, csv=table)
        return print_json(_summary(ensemble, runs)) if as_json else _print_ensemble(ensemble, runs)
    if weights != "equal" or len(more) > 1 or (more and (data or Run(Path(more[0])).record())):
        raise ValueError("evaluate takes one network and one data set; use --average for several networks")
    data, unquantized = more[0] if more else data, None
    fc_precision, given = settings.fc_precision, {"verbose": not as_json, **vars(maps)}
    classifier = load(run, settings.device, settings.precision, fc_precision)
    evaluation = classifier.evaluate(data, split, csv=table, **given)
    if fc_precision != "same":
        unquantized = load(run, settings.device, settings.precision).evaluate(data, split, **given)
    if as_json:
        same = {"fc_precision": fc_precision, "same": unquantized.summary()} if unquantized else {}
        return print_json({"data": evaluation.packed.name, "split": evaluation.split} | evaluation.summary() | same)
    _print_evaluation(evaluation, unquantized, f"fully connected layers in {fc_precision}")


def _print_evaluation(evaluation: "Evaluation", unquantized: "Evaluation | None", changed: str) -> None:
    from ..console import console, print_table, print_text
    from ..data.labels.class_names import readable_class_name
    from ..evaluation.tables import change_rows, class_rows

    classes = [*map(readable_class_name, evaluation.packed.classes)]
    console.print(f"{evaluation.packed.name}, {evaluation.split}: {len(evaluation.indices):,} images\n")
    print_table(evaluation.rows() + (change_rows(evaluation, unquantized, changed) if unquantized else []))
    print_text(f"\n{evaluation.in_words()}\n")
    print_table(class_rows(evaluation.all_views, classes), right=(1, 2))


def _summary(ensemble: "EnsembleEvaluation", runs: Sequence[str]) -> dict:
    average, searched_on, total = ensemble.average, ensemble.weight_search, sum(ensemble.weights)
    each = [
        {"network": run, "weight": weight / total} | evaluation.all_views.summary()
        for run, weight, evaluation in zip(runs, ensemble.weights, ensemble.members, strict=True)
    ]
    searched = {"searched_on": searched_on.all_views.summary()} if searched_on else {}
    return {"data": average.packed.name, "split": average.split, "networks": each} | average.summary() | searched


def _print_ensemble(ensemble: "EnsembleEvaluation", runs: Sequence[str]) -> None:
    from ..console import console, print_table, print_text
    from ..evaluation.tables import ensemble_rows

    average, searched_on = ensemble.average, ensemble.weight_search
    console.print(f"{average.packed.name}, {average.split}: {len(average.indices):,} images, all views\n")
    print_table(ensemble_rows(ensemble, runs))
    if searched_on:
        errors = [f"{name} {text}" for name, text in searched_on.all_views.in_percent().items() if "error" in name]
        print_text(
            f"\nThe weights were searched on {searched_on.split}, {len(searched_on.indices):,} images. There, the "
            f"{' and the '.join(errors)} is too low, because the weights are fitted to these images."
        )
