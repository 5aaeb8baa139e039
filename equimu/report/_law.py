"""How the best learning rate depends on size: a straight line in octaves."""

import math
from dataclasses import dataclass

import numpy as np

from equimu._interval import half_width, welch_satterthwaite
from equimu.report._fit import Fit

# No optimum is taken to be known better than this, in octaves: a weight must not become infinite.
_FINEST = 0.005
# How sure a test must be that the optima scatter beyond their errors, before the slope's interval allows for it.
_CLEARLY = 0.95


@dataclass(frozen=True, kw_only=True)
class Law:
    """log2 of the best learning rate = intercept + slope · log2 size.

    Attributes:
        sizes: those whose optimum is known.
        slope: octaves per doubling of size.
        intercept: the law at size 1.
        stderr: standard error of the slope; None if not known.
        df: degrees of freedom behind it.
        plus_minus: half of its 90% interval.
        scatter: root-mean-square distance of the optima from the law in octaves, over the degrees of freedom left;
            None with fewer than three sizes.
    """

    sizes: tuple[int, ...]
    slope: float
    intercept: float
    stderr: float | None
    df: float | None
    plus_minus: float | None
    scatter: float | None

    def half(self, confidence: float) -> float | None:
        """Half of the slope's interval of some confidence; None if not known."""
        return half_width(self.stderr, self.df, confidence)

    def at(self, size: int) -> float:
        """log2 of the best learning rate that the law gives a size."""
        return self.intercept + self.slope * math.log2(size)


def law(fit: Fit) -> Law | None:
    """Regresses the optima on log2 size, by generalized least squares: the optima's errors hang together.

    Where the optima scatter about the line by clearly more than they are uncertain by, the slope's standard error allows
    for it (the idea of the scale factor in the Particle Data Group's averages).

    Args:
        fit: the optima of one parameterization.

    Returns:
        The law, or None with fewer than two sizes whose optimum is known.
    """
    from scipy.special import fdtri

    known = [optimum for optimum in fit.optima if optimum.log2_lr is not None]
    if len(known) < 2:
        return None
    x = np.stack([np.ones(len(known)), np.log2([optimum.size for optimum in known])])
    y = np.array([optimum.log2_lr for optimum in known], dtype=np.float64)
    spread = np.eye(len(known)) if fit.covariance is None else fit.covariance + _FINEST**2 * np.eye(len(known))
    weighted = np.linalg.solve(spread, x.T).T
    both = np.linalg.inv(weighted @ x.T)
    intercept, slope = (float(value) for value in both @ weighted @ y)
    rest = y - intercept - slope * x[1]
    left = len(known) - 2
    excess = float(rest @ np.linalg.solve(spread, rest)) / left if left else 0.0
    own = float(both[1, 1])
    parts: list[tuple[float, float]] = []
    if fit.covariance is not None:
        parts.append((own, fit.df))
        if left and excess > fdtri(left, min(fit.df, 1e6), _CLEARLY):
            parts.append(((excess - 1) * own, float(left)))
    elif left:
        parts.append((excess * own, float(left)))
    stderr = df = None
    if parts:
        variance, df = welch_satterthwaite(parts)
        stderr = math.sqrt(variance)
    return Law(
        sizes=tuple(optimum.size for optimum in known),
        slope=slope,
        intercept=intercept,
        stderr=stderr,
        df=df,
        plus_minus=half_width(stderr, df),
        scatter=math.sqrt(float(np.sum(rest**2)) / left) if left else None,
    )
