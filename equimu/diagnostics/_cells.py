"""The rows of a coordinate check as cells of a table: one line a site or leaf."""

from collections.abc import Sequence

from equimu.diagnostics._verdicts import Row

COLUMNS = {
    "site": ("site", "output at the start", "expected", "its change", "expected", "size of the change", ""),
    "leaf": ("leaf", "weight", "expected", "update", "expected", "decay", "expected", ""),
}


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


def aligned(table: Sequence[tuple[str, ...]]) -> str:
    """Lines of equal columns; the first is flush left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join([first.strip().ljust(widths[0]), *rest]).rstrip()

    return "\n".join(map(line, table))
