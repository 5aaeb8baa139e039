"""Exponents: straight lines through logarithms, with an interval from the seeds."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from equimu._interval import half_width, mean_half_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exponent:
    """A power of the size that a quantity goes with.

    - `value`: octaves of the quantity per octave of the size; None where the quantity is zero.
    - `plus_minus`: half of the 90% interval; None where neither seeds nor sizes are enough to know it.
    """

    value: float | None
    plus_minus: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "zero"
        text = f"{round(self.value, 2) + 0.0:+.2f}"
        return text if self.plus_minus is None else f"{text} ± {self.plus_minus:.2f}"


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the sizes that positive values go with: the slope of a line through the logarithms."""
    x, y = np.log2(sizes), np.log2(values)
    return float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))


def fit(sizes: Sequence[float], values: np.ndarray) -> Exponent:
    """The exponent of what was measured.

    Each seed has its own line, since its draws at different sizes are independent of each other and of other seeds'; the
    exponent is their mean and its interval that of Student's t over the seeds. With one seed the interval is that of the line.

    Args:
        sizes: at least two different ones.
        values: not negative; axes seed and size.
    """
    if not np.all(values > 0) or not np.all(np.isfinite(values)):
        return Exponent(value=None, plus_minus=None)
    slopes = np.array([slope(sizes, row) for row in values])
    if len(slopes) > 1:
        return Exponent(value=float(slopes.mean()), plus_minus=mean_half_width(slopes))
    return Exponent(value=float(slopes[0]), plus_minus=_half_width_of_line(np.log2(sizes), np.log2(values[0])))


def _half_width_of_line(x: np.ndarray, y: np.ndarray) -> float | None:
    df = len(x) - 2
    if df < 1:
        return None
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    return half_width(math.sqrt(float(np.sum(residuals**2)) / df / float(np.sum((x - x.mean()) ** 2))), float(df))
