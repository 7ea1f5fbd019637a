"""What Jupyter shows: tables as HTML, figures as pictures."""

import html
from collections.abc import Mapping, Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib.figure

from .files import atomic_write


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, also where pyplot is not in use; its file is written whole."""

    def savefig(self, file: str | PathLike[str] | BinaryIO, **options: Any) -> None:
        path = Path(file) if isinstance(file, (str, PathLike)) else None
        if path is None or not path.suffix or not path.parent.is_dir():
            return super().savefig(file, **options)
        with atomic_write(path) as temporary:
            super().savefig(temporary, **options)

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
