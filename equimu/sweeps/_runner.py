"""Running a grid: what is done is not done again, what diverges is recorded."""

import concurrent.futures
import dataclasses
import math
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from equimu._errors import EquimuError, Interrupted
from equimu._values import Size, check, check_function
from equimu.files import local_folder
from equimu.processes import handle_signals, launcher
from equimu.runs import Run, RunConfig, Runs
from equimu.sweeps._grid import SweepConfig, cells, sweep_config
from equimu.tasks import Task
from equimu.training import Programs, RuntimeConfig, build_tree, data_of, train

OnCell = Callable[[Run, int, int], None]


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sweep(
    task: Task | RunConfig | SweepConfig,
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
        task: what is trained, the run that all cells share as a `RunConfig`, or the whole grid as a `SweepConfig`.
        out: root of the run folders.
        workers: cells that are trained at the same time, in threads that share their compiled programs. By default one for
            each core on CPUs, where two small steps side by side use two cores better than one step does (best with
            `XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`, as the command line sets), and 1 on accelerators.
        runtime: how to carry each cell out. Cells of several devices each are trained one after the other, and a sweep is one
            process.
        on_cell: called after each cell with its run, the number of cells done, and of all cells.

        fields: the other fields of `SweepConfig` (`over`, `fit`, `fit_scale`, `panels`, `seeds`, `base`) and of the
            `RunConfig` that all cells share (`steps`, `optimizer`, `size`, ...).

    Returns:
        The finished runs in the order of the grid, diverged ones among them.

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
    pool = RunPool(config.run, out=out, workers=workers, runtime=runtime)
    grid = list(cells(config))
    check_trees(grid)
    runs = pool.train(grid, on_cell)
    return Runs((runs[cell] for cell in grid), config.axes)


class RunPool:
    """Trains runs side by side, in threads that share their compiled programs, for as long as it is kept.

    Args:
        run: what all of them share.
        out, workers, runtime: as of `sweep`.

    Attributes:
        workers: runs that are trained at the same time.

    Raises:
        EquimuError: several processes, workers that cannot share a mesh, or a run that begins from a checkpoint.
    """

    def __init__(
        self, run: RunConfig, *, out: str | Path, workers: int | None = None, runtime: RuntimeConfig | None = None
    ):
        check(Size | None, workers=workers)
        runtime = RuntimeConfig() if runtime is None else runtime
        check(RuntimeConfig, runtime=runtime)
        local_folder(out, "--out")
        started_by = launcher(runtime)
        if started_by is not None:
            raise EquimuError(
                f"a sweep is one process, and {started_by} speaks of several; start one, with runtime.cluster none, or train "
                "the cells one by one"
            )
        if run.restore_from is not None:
            raise EquimuError("restore_from is for a single run; the cells of a sweep begin with fresh weights")
        devices = runtime.data * runtime.fsdp * runtime.tensor
        if workers is None:
            workers = cores() if jax.default_backend() == "cpu" and devices == 1 else 1
        if workers > 1 and devices > 1:
            # Two programs with collectives on the same devices can wait for each other.
            raise EquimuError(f"workers={workers} cannot share a mesh of {devices} devices; leave workers out")
        self.workers, self._out, self._programs = workers, out, Programs()
        self._runtime = dataclasses.replace(runtime, cluster="none")

    def train(self, cells: Sequence[RunConfig], on_cell: OnCell | None = None) -> dict[RunConfig, Run]:
        """Trains those that are not done yet.

        Args:
            cells: the runs.
            on_cell: as of `sweep`.

        Raises:
            Interrupted: a signal came.
        """
        runs: dict[RunConfig, Run] = {}
        with handle_signals() as stop, concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            # The largest first: small cells at the end leave no worker without work.
            ordered = sorted(cells, key=lambda cell: -math.prod(cell.size.values()) * cell.steps)
            shared: dict[str, Any] = {"out": self._out, "runtime": self._runtime, "programs": self._programs}
            futures = {pool.submit(train, cell, **shared): cell for cell in ordered}
            try:
                for future in concurrent.futures.as_completed(futures):
                    run = runs[futures[future]] = future.result()
                    if on_cell is not None:
                        on_cell(run, len(runs), len(cells))
            except BaseException as reason:
                stop.ask(stop.signum or signal.SIGINT)
                pool.shutdown(cancel_futures=True)
                if not isinstance(reason, Interrupted):
                    raise
                done = sum(f.done() and not f.cancelled() and f.exception() is None for f in futures)
                message = f"stopped with {done} of {len(cells)} cells done; the same command goes on, from the last steps saved"
                raise Interrupted(stop.signum, message) from None
        return runs


def check_trees(grid: Iterable[RunConfig]) -> None:
    """Builds each tree, which is where sizes are found not to fit.

    Raises:
        EquimuError: one does not.
    """
    trees = {
        (
            *(cell.task, cell.size, cell.base, cell.parameterization, type(cell.optimizer)),
            *(cell.optimizer.weight_decay_rule, cell.base_rows, cell.base_steps, cell.base_steps and cell.steps),
        ): cell
        for cell in grid
    }
    for cell in trees.values():
        build_tree(cell, data_of(cell.task).rows)
