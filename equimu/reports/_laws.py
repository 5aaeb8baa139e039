"""The joint law of each panel of a sweep that is over several sizes, or why there is none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from equimu._errors import EquimuError
from equimu.reports._cells import Cell, Curve, curves
from equimu.reports._held_out import HeldOut, held_out
from equimu.reports._joint_law import JointLaw, fit_joint_law


@dataclass(frozen=True, kw_only=True)
class PanelLaw:
    """The joint law of a parameterization or an optimizer.

    Attributes:
        panel: its label.
        law: None where there is none.
        why_not: the reason then.
        held_out: how the law predicts optima that it has not seen.
    """

    panel: str
    law: JointLaw | None
    why_not: str | None
    held_out: tuple[HeldOut, ...]


def joint_law(cells: Iterable[Cell]) -> JointLaw:
    """The law of the best value over all sizes that a sweep varies: log2 value = a + sum of exponent · log2 size.

    All curves are fitted together, so that they share what is known of the noise and the form, and the optima are regressed by
    generalized least squares.

    Args:
        cells: the finished runs of one panel, in any order.

    Returns:
        The law.

    Raises:
        EquimuError: no cells, several panels, a single size that varies or none, a size without logarithm, or too few
            combinations of sizes to tell the exponents apart.
    """
    cells = list(cells)
    panels = list(dict.fromkeys(cell.panel for cell in cells))
    if len(panels) > 1:
        raise EquimuError(f"a joint law is of one panel, got {' and '.join(panels)}; give the cells of one")
    groups = curves(cells)
    if len(_varied(cells)) < 2:
        raise EquimuError(
            f"a joint law is over two sizes that vary or more, got {' and '.join(_varied(cells)) or 'none'}; "
            "report(...).panels has the law over one"
        )
    return _law(panels[0], cells, groups)


def panel_laws(cells: list[Cell], groups: Mapping[str, tuple[Curve, ...]]) -> tuple[PanelLaw, ...]:
    """The joint laws of all panels; none where fewer than two sizes vary.

    Args:
        cells: the finished runs.
        groups: their curves, by the names of panels with the values of their others.
    """
    found: list[PanelLaw] = []
    for panel in dict.fromkeys(cell.panel for cell in cells):
        own = [cell for cell in cells if cell.panel == panel]
        if len(_varied(own)) < 2:
            continue
        try:
            law = _law(panel, own, groups)
        except EquimuError as error:
            found.append(PanelLaw(panel=panel, law=None, why_not=str(error), held_out=()))
        else:
            found.append(PanelLaw(panel=panel, law=law, why_not=None, held_out=held_out(law)))
    return tuple(found)


def _law(panel: str, cells: list[Cell], groups: Mapping[str, tuple[Curve, ...]]) -> JointLaw:
    others = {cell.panel_name: dict(cell.others) for cell in cells}
    each = [(curve, {curve.along: curve.size, **rest}) for name, rest in others.items() for curve in groups[name]]
    return fit_joint_law(panel, [curve for curve, _ in each], [sizes for _, sizes in each])


def _varied(cells: list[Cell]) -> list[str]:
    sizes = [{cell.along: cell.size, **dict(cell.others)} for cell in cells]
    return [name for name in sizes[0] if len({each[name] for each in sizes}) > 1]
