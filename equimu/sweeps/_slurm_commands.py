"""Slurm as a sweep uses it: arrays are submitted by submitit, and states are asked of `squeue`."""

import contextlib
import io
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from equimu._errors import EquimuError
from equimu.sweeps._slurm_job import SlurmJob

_SECONDS = 60.0


class Submitted(NamedTuple):
    """A task of a job: its id, as `123` or `123_4`, and the path of its log."""

    job: str
    log: str


@runtime_checkable
class Scheduler(Protocol):
    """What a sweep needs of Slurm."""

    def submit(self, jobs: Sequence[tuple[Mapping[str, Any], str]]) -> list[Submitted]:
        """Queues jobs, by their arguments of `SlurmJob`, as one array."""
        ...

    def states(self) -> Mapping[str, str]:
        """The states of the user's jobs by their ids, as far as Slurm remembers."""
        ...

    def queue_again(self, job: str) -> bool:
        """Queues a job again that has ended; returns whether Slurm takes it."""
        ...


class SlurmCommands:
    """Slurm, by its commands.

    Args:
        folder: where submitit keeps scripts, pickles and logs.
        parameters: of submitit's executor.
        restarts: how often a task is queued again at its time limit.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any], restarts: int):
        self._folder, self._parameters, self._restarts = folder, parameters, restarts

    def submit(self, jobs: Sequence[tuple[Mapping[str, Any], str]]) -> list[Submitted]:
        """As of `Scheduler`.

        Raises:
            EquimuError: Slurm refuses them.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = submitit.SlurmExecutor(self._folder, max_num_timeout=self._restarts)
        executor.update_parameters(**self._parameters)
        try:
            # What sbatch says of a refusal is in the error, too.
            with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):
                made = executor.map_array(SlurmJob(), *zip(*jobs, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise EquimuError(f"Slurm refuses the jobs: {_words(str(error), 'sbatch: error: ')}") from None
        return [Submitted(job.job_id, str(job.paths.stdout)) for job in made]

    def states(self) -> Mapping[str, str]:
        """As of `Scheduler`.

        Raises:
            EquimuError: Slurm does not answer.
        """
        done = _run("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T")
        if done.returncode:
            raise EquimuError(f"Slurm does not answer: {_words(done.stderr, 'squeue: error: ')}")
        return dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)

    def queue_again(self, job: str) -> bool:
        """As of `Scheduler`."""
        return _run("scontrol", "requeue", job).returncode == 0


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} took longer than {_SECONDS:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error.strerror}")


def _outside_of_jobs() -> contextlib.AbstractContextManager[None]:
    """Inside of a job its variables, which `sbatch` would take for defaults, are left out."""
    import submitit

    return submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext()


def _words(text: str, mark: str) -> str:
    """What a command says of an error: the lines with a mark, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no word of why"]
    marked = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
    return "; ".join(dict.fromkeys(marked or lines[-1:]))[:300]
