"""Experiments of the paper, run, and what the paper says of them beside what was found."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from equimu._errors import EquimuError, nearest
from equimu._values import Real, Size, check
from equimu.files import local_folder
from equimu.presets._paper import PAPER, Group, group
from equimu.reports import Panel, Report, cells_of, report
from equimu.runs import Run, RunConfig, Runs
from equimu.sweeps import Launcher, SweepConfig, cells, pool_of, sweep, unfinished
from equimu.tasks import LanguageModel
from equimu.training import RuntimeConfig

OnGroup = Callable[[str, Run, int, int], None]
OnBegin = Callable[[Mapping[str, RunConfig], int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A group of the paper that is to be run at a scale.

    Attributes:
        group: what the paper has.
        cells: of its sweep.
        left: those that are not done yet, by the names of their folders. Groups may share cells.
        where: the others are trained, in words.
    """

    group: Group
    cells: tuple[RunConfig, ...]
    left: Mapping[str, RunConfig]
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A group of the paper, run at a scale.

    Attributes:
        group: what the paper has.
        runs: of its sweep.
        report: on them, of one panel.
    """

    group: Group
    runs: Runs
    report: Report

    @property
    def panel(self) -> Panel:
        """The panel of its table or optimizer."""
        return self.report.panels[0]

    @property
    def best(self) -> tuple[Real | None, ...]:
        """log2 of the best α of the paper's own grid at each width; None where all of them diverged."""
        rates = self.group.sweep().fit["learning_rate"]
        theirs = [self.panel.curves[0].fitted.point(rate) for rate in rates]
        shift = math.log2(self.group.rate)
        found: list[float | None] = []
        for curve in self.panel.curves:
            known = zip(curve.grid, curve.mean, curve.usable, strict=True)
            losses = {float(point): float(mean) for point, mean, usable in known if usable and point in theirs}
            found.append(min(losses, key=lambda point: losses[point]) - shift if losses else None)
        return tuple(found)

    @property
    def best_text(self) -> str:
        """`best`, as text."""
        return " ".join("diverged" if point is None else f"{point:.4g}" for point in self.best)

    @property
    def same_best(self) -> bool | None:
        """Whether the best α of the paper's grid is the same at all widths, its criterion of transfer; None of one width."""
        return None if len(self.best) < 2 else len(set(self.best)) == 1

    @property
    def agreement(self) -> Literal["agrees", "disagrees", "undecided", "no claim"]:
        """Whether the verdict is what the paper claims."""
        if self.group.claim is None:
            return "no claim"
        if self.panel.verdict.kind == "undecided":
            return "undecided"
        transfers = self.panel.verdict.kind == "transfers" or self.panel.verdict.harmless
        return "agrees" if transfers == self.group.claim else "disagrees"

    @property
    def reason(self) -> str | None:
        """Why what was found is not what the paper says; None where it is, and where the paper says nothing."""
        if self.agreement in ("agrees", "no claim"):
            return None
        sizes = [f"{curve.size:g}" for curve in self.panel.curves]
        says = {True: "by which it transfers", False: "by which it does not transfer", None: ""}
        right = ", as the paper says" if self.same_best == self.group.claim else ""
        theirs = f"; there {self.group.best_text}" if self.group.best else ""
        sentence = self.panel.verdict.sentence.removeprefix("undecided: ")
        return (
            f"{sentence}. The best log2 α of the paper's grid is {self.best_text} at width "
            f"{', '.join(sizes)}, {says[self.same_best]}{right}{theirs}"
        )


