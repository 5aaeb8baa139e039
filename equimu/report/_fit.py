"""The best learning rate of each size, and how well it is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from equimu._interval import half_width, mean_half_width, welch_satterthwaite
from equimu.report import _parabola
from equimu.report._cells import Curve
from equimu.report._parabola import Parabola

# A few seeds tell a variance poorly: each size's counts half, the mean over sizes the other half.
_OWN_SHARE = 0.5

# The asymmetry is told from one difference of two fits: a bias whose size is poorly known.
_ASYMMETRY_DF = 2.0


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best learning rate of one size, in log2.

    Attributes:
        size: the size of the models.
        status: `"fitted"`: a parabola between finite neighbours. `"walled"`: the best rate lies beside one that
            diverged: the optimum is bounded, but there is no parabola; it is taken to be the best rate of the grid,
            uncertain by half the way to the wall. `"edge"`: the best rate is the first or last that was run, so
            that the optimum may lie beyond. `"unknown"`: no rate without a divergence, or no minimum among equals.
        best_log2_lr: the rate of the grid with the lowest mean loss.
        best_loss: the mean loss there.
        log2_lr: the optimum; None at an edge or if unknown.
        stderr: its standard error: spread over seeds (with one seed: what parabolas leave unexplained, over all
            sizes), the curve's asymmetry, the way to a wall; None if not known.
        df: degrees of freedom behind `stderr`.
        asymmetry: the part of `stderr` that a steeper side explains, in octaves, negative where the optimum is
            probably further right than fitted; much the same at all sizes, so that it hardly moves the slope.
        plus_minus: half of its 90% interval.
        loss: the loss at the optimum.
        loss_plus_minus: half of its 90% interval over seeds; None with fewer than two.
        curvature: second derivative of the loss there, in nats per squared octave; None without a parabola.
        per_seed: each seed's own optimum at the same rates; None where its parabola has no minimum there.
    """

    size: int
    status: Literal["fitted", "walled", "edge", "unknown"]
    best_log2_lr: float | None = None
    best_loss: float | None = None
    log2_lr: float | None = None
    stderr: float | None = None
    df: float | None = None
    asymmetry: float = 0.0
    plus_minus: float | None = None
    loss: float | None = None
    loss_plus_minus: float | None = None
    curvature: float | None = None
    per_seed: tuple[tuple[int, float | None], ...] = ()

    @property
    def lowest(self) -> float | None:
        """The loss at the optimum, or where there is none the lowest one measured."""
        return self.best_loss if self.loss is None else self.loss


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The optima of one parameterization.

    Attributes:
        optima: one per size, ascending.
        parabolas: what each is read from; None if it is not a fitted one.
        df: degrees of freedom behind all the standard errors together.
    """

    optima: tuple[Optimum, ...]
    parabolas: tuple[Parabola | None, ...]
    df: float


def fit(curves: Sequence[Curve]) -> Fit:
    """Fits the optimum of every size of one parameterization.

    Args:
        curves: one per size.

    Returns:
        The optima; their uncertainties share what is known about the noise.
    """
    parabolas = [_parabola.bottom(curve) for curve in curves]
    noise = _parabola.noise([parabola for parabola in parabolas if parabola is not None])
    if noise is not None:
        parabolas = [None if parabola is None else _parabola.widen(parabola, noise[0]) for parabola in parabolas]
    # Three equal losses are no minimum.
    parabolas = [None if parabola is None or parabola.vertex is None else parabola for parabola in parabolas]
    spreads, df = _spreads(parabolas, noise)
    optima = [_optimum(*row) for row in zip(curves, parabolas, spreads, strict=True)]
    return Fit(optima=tuple(optima), parabolas=tuple(parabolas), df=df)


def _spreads(
    parabolas: Sequence[Parabola | None], noise: tuple[float, int] | None
) -> tuple[list[tuple[float, float] | None], float]:
    """Variance of each vertex by noise, with its degrees of freedom; and those of all of them together.

    Several seeds: the variance over seeds of the linearised vertex, which knows how the losses of one seed hang
    together. One seed: the noise as told from the parabolas' misfit, propagated.
    """
    own = {
        i: (float(np.var(parabola.losses @ parabola.pull, ddof=1)), float(len(parabola.losses) - 1))
        for i, parabola in enumerate(parabolas)
        if parabola is not None and len(parabola.losses) > 1
    }
    spreads: list[tuple[float, float] | None] = []
    for i, parabola in enumerate(parabolas):
        if parabola is None or not (own or noise):
            spreads.append(None)
        elif own:
            share = {j: (1 - _OWN_SHARE if i in own else 1.0) / len(own) + _OWN_SHARE * (i == j) for j in own}
            runs = len(parabola.losses)
            spreads.append(welch_satterthwaite([(share[j] * own[j][0] / runs, own[j][1]) for j in own]))
        elif noise:
            spreads.append((noise[0] * float(np.sum(parabola.pull**2)), float(noise[1])))
    if own:
        return spreads, float(sum(df for _, df in own.values()))
    return spreads, float(noise[1]) if noise else math.inf


def _optimum(curve: Curve, parabola: Parabola | None, spread: tuple[float, float] | None) -> Optimum:
    usable, mean = curve.usable, curve.mean
    if not usable.any():
        return Optimum(size=curve.size, status="unknown")
    best = int(np.nanargmin(mean))
    at, loss = float(curve.log2_lr[best]), float(mean[best])
    if parabola is None:
        return _without_parabola(curve, best)
    vertex = parabola.vertex
    assert vertex is not None
    stderr = df = None
    asymmetry = _parabola.asymmetry(parabola)
    if spread is not None:
        variance, df = welch_satterthwaite([spread, (asymmetry**2, _ASYMMETRY_DF)])
        stderr = math.sqrt(variance)
    minima = parabola.losses @ (np.array([1.0, vertex, vertex**2]) @ parabola.solve)
    shifts = [parabola.vertex_of(losses) for losses in parabola.losses]
    return Optimum(
        size=curve.size,
        status="fitted",
        best_log2_lr=at,
        best_loss=loss,
        log2_lr=at + vertex,
        stderr=stderr,
        df=df,
        asymmetry=asymmetry,
        plus_minus=half_width(stderr, df),
        loss=float(minima.mean()),
        loss_plus_minus=mean_half_width(minima),
        curvature=2 * float((parabola.solve @ parabola.mean)[2]),
        per_seed=tuple(
            (seed, None if shift is None else at + shift) for seed, shift in zip(parabola.seeds, shifts, strict=False)
        ),
    )


def _without_parabola(curve: Curve, best: int) -> Optimum:
    """The optimum where the best rate has no finite neighbour on one side."""
    usable, losses = curve.usable, curve.losses[:, best]
    at, loss = float(curve.log2_lr[best]), float(curve.mean[best])
    walls = [abs(float(curve.log2_lr[i]) - at) for i in (best - 1, best + 1) if 0 <= i < len(usable) and not usable[i]]
    edge = best in (0, len(usable) - 1)
    if edge or not walls:
        status = "edge" if edge else "unknown"
        return Optimum(size=curve.size, status=status, best_log2_lr=at, best_loss=loss)
    stderr = max(walls) / 2
    return Optimum(
        size=curve.size,
        status="walled",
        best_log2_lr=at,
        best_loss=loss,
        log2_lr=at,
        stderr=stderr,
        df=math.inf,
        plus_minus=half_width(stderr, math.inf),
        loss=loss,
        loss_plus_minus=mean_half_width(losses[np.isfinite(losses)]),
    )
