"""Running a grid: what is done is not done again, what diverges is recorded."""

import concurrent.futures
import dataclasses
import itertools
import math
import os
import queue
import signal
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from equimu._errors import EquimuError, Interrupted
from equimu._values import Size, check, check_function
from equimu.files import local_folder
from equimu.processes import handle_signals, launcher
from equimu.runs import Run, RunConfig, Runs
from equimu.sweeps._early_stopping import TrainUntil
from equimu.sweeps._early_stopping import early_stopping as stop_early
from equimu.sweeps._grid import SweepConfig, curves, sweep_config
from equimu.tasks import Task
from equimu.training import Programs, RuntimeConfig, build_tree, compile_ahead, data_of, program_key, train

_LANES = 8  # cells of one shape that a device computes together, at most
_AHEAD = 4  # programs that are compiled at the same time, of cells that are not trained yet

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
    early_stopping: bool = False,
    vectorize: bool | None = None,
    **fields: Any,
) -> Runs:
    """Trains every cell of the grid that is not done yet. Interrupted and called again, it goes on where it was.

    SIGINT and SIGTERM end it after the steps that run, saved.

    Args:
        task: what is trained, the run that all cells share as a `RunConfig`, or the whole grid as a `SweepConfig`.
        out: root of the run folders.
        workers: cells that are trained at the same time, in threads that share their compiled programs. By default one for
            each core on CPUs, where two small steps side by side use two cores better than one step does (best with
            `XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`, as the command line sets), and on accelerators 8 for each device.
        runtime: how to carry each cell out. Cells of several devices each are trained one after the other, and a sweep is one
            process.
        on_cell: called after each cell with its run, the number of cells done, and of all cells.
        early_stopping: whether cells that cannot be the best of their curve are left before their end, and others trained to
            it where the verdict needs them. Called again without it, the sweep trains what was left to its end.
        vectorize: whether cells of one shape are computed together by each device; by default on accelerators. On a CPU each is
            computed for itself, to the same bits whatever runs beside it; together they differ by the rounding of float32.
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
    pool = RunPool(config.run, out=out, workers=workers, runtime=runtime, vectorize=vectorize)
    of_curves = list(curves(config))
    grid = [cell for curve in of_curves for cell in curve]
    check_trees(grid)
    check(bool, early_stopping=early_stopping)
    if early_stopping:
        return stop_early(of_curves, config.axes, _counted(pool, on_cell, len(grid)))
    runs = pool.train(grid, on_cell)
    return Runs((runs[cell] for cell in grid), config.axes)


def _counted(pool: "RunPool", on_cell: OnCell | None, total: int) -> TrainUntil:
    """Trains cells in several calls, with one count of those that ended."""
    ended = itertools.count(1)

    def on_run(run: Run, done: int, of: int) -> None:
        if on_cell is not None and run.status != "paused":
            on_cell(run, next(ended), total)

    return lambda until: pool.train(list(until), on_run, until)


class RunPool:
    """Trains runs side by side, in threads that share their compiled programs, for as long as it is kept.

    Args:
        run: what all of them share.
        out, workers, runtime, vectorize: as of `sweep`.

    Attributes:
        workers: runs that are trained at the same time.

    Raises:
        EquimuError: several processes, workers that cannot share a mesh, or a run that begins from a checkpoint.
    """

    def __init__(
        self,
        run: RunConfig,
        *,
        out: str | Path,
        workers: int | None = None,
        runtime: RuntimeConfig | None = None,
        vectorize: bool | None = None,
    ):
        check(Size | None, workers=workers)
        check(bool | None, vectorize=vectorize)
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
        mesh, is_cpu = runtime.data * runtime.fsdp * runtime.tensor, jax.default_backend() == "cpu"
        vectorize = not is_cpu and mesh == 1 if vectorize is None else vectorize
        # Virtual devices of a CPU share its cores.
        devices = [None] if is_cpu or mesh > 1 else jax.local_devices()
        if workers is None:
            workers = 1 if mesh > 1 else cores() if is_cpu else _LANES * len(devices) if vectorize else len(devices)
        if mesh > 1 and (workers > 1 or vectorize):
            # Two programs with collectives on the same devices can wait for each other.
            name, given = ("workers", f"={workers}") if workers > 1 else ("vectorize", "")
            raise EquimuError(f"{name}{given} cannot share a mesh of {mesh} devices; leave {name} out")
        lanes = math.ceil(workers / len(devices)) if vectorize else 1
        self.workers, self._out = workers, out
        self._programs = [Programs(lanes=lanes, device=device) for device in devices]
        # Whose programs a worker takes: in turn those of each device.
        self._turns: queue.SimpleQueue[Programs] = queue.SimpleQueue()
        for worker in range(workers):
            self._turns.put(self._programs[worker % len(devices)])
        self._runtime = dataclasses.replace(runtime, cluster="none")

    def train(
        self, cells: Sequence[RunConfig], on_cell: OnCell | None = None, until: Mapping[RunConfig, int] | None = None
    ) -> dict[RunConfig, Run]:
        """Trains those that are not done yet.

        Args:
            cells: the runs.
            on_cell: as of `sweep`.
            until: a step of each at which it is left, as of `train`; None for their ends.

        Raises:
            Interrupted: a signal came.
        """
        runs: dict[RunConfig, Run] = {}
        with handle_signals() as stop, concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            # The largest first: small cells at the end leave no worker without work.
            steps = {cell: cell.steps for cell in cells} if until is None else until
            ordered = sorted(cells, key=lambda cell: -math.prod(cell.size.values()) * steps[cell])
            ahead = self._compile_ahead(ordered)
            futures = {pool.submit(self._train, cell, steps[cell]): cell for cell in ordered}
            try:
                for future in concurrent.futures.as_completed(futures):
                    run = runs[futures[future]] = future.result()
                    if on_cell is not None:
                        on_cell(run, len(runs), len(cells))
            except BaseException as reason:
                stop.ask(stop.signum or signal.SIGINT)
                pool.shutdown(cancel_futures=True)
                ahead.shutdown(cancel_futures=True)
                if not isinstance(reason, Interrupted):
                    raise
                done = sum(f.done() and not f.cancelled() and f.exception() is None for f in futures)
                message = f"stopped with {done} of {len(cells)} cells done; the same command goes on, from the last steps saved"
                raise Interrupted(stop.signum, message) from None
            ahead.shutdown()
        return runs

    def _train(self, cell: RunConfig, until: int) -> Run:
        programs = self._turns.get()
        try:
            return train(cell, out=self._out, runtime=self._runtime, programs=programs, until=until)
        finally:
            self._turns.put(programs)

    def _compile_ahead(self, ordered: Sequence[RunConfig]) -> concurrent.futures.Executor:
        """Compiles the programs of the next cells while others are trained, where there are cores that have nothing to do."""
        spare = cores() - self.workers
        pool = concurrent.futures.ThreadPoolExecutor(max(1, min(spare, _AHEAD)))
        if spare > 0:
            first: dict[Hashable, RunConfig] = {}
            for cell in ordered:
                first.setdefault(program_key(cell), cell)
            for cell, programs in itertools.product(first.values(), self._programs):
                pool.submit(compile_ahead, cell, out=self._out, runtime=self._runtime, programs=programs)
        return pool


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