def reproduce(
    names: Sequence[str],
    *,
    scale: str,
    out: str | Path,
    seeds: int | None = None,
    text: Mapping[str, Any] | None = None,
    workers: int | None = None,
    launcher: str | Launcher | None = None,
    runtime: RuntimeConfig | None = None,
    early_stopping: bool = False,
    on_cell: OnGroup | None = None,
    on_begin: OnBegin | None = None,
) -> tuple[Reproduced, ...]:
    """Runs groups of experiments of arXiv 2404.05728. Interrupted and called again, it goes on where it was.

    Args:
        names: of the groups, as `groups()` has them.
        scale: as `scales()` has them; at the paper's own, `runtime` and a tokenizer of 32 100 tokens are needed.
        out: root of the run folders, which groups share: a run that is in two of them is trained once.
        seeds: of each cell; by default one at the paper's scale, as there, and two at others.
        text: fields of `TextConfig` in the place of the group's: `store`, `corpus`, `tokenizer`. By default the text of this
            machine, which is not the paper's.
        workers, launcher, runtime, early_stopping: as of `equimu.sweeps.sweep`.
        on_cell: called after each cell with the name of the group and as that of `sweep`.
        on_begin: as of `sweep`, called once with the cells of all groups.

    Raises:
        EquimuError: an unknown group or scale, or whatever is wrong with a sweep.
        Interrupted: a signal came.
    """
    sweeps = _sweeps(names, scale, seeds, text)
    if on_begin is not None:
        planned = _planned(sweeps, out, workers, launcher, runtime)
        on_begin(*left_of(planned))
    found: list[Reproduced] = []
    for each, config in sweeps:
        runs = sweep(
            config,
            out=out,
            workers=workers,
            launcher=launcher,
            runtime=runtime,
            early_stopping=early_stopping,
            on_cell=None if on_cell is None else lambda *done, name=each.name: on_cell(name, *done),
        )
        found.append(Reproduced(group=each, runs=runs, report=report(cells_of(runs))))
    return tuple(found)


def plan_reproduction(
    names: Sequence[str],
    *,
    scale: str,
    out: str | Path,
    seeds: int | None = None,
    text: Mapping[str, Any] | None = None,
    workers: int | None = None,
    launcher: str | Launcher | None = None,
    runtime: RuntimeConfig | None = None,
) -> tuple[Planned, ...]:
    """What `reproduce` would run with these arguments; nothing is trained or written.

    Args:
        names, scale, out, seeds, text, workers, launcher, runtime: as of `reproduce`.

    Raises:
        EquimuError: an unknown group or scale, or data, workers or a launcher that cannot be.
    """
    return _planned(_sweeps(names, scale, seeds, text), out, workers, launcher, runtime)


def left_of(planned: Sequence[Planned]) -> tuple[dict[str, RunConfig], int]:
    """The cells of groups that are not done, by the names of their folders, and the number of all; one of two groups is one.

    Args:
        planned: the groups.
    """
    left = {name: cell for each in planned for name, cell in each.left.items()}
    return left, len({cell for each in planned for cell in each.cells})


def _planned(
    sweeps: Sequence[tuple[Group, SweepConfig]],
    out: str | Path,
    workers: int | None,
    launcher: str | Launcher | None,
    runtime: RuntimeConfig | None,
) -> tuple[Planned, ...]:
    found: list[Planned] = []
    root = local_folder(out, "--out")
    for each, config in sweeps:
        pool = pool_of(launcher, config.run, out=out, workers=workers, runtime=runtime)
        grid = tuple(cells(config))
        left = unfinished(grid, root)
        found.append(Planned(group=each, cells=grid, left=left, where=pool.plan(list(left.values()))))
    return tuple(found)


def _sweeps(
    names: Sequence[str], scale: str, seeds: int | None, text: Mapping[str, Any] | None
) -> list[tuple[Group, SweepConfig]]:
    check(Size | None, seeds=seeds)
    if not names:
        raise EquimuError("name at least one group of the paper, e.g. baseline, or all; equimu show all lists them")
    count = (1 if scale == PAPER else 2) if seeds is None else seeds
    return [
        (each, dataclasses.replace(_with_text(each.sweep(scale), text or {}), seeds=count))
        for each in map(group, dict.fromkeys(names))
    ]


def _with_text(config: SweepConfig, fields: Mapping[str, Any]) -> SweepConfig:
    task = config.run.task
    assert isinstance(task, LanguageModel)
    known = [field.name for field in dataclasses.fields(task.text)]
    for name in fields:
        if name not in known:
            raise EquimuError(f"text has no field {name!r}: {nearest(name, known)}")
    task = dataclasses.replace(task, text=dataclasses.replace(task.text, **fields))
    return dataclasses.replace(config, run=dataclasses.replace(config.run, task=task))
