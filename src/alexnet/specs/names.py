"""Names in messages: what there is, and which is nearest to a name that there is not."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The nearest known name, as the end of a message; empty if none is as near as the cutoff, from 0 to 1."""
    near = get_close_matches(str(name).lower(), known, 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def not_one_of(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is none of those known."""
    return f"{kind} must be one of {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and whether there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
