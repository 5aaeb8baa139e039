"""A report on disk."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from equimu._html import html_page
from equimu.files import local_folder, write_files
from equimu.reports._cells import Curve
from equimu.reports._figure import png
from equimu.reports._html import html_report
from equimu.reports._laws import PanelLaw
from equimu.reports._report import Panel, Report
from equimu.reports._table import markdown


def write_report(report: Report, folder: str | Path) -> tuple[Path, Path, Path, Path]:
    """Writes a report as a page of HTML, which is one file, the same in Markdown, a figure and data.

    Args:
        report: what `report` returned.
        folder: where to; made if it does not exist.

    Returns:
        The paths of `report.html`, `report.md`, `report.png` and `report.json`.

    Raises:
        EquimuError: they cannot be written.
    """
    axis = report.fitted
    figure = f"![Loss against {axis.words}](report.png)"
    title = f"{axis.heading} over {report.along}"
    data = json.dumps(to_json(report), indent=1, allow_nan=False) + "\n"
    contents = {
        "report.html": html_page(title, [html_report(report)]).encode(),
        "report.md": f"# {title}\n\n{figure}\n\n{markdown(report)}".encode(),
        "report.png": png(report),
        "report.json": data.encode(),
    }
    html_path, page, image, numbers = write_files(local_folder(folder, "the folder of the report"), contents)
    return html_path, page, image, numbers


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data; numbers that are not known or not finite are None.

    Args:
        report: what `report` returned.

    Returns:
        What `json.dumps(..., allow_nan=False)` accepts.
    """
    return {
        "along": report.along,
        "fitted": report.fitted.name,
        "scale": report.fitted.scale,
        "laws": [_law(law) for law in report.laws],
        "panels": [_panel(panel) for panel in report.panels],
    }


def _law(panel: PanelLaw) -> dict[str, Any]:
    law = panel.law
    return {
        "panel": panel.panel,
        "why_not": panel.why_not,
        "intercept": None if law is None else _plain(law.intercept),
        "exponents": None if law is None else _plain(law.exponents),
        "scatter": None if law is None else _plain(law.scatter),
        "held_out": [{**_plain(each), "inside": each.inside()} for each in panel.held_out],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    regrets = (None, *panel.regrets)
    return {
        "panel": panel.name,
        "verdict": _plain(panel.verdict),
        "law": _plain(panel.law),
        "carried": _plain(panel.carried),
        "regret_growth": _plain(panel.regret_growth),
        "useful": _plain(panel.useful),
        "leaves": _plain(panel.leaves),
        "sizes": [
            {
                "size": curve.size,
                "runs": _runs(curve),
                "optimum": _plain(optimum),
                "regret": _plain(regret),
                "above_best": _plain(above),
            }
            for curve, optimum, regret, above in zip(
                panel.curves, panel.fit.optima, regrets, panel.above_best, strict=True
            )
        ],
    }


def _runs(curve: Curve) -> list[dict[str, Any]]:
    return [
        {
            "at": curve.fitted.shown(float(point)),
            "mean_loss": _plain(float(mean)),
            "losses": {str(seed): _plain(float(loss)) for seed, loss in zip(curve.seeds, losses, strict=True)},
            "diverged": int(diverged),
        }
        for point, mean, losses, diverged in zip(
            curve.grid, curve.mean, np.transpose(curve.losses), curve.diverged, strict=True
        )
    ]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
