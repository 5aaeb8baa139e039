"""From a table that another trainer left to the cells of a report."""

import collections
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError, counted
from equimu._values import Real, shown
from equimu.reports._cells import Cell
from equimu.reports._columns import Columns, find_columns
from equimu.reports._fitted import Scale, scale_of
from equimu.tables import Row, read_rows

_UNFINISHED = {"running", "pending", "scheduled", "queued", "preempting", "preempted"}
_FAILED = {"crashed", "failed", "killed"}
_TRUTHS = {"true", "false", "0", "1"}


@dataclass(frozen=True, kw_only=True, repr=False)
class TableRuns:
    """The runs of a table, one after another what `report` takes.

    Attributes:
        cells: the runs.
        columns: which columns they were read from; prints as `"width from d_model, learning_rate from lr, ..."`.
        left_out: why rows were left out, with how many.
    """

    cells: tuple[Cell, ...]
    columns: Columns
    left_out: tuple[str, ...]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __repr__(self) -> str:
        out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{len(self.cells)} runs: {self.columns!r}{out}"


def read_table(
    place: str | Path,
    *,
    size: str | None = None,
    fit: str | None = None,
    loss: str | None = None,
    panel: str | None = None,
    seed: str | None = None,
    step: str | None = None,
    scale: Scale | None = None,
) -> TableRuns:
    """The runs of a table that another trainer left, as `report` takes them. JAX is not imported.

    A loss that is empty or not finite is that of a run that diverged. With a column of steps, the last row of a run that has
    a loss counts. Runs that are still running, and those that failed with a finite loss, are left out.

    Args:
        place: a file of CSV or JSON Lines, also as exported from Weights & Biases or MLflow; or a folder `wandb`, `mlruns`, or
            of TensorBoard.
        size: the column of what the sweep is over; by default one that is called as widths or depths are.
        fit: the column of the number whose best value is looked for; by default one that is called as learning rates are.
        loss: the column of the loss; by default that of a validation loss, else of a loss.
        panel: the column of what is compared, as parameterizations are; none if none is called so.
        seed: the column of the seeds; none if none is called so.
        step: the column of the steps, of a table with several rows for a run.
        scale: of the number that is fitted; by default log2 for learning rates, else the one that its values are spaced on.

    Raises:
        EquimuError: it cannot be read; a column is not there; a value is not a number; the same run is there twice; there is
            only one size.
    """
    given = {"size": size, "fit": fit, "loss": loss, "panel": panel, "seed": seed, "step": step}
    rows = read_rows(place)
    columns = find_columns(rows, given)
    runs: dict[tuple[Any, ...], list[Row]] = {}
    left_out: collections.Counter[str] = collections.Counter()
    for row in rows:
        reason = _unfit(row, columns)
        if reason is None:
            runs.setdefault((*_place(row, columns), columns.of("run", row)), []).append(row)
        else:
            left_out[reason] += 1
    last = [_last(steps, columns) for steps in runs.values()]
    _check(last, columns, left_out)
    panels = _panel_texts(last, columns, Path(place).stem)
    along, fitted = columns.word("size"), columns.word("fit")
    if scale is None:
        rates = fitted == "learning_rate"
        scale = "log2" if rates else scale_of(fitted, [_number("fit", row, columns) for row in last])
    cells = [
        Cell(
            panel=text,
            size=_number("size", row, columns),
            value=_number("fit", row, columns),
            seed=_seed(row, columns),
            loss=_loss(row, columns),
            along=along,
            fitted=fitted,
            scale=scale,
        )
        for row, text in zip(last, panels, strict=True)
    ]
    said = tuple(f"{count} row{'s' if count > 1 else ''} {reason}" for reason, count in left_out.items())
    return TableRuns(cells=tuple(cells), columns=columns, left_out=said)


def _unfit(row: Row, columns: Columns) -> str | None:
    """Why a row is left out; None if it is not."""
    state = str(columns.of("state", row) or "").lower()
    if state in _UNFINISHED:
        return f"of runs that are {state}"
    missing = next((columns.names[role] for role in ("size", "fit") if columns.of(role, row) is None), None)
    if missing is not None:
        return f"without {missing}"
    if state in _FAILED and math.isfinite(_loss(row, columns)):
        return f"of runs that {'were ' if state == 'killed' else ''}{state} with a finite loss"
    return None


def _place(row: Row, columns: Columns) -> tuple[Any, ...]:
    """Which cell of the sweep a row is of."""
    return (
        str(columns.of("panel", row)),
        _number("size", row, columns),
        _number("fit", row, columns),
        _seed(row, columns),
    )


def _last(steps: Sequence[Row], columns: Columns) -> Row:
    """The row of a run that counts."""
    at: dict[float, Row] = {}
    for row in steps:
        step = -math.inf if columns.of("step", row) is None else _number("step", row, columns)
        if step in at:
            raise EquimuError(_twice(at[step], row, columns))
        at[step] = row
        _loss(row, columns)  # which must be a number at every step
    return max(at.items(), key=lambda pair: (columns.of("loss", pair[1]) is not None, pair[0]))[1]


def _check(runs: Sequence[Row], columns: Columns, left_out: Mapping[str, int]) -> None:
    if not runs:
        reasons = ", ".join(f"{counted(n, 'row')} {reason}" for reason, n in left_out.items())
        raise EquimuError(f"no finished run is left: {reasons}")
    seen: dict[tuple[Any, ...], Row] = {}
    for row in runs:
        other = seen.setdefault(_place(row, columns), row)
        if other is not row:
            raise EquimuError(_twice(other, row, columns))
    sizes = {_number("size", row, columns) for row in runs}
    if len(sizes) == 1:
        column = columns.names["size"]
        raise EquimuError(
            f"{column} is {sizes.pop():g} in all runs, and a verdict compares sizes; run another, or name another column with "
            "--size"
        )


def _twice(one: Row, other: Row, columns: Columns) -> str:
    here = ", ".join(
        f"{columns.names[role]} {columns.of(role, one)}"
        for role in ("panel", "size", "fit", "seed")
        if role in columns.names
    )
    missing = [f"--{role}" for role in ("seed", "step", "panel") if role not in columns.names]
    return (
        f"{one.where} and {other.where} are both of {here}; leave one out, or name the column that tells them apart"
        + (f" with {' or '.join(missing)}" if missing else "")
    )


def _panel_texts(runs: Iterable[Row], columns: Columns, otherwise: str) -> list[str]:
    """The label of each run's panel; a column that says yes or no has its name in front."""
    if "panel" not in columns.names:
        return [otherwise for _ in runs]
    texts = [str(columns.of("panel", row)) for row in runs]
    name = f"{columns.names['panel']}=" if {text.lower() for text in texts} <= _TRUTHS else ""
    return [f"{name}{text}" for text in texts]


def _loss(row: Row, columns: Columns) -> Real:
    """NaN where nothing is there."""
    return math.nan if columns.of("loss", row) is None else _number("loss", row, columns, finite=False)


def _seed(row: Row, columns: Columns) -> int:
    if columns.of("seed", row) is None:
        return 0
    number = _number("seed", row, columns)
    if not number.is_integer():
        raise EquimuError(f"{row.where}: {columns.names['seed']} is {number:g}, and a seed is a whole number")
    return int(number)


def _number(role: str, row: Row, columns: Columns, *, finite: bool = True) -> float:
    value = columns.of(role, row)
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or (finite and not math.isfinite(number)):
        raise EquimuError(
            f"{row.where}: {columns.names[role]} is {shown(value)}, which is no {'finite ' if finite else ''}number; "
            f"correct it, or name another column with --{role}"
        )
    return number
