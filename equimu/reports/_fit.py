"""The best value of the fitted number at each size, and how well it is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from equimu._interval import half_width, mean_half_width
from equimu._values import Real
from equimu.reports import _valley
from equimu.reports._bottom import bottom
from equimu.reports._cells import Curve
from equimu.reports._valley import Valleys


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best value of one size, as a point of its axis: log2 of it by default.

    Attributes:
        size: the size of the models.
        status: `"fitted"`: the minimum of a fitted curve, between rates that were run. `"walled"`: the best rate lies beside
            one that diverged; the curve is fitted up to there, and without enough rates for that the optimum is taken to be
            the best rate of the grid, uncertain by half the way to the wall. `"edge"`: the best rate is the first or last
            that was run, so that the optimum may lie beyond. `"unknown"`: no rate without a divergence, or no minimum that
            stands out of the noise.
        best_point: the rate of the grid with the lowest mean loss.
        best_loss: the mean loss there.
        point: the optimum; None at an edge or if unknown.
        stderr: its standard error, by noise and by what is not known of the curve's form; None if not known.
        df: degrees of freedom of `stderr`.
        plus_minus: half of its 90% interval.
        loss: the loss at the optimum.
        loss_plus_minus: half of its 90% interval over seeds; None with fewer than two.
        curvature: second derivative of the loss there, in loss per squared octave; None without a fitted curve.
        per_seed: the optimum of each seed, to first order.
    """

    size: Real
    status: Literal["fitted", "walled", "edge", "unknown"]
    best_point: Real | None = None
    best_loss: Real | None = None
    point: Real | None = None
    stderr: Real | None = None
    df: Real | None = None
    plus_minus: Real | None = None
    loss: Real | None = None
    loss_plus_minus: Real | None = None
    curvature: Real | None = None
    per_seed: tuple[tuple[int, Real], ...] = ()

    @property
    def lowest(self) -> Real | None:
        """The loss at the optimum, or where there is none the lowest one measured."""
        return self.best_loss if self.loss is None else self.loss


@dataclass(frozen=True, kw_only=True, repr=False)
class Fit:
    """The optima of one panel.

    Attributes:
        optima: one per size, ascending.
        valleys: the fitted curves they are read from; None if there is none.
        place: of each size, which of the fitted curves is its own; None if there is none.
        covariance: of the optima that are known, in the order of `optima`; None if it is not known.
        df: its degrees of freedom.
        noise: standard deviation of one run's loss about that of other seeds, the seed's common offset taken out; of
            one seed, about the fitted curve. None if not known.
    """

    optima: tuple[Optimum, ...]
    valleys: Valleys | None
    place: tuple[int | None, ...]
    covariance: Float[np.ndarray, "known known"] | None
    df: Real
    noise: Real | None

    def __repr__(self) -> str:
        return f"Fit({len(self.optima)} sizes: {', '.join(f'{o.size:g}' for o in self.optima)[:50]})"


def fit(curves: Sequence[Curve]) -> Fit:
    """Fits the optimum of every size of one panel.

    Args:
        curves: one per size.

    Returns:
        The optima; their uncertainties share what is known about the noise and the form of the curves.
    """
    bottoms = [bottom(curve) if _is_inside(curve) else None for curve in curves]
    place: list[int | None] = []
    for one in bottoms:
        place.append(None if one is None else sum(index is not None for index in place))
    known = [one for one in bottoms if one is not None]
    valleys = _valley.fit(known) if known else None
    optima = [
        _without_fit(curve) if valleys is None or index is None else _fitted(curve, valleys, index)
        for curve, index in zip(curves, place, strict=True)
    ]
    has_variance = valleys is not None and valleys.df is not None
    covariance, df = _covariance(optima, valleys, place)
    return Fit(
        optima=tuple(optima),
        valleys=valleys,
        place=tuple(place),
        covariance=covariance,
        df=df,
        noise=math.sqrt(valleys.variance) if valleys is not None and has_variance else None,
    )


def _covariance(
    optima: Sequence[Optimum], valleys: Valleys | None, place: Sequence[int | None]
) -> tuple[np.ndarray | None, Real]:
    known = [(optimum, index) for optimum, index in zip(optima, place, strict=True) if optimum.point is not None]
    if any(optimum.stderr is None for optimum, _ in known):
        return None, math.inf
    covariance = np.diag([(optimum.stderr or 0.0) ** 2 for optimum, _ in known])
    if valleys is None or valleys.df is None:
        return covariance, math.inf
    inside = [i for i, (optimum, index) in enumerate(known) if index is not None and optimum.curvature is not None]
    at = [valleys.at(1, index) for _, index in (known[i] for i in inside) if index is not None]
    covariance[np.ix_(inside, inside)] = valleys.covariance[np.ix_(at, at)]
    return covariance, valleys.df


def _is_inside(curve: Curve) -> bool:
    return bool(curve.usable.any()) and 0 < int(np.nanargmin(curve.mean)) < len(curve.grid) - 1


def _fitted(curve: Curve, valleys: Valleys, index: int) -> Optimum:
    """The optimum where a curve could be fitted."""
    one = valleys.bottoms[index]
    best = int(np.nanargmin(curve.mean))
    at, loss = float(curve.grid[best]), float(curve.mean[best])
    walled = not (curve.usable[best - 1] and curve.usable[best + 1])
    found, lowest, log_curvature = (float(valleys.theta[valleys.at(kind, index)]) for kind in (1, 0, 2))
    low = curve.grid[0 if curve.usable[best - 1] else best - 1]
    high = curve.grid[-1 if curve.usable[best + 1] else best + 1]
    if not low <= found <= high:
        if walled:
            return _without_fit(curve)
        return Optimum(size=curve.size, status="unknown", best_point=at, best_loss=loss)
    stderr = df = None
    if valleys.df is not None:
        variance, df = valleys.variance_along(np.eye(len(valleys.theta))[valleys.at(1, index)])
        stderr = math.sqrt(variance)
    minima = lowest + one.offsets + valleys.own(0, index)
    shifts = found + valleys.own(1, index)
    return Optimum(
        size=curve.size,
        status="walled" if walled else "fitted",
        best_point=at,
        best_loss=loss,
        point=found,
        stderr=stderr,
        df=df,
        plus_minus=half_width(stderr, df),
        loss=lowest,
        loss_plus_minus=mean_half_width(minima),
        curvature=math.exp(log_curvature),
        per_seed=tuple((seed, float(shift)) for seed, shift in zip(one.seeds, shifts, strict=True)),
    )


def _without_fit(curve: Curve) -> Optimum:
    """The optimum where there are too few rates beside the best one."""
    usable = curve.usable
    if not usable.any():
        return Optimum(size=curve.size, status="unknown")
    best = int(np.nanargmin(curve.mean))
    at, loss = float(curve.grid[best]), float(curve.mean[best])
    walls = [abs(float(curve.grid[i]) - at) for i in (best - 1, best + 1) if 0 <= i < len(usable) and not usable[i]]
    edge = best in (0, len(usable) - 1)
    if edge or not walls:
        return Optimum(size=curve.size, status="edge" if edge else "unknown", best_point=at, best_loss=loss)
    stderr = max(walls) / 2
    losses = curve.losses[:, best]
    return Optimum(
        size=curve.size,
        status="walled",
        best_point=at,
        best_loss=loss,
        point=at,
        stderr=stderr,
        df=math.inf,
        plus_minus=half_width(stderr, math.inf),
        loss=loss,
        loss_plus_minus=mean_half_width(losses[np.isfinite(losses)]),
    )
