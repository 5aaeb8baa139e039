"""A coordinate check as tables: on a terminal, as Markdown, as JSON."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from equimu.diagnostics._cells import COLUMNS, cells_of
from equimu.diagnostics._result import CoordinateCheck


def print_check(check: CoordinateCheck) -> None:
    """A coordinate check as tables on a terminal, and its verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    # Tables are as wide as their numbers: cutting those short to fit a narrow terminal would lose them.
    console = Console(width=max(console.width, 150), highlight=False)
    for kind, title in check.titles().items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        for number, name in enumerate(COLUMNS[kind]):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for cells in cells_of(check.rows, kind):
            table.add_row(*map(Text, cells), style="bold red" if cells[-1] else "")
        console.print(table)
    for note in check.notes:
        console.print(Text(f"note: {note}"))
    console.print(Text(check.verdict))


def markdown(check: CoordinateCheck) -> str:
    """The verdict and the tables."""
    parts = [f"**{check.verdict}**", *(f"Note: {note}." for note in check.notes)]
    for kind, title in check.titles().items():
        rows = [COLUMNS[kind], ("---",) * len(COLUMNS[kind]), *cells_of(check.rows, kind)]
        lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts.append(f"{title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def to_json(check: CoordinateCheck) -> str:
    """All rows, each step of them, with verdict and sizes. What is zero, not known or unbounded is null."""
    plain = dataclasses.asdict(check)
    plain |= {
        "passed": check.passed,
        "verdict": check.verdict,
        "failures": [row.name for row in check.failures],
        "first_site": None if check.first_site is None else check.first_site.name,
        "growth": check.growth,
    }
    return json.dumps(_finite(plain), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None
