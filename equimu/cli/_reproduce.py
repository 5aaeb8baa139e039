"""`equimu reproduce`."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import tyro

from equimu._errors import counted
from equimu._progress import progress
from equimu._terminal import print_rows, wrapped
from equimu._values import PathLike, Size
from equimu.cli._command import Printing, print_data
from equimu.cli._running import CellProgress, loss_text, one_core_each
from equimu.files import local_folder
from equimu.presets import (
    Planned,
    groups_of,
    left_of,
    plan_reproduction,
    reproduce,
    reproduce_command,
    scale_takes,
    summary,
    summary_rows,
    write_reproduction,
)
from equimu.runs import Run, RunConfig
from equimu.sweeps import flags_of
from equimu.training import RuntimeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """Where the text comes from, in the place of what is on this machine."""

    corpus: PathLike | None = None
    """A file, a folder or a glob."""
    store: PathLike | None = None
    """A token store, of C4 for example; see `equimu data`."""
    tokenizer: PathLike | None = None
    """A tokenizers JSON file; by default bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(Printing):
    """The flags of `equimu reproduce`."""

    groups: tyro.conf.Positional[tuple[str, ...]] = ()
    """Groups of experiments: baseline, sp, lion, ...; or all, which equimu show all lists."""
    scale: str = "cpu"
    """cpu: minutes a group on two cores; gpu: an hour; paper: as it was, which needs a pod, C4 and T5's tokenizer."""
    seeds: Size | None = None
    """Of each cell; by default two, and one at the paper's scale, as there."""
    out: PathLike | None = None
    """Root of the run folders, and of the page; by default runs/paper-SCALE."""
    workers: Size | None = None
    """Runs trained at the same time; by default one for each core on a CPU, 8 for each accelerator. Of local alone."""
    launcher: str = "local"
    """Where they are trained: local, slurm, ray, or such a name with fields, "slurm(partition=gpu, gpus=1, minutes=120)"."""
    early_stopping: bool = False
    """Leave cells that cannot be the best of their curve; others are trained to their end where the verdict needs them."""
    text: Text = Text()
    runtime: RuntimeConfig = RuntimeConfig()
    dry_run: bool = False
    """Only says how many cells of each group are done, and where the others would be trained; writes nothing."""

    def __call__(self) -> None:
        """Runs them, and writes and prints what came out."""
        names = groups_of(self.groups)
        out = f"runs/paper-{self.scale}" if self.out is None else self.out
        local_folder(out, "--out")
        what: dict[str, Any] = {
            "scale": self.scale,
            "out": out,
            "seeds": self.seeds,
            "text": {name: value for name, value in vars(self.text).items() if value is not None},
            "workers": self.workers,
            "launcher": self.launcher,
            "runtime": self.runtime,
        }
        # Those of what is run, and not of how it is printed; the scale in any case.
        flags = [
            *("--scale", self.scale),
            *flags_of(dataclasses.replace(self, groups=(), scale=Reproduce.scale, json=False, dry_run=False)),
        ]
        if self.dry_run:
            planned, command = plan_reproduction(names, **what), reproduce_command(names, flags)
            if self.json:
                print(json.dumps(_plan_data(planned, self.scale, command), indent=1))
            else:
                _print_plan(planned, command)
            return
        one_core_each(self.workers, self.launcher)
        takes = scale_takes(self.scale)
        with progress("reproducing", 1) as bar:
            cells_done = CellProgress(bar, f", {takes} a group" if takes else "")

            def tell(name: str, run: Run, done: int, total: int) -> None:
                del done, total
                rate = f"learning rate {run.learning_rate:.4g}"
                cells_done.ended(run, f"{name}: {run.size}, {rate}, seed {run.seed}: {loss_text(run)}")

            found = reproduce(
                names, **what, early_stopping=self.early_stopping, on_begin=cells_done.begin, on_cell=tell
            )
        paths = write_reproduction(found, self.scale, out, flags=flags)
        if self.json:
            print_data(paths)
            return
        heading, *rows = summary_rows(found)
        print_rows(heading, rows, text=range(len(heading)), spare=(2, 1))
        for path in paths:
            print(path)
        print(summary(found))


def _steps(cells: Iterable[RunConfig]) -> int:
    return sum(cell.steps for cell in cells)


def _plan_data(planned: Sequence[Planned], scale: str, command: str) -> dict[str, Any]:
    left, total = left_of(planned)
    return {
        "scale": scale,
        "command": command,
        "cells": total,
        "done": total - len(left),
        "steps": _steps(left.values()),
        "where": next((each.where for each in planned if each.left), None),
        "groups": {
            each.group.name: {
                "widths": sorted({cell.size["width"] for cell in each.cells}),
                "cells": len(each.cells),
                "done": len(each.cells) - len(each.left),
                "steps": _steps(each.left.values()),
            }
            for each in planned
        },
    }


def _print_plan(planned: Sequence[Planned], command: str) -> None:
    data = _plan_data(planned, "", command)
    rows = [
        [name, " ".join(map(str, each["widths"])), *(str(each[key]) for key in ("cells", "done", "steps"))]
        for name, each in data["groups"].items()
    ]
    print_rows(["group", "widths", "cells", "done", "steps to train"], rows, text=(0, 1), spare=(1,))
    left = data["cells"] - data["done"]
    train = f"{left} to train {data['where']}; {data['steps']} steps" if left else "none to train"
    print(wrapped(f"{counted(data['cells'], 'cell')}: {data['done']} done, {train}"))
    if sum(each["cells"] for each in data["groups"].values()) > data["cells"]:
        print(wrapped("cells that groups share are trained once"))
    print(command)
