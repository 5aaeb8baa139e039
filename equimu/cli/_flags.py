"""Configs as classes of flags: which flags there are is known once the classes of the task and the optimizer are."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import tyro

from equimu._values import Size
from equimu.optim import Optimizer
from equimu.runs import RunConfig
from equimu.sweeps import SweepConfig
from equimu.tasks import Task

Flat = tyro.conf.arg(name="")


class _Named(Mapping[str, Any]):
    """The fields of a dataclass as a mapping, without those that were not given."""

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in fields_of(self).items() if value not in (None, ())}

    def __getitem__(self, name: str) -> Any:
        return self._given()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given())

    def __len__(self) -> int:
        return len(self._given())


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def flags_class(config: type, task: type[Task], optimizer: type[Optimizer]) -> Any:
    """The class of flags of `RunConfig` or `SweepConfig`. Its instances become the config by `plain`.

    Raises:
        EquimuError: the task's `make` has no sizes.
    """
    return (_run_class if config is RunConfig else _sweep_class)(task, optimizer)


def flags_of(config: RunConfig | SweepConfig) -> Any:
    """A config as flags, whose defaults it is."""
    if isinstance(config, SweepConfig):
        task = type(config.run.task)
        values = {**fields_of(config), "run": flags_of(config.run)}
        return _sweep_class(task, type(config.run.optimizer))(
            **values | {"over": _over(task)(**config.over), "base": _base(task)(**config.base)}
        )
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
        return SweepConfig(**{**values, "run": _plain(values["run"])})
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
def _sweep_class(task: type[Task], optimizer: type[Optimizer]) -> Any:
    run = _run_class(task, optimizer)
    fields: list[Any] = [
        flags_field("run", run, run),
        ("parameterizations", tuple[str, ...], dataclasses.field(default=SweepConfig.parameterizations)),
        flags_field("over", _over(task), _over(task)),
        flags_field("base", _base(task), _base(task)),
    ]
    return _class("SweepConfig", SweepConfig, fields)


@functools.cache
def _size(task: type[Task]) -> Any:
    defaults = object.__new__(task).sizes
    return _class("Size", _Named, [_field_of_size(name, default) for name, default in defaults.items()])


@functools.cache
def _base(task: type[Task]) -> Any:
    names = object.__new__(task).sizes
    return _class("Base", _Named, [(name, Size | None, dataclasses.field(default=None)) for name in names])


@functools.cache
def _over(task: type[Task]) -> Any:
    names = object.__new__(task).sizes
    return _class("Over", _Named, [(name, tuple[Size, ...], dataclasses.field(default=())) for name in names])


def _class(name: str, parent: type, fields: list[Any]) -> Any:
    # A config checks itself when flags become one, and not before.
    own: dict[str, Any] = {} if parent is _Named else {"__post_init__": lambda self: None, "plain": _plain}
    made: Any = dataclasses.make_dataclass(
        name, fields, bases=(parent,), namespace=own, frozen=True, kw_only=True, eq=False
    )
    made.__doc__ = "" if parent is _Named else parent.__doc__
    return made


def _field_of_size(name: str, default: int | None) -> Any:
    return (name, Size) if default is None else (name, Size, dataclasses.field(default=default))


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
