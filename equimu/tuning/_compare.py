"""Tunes small, trains large with what was found, and trains another table at the same sizes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimu._errors import EquimuError
from equimu._values import Real, Size, check, check_keys
from equimu.parameterization import Parameterization
from equimu.plans import training_flops
from equimu.reports import cells_of, report
from equimu.runs import Axes, Run, RunConfig, Runs, Sizes, with_numbers
from equimu.sweeps import Launcher, check_trees, octaves, pool_of
from equimu.tasks import Task
from equimu.training import RuntimeConfig
from equimu.tuning._comparison import Comparison, Trained
from equimu.tuning._config import TuneConfig
from equimu.tuning._result import carried_run
from equimu.tuning._runner import tune, tune_config

OnRun = Callable[[str, Run, int, int], None]
_RATE = "optimizer.learning_rate"
RATES: tuple[float, ...] = octaves(-9, -4)
"""The learning rates of the other table, where `compare` is not told."""


def compare(
    task: Task | RunConfig | TuneConfig,
    *,
    at: Mapping[str, Sequence[int]] | None = None,
    against: str | Parameterization | None = "sp",
    rates: Sequence[Real] = RATES,
    out: str | Path,
    workers: int | None = None,
    launcher: str | Launcher | None = None,
    runtime: RuntimeConfig | None = None,
    on_run: OnRun | None = None,
    **fields: Any,
) -> Comparison:
    """What tuning small and carrying gains. Interrupted and called again, it goes on where it was.

    The numbers of a small run are searched as by `tune` and carried to larger ones. Another table is trained at all of these
    sizes, the smallest included, with each learning rate of a grid; its other numbers are those of the run that nobody tuned.

    Args:
        task: as of `tune`.
        at: the larger values of one size, by its name: `{"width": (64, 128, 256)}`; by default twice and four times the first
            size.
        against: the other table; None for the one that was tuned, with the numbers that were found, the rate apart.
        rates: base learning rates of the other table.
        out: root of the run folders; those of the search are below its `tune`.
        workers, launcher, runtime: as of `equimu.sweep`.
        on_run: called after each run with what it was for (`"tuning"`, `"carrying"` or the other table's name), the run, the
            number of runs done, and of all that may come.
        fields: as of `tune`.

    Raises:
        EquimuError: as of `tune`, an unknown size or table, or sizes that are not above that of the small run.
        Interrupted: a signal came.
    """
    config = tune_config(task, fields)
    along, sizes = _sizes(config.run, at)
    seeds = range(1, config.seeds + 1)
    untuned = config.run if against is None else dataclasses.replace(config.run, parameterization=against)
    rates = tuple(sorted(set(rates)))
    if not rates:
        raise EquimuError("rates is empty; give at least one learning rate")
    grid = _cells(untuned, along, sizes, seeds, rates)
    check_trees(grid)
    pool = pool_of(launcher, config.run, out=out, workers=workers, runtime=runtime)

    def tell(what: str) -> Callable[[Run, int, int], None] | None:
        return None if on_run is None else functools.partial(on_run, what)

    tuned = tune(
        config,
        out=Path(out) / "tune",
        workers=workers,
        launcher=launcher,
        runtime=runtime,
        on_trial=tell("tuning"),
    )
    if against is None:
        grid = _cells(tuned.config, along, sizes, seeds, rates)
    best = (tuned.config.optimizer.learning_rate,)
    mine = _cells(tuned.config, along, sizes, seeds, best)
    done = pool.train(mine, tell("carrying"))
    name = "itself" if against is None else untuned.parameterization_name
    done |= pool.train(grid, tell(name))
    others = Runs((done[cell] for cell in grid), Axes(fit=_RATE, over=(f"size.{along}",)))
    return Comparison(
        along=along,
        table=config.run.parameterization_name,
        tuned=tuned,
        carried=_trained(mine, done, along),
        against=name,
        grid=_trained(grid, done, along),
        report=report(cells_of(others)),
        runs=Runs(done.values()),
    )


def _sizes(small: RunConfig, at: Mapping[str, Sequence[int]] | None) -> tuple[str, tuple[int, ...]]:
    """The size that is varied, and its values from the smallest."""
    if at is None:
        first, value = next(iter(small.size.items()))
        at = {first: (2 * value, 4 * value)}
    check_keys("at", at)
    if len(at) != 1:
        raise EquimuError(f"at takes values of one size, e.g. width=64,128,256; got {', '.join(at) or 'none'}")
    ((along, values),) = at.items()
    for value in values:
        check(Size, at=value)
        carried_run(small, {along: value}, "at")
    larger = sorted({value for value in values if value != small.size[along]})
    if not larger:
        raise EquimuError(f"at has no {along} above the {small.size[along]} that is tuned at")
    return along, (small.size[along], *larger)


def _cells(
    run: RunConfig, along: str, sizes: Sequence[int], seeds: Iterable[int], rates: Sequence[Real]
) -> list[RunConfig]:
    return [
        # A run that diverges is a result, and no reason to stop the others.
        dataclasses.replace(with_numbers(run, {f"size.{along}": size, _RATE: rate}), seed=seed, on_nonfinite="record")
        for size in sizes
        for rate in rates
        for seed in seeds
    ]


def _trained(cells: Sequence[RunConfig], done: Mapping[RunConfig, Run], along: str) -> tuple[Trained, ...]:
    """The runs of each size and rate, their seeds together."""
    flops: dict[Sizes, float] = {}
    groups: dict[tuple[int, float], list[float]] = {}
    for cell in cells:
        size = Sizes(cell.size)
        if size not in flops:
            flops[size] = training_flops(cell)
        groups.setdefault((cell.size[along], cell.optimizer.learning_rate), []).append(done[cell].validation_loss)
    counts = {size[along]: count for size, count in flops.items()}
    return tuple(
        Trained(size=size, learning_rate=rate, losses=tuple(losses), flops=counts[size])
        for (size, rate), losses in groups.items()
    )
