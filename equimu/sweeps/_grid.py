"""The grid of a sweep: parameterizations × one of the model's sizes × learning rates × seeds."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from equimu._errors import EquimuError, nearest
from equimu._values import Log2, Seed, Size, check, check_keys, checked
from equimu.parameterization import Parameterization, parameterization_from_dict
from equimu.runs import RunConfig, Sizes, config_from_dict, run_config
from equimu.tasks import Task

_LISTS: dict[str, Any] = {
    "parameterizations": tuple[Any, ...],
    "log2_learning_rates": tuple[Log2, ...],
    "seeds": tuple[Seed, ...],
}
_SHARES = (0.25, 0.5, 1.0, 2.0)  # of a size's default, for a sweep that names no sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep of learning rates over a size of the model, each cell of which is one run."""

    run: RunConfig = RunConfig()
    """What all cells share."""
    parameterizations: tuple[str | Parameterization, ...] = ("mup", "sp")
    """As run.parameterization; one panel each."""
    over: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict[str, tuple[int, ...]])
    """Values of one size by its name, e.g. {"width": (64, 128, 256)}; by default a quarter, half, once and twice the default of
    the first size."""
    log2_learning_rates: tuple[Log2, ...] = (-9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0)
    seeds: tuple[Seed, ...] = (0, 1, 2)
    base: Mapping[str, int] = Sizes()
    """Sizes that the rules are relative to; of those left out, the smallest of the grid."""

    def __post_init__(self):
        check(RunConfig, run=self.run)
        object.__setattr__(self, "over", _checked_over(self.over, self.run))
        names: list[str] = []
        for name, hint in _LISTS.items():
            object.__setattr__(self, name, checked(name, getattr(self, name), hint))
        for table in self.parameterizations:
            names.append(dataclasses.replace(self.run, parameterization=table).parameterization_name)
        check_keys("base", self.base)
        self.run.task.complete({**self.run.size, **self.base}, "base")
        grids = {"parameterizations": names, "log2_learning_rates": self.log2_learning_rates, "seeds": self.seeds}
        for name, values in {**grids, f"over.{self.along}": self.over[self.along]}.items():
            if not values:
                raise EquimuError(f"the grid is empty: {name} has no value; give at least one")
            if len(set(values)) != len(values):
                raise EquimuError(f"{name} names a value twice: {', '.join(map(str, values))}")
        default, given = RunConfig(), self.run
        along, usual_size = self.along, given.task.sizes[self.along]
        taken = {
            f"size.{along}": (given.size[along], usual_size or given.size[along], f"over.{along}"),
            "optimizer.learning_rate": (
                given.optimizer.learning_rate,
                default.optimizer.learning_rate,
                "log2_learning_rates",
            ),
            "seed": (given.seed, default.seed, "seeds"),
            "parameterization": (given.parameterization, default.parameterization, "parameterizations"),
        }
        for name, (value, usual, grid) in taken.items():
            if value != usual:
                raise EquimuError(f"{name}={value} is for a single run; a sweep takes it from {grid}")

    @property
    def along(self) -> str:
        """The name of the size that the sweep is over."""
        return next(iter(self.over))


def sweep_config(task: Task | SweepConfig, fields: Mapping[str, Any]) -> SweepConfig:
    """A sweep of a task with these fields, of the sweep or of the run that its cells share; or the sweep that is given.

    Raises:
        EquimuError: it is neither, or a field is unknown.
    """
    if isinstance(task, SweepConfig):
        if fields:
            raise EquimuError(
                f"{', '.join(fields)} goes into the SweepConfig that was given; or give a task in its place"
            )
        return task
    own = {field.name for field in dataclasses.fields(SweepConfig)} - {"run"}
    shared = {name: value for name, value in fields.items() if name not in own}
    run = run_config(task, shared.pop("size", None), shared)
    grid: dict[str, Any] = {
        name: tuple(value) if isinstance(value, range) else value for name, value in fields.items() if name in own
    }
    return SweepConfig(run=run, **grid)


def cells(config: SweepConfig) -> Iterator[RunConfig]:
    """The runs of the grid, ordered such that those of one size, which share a compiled program, are neighbours."""
    run, along = config.run, config.along
    base = {**run.size, along: min(config.over[along]), **config.base}
    for size, table, seed, exponent in itertools.product(
        config.over[along], config.parameterizations, config.seeds, config.log2_learning_rates
    ):
        yield dataclasses.replace(
            run,
            size=Sizes({**run.size, along: size}),
            base=Sizes(base),
            parameterization=table,
            optimizer=dataclasses.replace(run.optimizer, learning_rate=2.0**exponent),
            seed=seed,
            # One cell that diverges is a result, and no reason to stop the others.
            on_nonfinite="record" if run.on_nonfinite == "stop" else run.on_nonfinite,
        )


def _checked_over(over: Any, run: RunConfig) -> dict[str, tuple[int, ...]]:
    check_keys("over", over)
    known = run.task.sizes
    if not over:
        name, default = next(iter(known.items()))
        if default is None:
            raise EquimuError(f"say what the sweep is over, e.g. over.{name}: {name} has no default in make")
        return {name: tuple(max(1, round(share * default)) for share in _SHARES)}
    if len(over) > 1:
        raise EquimuError(f"a sweep is over one size, got {' and '.join(over)}; the others are run.size")
    for name in over:
        if name not in known:
            raise EquimuError(
                f"over names {name!r}, which {type(run.task).__name__}.make does not have: {nearest(name, known)}"
            )
    return {name: checked(f"over.{name}", values, tuple[Size, ...]) for name, values in over.items()}


def sweep_config_from_dict(values: Mapping[str, Any], task: type[Task] | None = None) -> SweepConfig:
    """A sweep from plain JSON types; fields left out keep their defaults.

    Args:
        values: by the names of fields.
        task: the class of the task, where it is known; else `run.task.name` tells.

    Raises:
        EquimuError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    known = [field.name for field in dataclasses.fields(SweepConfig)]
    for key in values:
        if key not in known:
            raise EquimuError(f"unknown key {key!r}: {nearest(key, known)}")
    own = values.get("run", {})
    check_keys("run", own)
    run = config_from_dict(own, task, "run.")
    found: dict[str, Any] = {**values, "run": run}
    found.update((name, checked(name, values[name], hint)) for name, hint in _LISTS.items() if name in values)
    if "over" in values:
        found["over"] = _checked_over(values["over"], run)
    if "parameterizations" in values:
        found["parameterizations"] = tuple(
            parameterization_from_dict(table) if isinstance(table, Mapping) else table
            for table in found["parameterizations"]
        )
    return SweepConfig(**found)
