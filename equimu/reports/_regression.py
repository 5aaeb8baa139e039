"""Generalized least squares of optima whose errors hang together, and of which some scatter beyond them."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from equimu._interval import welch_satterthwaite
from equimu._values import Real

# No optimum is taken to be known better than this, in octaves: a weight must not become infinite.
_FINEST = 0.005


@dataclass(frozen=True, kw_only=True, repr=False)
class Regression:
    """Point of the best value = coefficients · terms.

    Attributes:
        coefficients: one per term.
        by_errors: covariance of the coefficients, as far as the errors of the optima make it; None where nothing tells it.
        errors_df: its degrees of freedom.
        by_scatter: covariance of the coefficients by what the optima scatter beyond their errors.
        extra: the variance of that scatter; 0 where the errors explain the distances from the law.
        rest: the distances of the optima from the law.
        left: optima beyond the number of terms, which are the degrees of freedom of the scatter.
    """

    coefficients: Float[np.ndarray, " terms"]
    by_errors: Float[np.ndarray, "terms terms"] | None
    errors_df: Real
    by_scatter: Float[np.ndarray, "terms terms"]
    extra: Real
    rest: Float[np.ndarray, " optima"]
    left: int

    def __repr__(self) -> str:
        return f"Regression({len(self.coefficients)} terms, {len(self.rest)} optima)"

    @property
    def covariance(self) -> Float[np.ndarray, "terms terms"] | None:
        """Of the coefficients; None if it is not known."""
        return None if self.by_errors is None else self.by_errors + self.by_scatter

    @property
    def scatter(self) -> float | None:
        """Root-mean-square distance of the optima from the law, over the degrees of freedom left; None with none left."""
        return math.sqrt(float(np.sum(self.rest**2)) / self.left) if self.left else None

    def variance(self, terms: Float[np.ndarray, " terms"], *, of_one: bool = False) -> tuple[Real, Real] | None:
        """Variance of a sum of terms and its degrees of freedom.

        Args:
            terms: by what each coefficient is multiplied.
            of_one: whether the scatter of one more optimum about the law is added.

        Returns:
            Both, or None where nothing tells them.
        """
        if self.by_errors is None:
            return None
        errors = float(terms @ self.by_errors @ terms)
        scatter = float(terms @ self.by_scatter @ terms) + (self.extra if of_one else 0.0)
        return welch_satterthwaite([(errors, self.errors_df), (scatter, float(self.left or 1))])


def regress(
    x: Float[np.ndarray, "optima terms"],
    y: Float[np.ndarray, " optima"],
    covariance: np.ndarray | None,
    df: Real,
    clearly: Real,
) -> Regression:
    """Regresses optima on terms.

    Where the optima scatter about the law by clearly more than they are uncertain by, a variance of their own is added that
    explains it (Paule and Mandel 1982), with as many degrees of freedom as the law leaves.

    Args:
        x: the terms of each optimum, of full rank.
        y: the optima.
        covariance: of their errors; None if not known.
        df: its degrees of freedom.
        clearly: how sure a test must be that the optima scatter beyond their errors, before intervals allow for it.

    Returns:
        The law.
    """
    from scipy.special import fdtri

    left = x.shape[0] - x.shape[1]
    own = np.eye(len(y)) * _FINEST**2 + (0.0 if covariance is None else covariance)
    coefficients, pull, rest = _solve(x, y, own)
    extra = 0.0
    excess = float(rest @ np.linalg.solve(own, rest))
    if left and (covariance is None or excess > left * fdtri(left, min(df, 1e6), clearly)):
        extra = _beyond(x, y, own)
        coefficients, pull, rest = _solve(x, y, own + np.eye(len(y)) * extra)
    known = covariance is not None or left > 0
    return Regression(
        coefficients=coefficients,
        by_errors=pull @ own @ pull.T if known else None,
        errors_df=df,
        by_scatter=extra * pull @ pull.T,
        extra=extra,
        rest=rest,
        left=left,
    )


def _solve(x: np.ndarray, y: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coefficients, what makes them of the optima, and the optima's distances from the law."""
    weighted = np.linalg.solve(spread, x).T
    pull = np.linalg.solve(weighted @ x, weighted)
    return pull @ y, pull, y - x @ (pull @ y)


def _beyond(x: np.ndarray, y: np.ndarray, own: np.ndarray) -> float:
    """The variance that the optima must have beyond their own for their distances from the law to be as usual."""
    from scipy.optimize import root_scalar

    def surplus(variance: Real) -> Real:
        spread = own + np.eye(len(y)) * variance
        rest = _solve(x, y, spread)[2]
        return float(rest @ np.linalg.solve(spread, rest)) - (x.shape[0] - x.shape[1])

    most = float(np.var(y)) * len(y)
    return float(root_scalar(surplus, bracket=(0.0, most)).root) if surplus(0.0) > 0 > surplus(most) else 0.0
