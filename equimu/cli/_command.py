"""What all commands share."""

import abc
import os
from typing import Any, ClassVar

import tyro

from equimu._errors import EquimuError, nearest
from equimu._values import PathLike, checked, hints_of
from equimu.runs import Run
from equimu.sweeps import cores

Place = tyro.conf.Positional[PathLike]


class Command(abc.ABC):
    """A command as its flags, checked.

    - `config_class`: of its field `config`, which `--config FILE` fills and whose task is named on the command line; None for
      commands without one.
    """

    config_class: ClassVar[type | None] = None

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value: Any = getattr(self, name)
            value = value.plain() if name == "config" and hasattr(value, "plain") else value
            object.__setattr__(self, name, value if name == "config" else checked(name, value, hint))

    @abc.abstractmethod
    def __call__(self) -> None:
        """Runs it."""


def check_format(given: str, *valid: str) -> None:
    """Raises an `EquimuError` unless a format is one of those."""
    if given not in valid:
        raise EquimuError(f"format {given!r} is unknown: {nearest(given, valid)}")


def one_core_each(workers: int | None) -> None:
    """As many steps side by side as there are cores, each on one. XLA reads this when its backend starts, later.

    Args:
        workers: runs side by side; None for one on each core.
    """
    if workers is None or workers >= cores():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


def loss_text(run: Run) -> str:
    """The loss and the metrics of a run, or that it has none."""
    if run.status == "diverged":
        return "diverged"
    known = {name: value for name, value in run.validation_metrics.items() if value is not None}
    return ", ".join([f"loss {run.validation_loss:.4f}", *(f"{name} {value:.4f}" for name, value in known.items())])
