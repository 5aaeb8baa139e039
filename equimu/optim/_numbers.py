"""What the numbers of an optimizer may be, in one place."""

import math
import operator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from equimu._errors import EquimuError

# By name: what is expected, and whether a plain number is that.
_FINITE = ("finite and not negative", lambda x: 0 <= x < math.inf)
_POSITIVE = ("finite and positive", lambda x: 0 < x < math.inf)
_SHARE = ("at least 0 and below 1", lambda x: 0 <= x < 1)
_EXPECTED = {
    **dict.fromkeys(("learning_rate", "adam_learning_rate", "weight_decay", "eps", "min_scale"), _FINITE),
    **dict.fromkeys(("clip_norm", "clipping_threshold"), _POSITIVE),
    **dict.fromkeys(("b1", "b2", "beta", "momentum"), _SHARE),
    "decay_rate": ("above 0 and at most 1", lambda x: 0 < x <= 1),
}


def check_numbers(**numbers: Any) -> None:
    """Raises an `EquimuError` unless each number of an optimizer, by the name of its argument, is one that it can be.

    None stands for what is left out. Traced scalars are not looked at.
    """
    for name, value in numbers.items():
        expected, holds = _EXPECTED[name]
        if value is None or (isinstance(value, jax.Array) and value.ndim == 0 and _is_traced(value)):
            continue
        if callable(value):
            raise EquimuError(
                f"{name} is a number, got the function {getattr(value, '__name__', value)}; give the base value here and the "
                "function of the step as schedule=..., which multiplies it"
            )
        number = _as_float(value)
        if number is None or not holds(number):
            raise EquimuError(f"{name} must be {expected}, got {value!r}")


def check_counts(**counts: Any) -> None:
    """Raises an `EquimuError` unless each is a positive integer."""
    for name, value in counts.items():
        try:
            good = not isinstance(value, bool) and operator.index(value) >= 1
        except TypeError:
            good = False
        if not good:
            raise EquimuError(f"{name} must be a positive integer, got {value!r}")


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool | str | bytes | complex) or np.ndim(value) != 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
