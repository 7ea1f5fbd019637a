import textwrap
from pathlib import Path

from tyro.conf import Positional

from .flags import check_picture


def describe(
    name: Positional[str | None] = None,
    /,
    num_classes: int | None = None,
    in_channels: int = 3,
    input_size: int | None = None,
    recipe: str | None = None,
    recipes: bool = False,
    towers: bool = False,
    output: Path | None = None,
) -> None:
    """Print a network layer by layer, and how it differs from the paper's; or a recipe and its learning rates by epoch.
    Without a name, list all networks.

    Args:
        name: Network (default: list all).
        num_classes: Number of classes (default: as for the data set that it was made for).
        in_channels: Channels of the images: 3 for RGB, 1 for grayscale.
        input_size: Side of the input images, pixels (default: the network's own).
        recipe: Describe a recipe, a way of training: a name, or a file as for `alexnet train --recipe`.
        recipes: List all recipes.
        towers: Describe its two towers on two devices (section 3.2): what lies on which, and what they exchange.
        output: File for a plot of the learning rates of the recipe, or of all recipes, or, with --towers, of the
            network as in Figure 2: .png, .svg, .pdf ...
    """
    from ..console import console, print_facts, print_table, print_text
    from ..specs.description import base_of, differences, layer_rows, totals
    from ..specs.shapes import infer_shapes
    from ..specs.variants import VARIANTS, variant

    if recipe or recipes:
        if name or num_classes or input_size:
            raise ValueError("describe takes a network or a recipe, got both")
        return _describe_recipes(recipe, output)
    if name is None and (num_classes or input_size):
        raise ValueError("--num-classes and --input-size need the name of a network")
    if towers:
        if name is None:
            raise ValueError("--towers needs the name of a network")
        return _describe_towers(name, num_classes, in_channels, input_size, output)
    if output is not None:
        raise ValueError("--output needs --recipe NAME, --recipes or NAME --towers, which it is a picture of")
    if name is None:
        rows = [
            (each.name, f"{sum(step.parameters for step in infer_shapes(each)):,}", f"{each.classes}", each.about)
            for each in VARIANTS.values()
        ]
        print_table(rows, ("network", "parameters", "classes", "what it is"), (1, 2))
        return console.print("\nHow they are trained: alexnet describe --recipes")
    architecture = variant(name)
    placed = infer_shapes(architecture, num_classes, in_channels, input_size)
    side = placed[0].input_shape[1]
    print_text(f"{name}: {architecture.about}", style="bold")
    console.print(f"Sees {in_channels} × {side} × {side}; trained by the recipe {architecture.recipe}.\n")
    width = max(28, console.width - 52)  # what the numbers leave
    rows = [
        (textwrap.fill(f"{layer}: {operation}", width, subsequent_indent="  "), *numbers)
        for layer, operation, *numbers in layer_rows(placed)
    ]
    print_table(rows, ("layer", "output", "parameters", "multiply- adds", "receptive field"))
    console.print()
    print_facts(totals(placed))
    if name != "paper":
        base = base_of(architecture)
        console.print(f"\nHow it differs from {base.name}", style="bold")
        for sentence in differences(architecture, base):
            print_text(f"  {sentence}")


def _describe_towers(
    name: str, num_classes: int | None, in_channels: int, input_size: int | None, output: Path | None
) -> None:
    """A network on two devices, as in Figure 2."""
    from ..console import console, print_table, print_text
    from ..parallel import description
    from ..parallel.placement import placement_of
    from ..specs.variants import variant

    if output is not None:
        check_picture(output)
    architecture = variant(name)
    size = num_classes, in_channels, input_size
    towers, data = (placement_of(architecture, way, 2, *size) for way in ("towers", "data"))
    print_text(f"{name} on two devices, a tower on each (section 3.2, Figure 2)\n", style="bold")
    print_table(description.lies_rows(towers), description.LIES_HEAD, (4,))
    console.print("\nWhat they exchange for an image, in float32\n", style="bold")
    print_table(description.exchange_rows(towers), description.EXCHANGE_HEAD, (2, 3, 4))
    console.print()
    print_text(description.summary(towers))
    console.print("\nWhat each sends in a step\n", style="bold")
    print_table(description.step_rows(towers, data), description.STEP_HEAD, (0, 1, 2, 3))
    if output is not None:
        from ..analysis.network_figure import network_figure

        steps = [division.step for division in towers.divisions]
        network_figure(steps, name, description.figure_notes(towers)).savefig(output, dpi=110)
        console.print(f"\nplot: {output}", soft_wrap=True)


def _describe_recipes(name: str | None, output: Path | None) -> None:
    """One recipe, or a list of all."""
    from ..console import console, print_facts, print_table, print_text
    from ..specs.reading import find_recipe
    from ..specs.recipe_description import SPAN_HEAD, recipe_facts, span_rows
    from ..specs.recipes import RECIPES

    if output is not None:
        check_picture(output)
    shown = [find_recipe(name)] if name else list(RECIPES.values())
    if name:
        print_text(f"{shown[0].name}: {shown[0].about}\n", style="bold")
        print_facts(recipe_facts(shown[0]))
        console.print()
        print_table(span_rows(shown[0]), SPAN_HEAD, ())
    else:
        rows = [(each.name, f"{each.epochs}", f"{each.batch_size:,}", each.about) for each in shown]
        print_table(rows, ("recipe", "epochs", "batch", "what it is"), (1, 2))
    if output is not None:
        from ..analysis.figures import learning_rates_figure

        learning_rates_figure(shown).savefig(output, dpi=110)
        console.print(f"\nplot: {output}", soft_wrap=True)
