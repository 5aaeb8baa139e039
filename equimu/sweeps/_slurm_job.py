"""A cell as a task of a Slurm job: before the time limit, or a preemption, it is saved and queued again."""

import contextlib
import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from equimu._errors import Interrupted
from equimu.files import write_files
from equimu.processes import handle_signals
from equimu.sweeps._job import train_cell

_AHEAD = signal.SIGUSR2  # which Slurm sends some time before the limit, as submitit asks it to
_KILL_SECONDS = 600.0  # Slurm's grace before it kills is shorter


class SlurmJob:
    """What submitit calls in the job, and pickles again where it is queued again."""

    def __call__(self, arguments: Mapping[str, Any], error: str) -> str:
        """Trains a cell.

        Args:
            arguments: of `train_cell`.
            error: a file for what goes wrong.

        Returns:
            The name of the run's folder.
        """
        path = Path(error)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        try:
            return _train(arguments)
        except Exception as failure:
            message = " ".join(str(failure).split()) or type(failure).__name__
            write_files(path.parent, {path.name: json.dumps({"error": message}).encode()})
            raise

    def checkpoint(self, arguments: Mapping[str, Any], error: str) -> Any:
        """What is run when the job is queued again: the same, as the run goes on from its folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, arguments, error)


def _train(arguments: Mapping[str, Any]) -> str:
    queue_again: Any = signal.getsignal(_AHEAD)  # submitit's, which ends this process
    ahead = False
    with handle_signals() as stop:

        def heard(signum: int, frame: FrameType | None) -> None:
            nonlocal ahead
            ahead = True
            stop.ask(signal.SIGTERM)

        signal.signal(_AHEAD, heard)
        try:
            return train_cell(**arguments)
        except Interrupted:
            # SIGTERM alone says that Slurm is about to kill: to cancel the job, or to queue it again by itself, which it does
            # only with jobs that did not end before.
            until = time.monotonic() + _KILL_SECONDS
            while not ahead and time.monotonic() < until:
                time.sleep(0.1)
            if ahead and callable(queue_again):
                queue_again(_AHEAD, None)
            raise
        finally:
            signal.signal(_AHEAD, queue_again)
