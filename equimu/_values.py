"""What single values may be: each type of value is checked here, for configs, the command line and the API alike.

A type is written as a type hint: `Count`, `Seed | None`, `tuple[Size, ...]`, `Literal["a", "b"]`. The fields of configs are
annotated with them, so that their declaration is the check.
"""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np

from equimu._errors import EquimuError, nearest

_T = TypeVar("_T")

_LONGEST_SHOWN = 120  # characters
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, of common file systems


Real: TypeAlias = int | float
"""What PEP 484 means by `float`. Checks at run time take `float` at its word, and whole numbers are often given as ints."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that a value may be; its bounds are reported in the order of its fields."""

    above: Real | None = None
    least: Real | None = None
    below: Real | None = None
    most: Real | None = None

    def __repr__(self) -> str:
        return f"Range({', '.join(f'{name}={bound}' for name, bound in vars(self).items() if bound is not None)})"

    def refusal(self, value: Real) -> str | None:
        """What is wrong with a number, as the words after its name; None if nothing is."""
        bounds: dict[str, tuple[Any, Callable[[Any, Any], bool]]] = {
            "above": (self.above, operator.gt),
            "at least": (self.least, operator.ge),
            "below": (self.below, operator.lt),
            "at most": (self.most, operator.le),
        }
        given = {word: bound for word, (bound, _) in bounds.items() if bound is not None}
        if all(bound is None or holds(value, bound) for bound, holds in bounds.values()):
            return None
        message = " and ".join(f"{word} {_power(bound)}" for word, bound in given.items())
        return f"must be {message}, got {shown(value)}"


@dataclasses.dataclass(frozen=True)
class PathText:
    """A text that can be a path or a URL."""

    def refusal(self, value: str) -> str | None:
        """What is wrong with the text, as the words after its name; None if nothing is."""
        if not value:
            return "is empty; write a path, or . for the current folder"
        if "\0" in value:
            return "holds a NUL, which no path can"
        if "://" in value:
            return None
        content = value.encode(errors="surrogateescape")
        if len(content) > _LONGEST_PATH or max(map(len, content.split(b"/"))) > _LONGEST_NAME:
            return f"has {len(content)} bytes; a path has at most {_LONGEST_PATH}, and each name in it {_LONGEST_NAME}"
        return None


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A name of a registry, which is asked whenever a value is checked: users add names to it.

    Args:
        names: gives the names that there are.
    """

    names: Callable[[], Iterable[str]]

    def refusal(self, value: str) -> str | None:
        """What is wrong with the name, as the words after its name; None if nothing is."""
        valid = tuple(self.names())
        return None if value in valid else f"{value[:99]!r} is unknown: {nearest(value[:99], valid)}"


_BITS_64 = Range(least=-(2**63), below=2**63)
Count: TypeAlias = Annotated[int, Range(least=1), _BITS_64]
"""Steps, rows, whatever is counted."""
Size: TypeAlias = Annotated[int, Range(least=1), Range(below=2**31)]
"""Of an axis of an array."""
Index: TypeAlias = Annotated[int, Range(least=0), _BITS_64]
"""From 0."""
Integer: TypeAlias = Annotated[int, _BITS_64]
Seed: TypeAlias = Annotated[int, Range(least=0, below=2**32)]
"""Of others, JAX takes the lower 32 bits alone."""
NotNegative: TypeAlias = Annotated[float, Range(least=0)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
Share: TypeAlias = Annotated[float, Range(least=0, most=1)]
"""Of a whole; all and nothing are shares."""
Part: TypeAlias = Annotated[float, Range(above=0, below=1)]
"""Of a whole, of which something is left."""
DecayRate: TypeAlias = Annotated[float, Range(least=0, below=1)]
"""Of a moving average."""
Seconds: TypeAlias = Annotated[float, Range(above=0, most=1e9)]
Log2: TypeAlias = Annotated[float, Range(least=-126, most=127)]
"""The power of two of a float32 that is neither 0 nor infinite."""
PathLike: TypeAlias = Annotated[str, PathText()]
"""A path or URL."""


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of a type, from what a caller gave: an int where a float is wanted, or a list where a tuple is, is converted.

    Args:
        name: of the argument or field, for messages.
        value: what was given.
        hint: the type: one of this module's, or of bool, int, float, str, None, a literal, a class, a tuple of one of these, or
            a union.

    Returns:
        The value, as plain Python has it.

    Raises:
        EquimuError: the value is not of the type, or outside of its range.
    """
    if hint is Any:
        return value
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if isinstance(value, Path) and any(isinstance(limit, PathText) for limit in options[1:]):
            value = str(value)
        found = checked(name, value, options[0])
        for limit in options[1:]:
            reason = limit.refusal(found) if isinstance(limit, Range | PathText | OneOf) else None
            if reason is not None:
                raise EquimuError(f"{name} {reason}")
        return found
    if origin in (typing.Union, types.UnionType):
        return _of_union(name, value, options)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            item = shown(value)
            raise EquimuError(f"{name} must be a list or a tuple, got {item}; of a single value, write [{item}]")
        return tuple(checked(name, item, options[0]) for item in typing.cast(tuple[Any, ...], value))
    if origin is Literal:
        if isinstance(value, str | bool | None) and value in options:
            return value
        message = f"{name} {value!r} is unknown" if isinstance(value, str) else f"{name} is {shown(value)}"
        raise EquimuError(f"{message}: {nearest(str(value)[:99], map(str, options))}")
    try:
        found = _CONVERTERS[hint](value) if hint in _CONVERTERS else _instance(hint, value)
        if hint is float and not math.isfinite(found):
            raise EquimuError(f"{name} must be finite, got {shown(value)}")
        return found
    except EquimuError:
        raise
    except (TypeError, ValueError, OverflowError):
        raise EquimuError(f"{name} must be {_told(hint)}, got {shown(value)}") from None


