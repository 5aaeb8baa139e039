"""The figure of a coordinate check: a small panel a site, and below them how far each leaf is from its law."""

import io
import math
from typing import Any

import numpy as np

from equimu._values import Real
from equimu.diagnostics._result import CoordinateCheck
from equimu.diagnostics._verdicts import TOLERANCE, Row

_COLUMNS = 5
_OFF = "#c0392b"
_EXPECTED = "0.55"
_NAME_WIDTH = 26  # characters of a panel's title
_MOST = 1.5  # octaves an octave that the axis of leaves shows


def png(check: CoordinateCheck) -> bytes:
    """Draws the check.

    Args:
        check: what `coord_check` returned.

    Returns:
        The figure as a PNG file.
    """
    from matplotlib import rc_context

    # A `matplotlibrc` of the current folder, which may be anyone's, could have TeX run.
    with rc_context({"text.usetex": False}):
        return _drawn(check)


def _drawn(check: CoordinateCheck) -> bytes:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sites, leaves = (_by_name(check, kind) for kind in ("site", "leaf"))
    rows = math.ceil(len(sites) / _COLUMNS)
    heights = [0.75 + 1.75 * rows, 0.9 + 0.17 * len(leaves)]
    figure = Figure(figsize=(2.25 * _COLUMNS, sum(heights)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = np.ravel(figure.subfigures(2, 1, height_ratios=heights, squeeze=False))
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, check.steps))
    axes = above.subplots(rows, _COLUMNS, sharex=True, squeeze=False).ravel()
    for (name, mine), ax in zip(sites.items(), axes, strict=False):
        _site(ax, name, mine, check, colours)
    for ax in axes[len(sites) :]:
        ax.remove()
    for ax in axes[max(0, len(sites) - _COLUMNS) : len(sites)]:
        ax.tick_params(labelbottom=True)  # also where the row below is not full
    above.supxlabel(check.size, fontsize=9)
    above.supylabel("root mean square", fontsize=9)
    above.legend(handles=_legend(check, colours), loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    _leaves(below.subplots(), leaves)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _by_name(check: CoordinateCheck, kind: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in check.rows:
        if row.kind == kind:
            found.setdefault(row.name, []).append(row)
    return found


def _site(ax: Any, name: str, rows: list[Row], check: CoordinateCheck, colours: Any) -> None:
    sizes = np.array(check.sizes, float)
    for row in rows:
        values = np.array(row.values)
        if not np.all(values > 0):
            continue
        colour = "black" if row.quantity == "output" else colours[row.step - 1]
        ax.plot(sizes, values, color=colour, lw=1.3, marker="o", ms=2.5, ls="--" if row.quantity == "output" else "-")
        if row.quantity == "output" or row.step == check.steps:
            _expectation(ax, row, sizes, values[0])
    off = any(row.off for row in rows)
    title = name if len(name) <= _NAME_WIDTH else "…" + name[-_NAME_WIDTH + 1 :]
    ax.set_title(
        title, fontsize=7.5, loc="left", color=_OFF if off else "black", fontweight="bold" if off else "normal"
    )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in check.sizes])
    ax.minorticks_off()
    low, high = ax.get_ylim()
    if high / low < 16:  # a panel in which nothing happens should look so
        middle = math.sqrt(low * high)
        ax.set_ylim(middle / 4, middle * 4)
    ax.tick_params(labelsize=6.5, length=2)
    ax.grid(alpha=0.25, lw=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    if off:
        ax.spines[["left", "bottom"]].set_color(_OFF)


def _expectation(ax: Any, row: Row, sizes: np.ndarray, start: Real) -> None:
    """What is expected, from the smallest size on: a wedge between its two ends, with the tolerance."""
    ends = [row.expected.low - TOLERANCE[row.quantity], row.expected.high + TOLERANCE[row.quantity]]
    low, high = (start * (sizes / sizes[0]) ** min(max(end, -2.0), 2.0) for end in ends)
    ax.fill_between(sizes, low, high, color=_EXPECTED, alpha=0.22, lw=0)


def _leaves(ax: Any, leaves: dict[str, list[Row]]) -> None:
    shapes = {"weight": "s", "update": "o", "decay": "d"}
    for height, rows in enumerate(leaves.values()):
        for row in rows:
            if row.exponent.value is None or math.isinf(row.expected.low):
                continue
            miss = row.expected.off_by(row.exponent.value)
            shown = min(max(miss, -_MOST), _MOST)
            style = {
                "color": _OFF if row.off else "0.25",
                "mfc": _OFF if row.off else "none",
                "zorder": 3 if row.off else 2,
            }
            ax.errorbar(shown, height, xerr=row.exponent.plus_minus, fmt=shapes[row.quantity], ms=4.5, lw=0.8, **style)
    names = list(leaves)
    ax.axvspan(-TOLERANCE["update"], TOLERANCE["update"], color=_EXPECTED, alpha=0.22, lw=0)
    ax.axvline(0, color=_EXPECTED, lw=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    for label, rows in zip(ax.get_yticklabels(), leaves.values(), strict=True):
        if any(row.off for row in rows):
            label.set(color=_OFF, fontweight="bold")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(-_MOST - 0.1, _MOST + 0.1)
    ax.set_xlabel("measured less expected power: □ weight at the start, ○ update, ◇ decay", fontsize=9)
    ax.tick_params(labelsize=7, length=2)
    ax.grid(alpha=0.25, lw=0.5)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(check: CoordinateCheck, colours: Any) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    steps = range(1, check.steps + 1)
    shown = steps if check.steps <= 4 else (1, check.steps)
    return [
        Line2D([], [], color="black", ls="--", marker="o", ms=3, label="output at the start"),
        *(Line2D([], [], color=colours[n - 1], marker="o", ms=3, label=f"change, step {n}") for n in shown),
        Patch(color=_EXPECTED, alpha=0.3, label="expected, with tolerance"),
    ]
