"""How the best learning rate depends on size: a straight line in octaves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from equimu._interval import half_width, welch_satterthwaite
from equimu.report._fit import Fit, Optimum

# No optimum is taken to be known better than this, in octaves: a weight must not become infinite.
_FINEST = 0.01


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

    def at(self, size: int) -> float:
        """log2 of the best learning rate that the law gives a size."""
        return self.intercept + self.slope * math.log2(size)


def law(fit: Fit) -> Law | None:
    """Regresses the optima on log2 size, each weighted by how well it is known.

    The slope's uncertainty has three parts: the noise of the optima; what they scatter about the line beyond that
    (the idea of the scale factor in the Particle Data Group's averages); and how far the slope would move if each
    optimum were shifted by its curve's asymmetry.

    Args:
        fit: the optima of one parameterization.

    Returns:
        The law, or None with fewer than two sizes whose optimum is known.
    """
    known = [optimum for optimum in fit.optima if optimum.log2_lr is not None]
    if len(known) < 2:
        return None
    x = np.log2([optimum.size for optimum in known])
    y = np.array([optimum.log2_lr for optimum in known], dtype=np.float64)
    variances = _variances(known)
    weights = np.ones(len(known)) if variances is None else 1 / variances
    centre = np.average(x, weights=weights)
    pull = weights * (x - centre) / np.sum(weights * (x - centre) ** 2)
    slope = float(pull @ y)
    intercept = float(np.average(y, weights=weights) - slope * centre)
    rest = y - intercept - slope * x
    left = len(known) - 2
    parts: list[tuple[float, float]] = []
    if variances is not None:
        own = float(np.sum(pull**2 * variances))
        parts.append((own, fit.df))
        parts.append((float(pull @ [o.asymmetry for o in known]) ** 2, math.inf))
        if left:
            excess = float(np.sum(weights * rest**2)) / left - 1
            parts.append((max(0.0, excess) * own, float(left)))
    elif left:
        parts.append((float(np.sum(rest**2)) / left * float(np.sum(pull**2)), float(left)))
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


def _variances(known: Sequence[Optimum]) -> np.ndarray | None:
    """What each optimum's own noise contributes; asymmetry is common to the sizes and counted apart."""
    stderrs = [optimum.stderr for optimum in known]
    if any(stderr is None for stderr in stderrs):
        return None
    shifts = np.array([optimum.asymmetry for optimum in known])
    return np.maximum(np.array(stderrs, dtype=np.float64) ** 2 - shifts**2, _FINEST**2)
