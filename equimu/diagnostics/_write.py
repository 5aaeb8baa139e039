"""A coordinate check on disk."""

from pathlib import Path

from equimu.diagnostics._figure import save_figure
from equimu.diagnostics._result import CoordinateCheck
from equimu.diagnostics._table import markdown, to_json


def write_check(check: CoordinateCheck, folder: str | Path) -> tuple[Path, Path, Path]:
    """Writes a check as a page, a figure and data.

    Args:
        check: what `coord_check` returned.
        folder: where to; made if it does not exist.

    Returns:
        The paths of `coord-check.md`, `coord-check.png` and `coord-check.json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page, figure, data = (folder / f"coord-check.{suffix}" for suffix in ("md", "png", "json"))
    save_figure(check, figure)
    page.write_text(
        f"# Coordinate check\n\n![Activations over the size](coord-check.png)\n\n{markdown(check)}", encoding="utf-8"
    )
    data.write_text(to_json(check) + "\n", encoding="utf-8")
    return page, figure, data
