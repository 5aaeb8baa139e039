"""From the cells of a sweep to everything that is said about it."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from equimu.reports._cells import Cell, Curve, curves
from equimu.reports._fit import Fit, fit
from equimu.reports._law import Law, law
from equimu.reports._leaf_findings import Leaves, leaves
from equimu.reports._read import cells_of
from equimu.reports._regret import Regret, carried_rate, growth, regrets
from equimu.reports._verdict import Verdict, verdict
from equimu.runs import Run

# A repr fits on a screen.
_LINES, _COLUMNS, _PANEL_LINES = 40, 80, 6


@dataclass(frozen=True, kw_only=True, repr=False)
class Panel:
    """One parameterization of a sweep.

    Attributes:
        parameterization: its label.
        curves: loss against learning rate, one per size, ascending.
        fit: their optima.
        law: the optima's dependence on size; None with fewer than two known ones.
        carried: log2 of the rate that is carried over from the smallest size.
        regrets: what that costs, for every size but the smallest.
        regret_growth: nats per token that the carried-over rate costs more with each doubling of size.
        above_best: per size, the loss at the optimum less the lowest one of all parameterizations at that size;
            None where either is not known.
        verdict: whether the best learning rate transfers.
        leaves: what each leaf did, at the rate that is carried over; None where the runs do not tell.
    """

    parameterization: str
    curves: tuple[Curve, ...]
    fit: Fit
    law: Law | None
    carried: float | None
    regrets: tuple[Regret, ...]
    regret_growth: float | None
    above_best: tuple[float | None, ...]
    verdict: Verdict
    leaves: Leaves | None

    def __repr__(self) -> str:
        text = f"{self.parameterization}: {self.verdict.sentence}"
        return textwrap.fill(text, _COLUMNS, initial_indent="  ", subsequent_indent="    ", max_lines=_PANEL_LINES)


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """A learning-rate sweep, judged.

    The measures of transfer are those that arXiv 2605.21486 proposes: the scatter of the optimum about its law
    (`Law.scatter`), the loss that the carried-over rate costs and its growth (`Panel.regrets`,
    `Panel.regret_growth`), and the loss at the optimum against the best parameterization (`Panel.above_best`).

    Attributes:
        panels: one per parameterization, in order of appearance.
    """

    panels: tuple[Panel, ...]

    @property
    def along(self) -> str:
        """What the sweep is over: `"width"`, `"depth"`, ..."""
        return self.panels[0].curves[0].along

    def __repr__(self) -> str:
        lines = [f"Report over {self.along}: {len(self.panels)} parameterization{'s' if len(self.panels) > 1 else ''}"]
        lines += [line for panel in self.panels for line in repr(panel).splitlines()]
        if len(lines) > _LINES:
            lines[_LINES - 1 :] = ["  and more: see equimu.reports.print_table(report)"]
        return "\n".join(lines)


def report(runs: Iterable[Run] | Iterable[Cell]) -> Report:
    """Judges the finished runs of a learning-rate sweep.

    Args:
        runs: the runs, or their cells, in any order; a sweep that is not complete is judged as far as it goes.

    Returns:
        Optima, laws, regrets and verdicts of each parameterization.

    Raises:
        EquimuError: there are no runs, one is given twice, or a learning rate is not positive.
    """
    given = list(runs)
    own = [each for each in given if isinstance(each, Run)]
    cells = cells_of(own) if own else [each for each in given if isinstance(each, Cell)]
    groups = curves(cells)
    fits = {name: fit(group) for name, group in groups.items()}
    lowest: dict[int, float] = {}
    for fitted in fits.values():
        for optimum in fitted.optima:
            if optimum.lowest is not None:
                lowest[optimum.size] = min(optimum.lowest, lowest.get(optimum.size, optimum.lowest))
    return Report(
        panels=tuple(
            _panel(name, group, fits[name], lowest, [cell for cell in cells if cell.parameterization == name])
            for name, group in groups.items()
        )
    )


def _panel(name: str, group: tuple[Curve, ...], fitted: Fit, lowest: dict[int, float], cells: list[Cell]) -> Panel:
    line = law(fitted)
    costs = regrets(group, fitted)
    carried = carried_rate(fitted)
    return Panel(
        parameterization=name,
        curves=group,
        fit=fitted,
        law=line,
        carried=carried,
        regrets=costs,
        regret_growth=growth(costs),
        above_best=tuple(
            None if optimum.lowest is None else optimum.lowest - lowest[optimum.size] for optimum in fitted.optima
        ),
        verdict=verdict(group, fitted, line, costs),
        leaves=None if carried is None else leaves(cells, carried),
    )
