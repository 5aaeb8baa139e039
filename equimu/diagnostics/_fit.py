"""Exponents: straight lines through logarithms, with an interval from the seeds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from equimu._interval import half_width, mean_half_width
from equimu._values import Real

_CERTAINTY = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exponent:
    """A power of the size that a quantity goes with.

    - `value`: octaves of the quantity per octave of the size; None where the quantity is zero.
    - `plus_minus`: half of the 90% interval; None where neither seeds nor sizes are enough to know it.
    - `reach`: half of the 99% interval, that verdicts are given by: there are many rows, and none should be off by chance.
    """

    value: Real | None
    plus_minus: Real | None = None
    reach: Real | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "zero"
        text = f"{round(self.value, 2) + 0.0:+.2f}"
        return text if self.plus_minus is None else f"{text} ± {self.plus_minus:.2f}"


def slope(sizes: Sequence[Real], values: Sequence[Any] | np.ndarray) -> float:
    """The power of the sizes that positive values go with: the slope of a line through the logarithms."""
    x, y = np.log2(sizes), np.log2(np.asarray(values, float))
    return float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))


def fit(sizes: Sequence[Real], values: np.ndarray) -> Exponent:
    """The exponent of what was measured.

    Each seed has its own line, since its draws at different sizes are independent of each other and of other seeds'; the
    exponent is their mean and its interval that of Student's t over the seeds. With one seed the interval is that of the line.

    Args:
        sizes: at least two different ones.
        values: not negative; axes seed and size.
    """
    if not np.all(values > 0) or not np.all(np.isfinite(values)):
        return Exponent(value=None)
    slopes = np.array([slope(sizes, row) for row in values])
    if len(slopes) > 1:
        half, reach = mean_half_width(slopes), mean_half_width(slopes, _CERTAINTY)
    else:
        error, df = _error_of_line(np.log2(sizes), np.log2(values[0]))
        half, reach = half_width(error, df), half_width(error, df, _CERTAINTY)
    return Exponent(value=float(slopes.mean()), plus_minus=half, reach=reach)


def _error_of_line(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """The standard error of the slope of a line through points, and its degrees of freedom."""
    df = len(x) - 2
    if df < 1:
        return None, None
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    return math.sqrt(float(np.sum(residuals**2)) / df / float(np.sum((x - x.mean()) ** 2))), float(df)
