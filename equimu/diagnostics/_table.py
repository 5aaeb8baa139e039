"""A coordinate check as tables: on a terminal, as Markdown, as JSON."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from equimu.diagnostics._judge import Row
from equimu.diagnostics._result import CoordinateCheck

_COLUMNS = {
    "site": ("site", "output at the start", "expected", "its change", "expected", "size of the change", ""),
    "leaf": ("leaf", "weight", "expected", "update", "expected", "decay", "expected", ""),
}


def print_check(check: CoordinateCheck) -> None:
    """A coordinate check as tables on a terminal, and its verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    # Tables are as wide as their numbers: cutting those short to fit a narrow terminal would lose them.
    console = Console(width=max(console.width, 150), highlight=False)
    for kind, title in _titles(check).items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        for number, name in enumerate(_COLUMNS[kind]):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for cells in _cells(check, kind):
            table.add_row(*map(Text, cells), style="bold red" if cells[-1] else "")
        console.print(table)
    console.print(Text(check.verdict))


def markdown(check: CoordinateCheck) -> str:
    """The verdict and the tables."""
    parts = [f"**{check.verdict}**"]
    for kind, title in _titles(check).items():
        rows = [_COLUMNS[kind], ("---",) * len(_COLUMNS[kind]), *_cells(check, kind)]
        lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts.append(f"{title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def to_json(check: CoordinateCheck) -> str:
    """All rows, each step of them, with verdict and sizes. What is zero, not known or unbounded is null."""
    plain = dataclasses.asdict(check)
    plain |= {
        "passed": check.passed,
        "verdict": check.verdict,
        "culprits": [row.name for row in check.culprits],
        "first_site": None if check.first_site is None else check.first_site.name,
        "growth": check.growth,
    }
    return json.dumps(_finite(plain), indent=1, allow_nan=False)


def _titles(check: CoordinateCheck) -> dict[str, str]:
    powers = f"powers of {check.size} {' → '.join(map(str, check.sizes))}"
    return {
        "site": f"Activations under {check.parameterization} ({check.optimizer}): {powers}, {check.seeds} seeds; "
        f"changes after {check.steps} steps",
        "leaf": f"Arrays: {powers}",
    }


def _cells(check: CoordinateCheck, kind: str) -> list[tuple[str, ...]]:
    """One line a site or leaf: of a quantity that has several steps the last, or the last that is off."""
    by_name: dict[str, dict[str, Row]] = {}
    for row in check.rows:
        quantities = by_name.setdefault(row.name, {}) if row.kind == kind else {}
        if row.quantity not in quantities or row.off or not quantities[row.quantity].off:
            quantities[row.quantity] = row
    return [_line(name, quantities, kind) for name, quantities in by_name.items()]


def _line(name: str, quantities: dict[str, Row], kind: str) -> tuple[str, ...]:
    shown = ("output", "change") if kind == "site" else ("weight", "update", "decay")
    cells = [name]
    for quantity in shown:
        row = quantities.get(quantity)
        cells += ["", ""] if row is None else [str(row.exponent), str(row.expected)]
    if kind == "site":
        cells.append(" ".join(f"{value:.2g}" for value in quantities["change"].values))
    return (*cells, "off" if any(row.off for row in quantities.values()) else "")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None
