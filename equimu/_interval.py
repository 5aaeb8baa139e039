"""From an estimated variance to an interval that says how little is known about the variance itself."""

import math
from collections.abc import Sequence

import numpy as np

from equimu._values import Real

# Every "±" that is printed is half of a two-sided 90% interval. Two such ends are two one-sided tests at 5%, which is
# what "no larger than" (a transfer) and "smaller than" (a drift) ask for.
CONFIDENCE = 0.9


def half_width(stderr: Real | None, df: Real | None, confidence: Real = CONFIDENCE) -> Real | None:
    """Half of the interval of Student's t, of 90% by default.

    Args:
        stderr: standard error of the estimate; None if not known.
        df: degrees of freedom of the standard error.
        confidence: of the two-sided interval.

    Returns:
        The half-width, or None if the standard error is not known.
    """
    if stderr is None or df is None:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + confidence / 2)) * stderr


def mean_half_width(values: np.ndarray, confidence: Real = CONFIDENCE) -> Real | None:
    """Half of the interval of a mean over seeds, of 90% by default.

    Args:
        values: one per seed.
        confidence: of the two-sided interval.

    Returns:
        The half-width, or None with fewer than two seeds.
    """
    if len(values) < 2:
        return None
    return half_width(float(np.std(values, ddof=1)) / math.sqrt(len(values)), float(len(values) - 1), confidence)


def welch_satterthwaite(parts: Sequence[tuple[Real, Real]]) -> tuple[Real, Real]:
    """Adds independent variance estimates and says how many degrees of freedom the sum is worth.

    Args:
        parts: pairs of a variance and its degrees of freedom (infinite for a variance that is given, not estimated).

    Returns:
        The sum and its effective degrees of freedom (Welch 1947, Satterthwaite 1946).
    """
    total = math.fsum(variance for variance, _ in parts)
    spread = math.fsum(variance**2 / df for variance, df in parts)
    return total, total**2 / spread if spread > 0 else math.inf
