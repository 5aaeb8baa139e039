"""How the best value depends on several sizes at once: a plane, in octaves where the fitted number is on a log2 axis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from equimu._errors import EquimuError, nearest
from equimu._interval import CONFIDENCE, half_width
from equimu._values import Real
from equimu.reports._cells import Curve
from equimu.reports._fit import Fit, fit
from equimu.reports._fitted import Fitted
from equimu.reports._regression import Regression, regress

# How sure a test must be that the optima scatter beyond their errors, before intervals allow for it. Less than for a law over
# one size, which judges what was run: a prediction far outside is wrong by many times a scatter that was overlooked.
_CLEARLY = 0.75


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """Octaves that the best value moves per doubling of one size, the others staying.

    Attributes:
        name: of the size.
        value: the exponent.
        stderr: its standard error; None if not known.
        df: degrees of freedom of `stderr`.
        plus_minus: half of its 90% interval.
    """

    name: str
    value: Real
    stderr: Real | None
    df: Real | None
    plus_minus: Real | None

    def rejects(self, exponent: Real, confidence: Real = CONFIDENCE) -> bool | None:
        """Whether another exponent lies outside of the interval of some confidence; None if the interval is not known."""
        half = half_width(self.stderr, self.df, confidence)
        return None if half is None else abs(self.value - exponent) > half


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The best value at sizes that need not have been run.

    Attributes:
        point: of the best value: its log2 by default, see `Fitted`.
        plus_minus: half of the 90% interval, which allows for what is not known of the law, and for the scatter of a single
            optimum about it; None if not known.
        value: the best value itself.
    """

    point: Real
    plus_minus: Real | None
    value: Real


@dataclass(frozen=True, kw_only=True)
class JointLaw:
    """Point of the best value = intercept + sum over sizes of exponent · log2 size.

    Attributes:
        panel: whose law it is.
        fitted: the number that is fitted, and its axis.
        sizes: each combination of sizes that was run, by name.
        known: which of them have a known optimum.
        exponents: one per size that varies.
        intercept: the law where all sizes are 1.
        scatter: root-mean-square distance of the optima from the law, over the degrees of freedom left; None with none left.
        regression: the coefficients, intercept first, and their covariance.
        fit: the optima, in the order of `sizes`.
        curves: what they are fitted to.
    """

    panel: str
    fitted: Fitted
    sizes: tuple[Mapping[str, Real], ...]
    known: tuple[int, ...]
    exponents: tuple[Exponent, ...]
    intercept: Real
    scatter: Real | None
    regression: Regression
    fit: Fit
    curves: tuple[Curve, ...]

    def __repr__(self) -> str:
        terms = ", ".join(f"{each.name} {each.value:+.2f}" for each in self.exponents)
        return f"JointLaw({self.panel}: {terms})"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sizes that vary."""
        return tuple(each.name for each in self.exponents)

    def at(self, **sizes: Real) -> Prediction:
        """The best value at sizes.

        Args:
            sizes: a positive value of each size of the law.

        Raises:
            EquimuError: a size is missing, unknown or not positive.
        """
        terms = self.terms(sizes)
        point = float(self.regression.coefficients @ terms)
        spread = self.regression.variance(terms, of_one=True)
        half = None if spread is None else half_width(math.sqrt(spread[0]), spread[1])
        return Prediction(point=point, plus_minus=half, value=self.fitted.value(point))

    def exponent(self, name: str) -> Exponent:
        """The exponent of a size.

        Raises:
            EquimuError: the law has no such size.
        """
        self._check(name)
        return self.exponents[self.names.index(name)]

    def rejects(self, name: str, exponent: Real, confidence: Real = CONFIDENCE) -> bool | None:
        """Whether the data reject an exponent of a size; None if they cannot tell.

        Raises:
            EquimuError: the law has no such size.
        """
        return self.exponent(name).rejects(exponent, confidence)

    def terms(self, sizes: Mapping[str, Real]) -> Float[np.ndarray, " terms"]:
        """By what the coefficients are multiplied at sizes.

        Raises:
            EquimuError: as `at`.
        """
        for name, value in sizes.items():
            self._check(name)
            if not (math.isfinite(value) and value > 0):
                raise EquimuError(f"{name} {value:g} has no logarithm; give the law a positive one")
        missing = [name for name in self.names if name not in sizes]
        if missing:
            raise EquimuError(f"the law is over {', '.join(self.names)}: give {missing[0]} too")
        return _terms(self.names, sizes)

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise EquimuError(f"the law has no size {name!r}: {nearest(name, self.names)}")


def fit_joint_law(panel: str, curves: Sequence[Curve], sizes: Sequence[Mapping[str, Real]]) -> JointLaw:
    """Fits all curves of a panel together, and regresses their optima on the log2 of all sizes that vary.

    Args:
        panel: their name.
        curves: one per combination of sizes.
        sizes: of each curve, by name.

    Raises:
        EquimuError: a size has no logarithm, or the curves do not tell the sizes apart.
    """
    names = tuple(name for name in sizes[0] if len({each[name] for each in sizes}) > 1)
    for each in sizes:
        for name in names:
            if each[name] <= 0:
                raise EquimuError(f"{name} {each[name]:g} has no logarithm; run positive values of {name} alone")
    fitted = fit(curves)
    known = tuple(index for index, optimum in enumerate(fitted.optima) if optimum.point is not None)
    x = np.array([_terms(names, sizes[index]) for index in known]).reshape(len(known), len(names) + 1)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise EquimuError(_why_not(names, x))
    y = np.array([fitted.optima[index].point for index in known], dtype=np.float64)
    plane = regress(x, y, fitted.covariance, fitted.df, _CLEARLY)
    return JointLaw(
        panel=panel,
        fitted=curves[0].fitted,
        sizes=tuple({name: each[name] for name in names} for each in sizes),
        known=known,
        exponents=tuple(_exponent(name, plane, index + 1) for index, name in enumerate(names)),
        intercept=float(plane.coefficients[0]),
        scatter=plane.scatter,
        regression=plane,
        fit=fitted,
        curves=tuple(curves),
    )


def _terms(names: Sequence[str], sizes: Mapping[str, Real]) -> np.ndarray:
    return np.array([1.0, *(math.log2(sizes[name]) for name in names)])


def _exponent(name: str, plane: Regression, index: int) -> Exponent:
    spread = plane.variance(np.eye(len(plane.coefficients))[index])
    stderr, df = (None, None) if spread is None else (math.sqrt(spread[0]), spread[1])
    value = float(plane.coefficients[index])
    return Exponent(name=name, value=value, stderr=stderr, df=df, plus_minus=half_width(stderr, df))


def _why_not(names: Sequence[str], x: np.ndarray) -> str:
    if len(x) <= len(names):
        return (
            f"{len(x)} known optima do not tell the exponents of {', '.join(names)}; run at least {len(names) + 1} "
            "combinations of them, each with values on both sides of the best one"
        )
    for index, name in enumerate(names, 1):
        if np.ptp(x[:, index]) == 0:
            return f"all known optima have {name} {2 ** x[0, index]:g}; run enough values at another {name} too"
    return (
        f"{' and '.join(names)} were varied together, so their exponents cannot be told apart; vary each by itself too"
    )
