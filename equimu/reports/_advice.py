"""What would decide an undecided verdict: which values, sizes or seeds to run, and how many."""

import math

import numpy as np

from equimu._interval import half_width
from equimu._values import Real
from equimu.reports._cells import Curve
from equimu.reports._fit import Fit, Optimum
from equimu.reports._law import Law

# More seeds than this are not advised: other runs tell more.
_MOST_SEEDS = 24


def values(curve: Curve, optimum: Optimum) -> str:
    """The values to run at a size whose optimum is not known."""
    grid, at = curve.grid, f"at {curve.along} {curve.size:g}"
    step = float(np.median(np.diff(grid))) if len(grid) > 1 else 1.0
    if optimum.best_point is None:
        return f"run lower ones {at}{_listed(curve, ': ', grid[0] - 2 * step, grid[0] - step)}"
    best = optimum.best_point
    if len(grid) == 1:
        return f"run those beside it {at}{_listed(curve, ': ', best - 2, best - 1, best + 1, best + 2)}"
    if optimum.status == "edge":
        sign = -1 if best == grid[0] else 1
        if best == 0 and curve.fitted.scale == "linear" and sign < 0:
            beside = f"between 0 and {curve.fitted.text(float(grid[1]))}"
            return f"0 may be the best; if not, run {curve.fitted.several} {beside} {at}"
        further = sorted((best + sign * step, best + 2 * sign * step))
        return f"run {'lower' if sign < 0 else 'higher'} {curve.fitted.several} {at}{_listed(curve, ': ', *further)}"
    ends = _listed(curve, ", ", grid[0] - step, grid[-1] + step)
    return f"run {at} {curve.fitted.several} further from there{ends}, and {_seeds(curve, 2 * len(curve.seeds))}"


def sizes(curves: tuple[Curve, ...]) -> str:
    """More sizes, where there is one."""
    largest = curves[-1]
    if _is_count(largest.size):
        return f"run {largest.along}s {2 * largest.size:g} and {4 * largest.size:g} too"
    return f"run two more values of {largest.along} too"


def size(curves: tuple[Curve, ...], of: Real) -> str:
    """More seeds at a size that does not fit the others."""
    curve = next(curve for curve in curves if curve.size == of)
    return f"run {_seeds(curve, 2 * len(curve.seeds))} at {curve.along} {curves[0].size:g} and {of:g}"


def noise(curves: tuple[Curve, ...]) -> str:
    """More seeds, where nothing tells the noise."""
    most = max(len(curve.seeds) for curve in curves)
    return f"run three seeds, {3 - most} more" if most < 3 else f"run more {curves[0].fitted.values}"


def certainty(curves: tuple[Curve, ...], fit: Fit, law: Law, stays: Real, drift: Real, sure: Real, surer: Real) -> str:
    """As many seeds as would decide for a transfer or for a drift, whichever the slope is nearer to, if it stays as it is.

    The slope's standard error falls as the root of the number of seeds, so far as noise makes it; where that would take too
    many, another size: its distance from the others is the lever.
    """
    normal = (half_width(1.0, math.inf, sure) or 0.0, half_width(1.0, math.inf, surer) or 0.0)
    drifting = abs(law.slope) > stays
    aim = abs(law.slope) / normal[1] if drifting else (drift - abs(law.slope)) / normal[0]
    stderr = law.stderr or 0.0
    seeds = max(len(curve.seeds) for curve in curves)
    needed = max(seeds + 1, math.ceil(seeds * (stderr / max(aim, 1e-9)) ** 2))
    known = [(optimum.size, optimum.stderr or 0.0) for optimum in fit.optima if optimum.point is not None]
    worst = max(known, key=lambda pair: pair[1])[0]
    along, largest = curves[0].along, curves[-1].size
    another = f"{along} {2 * largest:g}" if _is_count(largest) else f"another value of {along}"
    if needed <= _MOST_SEEDS:
        return f"run {_more(seeds, needed)}, above all at {along} {worst:g}, or {another} too"
    return f"run {another} too, and {curves[0].fitted.values} half as far apart, above all at {along} {worst:g}"


def _is_count(size: Real) -> bool:
    """Whether twice the size is one that can be run, as of a width; a share or a decay rate has bounds."""
    return size >= 1 and float(size).is_integer()


def _seeds(curve: Curve, needed: int) -> str:
    return _more(len(curve.seeds), max(needed, 3))


def _more(now: int, needed: int) -> str:
    more = needed - now
    return f"{more} more seed{'s' if more > 1 else ''} ({needed} in all)"


def _listed(curve: Curve, before: str, *points: Real) -> str:
    """The values at points, after a mark; nothing on a linear axis, where a step may lead out of what a number can be."""
    if curve.fitted.scale == "linear":
        return ""
    texts = [curve.fitted.text(point) for point in points]
    return f"{before}{curve.fitted.label} {', '.join(texts[:-1])} and {texts[-1]}"
