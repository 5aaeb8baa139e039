"""What a sweep varied, and the finished runs of one."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from equimu._errors import EquimuError, counted
from equimu.runs._run import Run

_SHOWN = 20  # runs that the repr of a sweep names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axes:
    """What a sweep varied.

    Attributes:
        fit: path of the number whose best value is looked for, e.g. `"optimizer.learning_rate"`.
        over: paths of the numbers that the best value is looked for at each value of.
        scale: the axis of the number that is fitted; None for the one that its values are spaced on.
    """

    fit: str
    over: tuple[str, ...]
    scale: Literal["log2", "linear"] | None = None


class Runs(list[Run]):
    """The finished runs of a sweep, a list that prints as a summary and the first few of them.

    - `axes`: what the sweep varied; None where that is to be read off the runs.
    - `stopped`: runs that were left before their end, as early stopping does.
    """

    def __init__(self, runs: Iterable[Run] = (), axes: Axes | None = None, stopped: Iterable[Run] = ()):
        super().__init__(runs)
        self.axes: Axes | None = axes
        self.stopped: tuple[Run, ...] = tuple(stopped)

    def __repr__(self) -> str:
        lost = sum(run.status == "diverged" for run in self)
        left = f", {len(self.stopped)} stopped early" if self.stopped else ""
        lines = [f"{counted(len(self), 'run')}, {lost} diverged{left}"]
        fit = "optimizer.learning_rate" if self.axes is None else self.axes.fit
        for run in self[:_SHOWN]:
            value = value_at(run.identity["config"], fit)
            line = f"{run.parameterization}, {run.size}, {fit.rpartition('.')[2]} {value:.4g}, seed {run.seed}: " + (
                f"{run.validation_loss:.4f}" if run.status == "finished" else "diverged"
            )
            lines.append(f"  {line[:78]}")
        if len(self) > _SHOWN:
            lines.append(f"  and {len(self) - _SHOWN} more")
        return "\n".join(lines)


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """A value of a config in plain JSON types, by its path; None where there is none."""
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def flat(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """A config in plain JSON types by paths; a table of laws is one value.

    Args:
        value: the config.
        where: what is written before each path.
    """
    for name, each in value.items():
        path = f"{where}{name}"
        if isinstance(each, Mapping) and path != "parameterization":
            yield from flat(each, f"{path}.")
        else:
            yield path, each


def panels_of(configs: Sequence[Mapping[str, Any]], axes: Iterable[str]) -> list[str]:
    """The panel that each run of a sweep belongs to: its table of laws, and its optimizer where these differ.

    Args:
        configs: of the runs, in plain JSON types.
        axes: paths of the numbers that the sweep varied.

    Raises:
        EquimuError: two tables print the same name.
    """
    axes = set(axes)
    tables = [config["parameterization"] for config in configs]
    optimizers = [
        {path: value for path, value in flat(config["optimizer"], "optimizer.") if path not in axes}
        for config in configs
    ]
    names = [table if isinstance(table, str) else table["name"] for table in tables]
    of_optimizers = [_called(optimizer, optimizers) for optimizer in optimizers]
    if len(set(of_optimizers)) == 1:
        found = names
    elif len(set(names)) == 1:
        found = of_optimizers
    else:
        found = [f"{name}, {optimizer}" for name, optimizer in zip(names, of_optimizers, strict=True)]
    known: dict[str, str] = {}
    for name, table in zip(found, tables, strict=True):
        if known.setdefault(name, text := json.dumps(table, sort_keys=True)) != text:
            raise EquimuError(
                f"two tables of laws print the name {name!r}; give one of them another: dataclasses.replace(table, name=...)"
            )
    return found


def _called(optimizer: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """The name of an optimizer, with what tells it from others of that name."""
    name = optimizer["optimizer.name"]
    same = [other for other in others if other["optimizer.name"] == name]
    differing = [path for path, value in optimizer.items() if any(other.get(path) != value for other in same)]
    if not differing:
        return name
    fields = [f"{path.removeprefix('optimizer.')}={optimizer[path]}" for path in differing]
    return f"{name}({', '.join(fields)})"
