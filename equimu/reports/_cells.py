"""What the report reads: the finished runs of a sweep, and the same runs gathered into one curve per size."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from equimu._errors import EquimuError
from equimu._values import Real
from equimu.reports._fitted import Fitted, Scale, fitted

# A run diverged if its training loss ends this share of its initial loss above it; less than that is noise of the batches.
_WORSE = 0.05
_LARGEST = 3.4e38  # of float32; a larger loss, in a table of others, is that of a run that diverged, too


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished run of a sweep.

    Attributes:
        panel: the panel it belongs to, for example `"mup"`.
        size: how large it is, in what the sweep is over: by default the width of its model.
        value: the value of the number that is fitted: by default its base learning rate.
        seed: its seed.
        loss: final validation loss, in whatever the task's loss is in; infinite or NaN if the run diverged.
        initial_loss: training loss of the first batch, before the first update, if known.
        final_loss: mean training loss of the last batches that were recorded, if known.
        along: what `size` is, as a word for texts: `"width"`, `"depth"`, `"steps"`, ...
        others: the values of what else the sweep is over, by name; runs that differ in them belong to panels of their own.
        fitted: the name of the number that `value` is of.
        scale: the axis of that number: `"log2"`, or `"linear"`, on which distances are in steps of the grid.
        leaves: what each leaf did in the middle of the run, by its path; see the rows of `metrics.jsonl`.
        steps: of the run, if known.
    """

    panel: str
    size: Real
    value: Real
    seed: int
    loss: Real
    initial_loss: Real | None = None
    final_loss: Real | None = None
    along: str = "width"
    others: tuple[tuple[str, Real], ...] = ()
    fitted: str = "learning_rate"
    scale: Scale = "log2"
    leaves: Mapping[str, Mapping[str, Real]] | None = None
    steps: int | None = None

    @property
    def diverged(self) -> bool:
        """Whether the loss is not finite in float32, or the training loss ends more than 5 % of its initial value above it.

        Both are training losses: a task may validate by another measure.
        """
        if not abs(self.loss) <= _LARGEST:
            return True
        if self.initial_loss is None or self.final_loss is None:
            return False
        return self.final_loss > self.initial_loss + _WORSE * abs(self.initial_loss)

    @property
    def panel_name(self) -> str:
        """The panel and the values of the others, for example `"mup, depth 4"`."""
        return ", ".join([self.panel, *(f"{name} {value:g}" for name, value in self.others)])


@dataclass(frozen=True, kw_only=True, repr=False)
class Curve:
    """Loss against the number that is fitted, for one panel at one size.

    Attributes:
        panel: the panel it belongs to.
        size: the size of its models, or the value of whatever the sweep is over.
        along: what that is, for texts.
        fitted: the number that is fitted, and its axis.
        grid: the points of the values that were run, ascending; log2 of the base learning rate by default.
        seeds: the seeds that were run, ascending.
        losses: validation losses; NaN where a run diverged or does not exist.
        diverged: how many seeds diverged at each point.
    """

    panel: str
    size: Real
    along: str
    fitted: Fitted
    grid: Float[np.ndarray, " points"]
    seeds: tuple[int, ...]
    losses: Float[np.ndarray, "seeds points"]
    diverged: Int[np.ndarray, " points"]

    def __repr__(self) -> str:
        size = f"{self.along} {self.size:g}"
        return f"Curve({self.panel}, {size}, {len(self.seeds)} seeds, {len(self.grid)} values of {self.fitted.name})"

    @property
    def usable(self) -> Bool[np.ndarray, " points"]:
        """Rates at which a run finished and none diverged: a rate that loses one seed in three is not one to carry."""
        return (self.diverged == 0) & np.isfinite(self.losses).any(axis=0)

    @property
    def mean(self) -> Float[np.ndarray, " points"]:
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
        The curves of each panel, sizes ascending; panels in order of appearance.

    Raises:
        EquimuError: no cells; a value without a point on the axis; the same run given twice; sizes, or fitted numbers, of
            two kinds.
    """
    cells = list(cells)
    if not cells:
        raise EquimuError(
            "no finished runs were given, so there is nothing to report: run `equimu sweep` first, "
            "or name the folder that holds its runs"
        )
    for kinds in ({cell.along for cell in cells}, {cell.fitted for cell in cells}, {cell.scale for cell in cells}):
        if len(kinds) > 1:
            raise EquimuError(
                f"runs over {' and over '.join(sorted(kinds))} do not belong in one report; give it one sweep"
            )
    name, scale = cells[0].fitted, cells[0].scale
    for cell in cells:
        if not math.isfinite(cell.value) or (scale == "log2" and cell.value <= 0):
            raise EquimuError(
                f"a run has {name} {cell.value:g}, which has no logarithm: give the report runs with positive {name} only"
                + (", or take the linear scale" if cell.value == 0 else "")
            )
    axis = fitted(name, scale, [cell.value for cell in cells])
    groups: dict[str, dict[float, dict[tuple[int, float], Cell]]] = {}
    for cell in cells:
        runs = groups.setdefault(cell.panel_name, {}).setdefault(cell.size, {})
        key = (cell.seed, axis.point(cell.value))
        if key in runs:
            raise EquimuError(
                f"two runs are given for {cell.panel_name}, {cell.along} {cell.size:g}, "
                f"{axis.label} {axis.shown(key[1]):g}, "
                f"seed {cell.seed}: they would count twice, so give one of them, or another panel label"
            )
        runs[key] = cell
    return {
        name: tuple(_curve(name, size, axis, by_size[size]) for size in sorted(by_size))
        for name, by_size in groups.items()
    }


def _curve(name: str, size: Real, axis: Fitted, runs: dict[tuple[int, Real], Cell]) -> Curve:
    seeds = sorted({seed for seed, _ in runs})
    points = sorted({point for _, point in runs})
    losses = np.full((len(seeds), len(points)), np.nan)
    diverged = np.zeros(len(points), dtype=np.int64)
    for (seed, point), cell in runs.items():
        if cell.diverged:
            diverged[points.index(point)] += 1
        else:
            losses[seeds.index(seed), points.index(point)] = cell.loss
    return Curve(
        panel=name,
        size=size,
        along=next(iter(runs.values())).along,
        fitted=axis,
        grid=np.array(points),
        seeds=tuple(seeds),
        losses=losses,
        diverged=diverged,
    )
