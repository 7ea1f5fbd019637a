from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from .flags import print_json


def doctor(run: Positional[Path], /, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """Say whether a run learns and, if not, the likely cause and what to try. The exit status is 1 if it does not.

    Args:
        run: Folder of the run, which may still be training.
        as_json: Print JSON.
    """
    from dataclasses import asdict

    from ..console import print_table, print_text
    from ..diagnosis.causes import diagnosed
    from ..diagnosis.layers import HEAD, WORDS, layer_table
    from ..session import facts_of

    facts = facts_of(run)
    diagnosis = diagnosed(facts)
    if as_json:
        print_json({"diagnosis": asdict(diagnosis) if diagnosis else None, "layers": facts.now})
    else:
        print_text(f"{facts}\n")
        print_table(layer_table(facts.now), HEAD)
        print_text(f"\n{WORDS}\n\n{diagnosis or facts.verdict}")
    if diagnosis:
        raise SystemExit(1)
