"""The grid of a sweep: panels × sizes, or other numbers × values of the number that is fitted × seeds."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from equimu._errors import EquimuError, nearest
from equimu._values import Log2, Positive, Real, Seed, check, check_keys, checked, shown
from equimu.optim import Optimizer, is_optimizer_text, optimizer_from_text
from equimu.parameterization import Parameterization, canonical_text, parameterization_from_dict
from equimu.runs import (
    Axes,
    Run,
    RunConfig,
    Sizes,
    checked_number,
    config_from_dict,
    config_to_dict,
    find_number,
    number_at,
    numbers_of_run,
    panels_of,
    run_config,
    short_names,
    usual_number,
    value_at,
    with_numbers,
)
from equimu.tasks import Task

_SHARES = (0.25, 0.5, 1.0, 2.0)  # of a size's default, for a sweep that names no sizes
_MOST_VALUES = 1000
# Names of former versions, and what to write instead.
_FORMER = {
    "log2_learning_rates": "the values themselves as fit.learning_rate: fit={'learning_rate': equimu.octaves(-9, -3)}, "
    "--fit.learning-rate 2**-9 2**-8, or in a file fit = { learning_rate = ['2**-9', '2**-8'] }",
    "parameterizations": "panels, with the same tables",
}


def octaves(low: Real, high: Real, step: Real = 1.0) -> tuple[Real, ...]:
    """Powers of two.

    Args:
        low, high: log2 of the first and the last.
        step: between neighbours, in octaves.

    Raises:
        EquimuError: a bound outside of float32, a step that is not positive, more than 1000 values, or none.

    Example:
        >>> octaves(-3, -1)
        (0.125, 0.25, 0.5)
    """
    low, high, step = checked("low", low, Log2), checked("high", high, Log2), checked("step", step, Positive)
    count = int((high - low) / step + 1e-9) + 1 if high >= low else 0
    if not 0 < count <= _MOST_VALUES:
        raise EquimuError(
            f"octaves from {low:g} to {high:g} by {step:g} are {count} values; give low ≤ high, at most 1000"
        )
    return tuple(2.0 ** (low + index * step) for index in range(count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A sweep: for each panel, and each value of what it is over, the best value of one number is looked for.

    Numbers are named as in a config: a size by its name (`width`), others by their paths (`optimizer.weight_decay`, `steps`,
    `task.text.rows`) or an end of the path that no other number has (`weight_decay`, `rows`).

    Raises:
        EquimuError: a field that cannot be.
    """

    run: RunConfig = RunConfig()
    """What all cells share."""
    over: Mapping[str, tuple[Real, ...]] = dataclasses.field(default_factory=dict[str, tuple[Real, ...]])
    """Values of sizes of the model, or of other numbers of the run, by name, e.g. {"width": (64, 128, 256)}; of several, all
    combinations. By default a quarter, half, once and twice the default of the first size."""
    fit: Mapping[str, tuple[Real, ...]] = dataclasses.field(default_factory=lambda: {"learning_rate": octaves(-9, -3)})
    """Values of the one number whose best value is looked for, by its name."""
    fit_scale: Literal["auto", "log2", "linear"] = "auto"
    """The axis that the best value is fitted on; auto for the one that the values are spaced on: log2 if they are positive and
    of a constant ratio."""
    panels: tuple[str | Parameterization | Optimizer, ...] = ("mup", "sp")
    """Tables of laws, as run.parameterization, or optimizers: mup, "completep(alpha=0.5)", lion, "lion(b2=0.98)"; one panel
    each. What the text of an optimizer leaves out is as in run.optimizer."""
    seeds: int | tuple[Seed, ...] = (0, 1, 2)
    """A number n stands for 0 to n - 1."""
    base: Mapping[str, int] = Sizes()
    """Sizes that the rules are relative to; of those left out, the smallest of the grid."""

    def __post_init__(self) -> None:
        check(RunConfig, run=self.run)
        check(Literal["auto", "log2", "linear"], fit_scale=self.fit_scale)
        known = numbers_of_run(self.run)
        for what in ("over", "fit"):
            object.__setattr__(self, what, _checked_axes(what, getattr(self, what), self.run, known))
        if len(self.fit) != 1:
            named = " and ".join(self.fit) or "none"
            raise EquimuError(f"a sweep fits one number, got {named}; put the others into over")
        object.__setattr__(self, "seeds", _checked_seeds(self.seeds))
        object.__setattr__(self, "panels", _checked_panels(self.panels))
        check_keys("base", self.base)
        self.run.task.complete({**self.run.size, **self.base}, "base")
        self._check_values()
        self._check_panels()
        self._check_run()

    @property
    def axes(self) -> Axes:
        """What the sweep varies."""
        known = numbers_of_run(self.run)
        over = tuple(find_number(name, known, "over") for name in self.over)
        (fit,) = (find_number(name, known, "fit") for name in self.fit)
        return Axes(fit=fit, over=over, scale=None if self.fit_scale == "auto" else self.fit_scale)

    def cell_text(self, run: Run) -> str:
        """Which cell of the grid a run is: its panel, its values and its seed."""
        axes = self.axes
        config = run.identity["config"]
        panels = [config_to_dict(_of_panel(self.run, panel)) for panel in self.panels]
        values = zip((*self.over, *self.fit), (*axes.over, axes.fit), strict=True)
        numbers = [f"{name} {value_at(config, path):.4g}" for name, path in values]
        return ", ".join([panels_of([config, *panels], (axes.fit, *axes.over))[0], *numbers, f"seed {run.seed}"])

    def _check_values(self) -> None:
        axes = {f"{what}.{name}": values for what in ("over", "fit") for name, values in getattr(self, what).items()}
        for name, values in {"panels": self.panels, "seeds": self.seeds, **axes}.items():
            found = cast(tuple[Any, ...], values)
            if not found:
                raise EquimuError(f"the grid is empty: {name} has no value; give at least one")
            if len(set(found)) != len(found):
                raise EquimuError(f"{name} names a value twice: {', '.join(map(_text, found))}")
        ((fit, values),) = self.fit.items()
        if self.fit_scale == "log2" and min(values) <= 0:
            raise EquimuError(
                f"fit.{fit} has {min(values):g}, which has no logarithm; give positive values, or fit_scale='linear'"
            )
        twice = {self.axes.fit} & set(self.axes.over)
        if twice:
            raise EquimuError(f"{twice.pop()} is in over and in fit; a number is one or the other")

    def _check_panels(self) -> None:
        axes = self.axes
        runs = [_of_panel(self.run, panel) for panel in self.panels]
        for run, panel in zip(runs, self.panels, strict=True):
            known = numbers_of_run(run)
            for path in (axes.fit, *axes.over):
                if path not in known:
                    raise EquimuError(
                        f"panel {_text(panel)} has no number {path}; leave it out, or sweep another number"
                    )
        configs = [config_to_dict(run) for run in runs]
        names = panels_of(configs, (axes.fit, *axes.over))
        if len(set(names)) != len(names):
            same = [_text(panel) for panel, name in zip(self.panels, names, strict=True) if names.count(name) > 1]
            raise EquimuError(f"panels names a value twice: {' and '.join(same)} are the same")

    def _check_run(self) -> None:
        default, given, axes = RunConfig(), self.run, self.axes
        taken: dict[str, tuple[Any, Any, str]] = {"seed": (given.seed, default.seed, "seeds")}
        for what, paths in (("over", axes.over), ("fit", (axes.fit,))):
            for path, name in zip(paths, getattr(self, what), strict=True):
                value = number_at(given, path)
                usual = usual_number(given, path)
                taken[path] = (value, value if usual is None else usual, f"{what}.{name}")
        if any(not _is_optimizer(panel) for panel in self.panels):
            taken["parameterization"] = (given.parameterization, default.parameterization, "panels")
        for name, (value, usual, grid) in taken.items():
            if value != usual:
                raise EquimuError(f"{name}={_text(value)} is for a single run; a sweep takes it from {grid}")


