"""A recipe in words, and its learning rates over its epochs as spans for tables and figures."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from .recipe import PRETRAINED, Input, Recipe
from .schedules import LearningRates


def recipe_in_words(recipe: Recipe) -> str:
    """The most important settings of a recipe in one line, for the first lines of a run."""
    start, peak_lr = recipe.learning_rates(0, []), recipe.peak_lr()
    parts = [f"peak learning rate {peak_lr:.3g}"]
    if start.weights and start.biases != start.weights:
        parts[0] += f" ({start.biases * peak_lr / start.weights:.3g} for biases)"
    by_layer = isinstance(recipe.weight_decay, Mapping)
    parts.append("weight decay by layer" if by_layer else f"weight decay {recipe.weight_decay:g}")
    parts.append("random resized crops" if recipe.crop_scale else "random crops")
    switches = {"horizontal flips": recipe.flip, "color shift": recipe.color_shift}
    switches |= {"mixup": recipe.mixup, "CutMix": recipe.cutmix, "label smoothing": recipe.label_smoothing}
    switches |= {"gradient clipping": recipe.max_grad_norm, "EMA of the weights": recipe.ema_decay}
    switches[f"batches of {recipe.fc_batch_size} in the fully connected layers"] = _of_connected(recipe)
    switches |= {"class weights": recipe.class_weights, f"patience of {recipe.patience} epochs": recipe.patience}
    parts += [name for name, value in switches.items() if value]
    return ", ".join(parts)


def recipe_facts(recipe: Recipe) -> dict[str, str]:
    """Everything that a recipe sets, by name; what is off is left out."""
    crops = "of the size of the network's input"
    if recipe.crop_scale:
        smallest, largest = recipe.crop_scale
        crops = f"random resized, {smallest:.0%} to {largest:.0%} of the area of the stored image"
        crops += f", aspect ratio up to {recipe.crop_ratio:.3g}" if recipe.crop_ratio > 1 else ""
    if recipe.crop_group > 1:
        crops += f"; the same crop and flip for {recipe.crop_group} consecutive images"
    shift = recipe.color_shift
    divided = f", the image divided by {1 + shift.std:g}" if shift and shift.divide else ""
    orders = {"epoch": "new every epoch", "once": "the same every epoch", "blocks": "new every epoch, in blocks"}
    facts = {
        "learning rate": recipe.schedule.description(),
        "layers": lr_scale_in_words(recipe),
        "LARS": recipe.lars_trust_coefficient and f"trust coefficient {recipe.lars_trust_coefficient:g}",
        "epochs": f"{recipe.epochs}, or more where they give fewer than {recipe.min_steps:,} steps",
        "batch size": f"{recipe.batch_size:,}{_of_connected(recipe)}",
        "momentum": f"{recipe.momentum:g}",
        "weight decay": _weight_decay(recipe) + ("" if recipe.decay_biases else ", biases excluded"),
        "gradient clipping": recipe.max_grad_norm and f"to a norm of {recipe.max_grad_norm:g}",
        "EMA of the weights": recipe.ema_decay and f"decay {recipe.ema_decay:g}, smaller in the first steps",
        "input": _input(recipe.input),
        "crops": crops,
        "horizontal flip": "random" if recipe.flip else "none",
        "color shift": shift and f"PCA, {shift.std:g} times the {shift.scaled_by}{divided}",
        "mixup": recipe.mixup and _mixing(recipe.mixup, recipe.cutmix),
        "CutMix": recipe.cutmix and _mixing(recipe.cutmix, recipe.mixup),
        "label smoothing": recipe.label_smoothing and f"{recipe.label_smoothing:g}",
        "class weights": _class_weights(recipe.class_weights),
        "early stopping": recipe.patience and f"after {recipe.patience} epochs without a lower validation error",
        "order": orders[recipe.shuffle],
    }
    return {name: text for name, text in facts.items() if text}


def lr_scale_in_words(recipe: Recipe) -> str:
    """The layers that are frozen or have scaled learning rates; empty where there are none."""
    scales = recipe.lr_scale.items()
    return ", ".join(f"{layer} learning rate × {scale:g}" if scale else f"{layer} frozen" for layer, scale in scales)


def _of_connected(recipe: Recipe) -> str:
    fewer = recipe.fc_batch_size and recipe.fc_batch_size < recipe.batch_size
    return f"; {recipe.fc_batch_size:,} in the fully connected layers" if fewer else ""


def _weight_decay(recipe: Recipe) -> str:
    if isinstance(recipe.weight_decay, Mapping):
        return ", ".join(f"{decay:g} of {layer}" for layer, decay in recipe.weight_decay.items())
    return f"{recipe.weight_decay:g}"


def _class_weights(weights: str | Mapping[str, float] | None) -> str | None:
    if not isinstance(weights, Mapping):
        return weights
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def _mixing(alpha: float, other: float) -> str:
    return f"weights from Beta({alpha:g}, {alpha:g})" + (", in half of the batches" if other else "")


def _input(spec: Input) -> str:
    if spec == PRETRAINED:
        return "that of the pretrained network"
    means = {"image": "mean image (center)", "aligned image": "mean image (same crop)", "channel": "mean color"}
    mean = f"the {means[spec.mean]}" if isinstance(spec.mean, str) else _color(spec.mean)
    stds = {"one": "", "channel": ", divided by the standard deviation of each channel"}
    std = stds[spec.std] if isinstance(spec.std, str) else f", divided by {_color(spec.std)}"
    return f"0 … 255 minus {mean}{std}"


def _color(values: tuple[float, float, float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


SPAN_HEAD = ("epochs", "learning rate", "of biases", "by layer (weights, biases)", "color shift")
_MARGIN = 1e-6
"""Fraction of the run: the ends of a span are looked at this far inside of it."""


def spans(recipe: Recipe) -> list[tuple[float, float, LearningRates, LearningRates]]:
    """Stretches of a run in which the learning rates are constant or follow one curve: first epoch, last epoch, and
    the learning rates at these two. If they depend on the validation error, those of an example."""
    recipe = replace(recipe, schedule=recipe.schedule.example())
    result = []
    for start, end in pairwise([0.0, *recipe.schedule.breakpoints(), 1.0]):
        at_first, at_last = recipe.learning_rates(start + _MARGIN, []), recipe.learning_rates(end - _MARGIN, [])
        if result and result[-1][2] == at_first == at_last:
            start = result.pop()[0] / recipe.epochs
        result.append((start * recipe.epochs, end * recipe.epochs, at_first, at_last))
    return result


def span_rows(recipe: Recipe) -> list[tuple[str, ...]]:
    """A row for each span, in the columns of SPAN_HEAD."""
    return [
        (
            f"{first:.4g} – {last:.4g}",
            _from_to(at_first.weights, at_last.weights),
            _from_to(at_first.biases, at_last.biases),
            "; ".join(f"{layer} {_of_layer(*lrs)}" for layer, lrs in at_first.layers.items()),
            ("on" if at_first.color_shift else "off") if recipe.color_shift else "none",
        )
        for first, last, at_first, at_last in spans(recipe)
    ]


def _from_to(first: float, last: float) -> str:
    return " to ".join(dict.fromkeys(f"{lr:.3g}" for lr in (first, last)))


def _of_layer(weights: float, biases: float) -> str:
    return f"{weights:.3g}, {biases:.3g}" if weights or biases else "frozen"
