"""From run folders to the cells of a report."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._values import Real
from equimu.files import local_folder
from equimu.reports._cells import Cell
from equimu.reports._fitted import Scale, scale_of
from equimu.runs import Axes, Run, Runs, find_number, flat, panels_of, read_runs, short_names, value_at

_RATE = "optimizer.learning_rate"


def read_cells(
    root: str | Path, *, fit: str | None = None, over: Sequence[str] = (), scale: Scale | None = None
) -> list[Cell]:
    """The cells of all finished runs in the folders below `root`.

    Args:
        root: of the run folders.
        fit, over, scale: as in `cells_of`.

    Returns:
        The cells by the values of the others, panel, size, value and seed.

    Raises:
        EquimuError: no such folder, no finished run in it, or as `cells_of`.
    """
    if os.path.isfile(root):
        raise EquimuError(
            f"{root} is a file; give the folder of the runs, or a table of other runs to `equimu verdict`"
        )
    root = local_folder(root, "the folder of runs")
    if not root.is_dir():
        raise EquimuError(f"there is no folder {root}; name the one that `equimu sweep --out` wrote")
    cells = cells_of(read_runs(root), fit=fit, over=over, scale=scale)
    # The folders are named by hashes, whose order says nothing.
    return sorted(cells, key=lambda cell: (cell.others, cell.panel, cell.size, cell.value, cell.seed))


def cells_of(
    runs: Iterable[Run], *, fit: str | None = None, over: Sequence[str] = (), scale: Scale | None = None
) -> list[Cell]:
    """The cells of finished runs.

    Args:
        runs: what `sweep` returned, which knows what it varied; or any runs that differ in numbers, tables of laws, optimizers
            and seeds alone.
        fit: name of the number that is fitted. By default that of the sweep; else the learning rate, or where it is the same
            everywhere the one number of the optimizer that is not.
        over: names of the numbers that the sweep is over; by default those that differ beside the one that is fitted.
        scale: of the number that is fitted; by default that of the sweep, or the one that its values are spaced on.

    Raises:
        EquimuError: the runs differ in more than a sweep varies, so their losses do not belong in one figure; an unknown name.
    """
    known = runs.axes if isinstance(runs, Runs) else None
    runs = list(runs)
    if not runs:
        return []
    flats = [dict(flat(run.identity["config"])) for run in runs]
    paths = [path for path, value in flats[0].items() if _is_number(value) and path != "seed"]
    if known is None or fit is not None or over:
        known = _axes(runs, flats, paths, fit, over)
    axes = (known.fit, *known.over)
    _check_shared(runs, flats, axes)
    panels = panels_of([run.identity["config"] for run in runs], axes)
    names = short_names(dict.fromkeys([*paths, *axes]))
    values = [each[known.fit] for each in flats]
    scale = scale or known.scale or scale_of(names[known.fit], values)
    first, *others = known.over
    return [
        Cell(
            panel=panel,
            size=value_at(run.identity["config"], first),
            along=names[first],
            others=tuple((names[path], value_at(run.identity["config"], path)) for path in others),
            value=value,
            fitted=names[known.fit],
            scale=scale,
            seed=run.seed,
            loss=run.validation_loss,
            initial_loss=_initial(run.rows),
            final_loss=_final(run.rows),
            leaves=_leaves(run),
            steps=run.steps,
        )
        for run, panel, value in zip(runs, panels, values, strict=True)
    ]


def _axes(runs: list[Run], flats: list[dict[str, Any]], paths: list[str], fit: str | None, over: Sequence[str]) -> Axes:
    """What the runs differ in; see `cells_of`."""
    fit = None if fit is None else find_number(fit, paths, "fit")
    given = [find_number(name, paths, "over") for name in over]
    varied = [path for path in paths if not path.startswith("base.") and _differs(path, flats)]
    if fit is not None and varied and fit not in varied:
        raise EquimuError(f"fit {fit} is {flats[0][fit]:g} in all runs; fit what differs: {' or '.join(varied)}")
    if fit is None:
        own = [path for path in varied if path.startswith("optimizer.") and path not in given]
        if len(own) > 1 and _RATE not in own:
            raise EquimuError(f"the runs differ in {' and '.join(own)}; say which is fitted, e.g. --fit {own[0]}")
        fit = _RATE if _RATE in own or not own else own[0]
    rest = [path for path in varied if path != fit]
    if not given:
        sizes = [path for path in paths if path.startswith("size.")]
        given = [path for path in sizes if path in rest] + [path for path in rest if path not in sizes] or sizes[:1]
        combinations = {tuple(each.get(path) for path in given) for each in flats}
        if len(combinations) < math.prod(len(set(values)) for values in zip(*combinations, strict=True)):
            path = next((path for path in given if path not in sizes), given[-1])
            one, other = 0, next(index for index, each in enumerate(flats) if each[path] != flats[0][path])
            raise EquimuError(
                f"runs of more than one sweep: {path} is {flats[one][path]} in {runs[one].folder} and {flats[other][path]} in "
                f"{runs[other].folder}, not each with all values of {given[0]}; give each sweep an --out of its own"
            )
    return Axes(fit=fit, over=tuple(given))


def _differs(path: str, flats: list[dict[str, Any]]) -> bool:
    """Whether a number differs between runs of one optimizer; what differs between optimizers makes them panels."""
    kinds: dict[Any, set[Any]] = {}
    for each in flats:
        if path in each:
            kinds.setdefault(each["optimizer.name"] if path.startswith("optimizer.") else None, set()).add(each[path])
    return any(len(values) > 1 and all(map(_is_number, values)) for values in kinds.values())


def _check_shared(runs: list[Run], flats: list[dict[str, Any]], axes: tuple[str, ...]) -> None:
    shared = [
        {"data": None if any(path.startswith("task.") for path in axes) else run.identity.get("data")}
        | {path: value for path, value in each.items() if path not in axes and not _may_differ(path)}
        for run, each in zip(runs, flats, strict=True)
    ]
    for run, mine, each in zip(runs[1:], shared[1:], flats[1:], strict=True):
        for name in {**shared[0], **mine}:
            if mine.get(name) != shared[0].get(name):
                raise EquimuError(
                    f"runs of more than one sweep: {name} is {shared[0].get(name)} in {runs[0].folder} and {mine.get(name)} in "
                    f"{run.folder}; give each sweep an --out of its own"
                )
        missing = next((path for path in axes if path not in each), None)
        if missing is not None:
            raise EquimuError(f"{run.folder} has no number {missing}; give each sweep an --out of its own")


def _may_differ(path: str) -> bool:
    return path in ("seed", "parameterization") or path.startswith("optimizer.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _losses(rows: Sequence[Mapping[str, Any]]) -> list[Real]:
    """The training losses of rows."""
    return [row["loss"] for row in rows if row.get("loss") is not None]


def _initial(rows: Sequence[Mapping[str, Any]]) -> Real | None:
    return next(iter(_losses(rows)), None)


def _final(rows: Sequence[Mapping[str, Any]]) -> Real | None:
    """The mean of the last tenth, as single batches are noisy."""
    losses = _losses(rows)
    last = losses[-math.ceil(len(losses) / 10) :]
    return sum(last) / len(last) if last else None


def _leaves(run: Run) -> Mapping[str, Mapping[str, Real]] | None:
    """What the leaves did, as recorded last before the end of the run, where the learning rate has all but vanished.

    None where nothing was recorded between the first step and the last.
    """
    measured = [row["leaves"] for row in run.rows if "leaves" in row]
    return measured[-2] if len(measured) > 2 else None
