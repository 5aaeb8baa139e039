"""What the report reads: the finished runs of a sweep, and the same runs gathered into one curve per size."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from equimu._errors import EquimuError


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished run of a sweep.

    Attributes:
        parameterization: the panel it belongs to, for example `"mup"`.
        size: how large it is, in what the sweep is over: by default the width of its model.
        learning_rate: its base learning rate.
        seed: its seed.
        loss: final validation loss in nats per token; infinite or NaN if the run diverged.
        initial_loss: loss of the first batch, before the first update, if known.
        along: what `size` is, as a word for texts: `"width"`, `"depth"`, ...
        leaves: what each leaf did in the middle of the run, by its path; see the rows of `metrics.jsonl`.
        steps: of the run, if known.
    """

    parameterization: str
    size: int
    learning_rate: float
    seed: int
    loss: float
    initial_loss: float | None = None
    along: str = "width"
    leaves: Mapping[str, Mapping[str, float]] | None = None
    steps: int | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss is not finite, or training left the model worse than it found it."""
        if not math.isfinite(self.loss):
            return True
        return self.initial_loss is not None and self.loss > self.initial_loss


@dataclass(frozen=True, kw_only=True, repr=False)
class Curve:
    """Loss against learning rate, for one parameterization at one size.

    Attributes:
        parameterization: the panel it belongs to.
        size: the size of its models.
        along: what that is, for texts.
        log2_lr: log2 of the base learning rates that were run, ascending.
        seeds: the seeds that were run, ascending.
        losses: validation losses; NaN where a run diverged or does not exist.
        diverged: how many seeds diverged at each rate.
    """

    parameterization: str
    size: int
    along: str
    log2_lr: Float[np.ndarray, " rates"]
    seeds: tuple[int, ...]
    losses: Float[np.ndarray, "seeds rates"]
    diverged: Int[np.ndarray, " rates"]

    def __repr__(self) -> str:
        return f"Curve({self.parameterization}, {self.along} {self.size}, {len(self.seeds)} seeds, {len(self.log2_lr)} rates)"

    @property
    def usable(self) -> np.ndarray:
        """Rates at which a run finished and none diverged: a rate that loses one seed in three is not one to carry."""
        return (self.diverged == 0) & np.isfinite(self.losses).any(axis=0)

    @property
    def mean(self) -> np.ndarray:
        """Mean loss over seeds at each usable rate, NaN at the others."""
        return np.array(
            [
                np.mean(column[np.isfinite(column)]) if use else np.nan
                for column, use in zip(self.losses.T, self.usable, strict=True)
            ]
        )


def curves(cells: Iterable[Cell]) -> dict[str, tuple[Curve, ...]]:
    """Gathers cells into curves.

    Args:
        cells: the finished runs, in any order.

    Returns:
        The curves of each parameterization, sizes ascending; parameterizations in order of appearance.

    Raises:
        EquimuError: no cells; a learning rate that is not positive; the same run given twice; sizes of two kinds.
    """
    cells = list(cells)
    kinds = sorted({cell.along for cell in cells})
    if len(kinds) > 1:
        raise EquimuError(f"runs over {' and over '.join(kinds)} do not belong in one report; give it one sweep")
    groups: dict[str, dict[int, dict[tuple[int, float], Cell]]] = {}
    for cell in cells:
        if not (math.isfinite(cell.learning_rate) and cell.learning_rate > 0):
            raise EquimuError(
                f"a run has learning rate {cell.learning_rate}, which has no logarithm: "
                "give the report runs with positive learning rates only"
            )
        runs = groups.setdefault(cell.parameterization, {}).setdefault(cell.size, {})
        # Rounded, so that a rate written in decimals and the same rate as a power of two are one column.
        key = (cell.seed, round(math.log2(cell.learning_rate), 6))
        if key in runs:
            raise EquimuError(
                f"two runs are given for {cell.parameterization}, {cell.along} {cell.size}, log2 LR {key[1]:g}, "
                f"seed {cell.seed}: they would count twice, so give one of them, or another panel label"
            )
        runs[key] = cell
    if not groups:
        raise EquimuError(
            "no finished runs were given, so there is nothing to report: run `equimu sweep` first, "
            "or name the folder that holds its runs"
        )
    return {
        name: tuple(_curve(name, size, by_size[size]) for size in sorted(by_size)) for name, by_size in groups.items()
    }


def _curve(name: str, size: int, runs: dict[tuple[int, float], Cell]) -> Curve:
    seeds = sorted({seed for seed, _ in runs})
    rates = sorted({rate for _, rate in runs})
    losses = np.full((len(seeds), len(rates)), np.nan)
    diverged = np.zeros(len(rates), dtype=np.int64)
    for (seed, rate), cell in runs.items():
        if cell.diverged:
            diverged[rates.index(rate)] += 1
        else:
            losses[seeds.index(seed), rates.index(rate)] = cell.loss
    return Curve(
        parameterization=name,
        size=size,
        along=next(iter(runs.values())).along,
        log2_lr=np.array(rates),
        seeds=tuple(seeds),
        losses=losses,
        diverged=diverged,
    )
