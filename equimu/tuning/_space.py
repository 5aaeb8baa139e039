"""What is searched: numbers of a run and base constants of its table, each in a range."""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from equimu._errors import EquimuError
from equimu._values import DecayRate, Real, checked
from equimu.parameterization import NUMBERS
from equimu.runs import RunConfig, checked_number, find_number, number_at, numbers_of_run, short_names, with_numbers

Scale = Literal["log2", "linear", "log2 of 1 - x"]
_DIGITS = 4  # significant, of a searched value: more of them say nothing, and are hard to read in a config


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchedNumber:
    """A number that is searched, and its range.

    Attributes:
        name: by which it is called: the end of its path, or of a base constant `where.number`.
        path: of a number of the run; None for a base constant.
        low, high: the range.
        default: its value where nothing is searched: the run's own, or 1 for a base constant.
        scale: the axis on which points are even: log2 of the value for ranges of a factor of two or more, log2 of what is
            missing to 1 for decay rates of moments, else the value.
        hint: its type.
    """

    name: str
    path: str | None
    low: Real
    high: Real
    default: Real
    scale: Scale
    hint: Any

    def value(self, share: Real) -> Real:
        """The value at a share of the range, from 0 at its lower end to 1."""
        first, last = self._point(self.low), self._point(self.high)
        value = self._value(first + share * (last - first))
        if _is_integer(self.hint):
            return round(value)
        missing = float(f"{1 - value:.{_DIGITS}g}")  # of 0.99987 the last digits matter
        rounded = 1 - missing if self.scale == "log2 of 1 - x" else float(f"{value:.{_DIGITS}g}")
        return float(f"{min(max(rounded, self.low), self.high):.12g}")

    def share(self, value: Real) -> Real | None:
        """Where in its range a value is; None outside of it."""
        if not self.low <= value <= self.high:
            return None
        first, last = self._point(self.low), self._point(self.high)
        return (self._point(value) - first) / (last - first)

    def _point(self, value: Real) -> Real:
        match self.scale:
            case "log2":
                return math.log2(value)
            case "linear":
                return value
            case "log2 of 1 - x":
                return -math.log2(1 - value)

    def _value(self, point: Real) -> Real:
        match self.scale:
            case "log2":
                return 2.0**point
            case "linear":
                return point
            case "log2 of 1 - x":
                return 1 - 2.0**-point


def is_base_constant(name: str, known: Iterable[str]) -> bool:
    """Whether a name is of a base constant, `where.number`, and not of a number of the run.

    Args:
        name: what was given.
        known: paths of the numbers of the run.
    """
    where, _, number = name.rpartition(".")
    return bool(where) and number in NUMBERS and not any(path == name or path.endswith(f".{name}") for path in known)


def searched_numbers(run: RunConfig, ranges: Mapping[str, Any]) -> tuple[SearchedNumber, ...]:
    """The numbers that are searched, in the order of their ranges.

    Args:
        run: whose numbers they are.
        ranges: the lowest and the highest value, by name: of a number of the run as in a sweep, or of a base constant as
            `where.number`, for example `"output.multiplier"` or `"blocks.mlp.lr"`.

    Raises:
        EquimuError: nothing to search, an unknown name (with the nearest), a range that is none, or a size of the model.
    """
    if not ranges:
        raise EquimuError(
            "there is nothing to tune; name numbers with their ranges, e.g. learning_rate: (2**-9, 2**-3)"
        )
    known = numbers_of_run(run)
    short = short_names(known)
    found: dict[str, SearchedNumber] = {}
    for name, given in ranges.items():
        path = None if is_base_constant(name, known) else find_number(name, known, "search")
        if path is not None and path.partition(".")[0] in ("size", "base", "steps"):
            raise EquimuError(
                f"search names {name}: more of it always helps, and costs; tune at one, and carry to others"
            )
        called = name if path is None else short[path]
        if called in found:
            raise EquimuError(f"search names {called} twice; give it one range")
        hint = float if path is None else known[path]
        low, high = _range(called, given, hint)
        default = 1.0 if path is None else float(number_at(run, path))
        found[called] = SearchedNumber(
            name=called, path=path, low=low, high=high, default=default, scale=_scale(low, high, hint), hint=hint
        )
    return tuple(found.values())


def with_values(run: RunConfig, numbers: tuple[SearchedNumber, ...], values: Mapping[str, Real]) -> RunConfig:
    """The run with these values of searched numbers, by name.

    A base constant of 1 is left out: the run is then the one that nobody tuned.
    """
    own = {number.path: values[number.name] for number in numbers if number.path is not None and number.name in values}
    constants: dict[str, dict[str, float]] = {}
    for number in numbers:
        if number.path is None and values.get(number.name, 1.0) != 1:
            where, _, constant = number.name.rpartition(".")
            constants.setdefault(where, {})[constant] = values[number.name]
    table = run.parameterization
    for where, factors in constants.items():
        if isinstance(table, str):
            table += f".tune({where}, {', '.join(f'{name}={value!r}' for name, value in factors.items())})"
        else:
            table = table.tune(where, **factors)
    return dataclasses.replace(with_numbers(run, own), parameterization=table)


def _range(name: str, given: Any, hint: Any) -> tuple[Real, Real]:
    pair = checked(f"search.{name}", given, tuple[Any, ...])
    if len(pair) != 2:
        raise EquimuError(f"search.{name} is a lowest and a highest value, got {len(pair)} values")
    low, high = (float(checked_number(f"search.{name}", value, hint)) for value in pair)
    if not low < high:
        raise EquimuError(f"search.{name} is from {low:g} to {high:g}; give the lower value first")
    return low, high


def _scale(low: Real, high: Real, hint: Any) -> Scale:
    if hint == DecayRate:
        return "log2 of 1 - x"
    return "log2" if low > 0 and high >= 2 * low else "linear"


def _is_integer(hint: Any) -> bool:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return _is_integer(options[0])
    return hint is int or int in options
