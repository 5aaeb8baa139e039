"""The figure of a report: loss against the number that is fitted, a line per size."""

import io
import math
import textwrap
from typing import Any, Literal

import numpy as np

from equimu._values import Real
from equimu.reports._report import Panel, Report

_COLUMNS = 3
_TITLE_WIDTH = 56
_MOST_TICKS = 12


# Of sizes, from the smallest on: told apart without colours, too.
_MARKERS = "os^Dv<>ph8"
_DASHES = ("-", "--", "-.", ":")


def png(report: Report) -> bytes:
    """Draws the report.

    Args:
        report: what `report` returned.

    Returns:
        The figure as a PNG file.
    """
    return _drawn(report, "png")


def svg(report: Report) -> bytes:
    """Draws the report.

    Args:
        report: what `report` returned.

    Returns:
        The figure as an SVG file on a transparent ground, whose texts are texts.
    """
    return _drawn(report, "svg")


def _drawn(report: Report, form: Literal["png", "svg"]) -> bytes:
    from matplotlib import rc_context

    # A `matplotlibrc` of the current folder, which may be anyone's, could have TeX run. Names within an SVG are drawn from
    # the salt, so that equal reports are equal files.
    with rc_context({"text.usetex": False, "svg.fonttype": "none", "svg.hashsalt": "equimu"}):
        figure = _figure(report)
        content = io.BytesIO()
        plain: dict[str, Any] = {"metadata": {"Date": None}, "transparent": True} if form == "svg" else {}
        figure.savefig(content, format=form, **plain)
    return content.getvalue()


def _figure(report: Report) -> Any:
    # The object-oriented interface: no backend is chosen and no figure stays behind in pyplot.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(report.panels)
    columns = min(count, 2 if count == 4 else _COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(0.6 + 4.4 * columns, 0.7 + 3.9 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    sizes = sorted({curve.size for panel in report.panels for curve in panel.curves})
    # Dark to light with size, short of both ends, which vanish on black and on white.
    colours = colormaps["viridis"](np.linspace(0.05, 0.8, len(sizes)))
    styles = {
        size: {
            "color": colour,
            "marker": _MARKERS[place % len(_MARKERS)],
            "ls": _DASHES[place % len(_DASHES)],
        }
        for place, (size, colour) in enumerate(zip(sizes, colours, strict=True))
    }
    low, high = _range(report)
    sentences = [textwrap.wrap(panel.verdict.sentence, _TITLE_WIDTH) for panel in report.panels]
    most = max(len(lines) for lines in sentences)
    for panel, lines, ax in zip(report.panels, sentences, axes, strict=False):
        _panel(panel, ax, styles)
        ax.set_ylim(low, high)
        # As many lines over each panel, so that the labels above them stand in a row.
        ax.set_title("\n".join(lines + [" "] * (most - len(lines))), fontsize=8.5, loc="left", linespacing=1.3)
        place: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 8 + 11.5 * most)}
        ax.annotate(panel.name, textcoords="offset points", fontsize=11, fontweight="bold", **place)
    for ax in axes[count:]:
        ax.remove()
    figure.supylabel("validation loss", fontsize=10)
    handles = _legend(report, styles)
    per_row = max(1, int(figure.get_figwidth() / 1.45))
    figure.legend(handles=handles, loc="outside lower center", ncols=per_row, fontsize=8, frameon=False)
    return figure


def _panel(panel: Panel, ax: Any, styles: dict[Real, dict[str, Any]]) -> None:
    axis = panel.curves[0].fitted
    diverged: dict[float, int] = {}
    for curve, optimum in zip(panel.curves, panel.fit.optima, strict=True):
        style = styles[curve.size]
        colour = style["color"]
        x = np.array([axis.shown(float(point)) for point in curve.grid])
        ax.plot(x[curve.usable], curve.mean[curve.usable], lw=1.6, ms=4, **style)
        for losses in curve.losses if len(curve.losses) > 1 else ():
            ax.plot(x, losses, ms=3, mew=0, alpha=0.35, **style | {"ls": "none"})
        for at in x[curve.diverged > 0]:
            # Sizes that diverge at the same value stand one below the other.
            height = 0.97 - 0.035 * diverged.get(float(at), 0)
            diverged[float(at)] = diverged.get(float(at), 0) + 1
            ax.plot(at, height, marker="x", ms=5, mew=1.5, color=colour, transform=ax.get_xaxis_transform())
        star = {"marker": "*", "ms": 13, "mec": "black", "mew": 0.7, "zorder": 4, "ls": "none"}
        if optimum.point is not None:
            half = None if optimum.plus_minus is None else axis.shown(optimum.plus_minus)
            ax.errorbar(
                axis.shown(optimum.point), optimum.loss, xerr=half, color=colour, capsize=3, elinewidth=1.4, **star
            )
        elif optimum.best_point is not None:
            ax.plot(
                axis.shown(optimum.best_point), optimum.best_loss, **star | {"mfc": "white", "mec": colour, "mew": 1.2}
            )
    if panel.carried is not None:
        ax.axvline(axis.shown(panel.carried), color="0.45", ls="--", lw=1, zorder=1)
    values = sorted({axis.shown(float(point)) for curve in panel.curves for point in curve.grid})
    margin = 0.06 * (values[-1] - values[0]) or axis.shown(0.5)
    ax.set_xlim(values[0] - margin, values[-1] + margin)
    if len(values) <= _MOST_TICKS:
        ax.set_xticks(values)
    ax.set_xlabel(axis.title, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _range(report: Report) -> tuple[Real, Real]:
    """Limits of the loss axis that show the bottoms of all curves, whatever the runs far from them came to."""
    best: list[float] = []
    heights: list[float] = []
    for panel in report.panels:
        for curve in panel.curves:
            mean = curve.mean
            if curve.usable.any():
                lowest = int(np.nanargmin(mean))
                best.append(float(mean[lowest]))
                near = mean[max(0, lowest - 2) : lowest + 3]
                heights += [float(height) for height in near - mean[lowest] if height > 0]
    if not best:
        return 0.0, 1.0
    # The median is deaf to cliffs; a sweep of single rates has no heights at all.
    typical = float(np.median(heights)) if heights else 0.0
    low, high = min(best), max(best) + max(2.5 * typical, 0.6 * (max(best) - min(best)), 0.01)
    return low - 0.08 * (high - low), high


def _legend(report: Report, styles: dict[Real, dict[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], lw=1.6, ms=4, label=f"{report.along} {size:g}", **style) for size, style in styles.items()
    ]
    optima = [optimum for panel in report.panels for optimum in panel.fit.optima]
    star: dict[str, Any] = {"marker": "*", "ls": "none", "ms": 11, "mec": "black"}
    if any(optimum.point is not None for optimum in optima):
        handles.append(Line2D([], [], mfc="0.7", label="optimum ± 90%", **star))
    if any(optimum.status == "edge" for optimum in optima):
        handles.append(Line2D([], [], mfc="white", label="best, at the edge", **star))
    if any(panel.carried is not None for panel in report.panels):
        handles.append(Line2D([], [], color="0.45", ls="--", lw=1, label=f"{report.fitted.carried} carried over"))
    if any(curve.diverged.any() for panel in report.panels for curve in panel.curves):
        handles.append(Line2D([], [], marker="x", ls="none", color="0.3", label="diverged"))
    return handles
