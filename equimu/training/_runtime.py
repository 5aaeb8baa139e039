"""How a run is carried out, as opposed to what it is: no field changes which run it is, nor the folder it has."""

import dataclasses
from typing import Annotated, Literal

from equimu._errors import EquimuError
from equimu._values import Count, Index, OneOf, Seconds, Size, check_fields, takes_ints
from equimu.runs import logger_names
from equimu.training._profile import step_range


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Devices, processes, checkpoints and loggers of a run.

    Raises:
        EquimuError: a field that cannot be.
    """

    data: Size = 1
    """Devices over which the rows of a batch are spread, each with a copy of the weights."""
    fsdp: Size = 1
    """Devices over which rows and weights are spread."""
    tensor: Size = 1
    """Devices over which each layer is spread."""

    checkpoint_every: Count | None = None
    """Steps between checkpoints; None to go by time."""
    checkpoint_seconds: Seconds = 60.0
    """Seconds between checkpoints, and before the first: a shorter run has none."""
    keep: Count = 2
    """Newest checkpoints that are kept."""
    keep_every: Count | None = None
    """Checkpoints at multiples of this step are kept for good; None for none."""
    save_final: bool | None = None
    """Whether the last step is saved; None for runs that were saved before their end."""

    loggers: tuple[Annotated[str, OneOf(logger_names)], ...] = ()
    """What is sent the rows as they are written: tensorboard, wandb, mlflow, trackio, or others that were registered; see
    `equimu.runs.Logger`."""

    profile: str | None = None
    """Steps to trace by JAX's profiler, FIRST:LAST, such as 20:25; the trace is in `profile` in the run's folder."""

    cluster: Literal["auto", "none"] = "auto"
    """Whether a start by Slurm, Open MPI, Kubernetes or on a TPU pod is looked for, to join the processes."""
    coordinator: str | None = None
    """host:port of process 0, where processes are started by hand; the next two go with it."""
    processes: Size | None = None
    """How many there are."""
    process_id: Index | None = None
    """Number of this one, counted from 0."""
    heartbeat_seconds: Seconds = 30.0
    """A process that is silent for so long is taken for dead, and the others end."""

    def __post_init__(self) -> None:
        check_fields(self, "runtime.")
        by_hand = {name: getattr(self, name) for name in ("coordinator", "processes", "process_id")}
        if len({value is None for value in by_hand.values()}) > 1:
            lacking = ", ".join(f"runtime.{name}" for name, value in by_hand.items() if value is None)
            raise EquimuError(f"coordinator, processes and process_id go together; give {lacking} too")
        twice = next((name for name in self.loggers if self.loggers.count(name) > 1), None)
        if twice is not None:
            raise EquimuError(f"runtime.loggers names {twice} {self.loggers.count(twice)} times; name it once")
        if self.profile is not None:
            step_range(self.profile)
        host, _, port = (self.coordinator or "").rpartition(":")
        if self.coordinator is not None and not (host and port.isdecimal() and 0 < int(port[:9]) < 2**16):
            raise EquimuError(f"runtime.coordinator must be of the form host:port, got {self.coordinator!r}")
        if self.processes is not None and not 0 <= (self.process_id or 0) < self.processes:
            raise EquimuError(f"runtime.process_id counts from 0 to {self.processes - 1}, got {self.process_id}")
