"""Finished sweeps that were never trained: losses of known curves with noise."""

import math

import numpy as np

from equimu.reports import Cell, report

WIDTHS = (32, 64, 128, 256)


OCTAVES = tuple(range(-9, 0))


def parabola(u):
    return 0.08 * u**2


def lopsided(u):
    """Two exponentials, the right one four times as steep; minimum 0 at 0."""
    left, right = 0.35, 1.4
    return 0.25 * (np.exp(-left * u) + left / right * np.exp(right * u) - 1 - left / right)


def cliff(u):
    """Gentle up to one octave above the optimum, then a wall."""
    return 0.05 * u**2 + 8.0 * np.maximum(u - 1, 0) ** 2


def sweep(
    shape=parabola,
    *,
    slope=0.0,
    widths=WIDTHS,
    rates=OCTAVES,
    seeds=1,
    noise=0.0,
    offset=0.0,
    at=-5.0,
    bottom=2.6,
    wall=math.inf,
    name="mup",
    rng=None,
):
    """Runs whose best rate is 2**(at + slope * doublings); those further than `wall` octaves above it diverge."""
    rng = rng or np.random.default_rng(0)
    cells: list[Cell] = []
    for width in widths:
        doublings = math.log2(width / widths[0])
        best = at + slope * doublings
        for seed in range(seeds):
            shift = offset * rng.normal()
            for rate in rates:
                loss = bottom - 0.1 * doublings + float(shape(rate - best)) + shift + noise * rng.normal()
                cell = Cell(
                    panel=name,
                    size=width,
                    value=2.0**rate,
                    seed=seed,
                    loss=loss if rate - best <= wall else math.nan,
                )
                cells.append(cell)
    return cells


def panel_of(cells):
    (panel,) = report(cells).panels
    return panel
