"""A parabola through the bottom of a loss curve, robust to the curve not being one."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from equimu.report._cells import Curve

# Points up to this many places from the best one, on either side, may enter the fit.
_REACH = 2
# How far a parabola that is right at the bottom is expected to miss an outer point, as a share of the point's height
# above the bottom and per octave of its distance: a cubic term grows by one power faster than the square.
_MISFIT = 0.3
# With one seed, misfit and noise cannot be told apart; within this distance in octaves the misfit is the smaller.
_NEAR = 1.0
# A cubic term shifts the vertex of the least-squares parabola through five equidistant points 3.4 times as far as
# that of the parabola through the inner three: the inner three are off by the difference of the two over 2.4.
_CUBIC = 2.4


@dataclass(frozen=True, kw_only=True)
class Parabola:
    """A parabola in u = log2 LR - centre, linear in the losses it is fitted to.

    Attributes:
        centre: the best rate of the grid.
        u: the rates near it, relative to it, ascending.
        losses: the losses there, of the seeds that have all of them; less `cut`.
        cut: what a point was lowered by, to take a cliff off the fit.
        seeds: those seeds; empty where no seed has all points and `losses` is the one row of their means.
        weights: of the points, in the least-squares fit.
    """

    centre: float
    u: Float[np.ndarray, " points"]
    losses: Float[np.ndarray, "seeds points"]
    cut: Float[np.ndarray, " points"]
    seeds: tuple[int, ...]
    weights: Float[np.ndarray, " points"]

    @property
    def mean(self) -> np.ndarray:
        """Mean loss over seeds at each rate."""
        return self.losses.mean(axis=0)

    @property
    def inner(self) -> np.ndarray:
        """Which points are the best one and its two neighbours."""
        return np.abs(np.arange(len(self.u)) - np.argmin(np.abs(self.u))) <= 1

    @property
    def solve(self) -> np.ndarray:
        """What makes the coefficients (c0, c1, c2) of the losses: (XᵀWX)⁻¹XᵀW with X = (1, u, u²)."""
        root = np.sqrt(self.weights)
        return np.linalg.pinv(np.vander(self.u, 3, increasing=True) * root[:, None]) * root

    @property
    def vertex(self) -> float | None:
        """The minimum in u; None if it does not lie between the best rate's neighbours."""
        vertex = self.vertex_of(self.mean)
        low, high = self.bracket
        return vertex if vertex is not None and low <= vertex <= high else None

    def vertex_of(self, losses: np.ndarray) -> float | None:
        """The minimum in u for other losses at the same rates; None if it does not lie among them."""
        _, c1, c2 = self.solve @ losses
        return float(-c1 / (2 * c2)) if c2 > 0 and self.u[0] <= -c1 / (2 * c2) <= self.u[-1] else None

    @property
    def bracket(self) -> tuple[float, float]:
        """The best rate's neighbours, in u."""
        return float(self.u[self.u < 0].max()), float(self.u[self.u > 0].min())

    @property
    def pull(self) -> np.ndarray:
        """Derivative of the vertex by the loss at each point."""
        _, c1, c2 = self.solve @ self.mean
        return -(self.solve[1] - c1 / c2 * self.solve[2]) / (2 * c2)


def bottom(curve: Curve) -> Parabola | None:
    """The parabola through the best rate and its two neighbours, with the points beyond at hand.

    Args:
        curve: loss against learning rate.

    Returns:
        The parabola, or None where a neighbour is missing or diverged.
    """
    usable, mean = curve.usable, curve.mean
    if not usable.any():
        return None
    best = low = high = int(np.nanargmin(mean))
    while low > max(0, best - _REACH) and usable[low - 1]:
        low -= 1
    while high < min(len(usable) - 1, best + _REACH) and usable[high + 1]:
        high += 1
    if low == best or high == best:
        return None
    losses = curve.losses[:, low : high + 1]
    complete = ~np.isnan(losses.sum(axis=1))
    # While a sweep is still running it can be that no seed has all points: then the means have to do.
    losses = losses[complete] if complete.any() else mean[None, low : high + 1]
    u = curve.log2_lr[low : high + 1] - curve.log2_lr[best]
    cut = _cliffs(u, losses.mean(axis=0))
    parabola = Parabola(
        centre=float(curve.log2_lr[best]),
        u=u,
        losses=losses - cut,
        cut=cut,
        seeds=tuple(seed for seed, whole in zip(curve.seeds, complete, strict=True) if whole),
        weights=np.ones(high + 1 - low),
    )
    return dataclasses.replace(parabola, weights=parabola.inner.astype(np.float64))


