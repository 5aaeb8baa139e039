"""From run folders to the cells of a report."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu.reports._cells import Cell
from equimu.runs import Run, read_runs
from equimu.storage import local_folder


def read_cells(root: str | Path) -> list[Cell]:
    """The cells of all finished runs in the folders below `root`.

    Raises:
        EquimuError: no such folder, no finished run in it, or runs that differ in more than a sweep varies.
    """
    root = local_folder(root, "the folder of runs")
    if not root.is_dir():
        raise EquimuError(f"there is no folder {root}; name the one that `equimu sweep --out` wrote")
    return cells_of(read_runs(root))


def cells_of(runs: Iterable[Run]) -> list[Cell]:
    """The cells of finished runs.

    Raises:
        EquimuError: the runs differ in more than a sweep varies, so their losses do not belong in one figure.
    """
    runs = list(runs)
    for run in runs[1:]:
        mine, first = _shared(run), _shared(runs[0])
        for name in {**first, **mine}:
            if mine.get(name) != first.get(name):
                raise EquimuError(
                    f"runs of more than one sweep: {name} is {first.get(name)} in {runs[0].folder} and {mine.get(name)} in "
                    f"{run.folder}; give each sweep an --out of its own"
                )
    sizes = list(runs[0].size) if runs else []
    varied = [name for name in sizes if len({run.size[name] for run in runs}) > 1]
    if len(varied) > 1:
        raise EquimuError(
            f"runs of several values of {' and of '.join(varied)} are no sweep over either; give each an --out of its own"
        )
    along = (varied or sizes[:1] or ["size"])[0]
    return [
        Cell(
            parameterization=run.parameterization,
            size=run.size[along],
            along=along,
            learning_rate=run.learning_rate,
            seed=run.seed,
            loss=run.validation_loss,
            initial_loss=run.rows[0].get("loss") if run.rows else None,
            leaves=_leaves(run),
            steps=run.steps,
        )
        for run in runs
    ]


def _leaves(run: Run) -> Mapping[str, Mapping[str, float]] | None:
    """What the leaves did, as told last before the end of the run, where the learning rate has all but vanished."""
    told = [row["leaves"] for row in run.rows if "leaves" in row]
    return told[max(len(told) - 2, 0)] if told else None


def _shared(run: Run) -> dict[str, Any]:
    """What all runs of a sweep have in common, by the names of the flags."""
    config = run.identity["config"]
    varied = ("seed", "parameterization", "size", "optimizer.learning_rate")
    flat = {"data": run.identity.get("data"), "names of sizes": ", ".join(run.size)}
    return flat | {name: value for name, value in _flat(config, "") if name not in varied}


def _flat(value: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        path = f"{where}{name}"
        if isinstance(each, Mapping) and path not in ("parameterization", "size"):
            yield from _flat(each, f"{path}.")
        else:
            yield path, each
