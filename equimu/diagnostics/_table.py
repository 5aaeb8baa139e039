"""A coordinate check as tables: on a terminal, as Markdown, as JSON."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from equimu._terminal import print_rows, wrapped
from equimu.diagnostics._cells import COLUMNS, SPARE, cells_of
from equimu.diagnostics._result import CoordinateCheck


def print_check(check: CoordinateCheck) -> None:
    """A coordinate check as tables on a terminal, and its verdict."""
    for kind, title in check.titles().items():
        print_rows(COLUMNS[kind], cells_of(check.rows, kind), title=title, spare=SPARE[kind])
    for note in check.notes:
        print(wrapped(f"note: {note}"))
    print(wrapped(check.verdict))


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
