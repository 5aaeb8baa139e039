"""What each leaf did, over the sizes of a sweep: for the case that a coordinate check passes and transfer still fails."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from equimu._values import Real
from equimu.reports._cells import Cell
from equimu.reports._fitted import Fitted


@dataclass(frozen=True, kw_only=True)
class LeafRow:
    """One leaf of a panel, in the runs at one value of the fitted number.

    Attributes:
        path: of the leaf.
        ratios: by size, root mean square of an update over that of the weight, the mean over seeds; None where the weight is
            zero or no run was.
        growth: octaves by which the ratio grows per doubling of the size, from the first size to the last.
        epsilon_share: by size, the share of entries whose update epsilon decides; None where the optimizer has none.
        decay: by size, the steps in which decay alone shrinks the weight by a factor of e, over the steps of the run; None
            without decay.
    """

    path: str
    ratios: tuple[Real | None, ...]
    growth: Real | None
    epsilon_share: tuple[Real | None, ...]
    decay: tuple[Real | None, ...]


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """The leaves of one panel.

    Attributes:
        point: of the value of the grid that the runs are of: the nearest to the one that is carried over.
        sizes: ascending.
        rows: one for each leaf.
    """

    point: Real
    sizes: tuple[Real, ...]
    rows: tuple[LeafRow, ...]


def leaves(cells: Iterable[Cell], fitted: Fitted, point: Real) -> Leaves | None:
    """Gathers what the leaves did in the runs at the value of the grid that is nearest to one.

    Args:
        cells: of one panel.
        fitted: the number that is fitted.
        point: of the value.

    Returns:
        None where no run tells.
    """
    recorded = [cell for cell in cells if cell.leaves is not None]
    if not recorded:
        return None
    nearest = min({fitted.point(cell.value) for cell in recorded}, key=lambda at: abs(at - point))
    near = [cell for cell in recorded if fitted.point(cell.value) == nearest]
    by_size = {size: [c for c in near if c.size == size] for size in sorted({cell.size for cell in near})}
    paths = list(dict.fromkeys(path for cell in near for path in (cell.leaves or {})))
    return Leaves(point=nearest, sizes=tuple(by_size), rows=tuple(_row(path, by_size) for path in paths))


def _row(path: str, by_size: Mapping[Real, list[Cell]]) -> LeafRow:
    def over_sizes(number: str, over: str | None = None) -> tuple[Real | None, ...]:
        return tuple(_mean([_read(cell, path, number, over) for cell in cells]) for cells in by_size.values())

    ratios = over_sizes("update_rms", "weight_rms")
    (first, *_, last), sizes = (ratios if len(ratios) > 1 else (None, None)), tuple(by_size)
    growth = math.log2(last / first) / math.log2(sizes[-1] / sizes[0]) if first and last and sizes[0] > 0 else None
    return LeafRow(
        path=path,
        ratios=ratios,
        growth=growth,
        epsilon_share=over_sizes("epsilon_share"),
        decay=over_sizes("decay_steps", "steps"),
    )


def _read(cell: Cell, path: str, number: str, over: str | None) -> Real | None:
    """A number of a leaf in a run, over another number of it or over the run's steps."""
    leaf = (cell.leaves or {}).get(path, {})
    below = {None: 1.0, "steps": cell.steps}.get(over, leaf.get(over or ""))
    return leaf[number] / below if number in leaf and below else None


def _mean(values: list[Real | None]) -> Real | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
