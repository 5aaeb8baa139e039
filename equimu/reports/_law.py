"""How the best value depends on size: a straight line, in octaves where the fitted number is on a log2 axis."""

import math
from dataclasses import dataclass

import numpy as np

from equimu._interval import half_width, welch_satterthwaite
from equimu.reports._fit import Fit

# No optimum is taken to be known better than this, in octaves: a weight must not become infinite.
_FINEST = 0.005
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

    sizes: tuple[float, ...]
    slope: float
    intercept: float
    stderr: float | None
    df: float | None
    plus_minus: float | None
    scatter: float | None

    def half(self, confidence: float) -> float | None:
        """Half of the slope's interval of some confidence; None if not known."""
        return half_width(self.stderr, self.df, confidence)

    def at(self, size: float) -> float:
        """The point of the best value that the law gives a size."""
        return self.intercept + self.slope * math.log2(size)


def law(fit: Fit) -> Law | None:
    """Regresses the optima on log2 size, by generalized least squares: the optima's errors hang together.

    Where the optima scatter about the line by clearly more than they are uncertain by, a variance of their own is added that
    explains it (Paule and Mandel 1982), with as many degrees of freedom as the line leaves.

    Args:
        fit: the optima of one panel.

    Returns:
        The law, or None with fewer than two sizes whose optimum is known, or where a size has no logarithm.
    """
    from scipy.special import fdtri

    known = [optimum for optimum in fit.optima if optimum.point is not None]
    if len(known) < 2 or any(optimum.size <= 0 for optimum in known):
        return None
    x = np.stack([np.ones(len(known)), np.log2([optimum.size for optimum in known])])
    y = np.array([optimum.point for optimum in known], dtype=np.float64)
    left = len(known) - 2
    own = np.eye(len(known)) * _FINEST**2 + (0.0 if fit.covariance is None else fit.covariance)
    line, pull, rest = _line(x, y, own)
    spread = own
    excess = float(rest @ np.linalg.solve(own, rest))
    if left and (fit.covariance is None or excess > left * fdtri(left, min(fit.df, 1e6), _CLEARLY)):
        spread = own + np.eye(len(known)) * _scatter(x, y, own)
        line, pull, rest = _line(x, y, spread)
    stderr = df = None
    if fit.covariance is not None or left:
        parts = [
            (float(pull[1] @ part @ pull[1]), df) for part, df in ((own, fit.df), (spread - own, float(left or 1)))
        ]
        variance, df = welch_satterthwaite(parts)
        stderr = math.sqrt(variance)
    return Law(
        sizes=tuple(optimum.size for optimum in known),
        slope=float(line[1]),
        intercept=float(line[0]),
        stderr=stderr,
        df=df,
        plus_minus=half_width(stderr, df),
        scatter=math.sqrt(float(np.sum(rest**2)) / left) if left else None,
    )


def _line(x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intercept and slope, what makes them of the optima, and the optima's distances from the line."""
    weighted = np.linalg.solve(spread, x.T).T
    pull = np.linalg.solve(weighted @ x.T, weighted)
    return pull @ y, pull, y - (pull @ y) @ x


def _scatter(x: np.ndarray, y: np.ndarray, own: np.ndarray) -> float:
    """The variance that the optima must have beyond their own for their distances from the line to be as usual."""
    from scipy.optimize import root_scalar

    def surplus(variance: float) -> float:
        spread = own + np.eye(len(y)) * variance
        _, _, rest = _line(x, y, spread)
        return float(rest @ np.linalg.solve(spread, rest)) - (len(y) - 2)

    most = float(np.var(y)) * len(y)
    return float(root_scalar(surplus, bracket=(0.0, most)).root) if surplus(0.0) > 0 > surplus(most) else 0.0
