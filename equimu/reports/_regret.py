"""What it costs in loss to carry the smallest size's best value to the larger ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from equimu._interval import half_width
from equimu._values import Real
from equimu.reports._bottom import Bottom
from equimu.reports._cells import Curve
from equimu.reports._fit import Fit
from equimu.reports._valley import Valleys

# Confidence of the two-sided interval whose upper end an interval has that begins at a regret of nothing. Where only the
# upper end can be wrong, 80% two-sided is 90%; somewhat less, as most regrets there are smaller than their error.
_ONE_END = 0.77


@dataclass(frozen=True, kw_only=True)
class Regret:
    """Loss of one size at the carried-over rate, less its own best.

    Attributes:
        size: the size.
        doublings: log2 of the size over the smallest one; None where either is not positive.
        status: `"measured"`: between rates that were run. `"at least"`: no curve could be fitted, as at the edge of a grid, so
            that the size's own best may be lower still than the lowest loss measured. `"diverged"`: the rate lies at, beside
            or beyond one that diverged. `"unknown"`: the rate lies outside the grid of this size, or there is no other to
            compare with.
        value: in what the loss is in; None where status is `"diverged"` or `"unknown"`. Noise can make it negative where it is
            the difference of two measured losses.
        low: the lower end of its 90% interval, for the rate as it is; None if not known.
        high: the upper end. Where the rate may well be the size's own best, the interval begins at 0 and is no wider up.
    """

    size: Real
    doublings: Real | None
    status: Literal["measured", "at least", "diverged", "unknown"]
    value: Real | None = None
    low: Real | None = None
    high: Real | None = None

    @property
    def plus_minus(self) -> Real | None:
        """Half the width of the interval, which need not be symmetric."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def carried_rate(fit: Fit) -> Real | None:
    """The point that one would carry over: the smallest size's optimum, or at an edge its best grid point."""
    smallest = fit.optima[0]
    return smallest.best_point if smallest.point is None else smallest.point


def regrets(curves: Sequence[Curve], fit: Fit) -> tuple[Regret, ...]:
    """Zero-shot regret of every size but the smallest.

    Near the minimum the fitted curve tells; the further from it, the more the losses measured at the neighbouring rates.

    Args:
        curves: one per size, ascending.
        fit: their optima.

    Returns:
        One regret per size after the first.
    """
    rate = carried_rate(fit)
    return tuple(regret_at(curve, fit, i, rate, curves[0].size) for i, curve in enumerate(curves) if i)


def growth(regrets: Sequence[Regret]) -> Real | None:
    """How the regret grows with the distance extrapolated.

    Args:
        regrets: of one panel.

    Returns:
        Loss per doubling of size, by least squares through 0 at the smallest size; None if no regret is
        known.
    """
    known = [
        (regret.doublings, regret.value)
        for regret in regrets
        if regret.value is not None and regret.doublings is not None
    ]
    square = math.fsum(doublings**2 for doublings, _ in known)
    return math.fsum(doublings * value for doublings, value in known) / square if known else None


def regret_at(curve: Curve, fit: Fit, i: int, rate: Real | None, smallest: Real) -> Regret:
    """The regret of one size at a rate.

    Args:
        curve: of the size.
        fit: the optima of all sizes.
        i: which of them is the size's.
        rate: the point of the rate; None if there is none.
        smallest: the size that it was found at.
    """
    doublings = math.log2(curve.size / smallest) if smallest > 0 else None
    optimum = fit.optima[i]
    if rate is None or optimum.best_point is None:
        lost = bool(curve.diverged.any()) and rate is not None
        return Regret(size=curve.size, doublings=doublings, status="diverged" if lost else "unknown")
    grid, usable = curve.grid, curve.usable
    # The rate's neighbours in the grid, which are one and the same if it lies on the grid or outside.
    left, right = grid[grid <= rate + 1e-9], grid[grid >= rate - 1e-9]
    if not usable[np.isin(grid, [left.max(initial=grid[0]), right.min(initial=grid[-1])])].all():
        return Regret(size=curve.size, doublings=doublings, status="diverged")
    if not (len(left) and len(right)) or len(grid) == 1:
        return Regret(size=curve.size, doublings=doublings, status="unknown")
    index = fit.place[i]
    if fit.valleys is None or index is None or optimum.curvature is None:
        status = "at least"
        value, low, high = _of_the_grid(curve, fit.noise, float(optimum.best_point), rate)
    else:
        status = "measured"
        value, low, high = _of_the_curve(curve, fit.valleys, index, rate)
    return Regret(size=curve.size, doublings=doublings, status=status, value=value, low=low, high=high)


