"""The runs about the bottom of a loss curve, and how much one run's loss scatters."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from equimu._values import Real
from equimu.reports._cells import Curve

# Rates up to so many octaves from the best one enter the fit.
_REACH = 3.0
# High rates are noisier: what tells the noise is the runs up to so many octaves from the best rate.
_NEAR = 1.5
_SIDE = 2.0  # octaves, for how deep a valley is
# How far the fitted form is expected to miss a point, as a share of its height above the bottom: per octave² of its
# distance from the best rate, and in proportion to how much higher it stands than the other side at that distance. The
# far side of a wall says nothing about the bottom.
_MISFIT = 0.1
_STEEPEST, _UNSEEN = 10.0, 2.0  # how much higher, at the most, and where the other side was not run
# A size's own noise is told from few runs: it is drawn to that of all sizes, which counts as so many.
_SHARED_DF = 6.0


@dataclass(frozen=True, kw_only=True, repr=False)
class Bottom:
    """The runs of one size that a fit looks at.

    Attributes:
        x: log2 of their rates, ascending.
        y: loss at each rate, the mean over seeds; where runs are missing, with the seeds' common offsets taken out.
        runs: how many seeds were run at each.
        offsets: of each seed, common to its rates.
        rest: what is left of each run's loss when rate and seed are taken out; NaN where there is no run.
        seeds: the seeds of the rows of `rest`.
        df: degrees of freedom of `rest`.
        noisier: variance of a run of this size over that of all sizes.
    """

    x: Float[np.ndarray, " rates"]
    y: Float[np.ndarray, " rates"]
    runs: Float[np.ndarray, " rates"]
    offsets: Float[np.ndarray, " seeds"]
    rest: Float[np.ndarray, "seeds rates"]
    seeds: tuple[int, ...]
    df: int
    noisier: Real = 1.0

    def __repr__(self) -> str:
        return f"Bottom({len(self.seeds)} seeds, {len(self.x)} rates)"

    @property
    def near(self) -> np.ndarray:
        """Which of them tell the noise."""
        return np.abs(self.x - self.x[np.argmin(self.y)]) <= _NEAR + 1e-6

    @property
    def misfit(self) -> np.ndarray:
        """By how much a fitted form is expected to miss each point, as a standard deviation."""
        best = int(np.argmin(self.y))
        u, height = self.x - self.x[best], self.y - self.y[best]
        mirror = np.interp(-u, u, height, left=np.nan, right=np.nan)
        mirror = np.where(np.isnan(mirror), height / _UNSEEN, np.maximum(mirror, height / _STEEPEST))
        return _MISFIT * u**2 * height * np.divide(height, mirror, where=height > mirror, out=np.ones_like(height))

    @property
    def depth(self) -> float:
        """How deep the valley is, two octaves from its bottom: the harmonic mean of both sides, which is deaf to walls."""
        best = int(np.argmin(self.y))
        u, height = self.x - self.x[best], self.y - self.y[best]
        sides = [np.interp(end, u, height) for end in (-_SIDE, _SIDE) if (u * end > 0).any()]
        return float(1 / np.mean([1 / max(side, 1e-300) for side in sides]))

    @property
    def start(self) -> tuple[Real, Real]:
        """A first guess of the place of the minimum and of the curvature there."""
        best = int(np.argmin(self.y))
        i = min(max(best, 1), len(self.x) - 2)
        u = self.x[i - 1 : i + 2] - self.x[best]
        c2, c1, _ = np.polyfit(u, self.y[i - 1 : i + 2], 2)
        if c2 <= 0:
            return float(self.x[best]), max(1e-12, float(np.ptp(self.y)) / float(np.ptp(self.x)) ** 2)
        low, high = (float(self.x[j] - self.x[best]) for j in (max(best - 1, 0), min(best + 1, len(self.x) - 1)))
        return float(self.x[best] + np.clip(-c1 / (2 * c2), low / 2, high / 2)), 2 * float(c2)


def bottom(curve: Curve) -> Bottom | None:
    """The runs about the best rate, up to a divergence on either side.

    Args:
        curve: loss against learning rate.

    Returns:
        The runs, or None with fewer than three rates or none lower than another.
    """
    usable, mean = curve.usable, curve.mean
    if not usable.any():
        return None
    best = low = high = int(np.nanargmin(mean))
    near = usable & (np.abs(curve.grid - curve.grid[best]) <= _REACH + 1e-6)
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(usable) - 1 and near[high + 1]:
        high += 1
    if high - low < 2:
        return None
    losses = curve.losses[:, low : high + 1]
    some = np.isfinite(losses).any(axis=1)
    losses = losses[some]
    there = np.isfinite(losses)
    seeds, rates = losses.shape
    row, column = np.nonzero(there)
    # Loss = rate + seed, the seeds' offsets adding up to nothing.
    design = np.zeros((len(row) + 1, rates + seeds))
    design[np.arange(len(row)), column] = design[np.arange(len(row)), rates + row] = 1
    design[-1, rates:] = 1
    solved, _, rank, _ = np.linalg.lstsq(design, np.append(losses[there], 0.0), rcond=None)
    y, offsets = solved[:rates], solved[rates:]
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        return None
    return Bottom(
        x=curve.grid[low : high + 1],
        y=y,
        runs=there.sum(axis=0).astype(np.float64),
        offsets=offsets,
        rest=losses - y - offsets[:, None],
        seeds=tuple(curve.seeds[i] for i in np.flatnonzero(some)),
        df=len(row) + 1 - int(rank),
    )


def noise(bottoms: Sequence[Bottom]) -> tuple[tuple[Real, Real] | None, list[Bottom]]:
    """How much one run's loss scatters once its seed's common offset is taken out, which moves no optimum.

    Args:
        bottoms: of all sizes.

    Returns:
        Variance and degrees of freedom, None if there is one seed only; and the sizes with their own share of it.
    """
    scatters = [(b, *_scatter(b)) for b in bottoms]
    df = math.fsum(df for _, _, df in scatters)
    if df == 0:
        return None, list(bottoms)
    variance = math.fsum(square for _, square, _ in scatters) / df
    if variance == 0:
        return (0.0, df), list(bottoms)
    return (variance, df), [
        dataclasses.replace(b, noisier=(square / variance + _SHARED_DF) / (own + _SHARED_DF))
        for b, square, own in scatters
    ]


def _scatter(one: Bottom) -> tuple[Real, Real]:
    """Sum of squares of one size's runs near the best rate, and its degrees of freedom."""
    there = np.isfinite(one.rest)
    return float(np.nansum(one.rest[:, one.near] ** 2)), one.df * float(there[:, one.near].sum() / there.sum())