def _cliffs(u: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """How much the best point's neighbours stand higher than they can in a parabola.

    The vertex lies no further from the best point than half way to a neighbour. So a neighbour is no higher than the
    second point on the other side, if that is as far away as the two neighbours are from each other. One that is
    stands on a cliff, and would push the vertex half a step away from it.
    """
    best = int(np.argmin(np.abs(u)))
    cut = np.zeros_like(mean)
    for near, far in ((best + 1, best - 2), (best - 1, best + 2)):
        if 0 <= far < len(u) and abs(u[far]) > abs(u[best + 1] - u[best - 1]) - 1e-6:
            cut[near] = max(0.0, mean[near] - mean[far])
    return cut


def noise(parabolas: Sequence[Parabola]) -> tuple[float, int] | None:
    """How much one run's loss scatters once its seed's common offset is taken out, which moves no vertex.

    With one seed it is what a parabola leaves over of the four lowest points: noise and misfit together, so rather
    too much than too little.

    Args:
        parabolas: those of all widths; the noise is taken to be the same at all of them.

    Returns:
        The variance and its degrees of freedom, or None if the points do not tell.
    """
    square, df = 0.0, 0
    for parabola in parabolas:
        rest = parabola.losses[:, parabola.inner]
        rest = rest - rest.mean(axis=0)
        rest = rest - rest.mean(axis=1, keepdims=True)
        square += float(np.sum(rest**2))
        df += (rest.shape[0] - 1) * (rest.shape[1] - 1)
    if df == 0:
        for parabola in parabolas:
            if len(parabola.u) > 3:
                lowest = np.argsort(parabola.mean)[:4]
                powers = np.vander(parabola.u[lowest], 3, increasing=True)
                height = parabola.mean - parabola.mean.min()
                # What stands higher than a parabola through the inner three can have it is a cliff, and no noise.
                ceiling = height[parabola.inner].max() * (parabola.u / np.min(np.abs(parabola.bracket))) ** 2
                losses = np.minimum(height, ceiling)[lowest]
                square += float(np.sum((losses - powers @ (np.linalg.pinv(powers) @ losses)) ** 2))
                df += 1
    return (square / df, df) if df else None


def widen(parabola: Parabola, variance: float) -> Parabola:
    """Lets the outer points in as far as the noise asks for them.

    Loss curves are no parabolas: the far points bias the vertex, the near ones alone leave it noisy. An outer point
    gets the variance σ² + (0.3 · distance in octaves · height above the best)², the inner three σ².

    Args:
        parabola: what `bottom` gave.
        variance: of one run's loss, as `noise` gave it.

    Returns:
        The wider fit, or the given one if the wider has no minimum between the best rate's neighbours.
    """
    variance = variance / len(parabola.losses)
    total = variance + (_MISFIT * parabola.u * (parabola.mean - parabola.mean.min())) ** 2
    weights = np.divide(variance, total, out=np.zeros_like(total), where=total > 0)
    if len(parabola.losses) == 1:
        weights[np.abs(parabola.u) > _NEAR] = 0
    wide = dataclasses.replace(parabola, weights=np.where(parabola.inner, 1.0, weights))
    return parabola if wide.vertex is None else wide


def asymmetry(parabola: Parabola) -> float:
    """How far the vertex of the inner three points lies from the minimum because the curve is steeper on one side.

    Args:
        parabola: one with a vertex.

    Returns:
        The shift in octaves that a cubic term explains, negative where the vertex is too far left; 0 if there are
        only three points to tell from.
    """
    vertices: list[float] = []
    for weights in (np.ones(len(parabola.u)), parabola.inner.astype(np.float64)):
        _, c1, c2 = dataclasses.replace(parabola, weights=weights).solve @ parabola.mean
        low, high = parabola.bracket
        # Points that steep draw the wide parabola's vertex away, or bend it downwards: no further than the neighbour.
        vertices.append(float(np.clip(-c1 / (2 * c2), low, high)) if c2 > 0 else (low if c1 > 0 else high))
    return (vertices[0] - vertices[1]) / _CUBIC
