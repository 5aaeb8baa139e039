"""Whether a joint law predicts the optima of sizes that it has not seen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from equimu._errors import EquimuError
from equimu._interval import CONFIDENCE, half_width, welch_satterthwaite
from equimu._values import Real
from equimu.reports._joint_law import JointLaw, fit_joint_law


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """An optimum, and what the law of the other values of one size says of it.

    Attributes:
        name: of the size, one value of which was left out.
        sizes: of the optimum.
        error: the predicted optimum less the measured one, in octaves by default.
        stderr: of the error: of the prediction and of the measured optimum; None if not known.
        df: degrees of freedom of `stderr`.
    """

    name: str
    sizes: Mapping[str, Real]
    error: Real
    stderr: Real | None
    df: Real | None

    def inside(self, confidence: Real = CONFIDENCE) -> bool | None:
        """Whether the error lies within its interval; None if that is not known."""
        half = half_width(self.stderr, self.df, confidence)
        return None if half is None else abs(self.error) <= half


def held_out(law: JointLaw) -> tuple[HeldOut, ...]:
    """Leaves out each value of each size, wherever the others still tell all exponents, and predicts its optima.

    The curves are fitted again without those that are left out. Of two values of a size neither can be left out.

    Args:
        law: of all values.

    Returns:
        One item per optimum that is known and value that was left out.
    """
    found: list[HeldOut] = []
    for name in law.names:
        for value in sorted({sizes[name] for sizes in law.sizes}):
            kept = [index for index, sizes in enumerate(law.sizes) if sizes[name] != value]
            try:
                without = fit_joint_law(
                    law.panel, [law.curves[index] for index in kept], [law.sizes[index] for index in kept]
                )
            except EquimuError:  # the rest does not tell the exponents
                continue
            if without.names == law.names:
                found += [_compare(law, without, name, index) for index in law.known if index not in kept]
    return tuple(found)


def _compare(law: JointLaw, without: JointLaw, name: str, index: int) -> HeldOut:
    sizes, optimum = law.sizes[index], law.fit.optima[index]
    terms = without.terms(sizes)
    spread = without.regression.variance(terms, of_one=True)
    stderr = df = None
    if spread is not None and optimum.stderr is not None and optimum.df is not None:
        variance, df = welch_satterthwaite([spread, (optimum.stderr**2, optimum.df)])
        stderr = math.sqrt(variance)
    error = float(np.dot(without.regression.coefficients, terms)) - (optimum.point or 0.0)
    return HeldOut(name=name, sizes=sizes, error=error, stderr=stderr, df=df)
