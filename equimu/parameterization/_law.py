"""Laws: monomials in the sizes of a leaf, the alphabet in which parameterizations are written."""

import dataclasses
from fractions import Fraction

from equimu._errors import EquimuError
from equimu._values import Real, checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes of one leaf that a law may use.

    - `fan_in`: product of its summed axes; 1 where there is none (biases, gains, look-up tables).
    - `fan_out`: product of its output axes.
    - `fan_in_ratio`, `fan_out_ratio`: the same relative to the base model, exactly (192 over 128 is 3/2).
    - `width_ratio`: the fan-in's ratio where the fan-in grows with the width, else the fan-out's.
    - `layer_fan_in`: of a bias, the fan-in of the map whose output it is added to; of any other leaf its own.
    - `narrowing`: fan-out over fan-in where that is below 1, else 1.
    - `readers_ratio`: of a hidden matrix whose fan-out stays though its fan-in grows (its output is declared `inner`), how much
      more often each output is read than in the base model: fan_in_ratio over fan_out_ratio. 1 elsewhere.
    - `depth`, `depth_ratio`: of leaves of repeated blocks, how many blocks there are, and that relative to the base; 1
      elsewhere.
    - `batch_ratio`, `length_ratio`: of the run, its tokens a step and its training tokens relative to the base run's.
    """

    fan_in: int
    fan_out: int
    fan_in_ratio: Fraction = Fraction(1)
    fan_out_ratio: Fraction = Fraction(1)
    width_ratio: Fraction = Fraction(1)
    layer_fan_in: int = 1
    narrowing: Fraction = Fraction(1)
    readers_ratio: Fraction = Fraction(1)
    depth: int = 1
    depth_ratio: Fraction = Fraction(1)
    batch_ratio: Fraction = Fraction(1)
    length_ratio: Fraction = Fraction(1)


SYMBOLS = tuple(field.name for field in dataclasses.fields(Dimensions))


@dataclasses.dataclass(frozen=True)
class Law:
    """`coefficient` times a product of powers of the leaf's `Dimensions`.

    Laws multiply, divide and take powers among themselves and with numbers: `2 * fan_in**-0.5 / width_ratio`.

    - `coefficient`: a number.
    - `exponents`: the power of each size, by its name, sorted and without zeros.
    """

    coefficient: Real = 1.0
    exponents: tuple[tuple[str, Fraction], ...] = ()  # sorted by symbol, without zeros

    def __mul__(self, other: "Law | Real") -> "Law":
        other = as_law(other)
        total = dict(self.exponents)
        for symbol, exponent in other.exponents:
            total[symbol] = total.get(symbol, Fraction(0)) + exponent
        return Law(self.coefficient * other.coefficient, _canonical(total))

    def __pow__(self, exponent: Real | Fraction) -> "Law":
        exact = Fraction(exponent).limit_denominator(10**6)
        if self.coefficient < 0 and exact.denominator != 1:
            raise EquimuError(f"a negative law has no power of {exact}, got {self}")
        return Law(self.coefficient ** float(exact), _canonical({s: e * exact for s, e in self.exponents}))

    def __rmul__(self, other: Real) -> "Law":
        return self * other

    def __truediv__(self, other: "Law | Real") -> "Law":
        return self * as_law(other) ** -1

    def __rtruediv__(self, other: Real) -> "Law":
        return as_law(other) * self**-1

    def uses(self, *symbols: str) -> bool:
        """Whether any of these sizes stands in the law."""
        return any(s in symbols for s, _ in self.exponents)

    def __call__(self, dimensions: Dimensions) -> Real:
        """The law's value for a leaf of these sizes."""
        value = self.coefficient
        for symbol, exponent in self.exponents:
            value *= float(getattr(dimensions, symbol)) ** float(exponent)
        return value

    def __str__(self) -> str:
        factors = [f"{symbol}" if e == 1 else f"{symbol}^{e}" for symbol, e in self.exponents]
        if self.coefficient != 1 or not factors:
            factors.insert(0, f"{self.coefficient:g}")
        return " · ".join(factors)


def _canonical(exponents: dict[str, Fraction]) -> tuple[tuple[str, Fraction], ...]:
    return tuple(sorted((s, e) for s, e in exponents.items() if e != 0))


def as_law(value: "Law | Real") -> Law:
    """A number as the constant law; a law as it is."""
    return value if isinstance(value, Law) else Law(checked("a law", value, float))


def symbol(name: str) -> Law:
    """The law that is the named field of `Dimensions`."""
    if name not in SYMBOLS:
        raise EquimuError(f"{name!r} is not a size of a leaf (valid: {', '.join(SYMBOLS)})")
    return Law(1.0, ((name, Fraction(1)),))


ONE: Law = Law()
fan_in: Law = symbol("fan_in")
"""The product of the summed axes; 1 where there is none."""
fan_out: Law = symbol("fan_out")
"""The product of the output axes."""
fan_in_ratio: Law = symbol("fan_in_ratio")
"""`fan_in` relative to the base model."""
fan_out_ratio: Law = symbol("fan_out_ratio")
"""`fan_out` relative to the base model."""
width_ratio: Law = symbol("width_ratio")
"""`fan_in_ratio` where the fan-in grows with the width, else `fan_out_ratio`."""
layer_fan_in: Law = symbol("layer_fan_in")
"""Of a bias, the fan-in of the map whose output it is added to; of others their own."""
narrowing: Law = symbol("narrowing")
"""Fan-out over fan-in where that is below 1, else 1."""
readers_ratio: Law = symbol("readers_ratio")
"""How much more often each output of a matrix is read than in the base model; see `Dimensions`."""
depth: Law = symbol("depth")
"""The number of repeated blocks; 1 for leaves outside of them."""
depth_ratio: Law = symbol("depth_ratio")
"""`depth` relative to the base model."""
batch_ratio: Law = symbol("batch_ratio")
"""Tokens of a step relative to those of the base run."""
length_ratio: Law = symbol("length_ratio")
"""Training tokens relative to those of the base run."""
