"""The cells of a sweep as tasks of Ray."""

import dataclasses
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError, Interrupted
from equimu._values import Count, Index, NotNegative, takes_ints
from equimu.processes import handle_signals
from equimu.runs import Run, RunConfig
from equimu.sweeps._job import job_of, train_cell
from equimu.sweeps._pool import Launcher, OnCell, Pool, checked_cells, devices, folder_of, largest_first, reached
from equimu.training import RuntimeConfig

_POLL_SECONDS = 0.5
_SAVING_SECONDS = 60.0


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ray(Launcher):
    """As tasks of Ray, one for each cell. The folder of runs must be on a file system that all machines share."""

    name = "ray"

    address: str | None = None
    """Of a running cluster: auto, or ray://host:10001; None for the one that Ray finds, or else one of this machine alone."""
    cpus: Count = 1
    """Of each cell; gpus, too, of which it may be a part: 0.5."""
    gpus: NotNegative = 0.0
    """Of each cell."""
    restarts: Index = 3
    """How often a cell whose process or machine died goes on from its last checkpoint."""

    def pool(self, run: RunConfig, out: str | Path, runtime: RuntimeConfig | None) -> Pool:
        """As of `Launcher`.

        Raises:
            EquimuError: Ray is not installed, too.
        """
        if importlib.util.find_spec("ray") is None:
            raise EquimuError("the launcher ray needs Ray, which is not installed: pip install 'equimu[ray]'")
        return RayPool(self, *checked_cells(run, out, runtime))


class RayPool:
    """Trains cells as tasks of Ray; see `Pool`. A cluster that it starts ends with this process."""

    def __init__(self, launcher: Ray, root: Path, runtime: RuntimeConfig):
        self._launcher, self._root, self._runtime = launcher, root.absolute(), runtime

    @property
    def workers(self) -> int:
        """As of `Pool`."""
        there = self._ray().cluster_resources()
        asked = {"CPU": self._launcher.cpus, "GPU": self._launcher.gpus}
        return max(1, min(int(there.get(name, 0) / count) for name, count in asked.items() if count))

    def plan(self, cells: Sequence[RunConfig]) -> str:
        """As of `Pool`."""
        address = self._launcher.address
        where = "a cluster that runs here, or else is started here" if address is None else f"the cluster {address}"
        each = " and ".join(devices(self._launcher.cpus, self._launcher.gpus))
        return f"as tasks of Ray, with {each} for each, on {where}"

    def train(
        self, cells: Sequence[RunConfig], on_cell: OnCell | None = None, until: Mapping[RunConfig, int] | None = None
    ) -> dict[RunConfig, Run]:
        """As of `Pool`.

        Raises:
            EquimuError: a cell failed, or there is no cluster.
        """
        runs: dict[RunConfig, Run] = {}
        steps = largest_first(cells, until)

        def finished(cell: RunConfig) -> bool:
            run = reached(folder_of(cell, self._root).path, steps[cell])
            if run is not None:
                runs[cell] = run
                if on_cell is not None:
                    on_cell(run, len(runs), len(cells))
            return run is not None

        left = [cell for cell in steps if not finished(cell)]
        if not left:
            return runs
        jobs = [job_of(cell, steps[cell], self._root, self._runtime) for cell in left]
        ray = self._ray()
        remote = ray.remote(train_cell).options(
            num_cpus=self._launcher.cpus, num_gpus=self._launcher.gpus, max_retries=self._launcher.restarts
        )
        tasks = {remote.remote(**job): cell for job, cell in zip(jobs, left, strict=True)}
        with handle_signals() as stop:
            waiting = list(tasks)
            try:
                while waiting:
                    ended, waiting = ray.wait(waiting, timeout=_POLL_SECONDS)
                    for task in ended:
                        self._check(ray, task)
                        if not finished(tasks[task]):
                            raise EquimuError(
                                f"{self._root} does not show what Ray trained; give --out on a file system that all share"
                            )
                    if stop.signum:
                        done = f"stopped with {len(runs)} of {len(cells)} cells done"
                        raise Interrupted(stop.signum, f"{done}; the same command goes on, from the last steps saved")
            except BaseException:
                for task in waiting:
                    ray.cancel(task)  # as Ctrl-C does: the run is saved
                ray.wait(waiting, num_returns=len(waiting), timeout=_SAVING_SECONDS) if waiting else None
                raise
        return runs

    def _check(self, ray: Any, task: Any) -> None:
        try:
            ray.get(task)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            lines = [line for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
            raise EquimuError(f"a cell failed in Ray: {lines[0] if cause is error else lines[-1]}") from None

    def _ray(self) -> Any:
        ray = importlib.import_module("ray")
        if not ray.is_initialized():
            try:
                with warnings.catch_warnings():
                    # JAX warns of forks; what Ray forks becomes another program at once.
                    warnings.filterwarnings("ignore", r"os\.fork\(\)", RuntimeWarning)
                    ray.init(
                        address=self._launcher.address,
                        log_to_driver=False,
                        include_dashboard=False,
                        logging_level=logging.ERROR,
                    )
            except (ConnectionError, ValueError, RuntimeError) as error:
                message = (str(error).splitlines() or [type(error).__name__])[0]
                raise EquimuError(
                    f"there is no cluster of Ray at {self._launcher.address or 'this machine'}: {message}; leave address out "
                    "for one of this machine"
                ) from None
        return ray
