"""Running a grid, wherever its cells are trained; and what running it would do."""

from pathlib import Path
from typing import Any

from equimu._errors import counted
from equimu._values import check, check_function
from equimu.files import local_folder
from equimu.runs import Run, RunConfig, Runs
from equimu.sweeps._early_stopping import TrainUntil
from equimu.sweeps._early_stopping import early_stopping as stop_early
from equimu.sweeps._grid import SweepConfig, cells, curves, sweep_config
from equimu.sweeps._launchers import pool_of
from equimu.sweeps._pool import Launcher, OnBegin, OnCell, Pool, unfinished
from equimu.sweeps._runner import check_trees
from equimu.tasks import Task
from equimu.training import RuntimeConfig


def sweep(
    task: Task | RunConfig | SweepConfig,
    *,
    out: str | Path,
    workers: int | None = None,
    launcher: str | Launcher | None = None,
    runtime: RuntimeConfig | None = None,
    on_cell: OnCell | None = None,
    on_begin: OnBegin | None = None,
    early_stopping: bool = False,
    **fields: Any,
) -> Runs:
    """Trains every cell of the grid that is not done yet. Interrupted and called again, it goes on where it was.

    SIGINT and SIGTERM end it after the steps that run, saved; jobs of Slurm go on.

    Args:
        task: what is trained, the run that all cells share as a `RunConfig`, or the whole grid as a `SweepConfig`.
        out: root of the run folders.
        workers: cells that are trained at the same time, in threads that share their compiled programs. By default one for
            each core on CPUs, where two small steps side by side use two cores better than one step does (best with
            `XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`, as the command line sets), and on accelerators 8 for each device.
        launcher: where the cells are trained: `equimu.Local()`, by default; `equimu.Slurm(...)`, as tasks of a job array;
            `equimu.Ray(...)`; or the text of such a call, `"slurm(partition=gpu, gpus=1)"`.
        runtime: how to carry each cell out. Cells of several devices each are trained one after the other, and a sweep is one
            process.
        on_cell: called after each cell with its run, the number of cells done, and of all cells; with early stopping also with
            the runs of cells that are left, whose status is `"paused"`.
        on_begin: called before the first cell is trained with the cells that are not done yet, by the names of their folders,
            and the number of all cells.
        early_stopping: whether cells that cannot be the best of their curve are left before their end, and others trained to
            it where the verdict needs them. Called again without it, the sweep trains what was left to its end.
        fields: the other fields of `SweepConfig` (`over`, `fit`, `fit_scale`, `panels`, `seeds`, `base`) and of the
            `RunConfig` that all cells share (`steps`, `optimizer`, `size`, ...).

    Returns:
        The finished runs in the order of the grid, diverged ones among them, and those that were stopped early.

    Raises:
        EquimuError: whatever is wrong with any cell, before the first is trained.
        Interrupted: a signal came.

    Example:
        >>> runs = sweep(NextByte(), over={"width": (64, 128, 256)}, panels=("mup", "sp"), seeds=3, steps=500, out="runs/gru")
        >>> equimu.report(runs)
    """
    config = sweep_config(task, fields)
    if on_cell is not None:
        check_function("on_cell", on_cell, "of a run, the number of cells done, and of all")
    pool = pool_of(launcher, config.run, out=out, workers=workers, runtime=runtime)
    check(bool, early_stopping=early_stopping)
    of_curves = list(curves(config))
    grid = [cell for curve in of_curves for cell in curve]
    check_trees(grid)
    if on_begin is not None:
        check_function("on_begin", on_begin, "of the cells that are not done, by name, and the number of all")
        on_begin(unfinished(grid, local_folder(out, "--out")), len(set(grid)))
    if early_stopping:
        return stop_early(of_curves, config.axes, _counted(pool, on_cell, len(grid)))
    runs = pool.train(grid, on_cell)
    return Runs((runs[cell] for cell in grid), config.axes)


def _counted(pool: Pool, on_cell: OnCell | None, total: int) -> TrainUntil:
    """Trains cells in several calls, with one count of those that ended."""
    ended = 0

    def on_run(run: Run, done: int, of: int) -> None:
        nonlocal ended
        ended += run.status != "paused"
        if on_cell is not None:
            on_cell(run, ended, total)

    return lambda until: pool.train(list(until), on_run, until)


def dry_run(
    config: SweepConfig,
    *,
    out: str | Path,
    workers: int | None = None,
    launcher: str | Launcher | None = None,
    runtime: RuntimeConfig | None = None,
) -> str:
    """What `sweep` would do with these arguments, in words; nothing is trained or written.

    Args:
        config: of the sweep.
        out: folder of the runs.
        workers: cells at a time.
        launcher: where cells would be trained.
        runtime: devices and checkpoints of each cell.

    Raises:
        EquimuError: as of `sweep`.
    """
    pool = pool_of(launcher, config.run, out=out, workers=workers, runtime=runtime)
    grid = list(cells(config))
    check_trees(grid)
    left = list(unfinished(grid, local_folder(out, "--out")).values())
    found = f"{counted(len(grid), 'cell')}: {len(grid) - len(left)} done, {len(left)} to train"
    return f"{found} {pool.plan(left)}" if left else found
