"""The cells of a sweep as tasks of a Slurm job array."""

import dataclasses
import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from equimu._errors import EquimuError, Interrupted, printable
from equimu._values import Count, Index, Range, Size
from equimu.processes import handle_signals
from equimu.runs import CHECKPOINTS, Run, RunConfig
from equimu.sweeps._job import job_of
from equimu.sweeps._pool import Launcher, OnCell, Pool, checked_cells, devices, folder_of, largest_first, reached
from equimu.sweeps._slurm_commands import Scheduler, SlurmCommands, Submitted
from equimu.sweeps._slurm_record import SlurmRecord
from equimu.training import RuntimeConfig

Minutes: TypeAlias = Annotated[int, Range(least=5, below=2**31)]
_MOST_TASKS = 1000  # of an array, where the cluster does not say otherwise
_SEARCHED_TOGETHER = 8
_SEEN_SECONDS = 60.0  # until the end of a job is seen on a network file system
_KILLS_WITHOUT_PROGRESS = 3
_SILENT_SECONDS = 600.0  # that Slurm may be away
_ALIVE = frozenset(
    "PENDING RUNNING CONFIGURING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING REQUEUED REQUEUE_HOLD REQUEUE_FED "
    "RESV_DEL_HOLD SPECIAL_EXIT REVOKED".split()
)
# Jobs that ended otherwise, without a word from their cell, were killed: by a limit, by another job, with their node.
_FOR_GOOD = frozenset({"CANCELLED", "OUT_OF_MEMORY", "DEADLINE", "COMPLETED"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm(Launcher):
    """As tasks of a Slurm job array, one for each cell, submitted from a machine that has `sbatch`.

    The folder of runs must be on a file system that all machines share. A task that reaches its time limit, or is preempted,
    is saved and queued again, and one that was killed goes on from its last checkpoint.

    Raises:
        EquimuError: a field is not valid.
    """

    name = "slurm"

    partition: str | None = None
    """None for the cluster's own default; so are the next ones."""
    account: str | None = None
    """That the tasks are charged to."""
    memory: str | None = None
    """Of each task, as `sbatch --mem` takes it: 16G."""
    cpus: Count = 1
    """Of each task; gpus and minutes, too."""
    gpus: Index = 0
    """Of each task."""
    minutes: Minutes = 60
    """After which a task is saved and queued again; at least 5, as Slurm says so some two minutes ahead."""
    array_parallelism: Size | None = None
    """Tasks that run at the same time; None for as many as there is room for."""
    restarts: Index = 100
    """How often a task is queued again at its time limit."""
    sbatch: str = ""
    """More flags of sbatch: "--constraint=a100 --qos=high"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._flags()

    def pool(self, run: RunConfig, out: str | Path, runtime: RuntimeConfig | None) -> Pool:
        """As of `Launcher`.

        Raises:
            EquimuError: submitit or Slurm is not installed, too.
        """
        if importlib.util.find_spec("submitit") is None:
            raise EquimuError("the launcher slurm needs submitit, which is not installed: pip install 'equimu[slurm]'")
        if missing := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
            raise EquimuError(
                f"there is no {missing[0]} on this machine; run this on a login node of a Slurm cluster, or have equimu sweep "
                "--print-commands write a command for each cell"
            )
        root, runtime = checked_cells(run, out, runtime)
        record = SlurmRecord(root)
        return SlurmPool(self, root, runtime, record, SlurmCommands(record.folder, self._parameters(), self.restarts))

    def told(self) -> str:
        """What each task has, in words."""
        found = [*devices(self.cpus, self.gpus), *([f"{self.memory} of memory"] if self.memory else [])]
        return f"{', '.join(found)} and {self.minutes} minutes"

    def _flags(self) -> dict[str, str | bool]:
        found: dict[str, str | bool] = {}
        try:
            words = shlex.split(self.sbatch)
        except ValueError:
            words = [self.sbatch]
        for word in words:
            name, equals, value = word.removeprefix("--").partition("=")
            if not word.startswith("--") or not name:
                raise EquimuError(f"slurm.sbatch takes flags as --constraint=a100 --exclusive, got {word!r}")
            found[name] = value if equals else True
        return found

    def _parameters(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "job_name": "equimu",
            "partition": self.partition,
            "account": self.account,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "time": self.minutes,
            "array_parallelism": self.array_parallelism or _MOST_TASKS,
            "stderr_to_stdout": True,
            "additional_parameters": {
                "requeue": True,
                **({"mem": self.memory} if self.memory else {}),
                **self._flags(),
            },
        }
        return {name: value for name, value in given.items() if value is not None}


class SlurmPool:
    """Trains cells as tasks of job arrays, and waits for them; see `Pool`.

    Args:
        launcher: what was asked for.
        root: of the run folders.
        runtime: how to carry out each cell.
        record: of the jobs that there are.
        scheduler: Slurm.

    Attributes:
        poll_seconds: between two looks at the jobs.
    """

    poll_seconds: ClassVar[float] = 5.0

    def __init__(self, launcher: Slurm, root: Path, runtime: RuntimeConfig, record: SlurmRecord, scheduler: Scheduler):
        self._launcher, self._root, self._runtime = launcher, root, runtime
        self._record, self._scheduler = record, scheduler

    @property
    def workers(self) -> int:
        """As of `Pool`."""
        return self._launcher.array_parallelism or _SEARCHED_TOGETHER

    def plan(self, cells: Sequence[RunConfig]) -> str:
        """As of `Pool`."""
        names = [folder_of(cell, self._root).path.name for cell in cells]
        waiting = self._alive(names, self._record.jobs(), self._scheduler.states())
        new = len(cells) - len(waiting)
        here = "the default partition" if self._launcher.partition is None else f"partition {self._launcher.partition}"
        tasks = "one task" if new == 1 else f"an array of {new} tasks"
        array = f"as {tasks} on {here}, {'' if new == 1 else 'each '}with {self._launcher.told()}"
        already = f"{len(waiting)} by jobs that are queued or running"
        return ", ".join(([array] if new else []) + ([already] if waiting else []))

    def train(
        self, cells: Sequence[RunConfig], on_cell: OnCell | None = None, until: Mapping[RunConfig, int] | None = None
    ) -> dict[RunConfig, Run]:
        """As of `Pool`.

        Raises:
            EquimuError: Slurm refuses the jobs, or some of them failed.
        """
        runs: dict[RunConfig, Run] = {}
        with handle_signals() as stop:
            steps = largest_first(cells, until)
            left = {folder_of(cell, self._root).path.name: cell for cell in steps}

            def finished(name: str) -> bool:
                run = reached(self._root / name, steps[left[name]])
                if run is not None:
                    runs[left.pop(name)] = run
                    if on_cell is not None:
                        on_cell(run, len(runs), len(cells))
                return run is not None

            for name in list(left):
                finished(name)
            if not left:
                return runs
            watch = _Watch(self._scheduler, self._record, self._submitted(left, steps), self._root)
            while left:
                known = watch.look()
                for name in list(left):
                    if not finished(name) and known and watch.has_failed(name):
                        del left[name]
                looks = time.monotonic() + self.poll_seconds
                while left and time.monotonic() < looks and not stop.signum:
                    time.sleep(0.05)
                if left and stop.signum:
                    raise Interrupted(stop.signum, self._words_of_stop(len(runs), len(cells), watch, left))
        watch.raise_failures(len(cells))
        return runs

    def _submitted(self, cells: Mapping[str, RunConfig], steps: Mapping[RunConfig, int]) -> dict[str, Submitted]:
        """The job of each cell, new ones for those that have none."""
        # What another process cannot import is found before anything is written.
        jobs = {name: job_of(cell, steps[cell], self._root, self._runtime) for name, cell in cells.items()}
        with self._record.owned():
            known = self._record.jobs()
            waiting = self._alive(cells, known, self._scheduler.states())
            # A job may have ended since its cell was looked at.
            new = [
                name
                for name, cell in cells.items()
                if name not in waiting and reached(self._root / name, steps[cell]) is None
            ]
            for name in new:
                self._record.forget_error(name)
            for begin in range(0, len(new), _MOST_TASKS):
                names = new[begin : begin + _MOST_TASKS]
                made = self._scheduler.submit([(jobs[name], str(self._record.error_file(name))) for name in names])
                self._record.add(dict(zip(names, made, strict=True)))
            return {name: job for name, job in self._record.jobs().items() if name in cells}

    @staticmethod
    def _alive(
        names: Sequence[str] | Mapping[str, Any], jobs: Mapping[str, Submitted], states: Mapping[str, str]
    ) -> list[str]:
        return [name for name in names if name in jobs and states.get(jobs[name].job) in _ALIVE]

    @staticmethod
    def _words_of_stop(done: int, count: int, watch: "_Watch", left: Mapping[str, RunConfig]) -> str:
        arrays = sorted({watch.jobs[name].job.partition("_")[0] for name in left}, key=int)
        return (
            f"stopped waiting with {done} of {count} cells done; the jobs of the others go on: the same command waits for them "
            f"again, and scancel {' '.join(arrays)} cancels them"
        )


class _Watch:
    """What became of jobs.

    Args:
        scheduler: Slurm.
        record: where jobs say what went wrong.
        jobs: by the names of their cells.
        root: of the run folders.
    """

    def __init__(self, scheduler: Scheduler, record: SlurmRecord, jobs: Mapping[str, Submitted], root: Path):
        self.jobs = jobs
        self._scheduler, self._record, self._root = scheduler, record, root
        self._states: Mapping[str, str] = {}
        self._heard = time.monotonic()
        self._kills: dict[str, list[frozenset[str]]] = {}
        self._ended: dict[str, float] = {}
        self._failures: dict[str, str] = {}

    def look(self) -> bool:
        """Asks for the states of all jobs, and returns whether Slurm answered.

        Raises:
            EquimuError: Slurm has not answered for long.
        """
        try:
            self._states = self._scheduler.states()
            self._heard = time.monotonic()
            return True
        except EquimuError:
            if time.monotonic() - self._heard > _SILENT_SECONDS:
                raise
            return False

    def has_failed(self, name: str) -> bool:
        """Whether the job of a cell that is not done has ended for good. One that was killed is queued again."""
        job = self.jobs[name].job
        state = self._states.get(job, "")
        if state in _ALIVE:
            self._ended.pop(name, None)
            return False
        since = self._ended.setdefault(name, time.monotonic())
        error = self._record.error(name)
        if error is None:
            if state and state not in _FOR_GOOD and self._gets_on(name) and self._scheduler.queue_again(job):
                self._kills.setdefault(name, []).append(self._saved(name))
                del self._ended[name]
                return False
            if time.monotonic() - since < _SEEN_SECONDS:
                return False  # its end may be seen later than Slurm tells of it, or somebody queues it again
            error = f"job {job} ended as {state or 'unknown to Slurm'} before its run did"
        self._failures[name] = f"{error}; its log is {self.jobs[name].log}"
        print(f"equimu: cell {name} failed: {printable(self._failures[name])}", file=sys.stderr, flush=True)
        return True

    def _gets_on(self, name: str) -> bool:
        """Whether a run was not killed several times at the same place."""
        return self._kills.get(name, []).count(self._saved(name)) < _KILLS_WITHOUT_PROGRESS

    def _saved(self, name: str) -> frozenset[str]:
        """The checkpoints of a run."""
        try:
            return frozenset(os.listdir(self._root / name / CHECKPOINTS))
        except OSError:
            return frozenset()

    def raise_failures(self, count: int) -> None:
        """Raises an `EquimuError` if jobs have failed."""
        if self._failures:
            first = next(iter(self._failures.values()))
            raise EquimuError(
                f"{len(self._failures)} of {count} cells failed, and the same command tries them again; the first: {first}"
            )
