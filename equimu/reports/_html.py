"""A report as HTML."""

import html

from equimu._html import html_image, html_table
from equimu.reports._block import Block
from equimu.reports._figure import svg
from equimu.reports._report import Report
from equimu.reports._table import blocks, note


def html_report(report: Report) -> str:
    """A report as a section of a page: its figure, its tables, and what their words mean.

    Args:
        report: what `report` returned.

    Returns:
        HTML without a heading of its own.
    """
    lines = [_image(report)]
    for block in blocks(report):
        lines += [f"<h3>{html.escape(block.title)}</h3>", _table_of(block)]
    lines.append(f"<details><summary>What the words mean</summary><p>{html.escape(note(report))}</p></details>")
    return "\n".join(lines)


def _image(report: Report) -> str:
    axis = report.fitted
    words = f"Validation loss against {axis.title}, a line for each {report.along}: " + "; ".join(
        f"{panel.name}: {panel.verdict.sentence}" for panel in report.panels
    )
    widest = 14 + 16 * min(len(report.panels), 3)
    return f'<figure style="max-width: {widest}rem">{html_image(svg(report), "svg+xml", words)}</figure>'


def _table_of(block: Block) -> str:
    rows = [[f"<b>{html.escape(cell)}</b>" if mark else html.escape(cell) for cell, mark in row] for row in block.rows]
    return html_table(block.header, rows, text=block.labels)
