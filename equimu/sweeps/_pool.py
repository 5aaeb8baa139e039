"""What trains the cells of a sweep: pools, and the launchers that make them."""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from equimu._errors import EquimuError
from equimu._values import Real, check, check_fields
from equimu.files import local_folder
from equimu.processes import launcher as started_by
from equimu.runs import Run, RunConfig, RunFolder, read_paused, read_run
from equimu.training import RuntimeConfig, data_of

OnCell = Callable[[Run, int, int], None]
OnBegin = Callable[[Mapping[str, RunConfig], int], None]


@runtime_checkable
class Pool(Protocol):
    """Trains runs, for as long as it is kept."""

    @property
    def workers(self) -> int:
        """How many runs a search should ask for together: about as many as are trained at the same time."""
        ...

    def train(
        self, cells: Sequence[RunConfig], on_cell: OnCell | None = None, until: Mapping[RunConfig, int] | None = None
    ) -> dict[RunConfig, Run]:
        """Trains those that are not done yet.

        Args:
            cells: the runs.
            on_cell: as of `sweep`; called with runs that are left, too.
            until: a step of each at which it is left, as of `train`; None for their ends.

        Raises:
            Interrupted: a signal came.
        """
        ...

    def plan(self, cells: Sequence[RunConfig]) -> str:
        """What `train` would do with cells that are not done, in words."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launcher(abc.ABC):
    """Where the cells of a sweep are trained, as a value.

    - `name`: by which the command line calls it.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(self, f"{self.name}.")

    @abc.abstractmethod
    def pool(self, run: RunConfig, out: str | Path, runtime: RuntimeConfig | None) -> Pool:
        """What trains there. Nothing is written or started yet.

        Args:
            run: what the cells share.
            out: root of the run folders.
            runtime: how to carry out each cell.

        Raises:
            EquimuError: what it needs is not there, or the run cannot be a cell.
        """


def checked_cells(run: RunConfig, out: str | Path, runtime: RuntimeConfig | None) -> tuple[Path, RuntimeConfig]:
    """The root of the run folders, and how to carry out cells: each is one process.

    Raises:
        EquimuError: the root cannot be one, this is one of several processes, or the run begins from a checkpoint.
    """
    runtime = RuntimeConfig() if runtime is None else runtime
    check(RuntimeConfig, runtime=runtime)
    root = local_folder(out, "--out")
    starter = started_by(runtime)
    if starter is not None:
        raise EquimuError(
            f"a sweep is one process, and {starter} speaks of several; start one, with runtime.cluster none, or train "
            "the cells one by one"
        )
    if run.restore_from is not None:
        raise EquimuError("restore_from is for a single run; the cells of a sweep begin with fresh weights")
    return root, dataclasses.replace(runtime, cluster="none")


def largest_first(cells: Iterable[RunConfig], until: Mapping[RunConfig, int] | None) -> dict[RunConfig, int]:
    """The steps that cells are trained for, in the order to begin them: small cells at the end leave no worker without work."""
    steps = {cell: cell.steps if until is None else until[cell] for cell in cells}
    return dict(sorted(steps.items(), key=lambda item: -work(*item)))


def work(cell: RunConfig, steps: int) -> int:
    """About how much work a cell is beside others: its sizes times its steps.

    Args:
        cell: the run.
        steps: for which it is trained.
    """
    return math.prod(cell.size.values()) * steps


def folder_of(cell: RunConfig, root: Path) -> RunFolder:
    """The folder that a cell has below the root; nothing is created."""
    return RunFolder(root, cell, data_of(cell.task).fingerprint)


def unfinished(grid: Iterable[RunConfig], root: Path) -> dict[str, RunConfig]:
    """The cells that are not done yet, by the names of their folders; each cell once.

    Args:
        grid: the cells.
        root: of the run folders.
    """
    folders = {cell: folder_of(cell, root) for cell in dict.fromkeys(grid)}
    return {folder.path.name: cell for cell, folder in folders.items() if not folder.is_done}


def reached(folder: Path, step: int) -> Run | None:
    """The run in a folder, if it has ended or was left at a step or later.

    Raises:
        EquimuError: it is damaged.
    """
    return read_run(folder) or read_paused(folder, step)


def devices(cpus: int, gpus: Real) -> list[str]:
    """So many processors, in words."""
    counts = {"CPU": cpus, "GPU": gpus}
    return [f"{count:g} {name if count == 1 else f'{name}s'}" for name, count in counts.items() if count]
