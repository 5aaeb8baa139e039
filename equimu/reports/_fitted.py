"""What a sweep fits: the number whose best value is looked for, and the axis that it is looked for on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from equimu._values import Real

Scale: TypeAlias = Literal["log2", "linear"]

# Short words of tables and sentences, and those of titles; other numbers are called by their names.
_SHORT = {"learning_rate": "LR"}
_WORDS = {"learning_rate": "learning rate"}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The number that is fitted, and its axis.

    A point of the axis is log2 of the value; on a linear axis it is the value in steps of the grid, so that distances on
    either axis are of the size of a grid's step.

    Attributes:
        name: of the number, e.g. `"learning_rate"`.
        scale: `"log2"` or `"linear"`.
        step: on a linear axis, the median distance of neighbouring values of the grid; 1 on the other.
    """

    name: str = "learning_rate"
    scale: Scale = "log2"
    step: Real = 1.0

    def point(self, value: Real) -> Real:
        """The point of a value. Rounded, so that a value in decimals and the same one as a power of two are one point."""
        return round(math.log2(value) if self.scale == "log2" else value / self.step, 6)

    def value(self, point: Real) -> Real:
        """The value at a point."""
        return 2.0**point if self.scale == "log2" else point * self.step

    def shown(self, point: Real) -> Real:
        """What stands on the axis at a point: log2 of the value, or the value itself."""
        return point if self.scale == "log2" else point * self.step

    @property
    def digits(self) -> int:
        """Decimals that tell a hundredth of a step."""
        return 2 if self.scale == "log2" else max(0, 2 - math.floor(math.log10(self.step)))

    def text(self, point: Real) -> str:
        """A point in tables and sentences."""
        return f"{round(self.shown(point), 12):g}"

    @property
    def label(self) -> str:
        """For tables and sentences: `"log2 LR"`, `"log2 weight_decay"`, `"b2"`."""
        return f"{self._prefix}{_SHORT.get(self.name, self.name)}"

    @property
    def title(self) -> str:
        """For the axis of a figure: `"log2 of the base learning rate"`, `"b2"`."""
        name = "the base learning rate" if self.name == "learning_rate" else self.name
        return f"log2 of {name}" if self.scale == "log2" else name.removeprefix("the ")

    @property
    def words(self) -> str:
        """`"learning rate"`, or the name of another number."""
        return _WORDS.get(self.name, self.name)

    @property
    def heading(self) -> str:
        """For the first line of a page: `"Learning rate"`, or the name of another number."""
        return self.words.capitalize() if self.name in _WORDS else self.name

    @property
    def single(self) -> str:
        """One of them: `"learning rate"`, `"value of weight_decay"`."""
        return self.words if self.name in _WORDS else f"value of {self.words}"

    @property
    def values(self) -> str:
        """Several of them: `"learning rates"`, `"values of weight_decay"`."""
        return f"{self.words}s" if self.name in _WORDS else f"values of {self.words}"

    @property
    def several(self) -> str:
        """As `values`, in advice that has named the number: `"rates"`."""
        return "rates" if self.name in _WORDS else self.values

    @property
    def carried(self) -> str:
        """One of them that is carried over: `"rate"`, or the name."""
        return "rate" if self.name in _WORDS else self.name

    @property
    def unit(self) -> str:
        """Of distances: `"octaves"`, or `"grid steps of 0.01"`."""
        return "octaves" if self.scale == "log2" else f"grid steps of {self.step:g}"

    @property
    def _prefix(self) -> str:
        return "log2 " if self.scale == "log2" else ""


def scale_of(name: str, values: Iterable[Real]) -> Scale:
    """The axis that values are spaced on.

    Linear where one is not positive. Else log2 for learning rates and for values of a constant ratio; linear for those that are
    evenly spaced, or that all lie within an octave, as decay rates of moments do; else log2.

    Args:
        name: of the number.
        values: that were run.
    """
    ordered = np.unique(np.round(np.array(list(values), np.float64), 12))
    if ordered[0] <= 0:
        return "linear"
    if name == "learning_rate" or len(ordered) < 2 or _is_even(np.log2(ordered)):
        return "log2"
    return "linear" if _is_even(ordered) or ordered[-1] < 2 * ordered[0] else "log2"


def _is_even(ordered: np.ndarray) -> bool:
    """Whether three values or more are evenly spaced."""
    steps = np.diff(ordered)
    return len(steps) > 1 and bool(np.allclose(steps, steps[0], rtol=1e-3))


def fitted(name: str, scale: Scale, values: Iterable[Real]) -> Fitted:
    """The axis of the values that were run.

    Args:
        name: of the number.
        scale: `log2` or `linear`.
        values: that were run.
    """
    ordered = np.unique(np.round(np.array(list(values), np.float64), 12))
    step = float(np.median(np.diff(ordered))) if scale == "linear" and len(ordered) > 1 else 1.0
    return Fitted(name=name, scale=scale, step=step)
