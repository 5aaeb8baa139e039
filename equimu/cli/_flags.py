"""Configs as classes of flags: which flags there are is known once the classes of the task and the optimizer are."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import tyro

from equimu._errors import EquimuError
from equimu._values import Size
from equimu.optim import Optimizer
from equimu.runs import RunConfig, find_number, numbers_of_kinds, short_names
from equimu.sweeps import SweepConfig, sweep_config_of
from equimu.tasks import Task
from equimu.tuning import USUAL_SEARCH, TuneConfig, is_base_constant

Flat = tyro.conf.arg(name="")
_AXIS_HELP = {
    "over": "Values that the sweep goes over; any number of a run can be named.",
    "fit": "Values among which the best is looked for; any number of a run can be named.",
    "search": "Range of the search; any number of a run, or a constant of the table, can be named.",
}
_AXIS = re.compile(r"--(over|fit|search)\.([^=]+)(=.*)?", re.DOTALL)


class _Named(Mapping[str, Any]):
    """The fields of a dataclass as a mapping, without those that were not given."""

    names: ClassVar[Mapping[str, str]] = {}
    """Of fields that are called otherwise: numbers whose names have dots."""

    def _given(self) -> dict[str, Any]:
        return {self.names.get(name, name): value for name, value in fields_of(self).items() if value not in (None, ())}

    def __getitem__(self, name: str) -> Any:
        return self._given()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given())

    def __len__(self) -> int:
        return len(self._given())


@dataclasses.dataclass(frozen=True)
class Axes:
    """Names of the numbers that flags of `over` and `fit` give values of, and those of `search` ranges."""

    over: tuple[str, ...] = ()
    fit: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def flags_class(config: type, task: type[Task], optimizer: type[Optimizer], axes: Axes) -> Any:
    """The class of flags of `RunConfig`, `SweepConfig` or `TuneConfig`. Its instances become the config by `plain`.

    Raises:
        EquimuError: the task's `make` has no sizes.
    """
    if config is RunConfig:
        return _run_class(task, optimizer)
    return (_sweep_class if config is SweepConfig else _tune_class)(task, optimizer, axes)


def take_axes(flags: list[str], task: type[Task], optimizer: type[Optimizer]) -> tuple[Axes, list[str]]:
    """What flags of `over`, `fit` and `search` name, however much of its path is written; and all flags, with fields' names.

    Raises:
        EquimuError: a name of no number, or one without values.
    """
    known = numbers_of_kinds(object.__new__(task).sizes, task, optimizer)
    short = short_names(known)
    found: dict[str, list[str]] = {"over": [], "fit": [], "search": []}
    written: list[str] = []
    for index, flag in enumerate(flags):
        match = _AXIS.fullmatch(flag)
        if match is None:
            written.append(flag)
            continue
        what, name, value = match.groups()
        name = name.replace("-", "_")
        if what != "search" or not is_base_constant(name, known):
            name = short[find_number(name, known, what)]
        if not value and (index + 1 == len(flags) or flags[index + 1].startswith("--")):
            raise EquimuError(f"the grid is empty: {what}.{name} has no value; give at least one")
        found[what].append(name)
        written.append(f"--{what}.{_identifier(name).replace('_', '-')}")
        written += [value.removeprefix("=")] if value else []
    return Axes(**{what: tuple(names) for what, names in found.items()}), written


def flags_of(config: RunConfig | SweepConfig | TuneConfig, axes: Axes) -> Any:
    """A config as flags, whose defaults it is. One of `fit` or `search` replaces what the config fits or searches."""
    if isinstance(config, TuneConfig):
        task = type(config.run.task)
        names = axes.search or tuple(config.search)
        values = {_identifier(name): tuple(map(repr, config.search.get(name, ()))) for name in names}
        search = _axes_class("search", task, names)(**values)
        cls = _tune_class(task, type(config.run.optimizer), Axes(search=names))
        return cls(**fields_of(config) | {"run": flags_of(config.run, axes), "search": search})
    if isinstance(config, SweepConfig):
        task = type(config.run.task)
        both = Axes((*config.over, *axes.over), axes.fit or tuple(config.fit))
        defaults = {
            what: _axes_class(what, task, getattr(both, what))(
                **{
                    _identifier(name): tuple(map(repr, values))
                    for name, values in getattr(config, what).items()
                    if name in getattr(both, what)
                }
            )
            for what in ("over", "fit")
        }
        values = {**fields_of(config), "run": flags_of(config.run, axes), "base": _base(task)(**config.base)}
        return _sweep_class(task, type(config.run.optimizer), both)(**values | defaults)
    task = type(config.task)
    values = fields_of(config) | {"size": _size(task)(**config.size), "base": _base(task)(**config.base)}
    return _run_class(task, type(config.optimizer))(**values)


def flags_field(name: str, hint: Any, factory: Any) -> Any:
    """A field for `dataclasses.make_dataclass`.

    Args:
        name: of the field.
        hint: its type.
        factory: of its default. A class some field of which has no default makes none: that field's flag must be given.
    """
    fields: dict[str, Any] = getattr(factory, "__dataclass_fields__", {})
    if not all(map(_has_default, fields.values())):
        return name, hint, dataclasses.field()  # or it would have the default of the parent's field
    return name, hint, dataclasses.field(default_factory=factory)


def _plain(flags: Any) -> Any:
    """The config that flags say."""
    values = fields_of(flags)
    if "run" in values:
        for name in ("fit", "search"):
            if name in values and not values[name]:
                del values[name]
        if isinstance(flags, TuneConfig):
            return TuneConfig(run=_plain(values.pop("run")), **values)
        return sweep_config_of(_plain(values.pop("run")), values)
    return RunConfig(**values)


@functools.cache
def _run_class(task: type[Task], optimizer: type[Optimizer]) -> Any:
    size = _size(task)
    fields: list[Any] = [
        flags_field("task", Annotated[task, Flat], task),
        flags_field("size", size, size),
        flags_field("base", _base(task), _base(task)),
        flags_field("optimizer", optimizer, optimizer),
        ("parameterization", str, dataclasses.field(default=RunConfig.parameterization)),
    ]
    return _class("RunConfig", RunConfig, fields)


@functools.cache
def _sweep_class(task: type[Task], optimizer: type[Optimizer], axes: Axes) -> Any:
    run = _run_class(task, optimizer)
    over, fit = _axes_class("over", task, axes.over), _axes_class("fit", task, axes.fit)
    fields: list[Any] = [
        flags_field("run", run, run),
        ("panels", tuple[str, ...], dataclasses.field(default=SweepConfig.panels)),
        flags_field("over", over, over),
        flags_field("fit", fit, fit),
        ("seeds", int | tuple[int, ...], dataclasses.field(default=SweepConfig.seeds)),
        flags_field("base", _base(task), _base(task)),
    ]
    return _class("SweepConfig", SweepConfig, fields)


@functools.cache
def _tune_class(task: type[Task], optimizer: type[Optimizer], axes: Axes) -> Any:
    run, search = _run_class(task, optimizer), _axes_class("search", task, axes.search)
    return _class("TuneConfig", TuneConfig, [flags_field("run", run, run), flags_field("search", search, search)])


@functools.cache
def _size(task: type[Task]) -> Any:
    defaults = object.__new__(task).sizes
    return _class("Size", _Named, [_field_of_size(name, default) for name, default in defaults.items()])


@functools.cache
def _base(task: type[Task]) -> Any:
    names = object.__new__(task).sizes
    hint = Annotated[Size | None, tyro.conf.arg(help="At the base; the size itself by default.")]
    return _class("Base", _Named, [(name, hint, dataclasses.field(default=None)) for name in names])


@functools.cache
def _axes_class(what: str, task: type[Task], names: tuple[str, ...]) -> Any:
    """Flags of the sizes, or of the numbers that are usually fitted or searched, and of the others that are named."""
    usual = {"over": tuple(object.__new__(task).sizes), "fit": ("learning_rate",), "search": tuple(USUAL_SEARCH)}[what]
    called = {_identifier(name): name for name in (*usual, *names)}
    metavar = "LOW HIGH" if what == "search" else "[NUMBER [NUMBER ...]]"
    hint = Annotated[tuple[str, ...], tyro.conf.arg(metavar=metavar, help=_AXIS_HELP[what])]
    made = _class(what.capitalize(), _Named, [(field, hint, dataclasses.field(default=())) for field in called])
    made.names = called
    return made


def _identifier(name: str) -> str:
    return name.replace(".", "__")


def _class(name: str, parent: type, fields: list[Any]) -> Any:
    # A config checks itself when flags become one, and not before.
    own: dict[str, Any] = {} if parent is _Named else {"__post_init__": lambda self: None, "plain": _plain}
    made: Any = dataclasses.make_dataclass(
        name, fields, bases=(parent,), namespace=own, frozen=True, kw_only=True, eq=False
    )
    made.__doc__ = "" if parent is _Named else parent.__doc__
    return made


def _field_of_size(name: str, default: int | None) -> Any:
    hint = Annotated[Size, tyro.conf.arg(help="Of the model.")]
    return (name, hint) if default is None else (name, hint, dataclasses.field(default=default))


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
