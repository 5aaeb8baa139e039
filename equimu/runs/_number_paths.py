"""The numbers of a run by name: what a sweep can go over, or fit."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from equimu._errors import EquimuError, nearest
from equimu._values import Real, Size, checked, hints_of, shown
from equimu.optim import Optimizer
from equimu.runs._config import RunConfig, Sizes
from equimu.tasks import Task, is_execution

_SECTIONS = ("size", "base")
_POWER = re.compile(r"([^*]+)\*\*([^*]+)")


def numbers_of_run(config: RunConfig) -> dict[str, Any]:
    """The types of a run's numbers, by their paths: `size.width`, `optimizer.weight_decay`, `steps`, `task.text.rows`, ...

    Its seed is not among them, nor is what only says how it is carried out.

    Args:
        config: of a run.
    """
    return numbers_of_kinds(config.task.sizes, config.task, config.optimizer)


def numbers_of_kinds(
    sizes: Iterable[str], task: Task | type[Task], optimizer: Optimizer | type[Optimizer]
) -> dict[str, Any]:
    """As `numbers_of_run`, of all runs of a kind.

    Args:
        sizes: names of the sizes of the task's models.
        task: the task, or its class.
        optimizer: the optimizer, or its class.
    """
    size = {f"{section}.{name}": Size for section in _SECTIONS for name in sizes}
    own = {path: hint for path, hint in _numbers_in(RunConfig, "") if "." not in path and path != "seed"}
    nested = {**dict(_numbers_in(optimizer, "optimizer.")), **dict(_numbers_in(task, "task."))}
    return {**size, **own, **nested}


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """What numbers are called: each path's shortest end that no other path has; of a size, its own name.

    Args:
        paths: of all numbers of a run.
    """
    paths = list(paths)
    ends: dict[str, set[str]] = {}
    for path in paths:
        for end in _ends(path):
            ends.setdefault(end, set()).add(path)
    sizes = {path: path.removeprefix("size.") for path in paths if path.startswith("size.")}
    taken = set(sizes.values())
    return {
        path: sizes.get(path) or next((end for end in _ends(path) if len(ends[end]) == 1 and end not in taken), path)
        for path in paths
    }


def find_number(name: str, paths: Iterable[str], what: str) -> str:
    """The path of a number, from it or an end of it that no other path has; a size is found by its own name.

    Args:
        name: what was given.
        paths: of all numbers of the run.
        what: that names it, for messages: `"over"`.

    Raises:
        EquimuError: there is none (with the nearest name), or several.
    """
    paths = list(paths)
    if name in paths:
        return name
    if f"size.{name}" in paths:
        return f"size.{name}"
    found = [path for path in paths if path.endswith(f".{name}")]
    if len(found) > 1:
        raise EquimuError(f"{what} names {name!r}, which may be {' or '.join(found)}; write one of these")
    if not found:
        known = [short for path, short in short_names(paths).items() if not path.startswith("base.")]
        raise EquimuError(f"{what} names {name!r}, which is not a number of the run: {nearest(name, known)}")
    return found[0]


def number_at(config: RunConfig, path: str) -> Any:
    """The value of a number.

    Args:
        config: of a run.
        path: of a number, as `find_number` gives it.
    """
    value: Any = config
    for name in path.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value


def usual_number(config: RunConfig, path: str) -> Any:
    """The value of a number where nothing is said; None where there is none.

    Args:
        config: of a run.
        path: of a number.
    """
    section, _, name = path.partition(".")
    if section == "size":
        return config.task.sizes[name]
    if section == "base":
        return None
    *holders, last = path.split(".")
    holder: Any = config
    for each in holders:
        holder = getattr(holder, each)
    for field in dataclasses.fields(holder):
        if field.name == last and field.default is not dataclasses.MISSING:
            return field.default
    return None


def with_numbers(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The run with other values of some numbers, by their paths; its base stays.

    Args:
        config: of a run.
        values: by path.
    """
    fields: dict[str, Any] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        before = fields.get(name, getattr(config, name))
        fields[name] = value if not rest else _replaced(before, rest, value)
    return dataclasses.replace(config, **fields)


def checked_number(name: str, value: Any, hint: Any) -> Real:
    """A number of a type. A text may be one, too: `"0.01"`, `"2**-9"`.

    Args:
        name: what an error calls it.
        value: a number or a text.
        hint: its type, one of those that `numbers_of_run` gives.

    Raises:
        EquimuError: it is not such a number.
    """
    found = checked(name, _of_text(name, value) if isinstance(value, str) else value, hint)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise EquimuError(f"{name} must be a number, got {shown(value)}")
    return found


def _of_text(name: str, text: str) -> Real:
    power = _POWER.fullmatch(text)
    try:
        if power is not None:
            return float(power.group(1)) ** float(power.group(2))
        return int(text)
    except (ValueError, ArithmeticError):
        pass
    try:
        return float(text)
    except ValueError:
        raise EquimuError(f"{name} must be a number, e.g. 0.01 or 2**-9, got {shown(text)}") from None


def _replaced(holder: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    if isinstance(holder, Sizes):
        return Sizes({**holder, name: value})
    return dataclasses.replace(holder, **{name: value if not rest else _replaced(getattr(holder, name), rest, value)})


def _numbers_in(holder: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The numbers in a dataclass or an instance of one, and in those that it holds."""
    hints = hints_of(holder if isinstance(holder, type) else type(holder))
    for field in dataclasses.fields(holder):
        hint = hints[field.name]
        own = field.default if isinstance(holder, type) else getattr(holder, field.name)
        if is_execution(field) or not field.init:
            continue
        if dataclasses.is_dataclass(own):
            yield from _numbers_in(own, f"{where}{field.name}.")
        elif dataclasses.is_dataclass(hint):
            yield from _numbers_in(hint, f"{where}{field.name}.")
        elif _is_number(hint):
            yield where + field.name, hint


def _is_number(hint: Any) -> bool:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _is_number(options[0])
    if origin in (typing.Union, types.UnionType):
        return any(map(_is_number, options))
    return hint in (int, float)


def _ends(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[start:]) for start in range(len(names) - 1, -1, -1)]
