"""A recipe in words: its schedule, its update rule, its inputs and its augmentation."""

from __future__ import annotations

from collections.abc import Mapping

from .recipe import PRETRAINED, Input, Recipe


def recipe_in_words(recipe: Recipe) -> str:
    """LearningRates at the start and decay, inputs and augmentation, in a line."""
    first, highest = recipe.learning_rates(0, []), recipe.peak_lr()
    decay = "decay by layer" if isinstance(recipe.weight_decay, Mapping) else f"decay {recipe.weight_decay:g}"
    rates = f"weights {highest:.3g}" + (
        f", biases {first.biases * highest / first.weights:.3g}" if first.weights else ""
    )
    inputs = {"one": "0 … 255 minus the mean", "pretrained": "as before"}.get(recipe.input.std, "unit deviation")
    crops = f"crops of {recipe.crop_scale[0]:.0%} to {recipe.crop_scale[1]:.0%}" if recipe.crop_scale else "crops"
    shared = f" shared by {recipe.crop_group} images" if recipe.crop_group > 1 else ""
    augmentation = crops + (" and flipping" if recipe.flip else "") + shared
    color = ", color shift" if recipe.color_shift else ""
    mixed = "".join(f", {name}" for name in ("mixup", "cutmix") if getattr(recipe, name))
    kept = "; mean of the weights" if recipe.ema_decay else ""
    return f"{rates}, {decay}; inputs {inputs}; {augmentation}{color}{mixed}{kept}"


def recipe_facts(recipe: Recipe) -> dict[str, str]:
    """Everything that a recipe asks for, by name; what is off is left out."""
    decay = recipe.weight_decay
    by_layer = ", ".join(f"{layer} {each:g}" for layer, each in decay.items()) if isinstance(decay, Mapping) else ""
    facts = {
        "schedule": recipe.schedule.description(),
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
    if recipe.color_shift:
        divided = f", divided by {1 + recipe.color_shift.std:g}" if recipe.color_shift.divide else ""
        facts["color shift"] = f"{recipe.color_shift.std:g} times the {recipe.color_shift.scaled_by}{divided}"
    optional = {
        "label smoothing": (recipe.label_smoothing, "{:g}"),
        "mixup": (recipe.mixup, "share by Beta({0:g}, {0:g})" + ("; of half of the batches" if recipe.cutmix else "")),
        "cutmix": (recipe.cutmix, "share by Beta({0:g}, {0:g})" + ("; of the other half" if recipe.mixup else "")),
        "averaging": (recipe.ema_decay, "mean of the weights, each step {:g} of what it was"),
        "largest gradient": (recipe.max_grad_norm, "{:g}"),
        "trust": (recipe.lars_trust_coefficient, "{:g}: rates in proportion to weights over gradient (LARS)"),
        "layers": (scales_in_words(recipe), "{}"),
    }
    return facts | {name: words.format(value) for name, (value, words) in optional.items() if value}


def scales_in_words(recipe: Recipe) -> str:
    """Layers that are frozen or slowed down, empty where there are none."""
    each = recipe.lr_scale.items()
    return ", ".join(f"{layer} {f'at {scale:g} of the rate' if scale else 'frozen'}" for layer, scale in each)


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
