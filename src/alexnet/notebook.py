"""What Jupyter shows: tables as HTML, figures as pictures."""

import html
from collections.abc import Mapping, Sequence
from io import BytesIO

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, also where pyplot is not in use."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=80)
        return file.getvalue()


def html_table(rows: Sequence[Sequence[str] | Mapping[str, str]], header: Sequence[str] = ()) -> str:
    """An HTML table, with numbers aligned to the right; rows may be mappings from the columns' names."""
    if rows and isinstance(rows[0], Mapping):
        rows, header = [list(row.values()) for row in rows], list(rows[0])

    def cell(text: str) -> str:
        is_number = text[:1].isdigit() and text[-1:] in "0123456789%"
        attribute = ' class="number"' if is_number else ""
        return f"<td{attribute}>{html.escape(text)}</td>"

    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"] if header else []
    lines += ["<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"
