"""The rows of a coordinate check as cells of a table: one line a site or leaf."""

from collections.abc import Sequence

from equimu.diagnostics._verdicts import Row

COLUMNS = {
    "site": ("site", "output at the start", "expected", "its change", "expected", "size of the change", ""),
    "leaf": ("leaf", "weight", "expected", "update", "expected", "decay", "expected", ""),
}
SPARE = {"site": (5,), "leaf": (6, 5)}  # columns that a narrow terminal leaves out, in this order


def cells_of(rows: Sequence[Row], kind: str) -> list[tuple[str, ...]]:
    """One line a site or leaf: of a quantity that has several steps the last, or the last that is off."""
    by_name: dict[str, dict[str, Row]] = {}
    for row in rows:
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
        cells.append(
            " ".join(f"{value:.2g}" for value in quantities["change"].values) if "change" in quantities else ""
        )
    return (*cells, "off" if any(row.off for row in quantities.values()) else "")
