"""What `equimu sweep`, `report` and `verdict` end with."""

from collections.abc import Iterable

from equimu.cli._command import print_data
from equimu.reports import Cell, Report, print_table, print_verdicts, report, write_report


def print_report(cells: Iterable[Cell], folder: str, *, as_json: bool = False) -> Report:
    """Writes the report on runs into a folder and prints it, its verdicts last; as JSON only its data."""
    made = report(cells)
    paths = write_report(made, folder)
    if as_json:
        print_data(paths)
        return made
    print_table(made)
    for path in paths:
        print(path)
    print_verdicts(made)
    return made
