"""In words and numbers: a network, by its layers and how it differs from the one in the paper; a recipe, by all that it
asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from .architecture import AdaptivePool, Architecture, BatchNorm, Conv, Dropout, Linear, Local, Norm, Pool, SpatialNorm
from .recipe import PRETRAINED, Input, Recipe
from .schedules import Drops, Fall, Levels, Plateau, Schedule, Stages, Switched, WarmThenLinear
from .shapes import Operation, Placed, named_operations
from .variants import PAPER

HEAD = ("layer", "what", "output", "parameters", "multiply-adds", "sees")
NUMBERS = (2, 3, 4, 5)
"""Columns of HEAD that hold numbers."""


def layer_rows(placed: list[Placed]) -> list[tuple[str, ...]]:
    """A row for each operation, in the columns of HEAD; the last is the side of the receptive field, pixels."""
    return [
        (
            step.name,
            in_words(step.operation, step.inputs),
            " × ".join(map(str, step.outputs)),
            f"{step.weights + step.biases:,}" if step.weights else "",
            f"{step.multiply_adds:,}" if step.multiply_adds else "",
            f"{step.receptive_field}" if step.receptive_field else "",
        )
        for step in placed
    ]


def totals(placed: list[Placed]) -> dict[str, str]:
    """Sums over a network, for one image where that matters."""
    return {
        "parameters": f"{sum(step.weights + step.biases for step in placed):,}",
        "multiply-adds per image": f"{sum(step.multiply_adds for step in placed):,}",
        "units with weights": f"{sum(math.prod(step.outputs) for step in placed if step.multiply_adds):,}",
    }


def in_words(operation: Operation, inputs: tuple[int, ...] = ()) -> str:
    """An operation in a few words."""
    match operation:
        case Conv():
            parts = [f"{operation.maps} kernels {operation.kernel} × {operation.kernel}"]
            parts += [f"stride {operation.stride}"] if operation.stride > 1 else []
            parts += [f"pad {operation.pad}"] if operation.pad else []
            parts += [f"{operation.groups} groups"] if operation.groups > 1 else []
            parts += ["zeros right and below"] if operation.round_up else []
            return ", ".join(parts)
        case Local():
            return f"{operation.maps} kernels {operation.kernel} × {operation.kernel}, own weights at every place"
        case Linear():
            return f"fully connected to {inputs[0]:,}" if inputs else "fully connected"
        case Norm():
            scope = f" within {operation.groups} groups" if operation.groups > 1 else ""
            divided = f" / {operation.size}" if operation.divided else ""
            constants = f"k {operation.k:g}, alpha {operation.alpha:g}{divided}, beta {operation.beta:g}"
            return f"response norm over {operation.size} maps{scope}, {constants}"
        case SpatialNorm():
            return (
                f"response norm over {operation.size} × {operation.size} places of a map, alpha {operation.alpha:g} / "
                f"{operation.size**2}"
            )
        case BatchNorm():
            return "batch norm: each map less its mean, over its deviation; learnt scale and shift"
        case Pool():
            return f"{operation.kind} of {operation.window} × {operation.window}, stride {operation.stride}"
        case AdaptivePool():
            return f"mean to {operation.side} × {operation.side}"
        case Dropout():
            scaled = "scaled while training" if operation.rescale else f"× {1 - operation.rate:g} when testing"
            return f"rate {operation.rate:g}, {scaled}"
        case _:
            return {"relu": "nonlinearity", "flatten": "to a vector"}[operation]


def recipe_in_words(recipe: Recipe) -> str:
    """Rates at the start and decay, inputs and augmentation, in a line."""
    first, highest = recipe.rates(0, []), recipe.peak_lr()
    decay = "decay by layer" if isinstance(recipe.weight_decay, Mapping) else f"decay {recipe.weight_decay:g}"
    rates = f"weights {highest:.3g}" + (
        f", biases {first.biases * highest / first.weights:.3g}" if first.weights else ""
    )
    inputs = {"one": "0 … 255 minus the mean", "pretrained": "as before"}.get(recipe.input.std, "unit deviation")
    crops = f"crops of {recipe.crop_scale[0]:.0%} to {recipe.crop_scale[1]:.0%}" if recipe.crop_scale else "crops"
    shared = f" shared by {recipe.crop_group} images" if recipe.crop_group > 1 else ""
    augmentation = crops + (" and flipping" if recipe.flip else "") + shared
    color = ", color shift" if recipe.color else ""
    mixed = "".join(f", {name}" for name in ("mixup", "cutmix") if getattr(recipe, name))
    kept = "; mean of the weights" if recipe.ema_decay else ""
    return f"{rates}, {decay}; inputs {inputs}; {augmentation}{color}{mixed}{kept}"


def recipe_facts(recipe: Recipe) -> dict[str, str]:
    """Everything that a recipe asks for, by name; what is off is left out."""
    decay = recipe.weight_decay
    by_layer = ", ".join(f"{layer} {each:g}" for layer, each in decay.items()) if isinstance(decay, Mapping) else ""
    facts = {
        "schedule": schedule_in_words(recipe.schedule),
        "epochs": f"{recipe.epochs}, or more where they give fewer than {recipe.min_steps:,} steps",
        "batch": f"{recipe.batch_size} images",
        "momentum": f"{recipe.momentum:g}",
        "decay": (by_layer or f"{decay:g}") + (", of biases too" if recipe.decay_biases else ", none of biases"),
        "input": _input(recipe.input),
        "crops": "of the size that the network sees",
        "flipping": "of half of the images" if recipe.flip else "none",
        "order": {"epoch": "new each epoch", "once": "one for all epochs", "blocks": "new, by blocks"}[recipe.shuffle],
    }
    if recipe.crop_scale:
        shape = f", sides up to {recipe.crop_ratio:.3g} : 1" if recipe.crop_ratio > 1 else ""
        facts["crops"] = f"{recipe.crop_scale[0]:.0%} to {recipe.crop_scale[1]:.0%} of the stored image{shape}, resized"
    if recipe.crop_group > 1:
        facts["crops"] += f"; crop and flipping shared by {recipe.crop_group} images"
    if recipe.color:
        divided = f", divided by {1 + recipe.color.deviation:g}" if recipe.color.divide else ""
        facts["color shift"] = f"{recipe.color.deviation:g} times the {recipe.color.along}{divided}"
    optional = {
        "label smoothing": (recipe.label_smoothing, "{:g}"),
        "mixup": (recipe.mixup, "share by Beta({0:g}, {0:g})" + ("; of half of the batches" if recipe.cutmix else "")),
        "cutmix": (recipe.cutmix, "share by Beta({0:g}, {0:g})" + ("; of the other half" if recipe.mixup else "")),
        "averaging": (recipe.ema_decay, "mean of the weights, each step {:g} of what it was"),
        "largest gradient": (recipe.max_grad_norm, "{:g}"),
        "trust": (recipe.trust, "{:g}: rates in proportion to weights over gradient (LARS)"),
        "layers": (scales_in_words(recipe), "{}"),
    }
    return facts | {name: words.format(value) for name, (value, words) in optional.items() if value}


def scales_in_words(recipe: Recipe) -> str:
    """Layers that are frozen or slowed down, empty where there are none."""
    each = recipe.lr_scale.items()
    return ", ".join(f"{layer} {f'at {scale:g} of the rate' if scale else 'frozen'}" for layer, scale in each)


def schedule_in_words(schedule: Schedule) -> str:
    """How the rates come about, in a line."""
    match schedule:
        case Stages():
            return f"{len(schedule.stages)} stages, made by hand"
        case Plateau():
            return (
                f"from {schedule.start:g}, times {schedule.factor:g} after {schedule.patience} epochs without a lower "
                f"validation error, {schedule.drops} times at the most; shown as if at equal distances"
            )
        case Levels():
            jumps = ", with jumps back up to the mean of two neighbors" if schedule.jumps else ""
            return f"{schedule.levels} equal levels from {schedule.start:g} to {schedule.factor:g} times less{jumps}"
        case Drops():
            return f"from {schedule.start:g}, times {schedule.factor:g} after every {schedule.every:.0%} of the run"
        case WarmThenLinear():
            return f"up to {schedule.peak:g} over the first {schedule.warm:.0%}, then down to zero in a straight line"
        case Fall():
            rise = f"up over the first {schedule.warm:.0%}, then " if schedule.warm else ""
            curve = {"line": "a straight line", "exponential": "an exponential curve", "cosine": "half a cosine"}
            return f"{rise}down {curve[schedule.along]} from {schedule.start:g} to {schedule.factor:g} times less"
        case Switched():
            late = {"color shift off": schedule.color_until}
            late |= {f"{layer} frozen": epoch for layer, epoch in schedule.frozen_from.items()}
            said = ", ".join(f"{what} from epoch {epoch:g}" for what, epoch in late.items())
            return f"{schedule_in_words(schedule.schedule)}; {said} of {schedule.epochs:g}"
    raise TypeError(f"no words are known for {schedule}")


def _input(spec: Input) -> str:
    if spec == PRETRAINED:
        return "as for the network that it goes on from"
    mean = {"image": "mean image, by its center", "aligned image": "mean image, by the crop", "channel": "mean color"}
    mean_said = mean[spec.mean] if isinstance(spec.mean, str) else f"color {_numbers(spec.mean)}"
    std = {"one": "", "channel": ", over the deviation of each channel"}
    std_said = std[spec.std] if isinstance(spec.std, str) else f", over {_numbers(spec.std)}"
    return f"0 … 255 minus the {mean_said}{std_said}"


def _numbers(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:g}" for value in values)


def differences(architecture: Architecture, other: Architecture = PAPER) -> list[str]:
    """How a network differs from another, by default the one in the paper, a sentence each."""
    sentences = []
    if architecture.input_size != other.input_size:
        sentences.append(f"It sees crops of {architecture.input_size} pixels, not {other.input_size}.")
    if architecture.activation != other.activation:
        sentences.append(f"Its nonlinearity is {architecture.activation}, not {other.activation}.")
    for word, name in (("norm", "Normalization across maps"), ("spatial_norm", "Normalization over places")):
        mine, theirs = _used(architecture, word), _used(other, word)
        if mine != theirs:
            sentences.append(_changed(name, mine, theirs))
    for word, name in (("pool", "Pooling"), ("dropout", "Dropout")):
        mine, theirs = _used(architecture, word), _used(other, word)
        if mine != theirs and (word != "pool" or in_words(mine) != in_words(theirs)):
            sentences.append(_changed(name, mine, theirs))
    mine = {layer.name: layer for layer in architecture.layers}
    theirs = {layer.name: layer for layer in other.layers}
    for name in theirs:
        if name not in mine:
            sentences.append(f"It has no {name}.")
    for name, layer in mine.items():
        if name not in theirs:
            sentences.append(f"It has {name}: {in_words(layer)}.")
        elif changes := _layer_changes(architecture, layer, other, theirs[name]):
            sentences.append(f"{name}: {'; '.join(changes)}.")
    return sentences


def _changed(name: str, mine: Operation | None, theirs: Operation | None) -> str:
    if mine is None:
        return f"{name}: none."
    return f"{name}: {in_words(mine)}" + (
        f", not {in_words(theirs)}." if theirs is not None else ", which is not there."
    )


def _used(architecture: Architecture, word: str) -> Operation | None:
    """What a word means in a network, None where no row has it."""
    return getattr(architecture, word) if any(word in layer.then for layer in architecture.layers) else None


SAID = {
    "maps": "{0} kernels, not {1}",
    "kernel": "kernels of {0} × {0}, not {1} × {1}",
    "stride": "stride {0}, not {1}",
    "pad": "pad {0}, not {1}",
    "groups": "groups: {0}, not {1}",
    "units": "{0} units, not {1}",
    "bias": "biases start at {0:g}, not {1:g}",
}


def _layer_changes(architecture: Architecture, mine, other: Architecture, theirs) -> list[str]:
    if type(mine) is not type(theirs):
        return [f"{in_words(mine)}, not {in_words(theirs)}"]
    changes = []
    for field in fields(mine):
        old, new = getattr(theirs, field.name), getattr(mine, field.name)
        if old == new:
            continue
        if field.name in SAID:
            changes.append(SAID[field.name].format(new, old))
        elif field.name == "round_up":
            changes.append("its size is rounded up, with zeros right and below" if new else "its size is rounded down")
        elif field.name == "std":
            changes.append(f"weights start {_deviation(new)}, not {_deviation(old)}")
    new_order, old_order = (
        [_step_name(operation) for _, operation in named_operations(net, layer)[1:]]
        for net, layer in ((architecture, mine), (other, theirs))
    )
    if new_order != old_order:
        changes.append(f"followed by {_list(new_order)}, not by {_list(old_order)}")
    return changes


def _step_name(operation: Operation) -> str:
    names = {Norm: "norm", BatchNorm: "batch norm", SpatialNorm: "spatial norm", Dropout: "dropout"}
    names[AdaptivePool] = "mean to a fixed size"
    if isinstance(operation, Pool):
        return "pool" if operation.kind == "max" else "mean pool"
    return "ReLU" if operation == "relu" else names[type(operation)]


def _deviation(std: float | str) -> str:
    words = {"he": "with deviation √(2 / inputs)", "torch": "uniform up to 1 / √inputs, biases too"}
    return words[std] if isinstance(std, str) else f"with deviation {std:g}"


def _list(names: list[str]) -> str:
    return ", ".join(names) or "nothing"
