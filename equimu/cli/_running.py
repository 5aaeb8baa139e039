"""What commands that train runs share."""

import os

from equimu.runs import Run
from equimu.sweeps import Local, cores, launcher_from_text


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


def loss_text(run: Run) -> str:
    """The loss and the metrics of a run, or that it has none, or not yet."""
    if run.status == "diverged":
        return "diverged"
    if run.status == "paused":
        return f"loss {run.rows[-1]['loss']:.4f} in training at step {run.rows[-1]['step']} of {run.steps}"
    known = {name: value for name, value in run.validation_metrics.items() if value is not None}
    return ", ".join([f"loss {run.validation_loss:.4f}", *(f"{name} {value:.4f}" for name, value in known.items())])