def sweep_config(task: Task | RunConfig | SweepConfig, fields: Mapping[str, Any]) -> SweepConfig:
    """A sweep of a task or a run with these fields, of the sweep or of the run that its cells share; or the one that is given.

    Raises:
        EquimuError: it is none of them, or a field is unknown.
    """
    if isinstance(task, SweepConfig):
        if fields:
            raise EquimuError(
                f"{', '.join(fields)} goes into the SweepConfig that was given; or give a task in its place"
            )
        return task
    for name in fields:
        refuse_former(name)
    own = {field.name for field in dataclasses.fields(SweepConfig)} - {"run"}
    shared = {name: value for name, value in fields.items() if name not in own}
    run = run_config(task, shared.pop("size", None), shared)
    return sweep_config_of(run, {name: value for name, value in fields.items() if name in own})


def sweep_config_of(run: RunConfig, fields: Mapping[str, Any]) -> SweepConfig:
    """A sweep of these fields, whose values may be lists, ranges or texts.

    Args:
        run: what all cells share.
        fields: the others of `SweepConfig`.

    Raises:
        EquimuError: a value makes no sense.
    """
    found: dict[str, Any] = {
        name: tuple(value) if isinstance(value, range) else value for name, value in fields.items()
    }
    known = numbers_of_run(run)
    for what in ("over", "fit"):
        if what in found:
            found[what] = _checked_axes(what, found[what], run, known)
    for name, check_values in (("seeds", _checked_seeds), ("panels", _checked_panels)):
        if name in found:
            found[name] = check_values(found[name])
    return SweepConfig(run=run, **found)


