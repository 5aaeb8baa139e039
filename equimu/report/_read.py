"""From run folders to the cells of a report."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._folder import local_folder
from equimu.report._cells import Cell
from equimu.sweep import parameterization_name
from equimu.train import Run, RunConfig, read_runs


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
        mine, first = _shared(run.config), _shared(runs[0].config)
        for name in mine:
            if mine[name] != first[name]:
                raise EquimuError(
                    f"runs of more than one sweep: {name} is {first[name]} in {runs[0].folder} and {mine[name]} in "
                    f"{run.folder}; give each sweep an --out of its own"
                )
    depths = len({run.config.model.n_layer for run in runs}) > 1
    if depths and len({run.config.model.width for run in runs}) > 1:
        raise EquimuError(
            "runs of several widths and several depths are no sweep over either; give each an --out of its own"
        )
    return [
        Cell(
            parameterization=parameterization_name(run.config.parameterization),
            size=run.config.model.n_layer if depths else run.config.model.width,
            along="depth" if depths else "width",
            learning_rate=run.config.optimizer.learning_rate,
            seed=run.config.seed,
            loss=run.validation_loss,
            initial_loss=run.rows[0].get("loss") if run.rows else None,  # of the batch before the first update
            leaves=_leaves(run),
            steps=run.config.steps,
        )
        for run in runs
    ]


def _leaves(run: Run) -> Mapping[str, Mapping[str, float]] | None:
    """What the leaves did, as told last before the end of the run, where the learning rate has all but vanished."""
    told = [row["leaves"] for row in run.rows if "leaves" in row]
    return told[max(len(told) - 2, 0)] if told else None


def _shared(config: RunConfig) -> dict[str, Any]:
    """What all runs of a sweep have in common, by the names of the flags."""
    values = dataclasses.asdict(config)
    del values["seed"], values["model"]["width"], values["model"]["n_layer"], values["optimizer"]["learning_rate"]
    for name in ("name", "form", "alignment", "alpha"):
        del values["parameterization"][name]
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
