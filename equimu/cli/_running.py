"""What commands that train runs share."""

import os
from collections.abc import Mapping

from equimu._errors import counted
from equimu._progress import Progress
from equimu.runs import Run, RunConfig
from equimu.sweeps import Local, cores, launcher_from_text, work


def one_core_each(workers: int | None, launcher: str = "local") -> None:
    """As many steps side by side as there are cores, each on one. XLA reads this when its backend starts, later.

    Args:
        workers: runs side by side; None for one on each core.
        launcher: where they are trained; the processes of others than local have cores of their own.
    """
    local = launcher_from_text(launcher)
    if not isinstance(local, Local):
        return
    workers = local.workers if workers is None else workers
    if workers is None or workers >= cores():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


class CellProgress:
    """The progress of sweeps: first how many cells there are and were done before, then each of the others as it ends, with
    the time that is left.

    Args:
        bar: where it is printed.
        about: what is added to the first line.
    """

    def __init__(self, bar: Progress, about: str = ""):
        self._bar, self._about = bar, about
        self._left: dict[str, int] = {}
        self._total = self._work = 0

    def begin(self, left: Mapping[str, RunConfig], total: int) -> None:
        """As `on_begin` of `sweep`."""
        self._left = {name: work(cell, cell.steps) for name, cell in left.items()}
        self._total, self._work = total, sum(self._left.values())
        before = total - len(left)
        found = f"{counted(before, 'cell') if before else 'no cells'} done before, {len(left)} to train"
        self._bar.update(before, f"{found}{self._about}" if left else "all cells were done before", total)

    def ended(self, run: Run, text: str) -> None:
        """A cell ended, or was left. Nothing is printed of one that was done before."""
        if run.folder.name not in self._left:
            return
        if run.status != "paused":
            del self._left[run.folder.name]
        share = 1 - sum(self._left.values()) / self._work
        self._bar.update(self._total - len(self._left), text, self._total, share)


def loss_text(run: Run) -> str:
    """The loss and the metrics of a run, or that it has none, or not yet."""
    if run.status == "diverged":
        return "diverged"
    if run.status == "paused":
        return f"loss {run.rows[-1]['loss']:.4f} in training at step {run.rows[-1]['step']} of {run.steps}"
    known = {name: value for name, value in run.validation_metrics.items() if value is not None}
    return ", ".join([f"loss {run.validation_loss:.4f}", *(f"{name} {value:.4f}" for name, value in known.items())])
