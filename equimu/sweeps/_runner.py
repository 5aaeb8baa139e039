"""Running a grid: what is done is not done again, what diverges is recorded."""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from equimu._errors import EquimuError
from equimu._values import Size, check, check_function
from equimu.processes import handle_signals, launcher
from equimu.runs import Run, RunConfig
from equimu.storage import local_folder
from equimu.sweeps._grid import SweepConfig, cells, sweep_config
from equimu.tasks import Task
from equimu.training import RuntimeConfig, build_tree, data_of, train

_SHOWN = 20  # runs that the repr of a sweep names

OnCell = Callable[[Run, int, int], None]


class Runs(list[Run]):
    """The finished runs of a sweep, a list that prints as a summary and the first few of them."""

    def __repr__(self) -> str:
        lost = sum(run.status == "diverged" for run in self)
        lines = [f"{len(self)} runs, {lost} diverged"]
        for run in self[:_SHOWN]:
            line = (
                f"{run.parameterization}, {run.size}, log2 LR {math.log2(run.learning_rate):g}, seed {run.seed}: "
                + (f"{run.validation_loss:.4f}" if run.status == "finished" else "diverged")
            )
            lines.append(f"  {line[:78]}")
        if len(self) > _SHOWN:
            lines.append(f"  and {len(self) - _SHOWN} more")
        return "\n".join(lines)


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sweep(
    task: Task | SweepConfig,
    *,
    out: str | Path,
    workers: int | None = None,
    runtime: RuntimeConfig | None = None,
    on_cell: OnCell | None = None,
    **fields: Any,
) -> Runs:
    """Trains every cell of the grid that is not done yet. Interrupted and called again, it goes on where it was.

    SIGINT and SIGTERM end it after the steps that run, saved.

    Args:
        task: what is trained, or the whole grid as a `SweepConfig`.
        out: root of the run folders.
        workers: cells that are trained at the same time, in threads that share their compiled programs. By default one for
            each core on CPUs, where two small steps side by side use two cores better than one step does (best with
            `XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`, as the command line sets), and 1 on accelerators.
        runtime: how to carry each cell out. Cells of several devices each are trained one after the other, and a sweep is one
            process.
        on_cell: called after each cell with its run, the number of cells done, and of all cells.

        fields: the other fields of `SweepConfig` (`over`, `parameterizations`, `log2_learning_rates`, `seeds`, `base`) and of
            the `RunConfig` that all cells share (`steps`, `optimizer`, `size`, ...).

    Returns:
        The finished runs in the order of the grid, diverged ones among them.

    Raises:
        EquimuError: whatever is wrong with any cell, before the first is trained.
        Interrupted: a signal came.

    Example:
        >>> runs = sweep(NextByte(), over={"width": (64, 128, 256)}, parameterizations=("mup", "sp"), steps=500, out="runs/gru")
        >>> equimu.report(runs)
    """
    config = sweep_config(task, fields)
    check(Size | None, workers=workers)
    runtime = RuntimeConfig() if runtime is None else runtime
    check(RuntimeConfig, runtime=runtime)
    if on_cell is not None:
        check_function("on_cell", on_cell, "of a run, the number of cells done, and of all")
    local_folder(out, "--out")
    started_by = launcher(runtime)
    if started_by is not None:
        raise EquimuError(
            f"a sweep is one process, and {started_by} speaks of several; start one, with runtime.cluster none, or train the "
            "cells one by one"
        )
    if config.run.restore_from is not None:
        raise EquimuError("restore_from is for a single run; the cells of a sweep begin with fresh weights")
    devices = runtime.data * runtime.fsdp * runtime.tensor
    if workers is None:
        workers = cores() if jax.default_backend() == "cpu" and devices == 1 else 1
    if workers > 1 and devices > 1:
        # Two programs with collectives on the same devices can wait for each other.
        raise EquimuError(f"workers={workers} cannot share a mesh of {devices} devices; leave workers out")
    grid = list(cells(config))
    _check(grid)
    alone = dataclasses.replace(runtime, cluster="none")
    runs: dict[RunConfig, Run] = {}
    with handle_signals() as stop, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # The largest first: small cells at the end leave no worker without work.
        ordered = sorted(grid, key=lambda cell: -math.prod(cell.size.values()))
        futures = {pool.submit(train, cell, out=out, runtime=alone): cell for cell in ordered}
        try:
            for future in concurrent.futures.as_completed(futures):
                run = runs[futures[future]] = future.result()
                if on_cell is not None:
                    on_cell(run, len(runs), len(grid))
        except BaseException:
            stop.ask()
            pool.shutdown(cancel_futures=True)
            raise
    return Runs(runs[cell] for cell in grid)


def _check(grid: list[RunConfig]) -> None:
    """Builds the tree of each size and parameterization, which is where sizes are found not to fit."""
    rows = data_of(grid[0].task).rows
    for cell in {(cell.size, cell.parameterization): cell for cell in grid}.values():
        build_tree(cell, rows)
