"""Names and counts in messages: what there is, what is nearest to a name that there is not, and names made harmless."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

HARMFUL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tabs and line breaks, marks that turn the order of letters, and bytes that are not UTF-8."""
FORMULA = re.compile(r"'*([=@\t\r]|[+-].*[(|!])", re.DOTALL)
"""What a spreadsheet computes; -1.png and the like, which it shows as they are, stay."""


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.7) -> str:
    """The nearest known name, as the end of a message; empty if none is as near as the cutoff, from 0 to 1."""
    near = get_close_matches(str(name).lower(), known, 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def not_one_of(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is none of those known."""
    return f"{kind} must be one of {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and whether there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def first_positions(names: Sequence[str]) -> dict[str, int]:
    """The position of each name, the first one where it occurs twice; for one name, `names.index` is enough."""
    return dict(zip(reversed(names), reversed(range(len(names))), strict=True))


def printable(text: str) -> str:
    """Text of others as it is shown: what could steer a terminal or turn the order of letters is escaped, as \\x1b."""
    return HARMFUL.sub(lambda match: repr(match[0])[1:-1], text)


def csv_cell(text: str) -> str:
    """Text of others as a cell of a table: behind an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def from_csv_cell(cell: str) -> str:
    """The inverse of `csv_cell`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell[1:]) else cell
