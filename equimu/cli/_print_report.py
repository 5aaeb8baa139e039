"""What `equimu sweep`, `report` and `verdict` end with."""

from collections.abc import Iterable

from equimu.reports import Cell, Report, print_table, report, write_report


def print_report(cells: Iterable[Cell], folder: str) -> Report:
    """Prints the report on runs, and writes it into a folder."""
    made = report(cells)
    print_table(made)
    for path in write_report(made, folder):
        print(path)
    return made