def check(hint: Any, **values: Any) -> None:
    """Raises an `EquimuError` unless each value, by its name, is of the type; see `checked`."""
    for name, value in values.items():
        checked(name, value, hint)


def check_fields(config: Any, where: str = "") -> None:
    """Checks every field of a frozen dataclass by its hint, and converts what can be; for `__post_init__`.

    Raises:
        EquimuError: as `checked`; the message names the field after `where`.
    """
    for name, hint in hints_of(type(config)).items():
        object.__setattr__(config, name, checked(where + name, getattr(config, name), hint))


def takes_ints(cls: type[_T]) -> type[_T]:
    """Decorates a dataclass that checks its fields: its constructor takes ints for floats, which `check_fields` converts.

    Fields are annotated with what they are, and checks at run time hold the constructor to the same annotations.
    """
    arguments = cls.__init__.__annotations__
    for name, hint in arguments.items():
        if _may_be_float(hint):
            arguments[name] = hint | int
    return cls


def fields_from_dict(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """A dataclass from plain JSON types; fields left out keep their defaults.

    Args:
        cls: the dataclass; its fields are plain, or dataclasses in turn.
        values: by the names of its fields.
        where: in front of names in messages.

    Raises:
        EquimuError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    hints = hints_of(cls)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise EquimuError(f"unknown key {where + key!r}: {nearest(key, hints)}")
        hint = hints[key]
        if not dataclasses.is_dataclass(hint):
            found[key] = checked(where + key, value, hint)
        elif isinstance(value, Mapping):
            section = typing.cast(Mapping[str, Any], value)
            found[key] = fields_from_dict(typing.cast(type, hint), section, f"{where}{key}.")
        else:
            raise EquimuError(f"{where}{key} must be an object with keys, got {shown(value)}")
    try:
        return cls(**found)
    except TypeError as error:  # a field without a default was left out
        raise EquimuError(f"{where.removesuffix('.') or cls.__name__} lacks a value: {error}") from None


def hints_of(cls: type) -> dict[str, Any]:
    """The hints of a dataclass's fields, with their ranges."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_function(name: str, value: Any, what: str) -> None:
    """Raises an `EquimuError` unless a value can be called.

    Args:
        name: of the argument.
        value: what was given.
        what: the function's arguments and result, for the message.
    """
    if not callable(value):
        raise EquimuError(f"{name} must be a function, {what}; got {shown(value)}")


def check_class(name: str, value: Any) -> None:
    """Raises an `EquimuError` unless a value is a class."""
    if not isinstance(value, type):
        raise EquimuError(f"{name} must be a class, got {shown(value)}")


def check_keys(name: str, value: Any) -> None:
    """Raises an `EquimuError` unless a value is a mapping whose keys are names."""
    if not isinstance(value, typing.Mapping) or not all(
        isinstance(key, str) for key in typing.cast(typing.Mapping[Any, Any], value)
    ):
        raise EquimuError(f"{name} must be a dict by names, got {shown(value)}")


def check_key(name: str, value: Any) -> None:
    """Raises an `EquimuError` unless a value is a random key, or several, of either kind."""
    import jax
    import jax.numpy as jnp

    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
    if dtype is None or not (
        jnp.issubdtype(dtype, jax.dtypes.prng_key) or (dtype == np.uint32 and shape and shape[-1] in (2, 4))
    ):
        raise EquimuError(f"{name} must be a random key, as jax.random.key(0) is, got {shown(value)}")


def is_traced(value: Any) -> bool:
    """Whether a value is known only when the program runs."""
    from jax.core import Tracer

    return isinstance(value, Tracer)


def path_text(name: str, value: Any) -> str:
    """The text of a path or URL that may be given as a `pathlib.Path`; see `checked`."""
    return checked(name, value, PathLike)


def shown(value: Any) -> str:
    """A value in a message: in one line, and short, whatever it is."""
    if isinstance(value, int) and abs(value) >= 2**128:  # Python does not even print the largest
        return f"an integer of {value.bit_length()} bits"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape and not isinstance(value, type):
        return f"an array {getattr(value, 'dtype', '')}{list(typing.cast(tuple[Any, ...], shape))}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"a {type(value).__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _of_union(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    errors: list[EquimuError] = []
    for option in options:
        try:
            return checked(name, value, option)
        except EquimuError as error:
            errors.append(error)
    others = [error for error, option in zip(errors, options, strict=True) if option is not type(None)]
    if len(others) == 1 and value is not None:
        raise others[0]  # which tells the range, too
    raise EquimuError(f"{name} must be {' or '.join(map(_told, options))}, got {shown(value)}")


def _told(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _told(options[0])
    if origin is Literal:
        return " or ".join(map(repr, options))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_told, options))
    return "None" if hint is type(None) else f"{getattr(hint, '__name__', hint)}"


def _may_be_float(hint: Any) -> bool:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _may_be_float(options[0])
    return any(map(_may_be_float, options)) if origin in (typing.Union, types.UnionType) else hint is float


def _power(bound: Real) -> str:
    exponent = abs(bound).bit_length() - 1 if isinstance(bound, int) else 0
    return f"{'-' if bound < 0 else ''}2**{exponent}" if exponent > 20 and abs(bound) == 2**exponent else f"{bound:g}"


def _bool(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _int(value: Any) -> int:
    if isinstance(value, bool | np.bool_) or np.ndim(value):
        raise TypeError
    return operator.index(value)


def _float(value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes | complex | np.complexfloating) or np.ndim(value):
        raise TypeError
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _none(value: Any) -> None:
    if value is not None:
        raise TypeError


def _instance(hint: Any, value: Any) -> Any:
    if not isinstance(value, hint):
        raise TypeError
    return value


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    type(None): _none,
}
