"""Early stopping: cells that cannot be the best of their curve are left, and what the verdict needs is trained to its end.

A curve is what the cells of one table or optimizer at one size lie on: loss against the number that is fitted. One seed looks
along the whole curve for the lowest loss in training, a few times; runs of one seed see the same batches, so that single steps
can be compared. What is about the best value is then trained to its end with all seeds. If the best validation loss lies at the
end of those values, it goes on from there; if the verdict is undecided, more values about the best are trained to their end.
`python -m benchmarks.early_stopping` measures how often the verdict is that of the whole grid.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from equimu._errors import EquimuError
from equimu._values import Real
from equimu.reports import Panel, cells_of, fitted, report, scale_of
from equimu.runs import Axes, Run, RunConfig, Runs, number_at

# The first seed looks along a curve after these shares of its steps,
LOOKS = (0.1, 0.25, 0.5)
# and from then on follows what is so near the lowest loss: octaves, or on a linear axis steps of the grid.
_FOLLOWED = 1.0
# What is trained to its end with all seeds is the best value, and on either side of it one at about the first of these
# distances; where the verdict is undecided, at the others in turn.
_BESIDE = (1.5, 0.5, 1.0, 2.0)
_ABOUT = (0.5, 0.25, 0.25, 0.25)
_ALIKE = 1e-6  # of points of the axis

TrainUntil: TypeAlias = Callable[[Mapping[RunConfig, int]], Mapping[RunConfig, Run]]


def early_stopping(curves: Sequence[Sequence[RunConfig]], axes: Axes, train: TrainUntil) -> Runs:
    """Trains a grid as far as its verdict needs it.

    Args:
        curves: of the grid, the cells of each, which differ in the number that is fitted and in seeds alone.
        axes: what the grid varies.
        train: trains cells, each until a step of its own, and gives their runs, `"paused"` before their end; what was trained
            before is not trained again.

    Returns:
        The runs that ended, in the order of the grid; `stopped` are those that were left.

    Raises:
        EquimuError: runs of a curve differ in length, or write too few rows to look at.
    """
    for cells in curves:
        if len({cell.steps for cell in cells}) > 1:
            raise EquimuError("early stopping compares runs of one length, and this sweep fits steps; sweep without it")
    values = {_number(cell, axes.fit) for cells in curves for cell in cells}
    name = axes.fit.rpartition(".")[2]
    scale = axes.scale or scale_of(name, values)
    axes, axis = dataclasses.replace(axes, scale=scale), fitted(name, scale, values)
    found = _Found(train)
    followed = [_Curve({(axis.point(_number(c, axes.fit)), c.seed): c for c in cells}, found) for cells in curves]
    for share in LOOKS:
        found.train({cell: _step(cell, share) for curve in followed for cell in curve.followed})
        for curve in followed:
            curve.look(share)
    wanted = followed
    while wanted:
        _finish(wanted, found)
        wanted = _undecided(followed, axes, found)
    return found.runs([cell for cells in curves for cell in cells], axes)


def _finish(curves: Sequence["_Curve"], found: "_Found") -> None:
    """Trains what is about the best of each curve to its end, and so on where the best is another then."""
    while curves:
        found.train({cell: cell.steps for curve in curves for cell in curve.unfinished()})
        curves = [curve for curve in curves if curve.moved()]


def _undecided(curves: Sequence["_Curve"], axes: Axes, found: "_Found") -> list["_Curve"]:
    """The curves of panels whose verdict is undecided, and that have more to train for it.

    What the value costs that is carried over is a part of the verdict: its neighbours are trained to their ends at all sizes.
    """
    of_panels, panels = _judged(curves, axes, found)
    carried = {
        cell: cell.steps
        for panel in panels
        if panel.carried is not None
        for curve in of_panels[panel.name]
        for cell in curve.beyond(panel.carried)
    }
    if carried:
        found.train(carried)
        of_panels, panels = _judged(curves, axes, found)
    wanted: list[_Curve] = []
    for panel in panels:
        mine = of_panels[panel.name]
        if panel.verdict.kind == "undecided":
            # Of a single size nothing more would decide it.
            wanted += [curve for curve in mine if curve.widen(2 if len(mine) == 1 else len(_BESIDE))]
    return wanted


def _judged(
    curves: Sequence["_Curve"], axes: Axes, found: "_Found"
) -> tuple[dict[str, list["_Curve"]], tuple[Panel, ...]]:
    """The curves of each panel of the report on what ended, and these panels."""
    ended = [(curve, cell) for curve in curves for cell in curve.ended()]
    cells = cells_of(Runs([found.of[cell] for _, cell in ended], axes))
    of_panels: dict[str, list[_Curve]] = {}
    for (curve, _), cell in zip(ended, cells, strict=True):
        mine = of_panels.setdefault(cell.panel_name, [])
        if curve not in mine:
            mine.append(curve)
    return of_panels, report(cells).panels


class _Found:
    """The runs so far, of cells that ended and of those that were left."""

    def __init__(self, train: TrainUntil):
        self._train = train
        self._until: dict[RunConfig, int] = {}
        self.of: dict[RunConfig, Run] = {}

    def train(self, until: Mapping[RunConfig, int]) -> None:
        """Trains cells until these steps, those not again that are as far, or ended before."""
        new = {
            cell: step for cell, step in until.items() if not self.has_ended(cell) and step > self._until.get(cell, 0)
        }
        if new:
            self._until.update(new)
            self.of.update(self._train(new))

    def has_ended(self, cell: RunConfig) -> bool:
        """Whether it was trained to its end, or diverged."""
        return cell in self.of and self.of[cell].status != "paused"

    def runs(self, grid: Iterable[RunConfig], axes: Axes) -> Runs:
        """All of them, in the order of the grid."""
        ordered = [self.of[cell] for cell in grid if cell in self.of]
        stopped = [run for run in ordered if run.status == "paused"]
        return Runs((run for run in ordered if run.status != "paused"), axes, stopped)


class _Curve:
    """The cells of one curve, by the points of the fitted number and by seeds, and what is known of them.

    Attributes:
        best: the point with the lowest loss, as far as is known.
    """

    def __init__(self, cells: Mapping[tuple[Real, int], RunConfig], found: _Found):
        self._cells, self._found = cells, found
        self._points = sorted({point for point, _ in cells})
        self._seeds = sorted({seed for _, seed in cells})
        self._followed = self._points
        self._distances = 1
        self.best = self._points[0]

    @property
    def followed(self) -> list[RunConfig]:
        """The cells that are to be looked at next."""
        return [self._cells[point, self._seeds[0]] for point in self._followed]

    def look(self, share: Real) -> None:
        """Compares the losses in training up to a share of the steps."""
        losses = {
            point: _loss(self._found.of[cell], cell, share)
            for point, cell in zip(self._followed, self.followed, strict=True)
        }
        self.best = min(losses, key=losses.__getitem__)
        self._followed = [point for point in self._points if abs(point - self.best) <= _FOLLOWED + _ALIKE]

    def unfinished(self) -> list[RunConfig]:
        """The cells about the best that have not ended."""
        wanted = {self.best, *self._beside(-1), *self._beside(1)}
        return [cell for (point, _), cell in self._cells.items() if point in wanted and not self._found.has_ended(cell)]

    def ended(self) -> list[RunConfig]:
        """The cells that have."""
        return [cell for cell in self._cells.values() if self._found.has_ended(cell)]

    def beyond(self, point: Real) -> list[RunConfig]:
        """The cells of the neighbours of a point, if it lies outside of all that have ended."""
        ended = self._ended_points()
        below, above = ([p for p in self._points if sign * p >= sign * point - _ALIKE] for sign in (-1, 1))
        if min(ended) <= point <= max(ended) or not (below and above):
            return []
        return [cell for (at, _), cell in self._cells.items() if at in (below[-1], above[0])]

    def moved(self) -> bool:
        """Whether the best of those that ended is another one than before, so that others are about it."""
        means = {point: self._mean(point) for point in self._points}
        best = min(means, key=means.__getitem__)
        moved = best != self.best and math.isfinite(means[best])
        self.best = best if moved else self.best
        return moved and bool(self.unfinished())

    def widen(self, most: int) -> bool:
        """Takes values at more distances from the best, up to so many of these. Returns whether there are any."""
        while self._distances < most:
            self._distances += 1
            if self.unfinished():
                return True
        return False

    def _beside(self, side: int) -> list[Real]:
        """The points on one side of the best that are wanted and have not ended."""
        away = {point: side * (point - self.best) for point in self._points if side * (point - self.best) > 0}
        ended = self._ended_points()
        wanted: list[float] = []
        for distance, about in zip(_BESIDE[: self._distances], _ABOUT, strict=False):
            there = [point for point in away if point in ended and abs(away[point] - distance) <= about + _ALIKE]
            if away and not there:
                # The nearest to the distance; of a grid whose steps are wider, the next one.
                wanted.append(min(away, key=lambda point: (round(abs(away[point] - distance), 6), away[point])))
        return wanted

    def _ended_points(self) -> set[Real]:
        return {point for (point, _), cell in self._cells.items() if self._found.has_ended(cell)}

    def _mean(self, point: Real) -> float:
        """The mean validation loss at a point; infinite where a cell diverged or has not ended."""
        cells = [cell for (at, _), cell in self._cells.items() if at == point]
        ended = all(map(self._found.has_ended, cells))
        return float(np.mean([self._found.of[cell].validation_loss for cell in cells])) if ended else math.inf


def _step(cell: RunConfig, share: Real) -> int:
    """The step of a look: one that writes a row."""
    if cell.log_every > cell.steps / 4:
        raise EquimuError(
            f"early stopping compares losses in training, and log_every={cell.log_every} writes too few of {cell.steps} steps; "
            f"give log_every at most {cell.steps // 4}"
        )
    return math.ceil(share * cell.steps / cell.log_every - _ALIKE) * cell.log_every


def _loss(run: Run, cell: RunConfig, share: Real) -> float:
    """The mean loss in training over the second half of a share of the steps; infinite where the run diverged."""
    until = _step(cell, share)
    losses: list[Any] = [row.get("loss") for row in run.rows if until / 2 < row["step"] <= until and "loss" in row]
    known = [math.inf if loss is None else float(loss) for loss in losses]
    has_diverged = run.status == "diverged" and run.rows[-1]["step"] <= until
    return math.inf if has_diverged or not known else float(np.mean(known))


def _number(cell: RunConfig, path: str) -> float:
    return float(number_at(cell, path))
