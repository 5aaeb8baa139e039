"""A coordinate check on disk."""

from pathlib import Path

from equimu.diagnostics._figure import png
from equimu.diagnostics._result import CoordinateCheck
from equimu.diagnostics._table import markdown, to_json
from equimu.files import local_folder, write_files


def write_check(check: CoordinateCheck, folder: str | Path) -> tuple[Path, Path, Path]:
    """Writes a check as a page, a figure and data.

    Args:
        check: what `coord_check` returned.
        folder: where to; made if it does not exist.

    Returns:
        The paths of `coord-check.md`, `coord-check.png` and `coord-check.json`.

    Raises:
        EquimuError: they cannot be written.
    """
    page = f"# Coordinate check\n\n![Activations over the size](coord-check.png)\n\n{markdown(check)}"
    data = to_json(check) + "\n"
    contents = {"coord-check.md": page.encode(), "coord-check.png": png(check), "coord-check.json": data.encode()}
    page_path, figure_path, data_path = write_files(local_folder(folder, "the folder of the check"), contents)
    return page_path, figure_path, data_path
