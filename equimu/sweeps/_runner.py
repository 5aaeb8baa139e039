"""Running cells on this machine: what is done is not done again, what diverges is recorded."""

import concurrent.futures
import dataclasses
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from equimu._errors import EquimuError, Interrupted
from equimu._values import Size, check
from equimu.processes import handle_signals
from equimu.runs import Run, RunConfig
from equimu.sweeps._pool import Launcher, OnCell, Pool, checked_cells, largest_first
from equimu.training import Programs, RuntimeConfig, build_tree, data_of, train


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        self._out, runtime = checked_cells(run, out, runtime)
        devices = runtime.data * runtime.fsdp * runtime.tensor
        if workers is None:
            workers = cores() if jax.default_backend() == "cpu" and devices == 1 else 1
        if workers > 1 and devices > 1:
            # Two programs with collectives on the same devices can wait for each other.
            raise EquimuError(f"workers={workers} cannot share a mesh of {devices} devices; leave workers out")
        self.workers, self._runtime, self._programs = workers, runtime, Programs()

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
            shared: dict[str, Any] = {"out": self._out, "runtime": self._runtime, "programs": self._programs}
            futures = {pool.submit(train, cell, **shared): cell for cell in largest_first(cells)}
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

    def plan(self, cells: Sequence[RunConfig]) -> str:
        """As of `Pool`."""
        return f"on this machine, {min(self.workers, len(cells))} at a time"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Launcher):
    """On this machine, in threads of this process that share their compiled programs."""

    name = "local"

    workers: Size | None = None
    """As of `sweep`."""

    def pool(self, run: RunConfig, out: str | Path, runtime: RuntimeConfig | None) -> Pool:
        """As of `Launcher`."""
        return RunPool(run, out=out, workers=self.workers, runtime=runtime)


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
