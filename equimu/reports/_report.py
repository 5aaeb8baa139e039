"""From the cells of a sweep to everything that is said about it."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimu._lazy import late_method
from equimu._values import Real
from equimu.reports._cells import Cell, Curve, curves
from equimu.reports._fit import Fit, fit
from equimu.reports._fitted import Fitted
from equimu.reports._law import Law, law
from equimu.reports._law_table import law_text
from equimu.reports._laws import PanelLaw, panel_laws
from equimu.reports._leaf_findings import Leaves, leaves
from equimu.reports._regret import Regret, carried_rate, growth, regrets
from equimu.reports._useful import Useful, useful
from equimu.reports._verdict import Verdict, verdict

if TYPE_CHECKING:
    import equimu.runs

# A repr fits on a screen.
_LINES, _COLUMNS, _PANEL_LINES = 40, 80, 6


@dataclass(frozen=True, kw_only=True, repr=False)
class Panel:
    """One panel of a sweep: a parameterization or an optimizer, at one value of whatever else varies.

    Attributes:
        name: its label.
        curves: loss against the number that is fitted, one per size, ascending.
        fit: their optima.
        law: the optima's dependence on size; None with fewer than two known ones.
        carried: the point of the value that is carried over from the smallest size: log2 of the learning rate by default.
        regrets: what that costs, for every size but the smallest.
        regret_growth: the loss that the carried-over value costs more with each doubling of size.
        useful: that cost beside what the larger sizes gain; None where either is not known.
        above_best: per size, the loss at the optimum less the lowest one of all panels at that size (and of the same others);
            None where either is not known.
        verdict: whether the best value transfers.
        leaves: what each leaf did, at the value that is carried over; None where the runs do not tell.
    """

    name: str
    curves: tuple[Curve, ...]
    fit: Fit
    law: Law | None
    carried: Real | None
    regrets: tuple[Regret, ...]
    regret_growth: Real | None
    useful: Useful | None
    above_best: tuple[Real | None, ...]
    verdict: Verdict
    leaves: Leaves | None

    def __repr__(self) -> str:
        return _filled(f"{self.name}: {self.verdict.sentence}")


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """A sweep, judged.

    The measures of transfer are those that arXiv 2605.21486 proposes: the scatter of the optimum about its law
    (`Law.scatter`), the loss that the carried-over value costs and its growth (`Panel.regrets`,
    `Panel.regret_growth`), and the loss at the optimum against the best panel (`Panel.above_best`).

    Attributes:
        panels: one per panel, in order of appearance.
        laws: the joint law over all sizes of each parameterization or optimizer, where two sizes vary or more.
    """

    panels: tuple[Panel, ...]
    laws: tuple[PanelLaw, ...] = ()

    @property
    def along(self) -> str:
        """What the sweep is over: `"width"`, `"depth"`, ..."""
        return self.panels[0].curves[0].along

    @property
    def fitted(self) -> Fitted:
        """The number whose best value is fitted, and its axis."""
        return self.panels[0].curves[0].fitted

    _repr_html_ = late_method("equimu.reports._html", "html_report")

    def __repr__(self) -> str:
        lines = [f"Report over {self.along}: {len(self.panels)} panel{'s' if len(self.panels) > 1 else ''}"]
        lines += [line for law in self.laws for line in _filled(f"{law.panel}: {law_text(law)}").splitlines()]
        lines += [line for panel in self.panels for line in repr(panel).splitlines()]
        if len(lines) > _LINES:
            lines[_LINES - 1 :] = ["  and more: see equimu.reports.print_table(report)"]
        return "\n".join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, _COLUMNS, initial_indent="  ", subsequent_indent="    ", max_lines=_PANEL_LINES)


def report(runs: "str | Path | Iterable[equimu.runs.Run] | Iterable[Cell]") -> Report:
    """Judges the finished runs of a sweep.

    Args:
        runs: the folder that holds them, the runs, or their cells, in any order; a sweep that is not complete is judged as far
            as it goes.

    Returns:
        Optima, laws, regrets and verdicts of each panel.

    Raises:
        EquimuError: there are no runs, one is given twice, or a learning rate is not positive.
    """
    cells = _cells(runs)
    groups = curves(cells)
    fits = {name: fit(group) for name, group in groups.items()}
    others = {cell.panel_name: cell.others for cell in cells}
    lowest: dict[Any, float] = {}
    for name, fitted in fits.items():
        for optimum in fitted.optima:
            if optimum.lowest is not None:
                at = (others[name], optimum.size)
                lowest[at] = min(optimum.lowest, lowest.get(at, optimum.lowest))
    panels: list[Panel] = []
    for name, group in groups.items():
        own = [cell for cell in cells if cell.panel_name == name]
        panels.append(
            _panel(name, group, fits[name], {s: low for (o, s), low in lowest.items() if o == others[name]}, own)
        )
    return Report(panels=tuple(panels), laws=panel_laws(cells, groups))


def _cells(runs: "str | Path | Iterable[equimu.runs.Run] | Iterable[Cell]") -> list[Cell]:
    """The cells that were given, or those of runs of this library, which need JAX to be read."""
    if isinstance(runs, str | Path):
        from equimu.reports._read import read_cells

        return read_cells(runs)
    given = list(runs)
    cells = [each for each in given if isinstance(each, Cell)]
    if len(cells) == len(given):
        return cells
    from equimu.reports._read import cells_of
    from equimu.runs import Run, Runs

    return cells_of(runs if isinstance(runs, Runs) else [each for each in given if isinstance(each, Run)])


def _panel(name: str, group: tuple[Curve, ...], fitted: Fit, lowest: dict[Real, Real], cells: list[Cell]) -> Panel:
    line = law(fitted)
    costs = regrets(group, fitted)
    carried = carried_rate(fitted)
    return Panel(
        name=name,
        curves=group,
        fit=fitted,
        law=line,
        carried=carried,
        regrets=costs,
        regret_growth=growth(costs),
        useful=useful(group, fitted),
        above_best=tuple(
            None if optimum.lowest is None else optimum.lowest - lowest[optimum.size] for optimum in fitted.optima
        ),
        verdict=verdict(group, fitted, line, costs),
        leaves=None if carried is None else leaves(cells, group[0].fitted, carried),
    )