def cells(config: SweepConfig) -> Iterator[RunConfig]:
    """The runs of the grid, ordered such that those of one size, which share a compiled program, are neighbours.

    Args:
        config: of the sweep.
    """
    return itertools.chain.from_iterable(curves(config))


def curves(config: SweepConfig) -> Iterator[list[RunConfig]]:
    """The runs of the grid in the same order, those together that differ in the number that is fitted and in seeds alone.

    Args:
        config: of the sweep.
    """
    run, axes = config.run, config.axes
    smallest = {
        path.removeprefix("size."): int(min(values))
        for path, values in zip(axes.over, config.over.values(), strict=True)
        if path.startswith("size.")
    }
    base = Sizes({**run.size, **smallest, **config.base})
    panels = [_of_panel(run, panel) for panel in config.panels]
    (fit,) = config.fit.values()
    seeds = cast(tuple[int, ...], config.seeds)
    # One cell that diverges is a result, and no reason to stop the others.
    on_nonfinite = "record" if run.on_nonfinite == "stop" else run.on_nonfinite
    for values, panel in itertools.product(itertools.product(*config.over.values()), panels):
        shared = dataclasses.replace(panel, base=base, on_nonfinite=on_nonfinite)
        over = dict(zip(axes.over, values, strict=True))
        yield [
            with_numbers(dataclasses.replace(shared, seed=seed), {**over, axes.fit: value})
            for seed, value in itertools.product(seeds, fit)
        ]


def _of_panel(run: RunConfig, panel: Any) -> RunConfig:
    if isinstance(panel, Optimizer):
        return dataclasses.replace(run, optimizer=panel)
    if _is_optimizer(panel):
        return dataclasses.replace(run, optimizer=optimizer_from_text(panel, run.optimizer))
    return dataclasses.replace(run, parameterization=panel)


def _is_optimizer(panel: Any) -> bool:
    return isinstance(panel, Optimizer) or (isinstance(panel, str) and is_optimizer_text(panel))


def _checked_seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if not 0 < seeds <= _MOST_VALUES:
            raise EquimuError(f"seeds is how many (from 1 to {_MOST_VALUES}), or a list of them, got {shown(seeds)}")
        return tuple(range(seeds))
    return checked("seeds", seeds, tuple[Seed, ...])


def _checked_panels(panels: Any) -> tuple[Any, ...]:
    return tuple(map(_checked_panel, checked("panels", panels, tuple[Any, ...])))


def _checked_panel(panel: Any) -> str | Parameterization | Optimizer:
    if isinstance(panel, Parameterization | Optimizer):
        return panel
    if not isinstance(panel, str):
        raise EquimuError(f"panels must be tables, e.g. 'mup', or optimizers, e.g. 'lion'; got {shown(panel)}")
    return panel if _is_optimizer(panel) else canonical_text(panel)


def _checked_axes(what: str, given: Any, run: RunConfig, known: Mapping[str, Any]) -> dict[str, tuple[Real, ...]]:
    """The values of each number, by its short name."""
    check_keys(what, given)
    if not given and what == "over":
        name, default = next(iter(run.task.sizes.items()))
        if default is None:
            raise EquimuError(f"say what the sweep is over, e.g. over.{name}: {name} has no default in make")
        return {name: tuple(max(1, round(share * default)) for share in _SHARES)}
    short = short_names(known)
    found: dict[str, tuple[Real, ...]] = {}
    for name, values in given.items():
        path = find_number(name, known, what)
        if short[path] in found:
            raise EquimuError(f"{what} names {path} twice; give it once, with all values")
        items = checked(f"{what}.{name}", list(values) if isinstance(values, range) else values, tuple[Any, ...])
        found[short[path]] = tuple(checked_number(f"{what}.{name}", item, known[path]) for item in items)
    return found


def _text(value: Any) -> str:
    if isinstance(value, Parameterization):
        return value.name
    return type(value).__name__ if isinstance(value, Optimizer) else f"{value}"


def refuse_former(name: str) -> None:
    """Raises an `EquimuError` that says what to write instead, for a name of a former version."""
    if name in _FORMER:
        raise EquimuError(f"{name} is now written otherwise: give {_FORMER[name]}")


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
        refuse_former(key)
        if key not in known:
            raise EquimuError(f"unknown key {key!r}: {nearest(key, known)}")
    own = values.get("run", {})
    check_keys("run", own)
    found: dict[str, Any] = {name: value for name, value in values.items() if name != "run"}
    if "panels" in values:
        found["panels"] = tuple(
            parameterization_from_dict(panel) if isinstance(panel, Mapping) else panel
            for panel in checked("panels", values["panels"], tuple[Any, ...])
        )
    return sweep_config_of(config_from_dict(own, task, "run."), found)
