"""`equimu plan`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from equimu._errors import EquimuError
from equimu._progress import progress
from equimu._values import Count, Seconds, Size
from equimu.cli._command import Printing
from equimu.cli._flags import Flat
from equimu.plans import (
    Candidate,
    NotFittingError,
    advice,
    candidates_to_json,
    examples,
    plan,
    plan_to_json,
    print_candidates,
    print_plan,
    sweep_plans,
)
from equimu.runs import RunConfig
from equimu.training import RuntimeConfig


def _examples(default: str) -> str:
    """What the help says of the machine, when it is printed: a task's file may have registered more."""
    del default
    return f"(such as {', '.join(examples())})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Printing):
    """The flags of `equimu plan`."""

    config_class = RunConfig

    topology: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help_behavior_hint=_examples)] = ""
    """The machine: a kind, and how many of it there are along each dimension."""
    config: Annotated[RunConfig, Flat] = RunConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    """Its data, fsdp and tensor are the mesh; fsdp takes all devices where all three are 1."""
    sweep: Size | None = None
    """Instead, try all meshes that divide the run, and compile so many of the best."""
    sweep_rows: tuple[Size, ...] = ()
    """Sizes of a batch that the sweep tries; --text.rows by default."""
    sweep_accumulate: tuple[Count, ...] = ()
    """Numbers of parts that the sweep tries to work a batch off in; 1, 2, 4, 8 and 16 by default."""
    seconds: Seconds = 600.0
    """After which compiling is given up."""

    def __call__(self) -> None:
        """Compiles and prints."""
        if not self.topology:
            raise EquimuError(f"plan needs a machine after it, such as {', '.join(examples())}")
        if self.sweep is not None:
            found = self._sweep(self.sweep)
            print(candidates_to_json(found)) if self.json else print_candidates(found)
            if not found:
                raise NotFittingError(
                    f"no mesh that was tried fits {self.topology}; take more devices or a smaller model"
                )
            return
        made = plan(
            self.config,
            self.topology,
            data=self.runtime.data,
            fsdp=self.runtime.fsdp,
            tensor=self.runtime.tensor,
            seconds=self.seconds,
        )
        print(plan_to_json(made)) if self.json else print_plan(made)
        if not made.fits:
            raise NotFittingError(advice(made))

    def _sweep(self, compiled: int) -> Sequence[Candidate]:
        with progress("planning", compiled) as bar:
            return sweep_plans(
                self.config,
                self.topology,
                rows=self.sweep_rows,
                accumulate=self.sweep_accumulate,
                compiled=compiled,
                seconds=self.seconds,
                on_plan=lambda made, done, total: bar.update(done, f"mesh {made.mesh}", total),
            )
