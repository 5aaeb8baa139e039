"""Running cells on this machine: what is done is not done again, what diverges is recorded."""

import concurrent.futures
import dataclasses
import itertools
import math
import os
import queue
import signal
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import jax

from equimu._errors import EquimuError, Interrupted
from equimu._values import Size, check
from equimu.processes import handle_signals
from equimu.runs import Run, RunConfig
from equimu.sweeps._pool import Launcher, OnCell, Pool, checked_cells, largest_first
from equimu.training import Programs, RuntimeConfig, build_tree, compile_ahead, data_of, program_key, train

_LANES = 8  # cells of one shape that a device computes together, at most
_AHEAD = 4  # programs that are compiled at the same time, of cells that are not trained yet


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RunPool:
    """Trains runs side by side, in threads that share their compiled programs, for as long as it is kept.

    Args:
        run: what all of them share.
        out, workers, runtime: as of `sweep`.
        vectorize: as of `Local`.

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
        self._out, self._runtime = checked_cells(run, out, runtime)
        mesh, is_cpu = self._runtime.data * self._runtime.fsdp * self._runtime.tensor, jax.default_backend() == "cpu"
        vectorize = not is_cpu and mesh == 1 if vectorize is None else vectorize
        # Virtual devices of a CPU share its cores.
        devices = [None] if is_cpu or mesh > 1 else jax.local_devices()
        if workers is None:
            workers = 1 if mesh > 1 else cores() if is_cpu else _LANES * len(devices) if vectorize else len(devices)
        if mesh > 1 and (workers > 1 or vectorize):
            # Two programs with collectives on the same devices can wait for each other.
            name, given = ("workers", f"={workers}") if workers > 1 else ("vectorize", "=true")
            raise EquimuError(f"{name}{given} cannot share a mesh of {mesh} devices; leave {name} out")
        lanes = math.ceil(workers / len(devices)) if vectorize else 1
        self.workers = workers
        self._programs = [Programs(lanes=lanes, device=device) for device in devices]
        # Whose programs a worker takes: in turn those of each device.
        self._turns: queue.SimpleQueue[Programs] = queue.SimpleQueue()
        for worker in range(workers):
            self._turns.put(self._programs[worker % len(devices)])

    def train(
        self, cells: Sequence[RunConfig], on_cell: OnCell | None = None, until: Mapping[RunConfig, int] | None = None
    ) -> dict[RunConfig, Run]:
        """As of `Pool`."""
        runs: dict[RunConfig, Run] = {}
        with handle_signals() as stop, concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            steps = largest_first(cells, until)
            ahead = self._compile_ahead(steps)
            futures = {pool.submit(self._train, cell, step): cell for cell, step in steps.items()}
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
                what = f"{done} of {len(cells)} {'cells' if until is None else 'cells of this round'} done"
                message = f"stopped with {what}; the same command goes on, from the last steps saved"
                raise Interrupted(stop.signum, message) from None
            ahead.shutdown()
        return runs

    def _train(self, cell: RunConfig, until: int) -> Run:
        programs = self._turns.get()
        try:
            return train(cell, out=self._out, runtime=self._runtime, programs=programs, until=until)
        finally:
            self._turns.put(programs)

    def _compile_ahead(self, ordered: Iterable[RunConfig]) -> concurrent.futures.Executor:
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

    def plan(self, cells: Sequence[RunConfig]) -> str:
        """As of `Pool`."""
        return f"on this machine, {min(self.workers, len(cells))} at a time"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """On this machine, in threads of this process that share their compiled programs."""

    name = "local"

    workers: Size | None = None
    """As of `sweep`."""
    vectorize: bool | None = None
    """Whether each device computes cells of one shape together, to the same numbers up to the rounding of float32; by default
    on accelerators. On a CPU each cell is computed for itself, to the same bits whatever runs beside it."""

    def pool(self, run: RunConfig, out: str | Path, runtime: RuntimeConfig | None) -> Pool:
        """As of `Launcher`."""
        return RunPool(run, out=out, workers=self.workers, runtime=runtime, vectorize=self.vectorize)


def check_trees(grid: Iterable[RunConfig]) -> None:
    """Builds each tree, which is where sizes are found not to fit.

    Args:
        grid: configs of runs.

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
