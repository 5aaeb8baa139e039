"""Learning-rate sweeps drawn at random, with what is true of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from equimu.reports import Cell

Shape = Callable[[np.ndarray], np.ndarray]


def parabola(u: np.ndarray) -> np.ndarray:
    """Second derivative 1, as of all shapes at their minimum, which is 0 at 0."""
    return 0.5 * u**2


def lopsided(steep: float) -> Shape:
    """Two exponentials, the right one so many times as steep as the left one."""
    left, right = 0.35, 0.35 * steep
    return lambda u: ((np.exp(-left * u) - 1) / left + (np.exp(right * u) - 1) / right) / (left + right)


def flat(depth: float) -> Shape:
    """A fourth power that overtakes the square at `depth` octaves."""
    return lambda u: 0.5 * u**2 * (1 + (u / depth) ** 2)


def wall(at: float) -> Shape:
    """A parabola with a wall at `at` octaves above its minimum, sixteen times as steep."""
    return lambda u: 0.5 * u**2 + 16 * np.maximum(u - at, 0) ** 2


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "parabola": lambda rng: parabola,
    "asymmetric": lambda rng: lopsided(rng.uniform(1.5, 4)),
    "flat-bottomed": lambda rng: flat(rng.uniform(1, 3)),
    "steep wall": lambda rng: wall(rng.uniform(0.7, 2)),
}
KINDS = (
    *SHAPES,
    "heavy tails",
    "noise grows with the rate",
    "shared seeds",
    "sizes differ in form",
    "edge",
    "divergence",
    "one seed",
    "three widths",
)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep and the truth about it.

    Attributes:
        cells: its runs.
        slope: octaves per doubling.
        best: log2 of the best rate, by size.
        losses: expected loss at a log2 rate, by size.
        noise: standard deviation of one run's loss.
    """

    cells: tuple[Cell, ...]
    slope: float
    best: dict[int, float]
    losses: dict[int, Callable[[float], float]]
    noise: float

    def regret(self, size: int, log2_lr: float) -> float:
        """What a rate costs over the size's own best one."""
        return self.losses[size](log2_lr) - self.losses[size](self.best[size])


def draw(kind: str, slope: float, rng: np.random.Generator) -> Sweep:
    """A sweep of one kind: shape, number of widths, seeds and rates, noise and curvature at random where the kind is not
    about them."""
    name = kind if kind in SHAPES else list(SHAPES)[rng.integers(4)]
    seeds = 1 if kind == "one seed" else int(rng.integers(1, 7))
    widths = [32 * 2**i for i in range(3 if kind == "three widths" else int(rng.integers(3, 7)))]
    noise, step = rng.uniform(0.01, 0.03), float(rng.choice([0.5, 1.0, 1.0]))
    curvature = math.exp(rng.uniform(math.log(0.06), math.log(0.24)))
    at = -6 + rng.uniform(-0.5, 0.5)
    span = abs(slope) * (len(widths) - 1)
    middle = at + slope * (len(widths) - 1) / 2
    reach = span / 2 + (rng.uniform(0, 1) if kind == "edge" else 2.5)
    rates = np.arange(math.floor((middle - reach) / step), math.ceil((middle + reach) / step) + 1) * step
    cliff = rng.uniform(0.6, 1.8) if kind == "divergence" else math.inf
    base = SHAPES[name](rng)
    offsets = rng.normal(size=seeds) * (0.1 if kind == "shared seeds" else 0.02)
    best: dict[int, float] = {}
    losses: dict[int, Callable[[float], float]] = {}
    cells: list[Cell] = []
    for d, width in enumerate(widths):
        best[width] = at + slope * d
        form = SHAPES[name](rng) if kind == "sizes differ in form" else base
        k = curvature * math.exp((0.25 if kind == "sizes differ in form" else 0.1) * rng.normal())
        bottom = 3.0 - 0.1 * d
        losses[width] = lambda x, m=best[width], k=k, form=form, b=bottom: b + k * float(form(np.asarray(x - m)))
        for seed in range(seeds):
            own = 0.01 * rng.normal()
            for rate in rates:
                error = rng.normal()
                if kind == "heavy tails":
                    error = rng.standard_t(3) / math.sqrt(3)
                if kind == "noise grows with the rate":
                    error *= math.exp(0.3 * (rate - best[width]))
                u = rate - best[width]
                lost = u > cliff + 0.2 * rng.normal()
                loss = losses[width](rate) + offsets[seed] + own + noise * error
                loss = (math.nan if rng.random() < 0.5 else math.inf) if lost else loss
                cells.append(Cell(panel="mup", size=width, value=2.0**rate, seed=seed, loss=loss))
    return Sweep(cells=tuple(cells), slope=slope, best=best, losses=losses, noise=noise)