def _of_the_grid(curve: Curve, noise: Real | None, best: Real, rate: Real) -> tuple[Real, Real | None, Real | None]:
    """Measured losses only: that at the rate, less the lowest one."""
    grid, mean = curve.grid[curve.usable], curve.mean[curve.usable]
    value = float(np.interp(rate, grid, mean) - np.min(mean))
    if noise is None:
        return value, None, None
    runs = np.isfinite(curve.losses[:, curve.usable]).sum(axis=0)
    weights = _interpolation(grid, rate) - (grid == best)
    half = half_width(noise * math.sqrt(float(np.sum(weights**2 / runs))), math.inf) or 0.0
    return value, value - half, value + half


def _of_the_curve(curve: Curve, valleys: Valleys, index: int, rate: Real) -> tuple[Real, Real | None, Real | None]:
    """The height of the fitted curve at the rate, drawn to the losses measured beside it as the fit is trusted less.

    The interval is that of the signed root of the height, which is nearly normal where the height is not.
    """
    (root,), (gradient,) = valleys.climb(index, np.array([rate]))
    fitted = 0.5 * float(root) ** 2
    one = valleys.bottoms[index]
    known = valleys.df is not None
    variance, df = valleys.variance_along(gradient) if known else (0.0, math.inf)
    misfit = float(np.interp(rate, one.x, one.misfit))
    variance = root**2 * variance + misfit**2
    # What was measured less what is fitted, between the rates next to this one.
    grid = curve.grid[curve.usable]
    near = _interpolation(grid, rate)
    losses = valleys.theta[valleys.at(0, index)] + 0.5 * valleys.climb(index, grid)[0] ** 2
    beside = _levelled(curve, one) - losses
    rest = float(near @ beside)
    runs = np.isfinite(curve.losses[:, curve.usable]).sum(axis=0)
    measured = float(np.sum(near**2 / runs)) * one.noisier * valleys.variance
    measured += float(valleys.covariance[valleys.at(0, index), valleys.at(0, index)])
    # Straight lines between rates that differ in how far the fit misses them: the truth is anywhere between.
    measured += 0.25 * float(near @ (beside - rest) ** 2)
    trust = measured / (measured + variance) if measured + variance > 0 else 1.0
    value = max(fitted + (1 - trust) * rest, 0.0)
    if not known:
        return value, None, None
    height = math.copysign(math.sqrt(2 * value), root)
    # By the fit alone the root's variance is its own; far from the minimum it is that of the height over its slope.
    steep = max(abs(float(root)), abs(height), 1e-12)
    stderr = math.sqrt(variance * trust) / steep
    half = half_width(stderr, df) or 0.0
    if abs(height) > half:
        return value, 0.5 * (abs(height) - half) ** 2, 0.5 * (abs(height) + half) ** 2
    # An interval that begins at nothing has one end only at which it can be wrong.
    return value, 0.0, 0.5 * (abs(height) + (half_width(stderr, df, _ONE_END) or 0.0)) ** 2


def _levelled(curve: Curve, one: Bottom) -> np.ndarray:
    """The mean loss at each usable rate, those near the best one with the seeds' offsets taken out."""
    x, mean = curve.grid[curve.usable], curve.mean[curve.usable]
    at = np.searchsorted(x, one.x)
    mean[at] = one.y
    return mean


def _interpolation(grid: np.ndarray, rate: Real) -> np.ndarray:
    """The weight of each rate of the grid in linear interpolation at one."""
    return np.array([float(np.interp(rate, grid, row)) for row in np.eye(len(grid))])
