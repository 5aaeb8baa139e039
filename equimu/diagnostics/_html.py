"""A coordinate check as HTML, for notebooks."""

import html

from equimu._html import html_image, html_table
from equimu.diagnostics._cells import COLUMNS, cells_of
from equimu.diagnostics._figure import png
from equimu.diagnostics._result import CoordinateCheck


def html_check(check: CoordinateCheck) -> str:
    """The verdict, the notes, the figure and the tables, in which what is off is in bold.

    Args:
        check: what `coord_check` returned.
    """
    lines = [f"<p><b>{html.escape(check.verdict)}</b></p>"]
    lines += [f"<p>Note: {html.escape(note)}.</p>" for note in check.notes]
    lines.append(f"<figure>{html_image(png(check), 'png', f'Activations over {check.size}: {check.verdict}')}</figure>")
    for kind, title in check.titles().items():
        rows = [
            [f"<b>{html.escape(cell)}</b>" if cells[-1] else html.escape(cell) for cell in cells]
            for cells in cells_of(check.rows, kind)
        ]
        lines += [f"<h3>{html.escape(title)}</h3>", html_table(COLUMNS[kind], rows, text=frozenset({0}))]
    return "\n".join(lines)
