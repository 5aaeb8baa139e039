"""What it costs to carry the smallest size's learning rate to the larger ones, in nats per token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from equimu._interval import mean_half_width
from equimu.report._cells import Curve
from equimu.report._fit import Fit, Optimum
from equimu.report._parabola import Parabola


@dataclass(frozen=True, kw_only=True)
class Regret:
    """Loss of one size at the carried-over rate, less its own best.

    Attributes:
        size: the size.
        doublings: log2 of the size over the smallest one.
        status: `"measured"`: between rates that were run. `"at least"`: the size's own optimum lies at the edge of
            its grid, so that its own best may be lower still. `"diverged"`: the rate lies at, beside or beyond one
            that diverged. `"unknown"`: the rate lies outside the grid of this size, or there is no
            other to compare with.
        value: nats per token; None where status is `"diverged"` or `"unknown"`. Noise can make it negative.
        plus_minus: half of its 90% interval over seeds, the rate held fixed; None with fewer than two.
    """

    size: int
    doublings: float
    status: Literal["measured", "at least", "diverged", "unknown"]
    value: float | None = None
    plus_minus: float | None = None


def carried_rate(fit: Fit) -> float | None:
    """The log2 rate that one would carry over: the smallest size's optimum, or at an edge its best grid point."""
    smallest = fit.optima[0]
    return smallest.best_log2_lr if smallest.log2_lr is None else smallest.log2_lr


def regrets(curves: Sequence[Curve], fit: Fit) -> tuple[Regret, ...]:
    """Zero-shot regret of every size but the smallest.

    Between grid points the loss is read off the size's own parabola plus the linearly interpolated distance of the
    measured losses from it; that distance is 0 at the optimum, so the regret there is 0.

    Args:
        curves: one per size, ascending.
        fit: their optima.

    Returns:
        One regret per size after the first.
    """
    rate = carried_rate(fit)
    rows = list(zip(curves, fit.optima, fit.parabolas, strict=True))
    return tuple(_regret(curve, optimum, parabola, rate, rows[0][0].size) for curve, optimum, parabola in rows[1:])


def growth(regrets: Sequence[Regret]) -> float | None:
    """How the regret grows with the distance extrapolated.

    Args:
        regrets: of one parameterization.

    Returns:
        Nats per token and doubling of size, by least squares through 0 at the smallest size; None if no regret is
        known.
    """
    known = [(regret.doublings, regret.value) for regret in regrets if regret.value is not None]
    square = math.fsum(doublings**2 for doublings, _ in known)
    return math.fsum(doublings * value for doublings, value in known) / square if known else None


def _regret(curve: Curve, optimum: Optimum, parabola: Parabola | None, rate: float | None, smallest: int) -> Regret:
    doublings = math.log2(curve.size / smallest)
    if rate is None or optimum.best_log2_lr is None:
        lost = bool(curve.diverged.any()) and rate is not None
        return Regret(size=curve.size, doublings=doublings, status="diverged" if lost else "unknown")
    grid, usable = curve.log2_lr, curve.usable
    # The rate's neighbours in the grid, which are one and the same if it lies on the grid or outside.
    left, right = grid[grid <= rate + 1e-9], grid[grid >= rate - 1e-9]
    if not usable[np.isin(grid, [left.max(initial=grid[0]), right.min(initial=grid[-1])])].all():
        return Regret(size=curve.size, doublings=doublings, status="diverged")
    if not (len(left) and len(right)) or len(grid) == 1:
        return Regret(size=curve.size, doublings=doublings, status="unknown")
    at = np.array([_above_best(curve, losses, optimum, parabola, rate) for losses in _rows(curve, parabola)])
    return Regret(
        size=curve.size,
        doublings=doublings,
        status="at least" if optimum.status == "edge" else "measured",
        value=float(at.mean()),
        plus_minus=mean_half_width(at),
    )


def _rows(curve: Curve, parabola: Parabola | None) -> np.ndarray:
    """The losses of the seeds that have every usable rate, or the means if there is none."""
    complete = np.isfinite(curve.losses[:, curve.usable]).all(axis=1)
    return curve.losses[complete] if complete.any() else curve.mean[None]


def _above_best(curve: Curve, losses: np.ndarray, optimum: Optimum, parabola: Parabola | None, rate: float) -> float:
    """One seed's loss at the rate, less its loss at the size's optimum."""
    grid, measured = curve.log2_lr[curve.usable], losses[curve.usable]
    if parabola is None or optimum.log2_lr is None:
        best = float(measured[np.flatnonzero(grid == optimum.best_log2_lr)[0]])
        return float(np.interp(rate, grid, measured)) - best
    near = np.isclose(grid[:, None], parabola.centre + parabola.u, rtol=0, atol=1e-6).any(axis=1)
    shape = np.polynomial.Polynomial(parabola.solve @ (measured[near] - parabola.cut))
    knots = np.append(grid, optimum.log2_lr)
    rest = np.append(measured - shape(grid - parabola.centre), 0.0)
    order = np.argsort(knots)
    here = shape(rate - parabola.centre) + np.interp(rate, knots[order], rest[order])
    return float(here - shape(optimum.log2_lr - parabola.centre))
