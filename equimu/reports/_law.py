"""How the best value depends on size: a straight line, in octaves where the fitted number is on a log2 axis."""

import math
from dataclasses import dataclass

import numpy as np

from equimu._interval import half_width
from equimu._values import Real
from equimu.reports._fit import Fit
from equimu.reports._regression import regress

# How sure a test must be that the optima scatter beyond their errors, before the slope's interval allows for it.
_CLEARLY = 0.95


@dataclass(frozen=True, kw_only=True)
class Law:
    """Point of the best value (its log2, see `Fitted`) = intercept + slope · log2 size.

    Attributes:
        sizes: those whose optimum is known.
        slope: octaves per doubling of size.
        intercept: the law at size 1.
        stderr: standard error of the slope; None if not known.
        df: its degrees of freedom.
        plus_minus: half of its 90% interval.
        scatter: root-mean-square distance of the optima from the law in octaves, over the degrees of freedom left;
            None with fewer than three sizes.
    """

    sizes: tuple[Real, ...]
    slope: Real
    intercept: Real
    stderr: Real | None
    df: Real | None
    plus_minus: Real | None
    scatter: Real | None

    def half(self, confidence: Real) -> Real | None:
        """Half of the slope's interval of some confidence; None if not known."""
        return half_width(self.stderr, self.df, confidence)

    def at(self, size: Real) -> Real:
        """The point of the best value that the law gives a size."""
        return self.intercept + self.slope * math.log2(size)


def law(fit: Fit) -> Law | None:
    """Regresses the optima on log2 size: see `regress`.

    Args:
        fit: the optima of one panel.

    Returns:
        The law, or None with fewer than two sizes whose optimum is known, or where a size has no logarithm.
    """
    known = [optimum for optimum in fit.optima if optimum.point is not None]
    if len(known) < 2 or any(optimum.size <= 0 for optimum in known):
        return None
    x = np.stack([np.ones(len(known)), np.log2([optimum.size for optimum in known])], axis=1)
    y = np.array([optimum.point for optimum in known], dtype=np.float64)
    line = regress(x, y, fit.covariance, fit.df, _CLEARLY)
    spread = line.variance(np.array([0.0, 1.0]))
    stderr, df = (None, None) if spread is None else (math.sqrt(spread[0]), spread[1])
    return Law(
        sizes=tuple(optimum.size for optimum in known),
        slope=float(line.coefficients[1]),
        intercept=float(line.coefficients[0]),
        stderr=stderr,
        df=df,
        plus_minus=half_width(stderr, df),
        scatter=line.scatter,
    )
