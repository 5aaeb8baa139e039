"""Sweeps over width, length and batch, drawn at random, with the law that is true of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.verdicts._sweeps import SHAPES
from equimu.reports import Cell, joint_law

WIDTHS, STEPS, ROWS = (32, 64, 128), (250, 1000), (8, 32)
COMBINATIONS = tuple((width, steps, rows) for steps in STEPS for rows in ROWS for width in WIDTHS)
TARGET = {"width": 512, "steps": 4000, "rows": 32}
KINDS = ("one seed", "three seeds", "scatter", "divergence", "forms differ")
_RATES = 5


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The law of a grid.

    Attributes:
        key: decides on all that is random in its cells.
        at: its point where all sizes are the smallest of the grid.
        exponents: of each size.
        curvature: of the valleys.
        spread: standard deviation of the log of a single valley's curvature.
        noise: standard deviation of one run's loss.
        scatter: standard deviation of single optima about the law.
        shape: the name of the valleys' shape.
        one_form: whether all valleys have the same form.
        diverges: whether high rates diverge.
        seeds: how many.
    """

    key: tuple[int, ...]
    at: float
    exponents: Mapping[str, float]
    curvature: float
    spread: float
    noise: float
    scatter: float
    shape: str
    one_form: bool
    diverges: bool
    seeds: int

    def best(self, sizes: Mapping[str, float]) -> float:
        """log2 of the best rate by the law."""
        smallest = {"width": WIDTHS[0], "steps": STEPS[0], "rows": ROWS[0]}
        return self.at + sum(self.exponents[name] * math.log2(sizes[name] / smallest[name]) for name in smallest)


def draw(kind: str, key: tuple[int, ...]) -> Truth:
    """A law and valleys of one kind: exponents, curvature, noise and shape at random.

    Args:
        kind: of grid.
        key: decides on all that is random.
    """
    rng = np.random.default_rng(key)
    return Truth(
        key=key,
        at=-6 + rng.uniform(-0.5, 0.5),
        exponents={"width": rng.uniform(-0.1, 0.1), "steps": rng.uniform(-0.5, 0), "rows": rng.uniform(0, 0.5)},
        curvature=math.exp(rng.uniform(math.log(0.06), math.log(0.24))),
        spread=0.25 if kind == "forms differ" else 0.1,
        noise=rng.uniform(0.005, 0.02),
        scatter=0.15 if kind == "scatter" else 0.0,
        shape=str(rng.choice(list(SHAPES))),
        one_form=kind != "forms differ",
        diverges=kind == "divergence",
        seeds=3 if kind == "three seeds" else 1,
    )


def sweep(
    truth: Truth, combinations: Iterable[tuple[float, ...]] = COMBINATIONS, seeds: Iterable[int] | None = None
) -> list[Cell]:
    """The cells of a grid: at each combination five rates an octave apart, the middle one within an octave of the best.

    A combination's valley and a seed's noise are the same whenever they are asked for.
    """
    cells: list[Cell] = []
    for width, steps, rows in combinations:
        own_key = (*truth.key, int(width), int(steps), int(rows))
        rng = np.random.default_rng(own_key)
        best = truth.best({"width": width, "steps": steps, "rows": rows}) + truth.scatter * rng.normal()
        k = truth.curvature * math.exp(truth.spread * rng.normal())
        middle = round(best + rng.uniform(-0.5, 0.5))
        cliff = rng.uniform(0.8, 1.8) if truth.diverges else math.inf
        form = SHAPES[truth.shape](np.random.default_rng(truth.key) if truth.one_form else rng)
        bottom = 3.0 - 0.1 * math.log2(width * steps * rows)
        for seed in range(truth.seeds) if seeds is None else seeds:
            rng = np.random.default_rng((*own_key, seed))
            own = 0.02 * rng.normal()
            for rate in range(middle - _RATES // 2, middle + _RATES // 2 + 1):
                loss = bottom + k * float(form(np.asarray(rate - best))) + own + truth.noise * rng.normal()
                cells.append(
                    Cell(
                        panel="mup",
                        size=width,
                        others=(("steps", steps), ("rows", rows)),
                        value=2.0**rate,
                        seed=seed,
                        loss=math.inf if rate - best > cliff else loss,
                    )
                )
    return cells


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one grid.

    Attributes:
        error: predicted less true log2 of the best rate at `TARGET`, octaves.
        half: of the interval.
        inside: whether it holds the truth.
        exponents: of each exponent, whether its interval does.
    """

    error: float
    half: float
    inside: bool
    exponents: tuple[bool, ...]


def judge(kind: str, number: int, seed: int) -> Outcome:
    """Draws a grid, has its law fitted, and compares.

    Args:
        kind: of grid.
        number: which one of its kind.
        seed: with the two above, of all that is random.
    """
    truth = draw(kind, (seed, KINDS.index(kind), number))
    law = joint_law(sweep(truth))
    predicted = law.at(**TARGET)
    error = predicted.point - truth.best(TARGET) - truth.scatter * np.random.default_rng((*truth.key, 0)).normal()
    half = predicted.plus_minus or math.inf
    held = tuple(not law.rejects(name, exponent) for name, exponent in truth.exponents.items())
    return Outcome(error=error, half=half, inside=bool(abs(error) <= half), exponents=held)
