"""`equimu sweep`, and `equimu report` on what it left."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from equimu._errors import EquimuError
from equimu._progress import progress
from equimu._values import PathLike, Size
from equimu.cli._command import Place, Printing
from equimu.cli._flags import Flat
from equimu.cli._print_report import print_report
from equimu.cli._running import CellProgress, loss_text, one_core_each
from equimu.cli._suggest import print_suggestions, target_of
from equimu.files import local_folder
from equimu.reports import cells_of, read_cells
from equimu.runs import Runs
from equimu.sweeps import SweepConfig, cells, commands, dry_run, sweep
from equimu.training import RuntimeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Printing):
    """The flags of `equimu sweep`."""

    config_class = SweepConfig

    config: Annotated[SweepConfig, Flat] = SweepConfig()
    out: PathLike = "runs/sweep"
    """Root of the run folders; the report is written there too."""
    workers: Size | None = None
    """Runs trained at the same time; by default one for each core on a CPU, 8 for each accelerator. Of local alone."""
    launcher: str = "local"
    """Where they are trained: local, slurm, ray, or such a name with fields, "slurm(partition=gpu, gpus=1, minutes=120)"."""
    early_stopping: bool = False
    """Leave cells that cannot be the best of their curve; others are trained to their end where the verdict needs them."""
    suggest: tuple[str, ...] = ()
    """Sizes too large to sweep, e.g. width=1024 steps=8000: says which cells would halve the interval predicted there."""
    runtime: RuntimeConfig = RuntimeConfig()
    dry_run: bool = False
    """Only says how many cells are done, and where the others would be trained; writes nothing."""
    print_commands: bool = False
    """Only prints a command for each cell that is not done, for any scheduler, to run in this folder; the configs of the cells
    are written to OUT/commands. Afterwards this sweep without the flag finds the cells done, and reports."""

    def __call__(self) -> None:
        """Trains what is not done yet, and writes and prints the report."""
        if self.dry_run and self.print_commands:
            raise EquimuError("--dry-run writes nothing, and --print-commands writes configs; give one of them")
        if self.early_stopping and (self.dry_run or self.print_commands):
            flag = "--dry-run" if self.dry_run else "--print-commands"
            raise EquimuError(f"{flag} knows the whole grid, and not what early stopping will leave; give one of them")
        if self.json and (self.dry_run or self.print_commands or self.suggest):
            flag = "--dry-run" if self.dry_run else "--print-commands" if self.print_commands else "--suggest"
            raise EquimuError(f"--json prints the report, and {flag} prints something else; give one of them")
        if self.print_commands:
            for line in commands(self.config, out=self.out, runtime=self.runtime):
                print(line)
            return
        where: dict[str, Any] = {
            "out": self.out,
            "workers": self.workers,
            "launcher": self.launcher,
            "runtime": self.runtime,
        }
        if self.dry_run:
            print(dry_run(self.config, **where))
            return
        target = target_of(self.suggest, self.config)
        one_core_each(self.workers, self.launcher)
        with progress("sweeping", 1) as bar:
            cells_done = CellProgress(bar)
            runs = sweep(
                self.config,
                **where,
                early_stopping=self.early_stopping,
                on_begin=cells_done.begin,
                on_cell=lambda run, done, total: cells_done.ended(
                    run, f"{self.config.cell_text(run)}: {loss_text(run)}"
                ),
            )
        made = print_report(cells_of(runs), self.out, as_json=self.json)
        if self.early_stopping and not self.json:
            print(_saved(runs, [cell.steps for cell in cells(self.config)]))
        if target:
            print_suggestions(made, target, self.config, self.out)


def _saved(runs: Runs, steps: Sequence[int]) -> str:
    """What early stopping left out of a grid whose cells have so many steps."""
    done = sum(run.rows[-1]["step"] for run in (*runs, *runs.stopped))
    return (
        f"early stopping: {len(runs)} of {len(steps)} cells trained to their end, {done / sum(steps):.0%} of all steps"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Printing):
    """The flags of `equimu report`."""

    runs: Place
    """Root of the run folders."""
    out: PathLike | None = None
    """Folder for the report; the root itself by default."""
    fit: str | None = None
    """Number whose best value is looked for; by default the learning rate, or the one of the optimizer that differs."""
    over: tuple[str, ...] = ()
    """Numbers that it is looked for at each value of; by default those that differ."""
    scale: Literal["log2", "linear"] | None = None
    """Of the number that is fitted; by default the one that its values are spaced on."""

    def __call__(self) -> None:
        """Writes and prints the report."""
        out = self.runs if self.out is None else self.out
        if self.out is not None:
            local_folder(out, "--out")
        print_report(read_cells(self.runs, fit=self.fit, over=self.over, scale=self.scale), out, as_json=self.json)
