"""All loss curves of one panel fitted together: each with a place and a height of its own, and one form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from equimu._interval import welch_satterthwaite
from equimu._values import Real
from equimu.reports._bottom import Bottom, noise
from equimu.reports._shape import root

# What is known of loss curves before the first is seen: standard deviations about parabolas of one curvature.
_LEFT, _RIGHT, _FLAT = 0.2, 0.35, 0.05  # of the form that the sizes share
_TILT, _CURVATURE = 0.015, 0.15  # of a size's own skew, and of the log of its curvature, about those of all
# Misses are taken to be Student's t with so many degrees of freedom: a run that went astray counts less.
_TAIL = 5.0
_ROUNDS = 12
# The form's misses at two rates are alike over so many octaves, and so much the same at other sizes. Points are weighted
# with caution; this share of the variance that weights allow for is believed.
_REACH_OF_MISFIT, _SHARED_MISFIT, _BELIEVED = 0.3, 0.9, 0.2
# With one seed the noise is told from what the fit leaves over; with less than this left, it is not.
_LEAST_DF = 1.0
# What few runs of one seed leave over may be next to nothing by chance: to it is added so many degrees of freedom of a noise
# of this share of the depth of the valleys.
_GUESS_DF, _GUESS = 2.0, 0.045
# How sure a test must be that there is more than independent noise, before an interval allows for it.
_CLEARLY = 0.95


@dataclass(frozen=True, kw_only=True, repr=False)
class Valleys:
    """Fitted curves c + ½ exp(l) h(x - m)², with h of `_shape.root`, skews `left` + tilt and `right` + tilt, and `flat`.

    Attributes:
        bottoms: what they are fitted to.
        theta: all parameters: c of each size, then m, l and tilt; mean l, left, right, flat.
        covariance: of the parameters.
        by_noise: the part of it that is due to noise, whose variance is estimated.
        pull: derivative of each parameter by the loss at each point.
        variance: of one run's loss, its seed's common offset taken out.
        df: its degrees of freedom; None if it is not known.
    """

    bottoms: tuple[Bottom, ...]
    theta: Float[np.ndarray, " parameters"]
    covariance: Float[np.ndarray, "parameters parameters"]
    by_noise: Float[np.ndarray, "parameters parameters"]
    pull: Float[np.ndarray, "parameters points"]
    variance: Real
    df: Real | None

    def __repr__(self) -> str:
        return f"Valleys({len(self.bottoms)} sizes)"

    def at(self, kind: int, size: int = 0) -> int:
        """Where a parameter stands in `theta`: of kind 0 for c, 1 for m, 2 for l, 3 for tilt, 4 for the shared ones."""
        return kind * len(self.bottoms) + size

    def own(self, kind: int, size: int) -> np.ndarray:
        """By how much a parameter of a size differs in each of its seeds, to first order. Missing runs count as the mean."""
        first = sum(len(bottom.x) for bottom in self.bottoms[:size])
        points = slice(first, first + len(self.bottoms[size].x))
        return np.nan_to_num(self.bottoms[size].rest) @ self.pull[self.at(kind, size), points]

    def variance_along(self, gradient: np.ndarray) -> tuple[Real, Real]:
        """Variance of what has this gradient by the parameters, and its degrees of freedom: only the noise is estimated."""
        noise, total = (float(gradient @ part @ gradient) for part in (self.by_noise, self.covariance))
        noise = min(noise, total)
        return welch_satterthwaite([(noise, math.inf if self.df is None else self.df), (total - noise, math.inf)])

    def climb(self, size: int, x: np.ndarray) -> tuple[np.ndarray, Float[np.ndarray, "rates parameters"]]:
        """The signed root √k h of the height above a size's minimum, whose square is twice that height.

        Args:
            size: which curve.
            x: log2 of rates.

        Returns:
            The root at each rate, and its derivatives by the parameters.
        """
        return _climb(self.theta, len(self.bottoms), np.full(len(x), size), x)


def fit(bottoms: Sequence[Bottom]) -> Valleys:
    """Fits the curves of all sizes, by iterated least squares with misses of Student's t.

    The form is told from all sizes together, the more so the less one size can tell of it: parameters have normal priors
    (a hierarchical model), and the covariance is that of the posterior about its mode.

    Args:
        bottoms: one or more.

    Returns:
        The curves.
    """
    from scipy.optimize import least_squares

    measured, bottoms = noise(bottoms)
    count = len(bottoms)
    of = np.repeat(np.arange(count), [len(b.x) for b in bottoms])
    x, y, runs, misfit = (np.concatenate([getattr(b, k) for b in bottoms]) for k in ("x", "y", "runs", "misfit"))
    scale = np.array([b.noisier for b in bottoms])[of] / runs
    places, curvatures = zip(*(b.start for b in bottoms), strict=True)
    logs = np.log(curvatures)
    lowest = [b.y.min() for b in bottoms]
    theta = np.concatenate([lowest, places, logs, np.zeros(count), [np.median(logs), 0.0, 0.0, 0.0]])
    prior = _prior(count)
    typical = float(np.median([b.depth for b in bottoms]))
    least = (1e-5 * typical) ** 2
    guess = (_GUESS * typical) ** 2
    variance, df = measured or (guess, 0.0)
    variance = max(variance, least)
    left, robust = df, np.ones(len(x))
    total = weighted = covariance = np.empty(0)
    for _ in range(_ROUNDS):
        total = (scale * variance + misfit**2) / robust
        weight = 1 / np.sqrt(total)
        theta = least_squares(
            lambda theta: np.concatenate([weight * (_losses(theta, count, of, x)[0] - y), prior @ theta]),  # noqa: B023
            theta,
            lambda theta: np.concatenate([weight[:, None] * _losses(theta, count, of, x)[1], prior]),  # noqa: B023 # pyright: ignore[reportArgumentType]
            method="lm",
            max_nfev=100,
        ).x
        value, jacobian = _losses(theta, count, of, x)
        weighted = weight[:, None] * jacobian
        covariance = np.linalg.pinv(weighted.T @ weighted + prior.T @ prior, hermitian=True)
        squares = (y - value) ** 2 / (total * robust)
        before = variance
        if measured is None:
            leverage = np.einsum("ij,jk,ik->i", weighted, covariance, weighted)
            left = float(np.sum(1 - leverage))
            believed = scale * variance + _BELIEVED * misfit**2
            share = scale * variance / believed
            df = float(np.sum(share * (1 - leverage)))
            summed = variance * float(np.sum(share * (y - value) ** 2 / believed)) + _GUESS_DF * guess
            df += _GUESS_DF
            variance = max(summed / df, least)
        settled = np.abs(robust - (robust := (_TAIL + 1) / (_TAIL + squares))).max() < 0.02
        if settled and abs(np.log(variance / before)) < 0.02:
            break
    pull = covariance @ (weighted / np.sqrt(total)[:, None]).T
    by_noise = (pull * scale * variance) @ pull.T
    by_prior = covariance @ prior.T @ prior @ covariance
    by_misfit = pull @ (np.outer(misfit, misfit) * _alike(of, x - theta[count + of])) @ pull.T
    valleys = Valleys(
        bottoms=tuple(bottoms),
        theta=theta,
        covariance=by_noise + by_prior + by_misfit,
        by_noise=by_noise,
        pull=pull,
        variance=variance,
        df=df if left >= _LEAST_DF else None,
    )
    return _paired(valleys)


def _alike(of: np.ndarray, u: np.ndarray) -> np.ndarray:
    """How the misses of the fitted form hang together: at one distance from the minimum they are much the same."""
    near = _BELIEVED * np.exp(-0.5 * ((u[:, None] - u) / _REACH_OF_MISFIT) ** 2)
    return near * np.where(of[:, None] == of, 1.0, _SHARED_MISFIT)


def _paired(valleys: Valleys) -> Valleys:
    """Takes the noise from each seed's own optimum, where those scatter by more than independent misses would have it.

    A seed's common offset moves nothing. But where the losses of one seed hang together by more than that, as they do if
    its optimum lies elsewhere, misses at single rates do not tell how far.
    """
    from scipy.special import fdtri

    ratio = seeds_df = 0.0
    for size, one in enumerate(valleys.bottoms):
        own = valleys.own(1, size)
        expected = valleys.by_noise[valleys.at(1, size), valleys.at(1, size)] * float(np.mean(one.runs))
        if len(own) > 1 and expected > 0:
            seeds_df += len(own) - 1
            ratio += (len(own) - 1) * float(np.var(own, ddof=1)) / expected
    if not seeds_df or valleys.df is None:
        return valleys
    ratio /= seeds_df
    if ratio <= fdtri(seeds_df, valleys.df, _CLEARLY):
        return valleys
    return replace(
        valleys,
        covariance=valleys.covariance + (ratio - 1) * valleys.by_noise,
        by_noise=ratio * valleys.by_noise,
        df=seeds_df,
    )


def _prior(count: int) -> Float[np.ndarray, "rows parameters"]:
    rows = np.zeros((2 * count + 3, 4 * count + 4))
    own = np.arange(count)
    rows[own, 2 * count + own], rows[own, -4] = 1 / _CURVATURE, -1 / _CURVATURE
    rows[count + own, 3 * count + own] = 1 / _TILT
    rows[-3, -3], rows[-2, -2], rows[-1, -1] = 1 / _LEFT, 1 / _RIGHT, 1 / _FLAT
    return rows


def _climb(theta: np.ndarray, count: int, of: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The signed root of twice the height above the minimum, and its derivatives."""
    _, m, log_k, tilt = theta[: 4 * count].reshape(4, count)
    h, by_u, by_left, by_right, by_flat = root(x - m[of], theta[-3] + tilt[of], theta[-2] + tilt[of], theta[-1])
    k = np.exp(0.5 * np.clip(log_k, -60, 60))[of]
    rows = np.arange(len(x))
    jacobian = np.zeros((len(x), len(theta)))
    jacobian[rows, count + of] = -k * by_u
    jacobian[rows, 2 * count + of] = 0.5 * k * h
    jacobian[rows, 3 * count + of] = k * (by_left + by_right)
    jacobian[:, -3], jacobian[:, -2], jacobian[:, -1] = k * by_left, k * by_right, k * by_flat
    return k * h, jacobian


def _losses(theta: np.ndarray, count: int, of: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The losses of the curves, and their derivatives."""
    r, jacobian = _climb(theta, count, of, x)
    jacobian *= r[:, None]
    jacobian[np.arange(len(x)), of] = 1
    return theta[of] + 0.5 * r**2, jacobian
