"""Whether transfer is useful: what a carried-over value costs, beside what the larger model gains (arXiv 2512.22768)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from equimu._values import Real
from equimu.reports._cells import Curve
from equimu.reports._fit import Fit, Optimum
from equimu.reports._regret import regret_at


@dataclass(frozen=True, kw_only=True)
class Carried:
    """One size's best value, at the largest size.

    Attributes:
        size: whose best value it is.
        regret: what it costs at the largest size, over that size's own best.
        low: the lower end of the regret's 90% interval; None if not known.
        high: the upper end.
        gap: by how much the loss at the optimum is lower at the largest size than at this one.
    """

    size: Real
    regret: Real
    low: Real | None
    high: Real | None
    gap: Real

    @property
    def share(self) -> Real:
        """The regret as a share of what the larger model gains."""
        return self.regret / self.gap


@dataclass(frozen=True, kw_only=True)
class Useful:
    """What every smaller size's best value costs at the largest one.

    Transfer is fast if that cost falls faster with the size that was searched than the loss gap between it and the largest
    size does; then searching at a small size comes cheaper than searching at the large one.

    Attributes:
        largest: the largest size.
        carried: one item per smaller size whose regret is measured and which the largest one is better than, ascending.
        kind: `"fast"`: the share of the regret in the gap is smaller at the last of them than at the first, their 90%
            intervals lying apart, and the first one's optimum differs from the largest one's by more than both are uncertain
            by. `"slow"`: larger, and the last one's optimum differs so. `"small"`: neither, but of the first the upper end of
            the share's interval is below 5 %. `"unknown"`: none of them.
    """

    largest: Real
    carried: tuple[Carried, ...]
    kind: Literal["fast", "slow", "small", "unknown"]


# A regret below this share of what the larger model gains hides in it.
_SMALL = 0.05


def useful(curves: Sequence[Curve], fit: Fit) -> Useful | None:
    """Compares the regret with the loss gap between sizes.

    Args:
        curves: one per size, ascending.
        fit: their optima.

    Returns:
        The comparison; None where no regret at the largest size is measured, or no size's loss is higher than there.
    """
    last = len(curves) - 1
    best = fit.optima[last].loss
    carried: list[Carried] = []
    moved: list[bool] = []
    for optimum in fit.optima[:last]:
        regret = regret_at(curves[last], fit, last, optimum.point, optimum.size)
        if regret.status != "measured" or regret.value is None or optimum.loss is None or best is None:
            continue
        if optimum.loss > best:
            moved.append(_differ(optimum, fit.optima[last]))
            carried.append(
                Carried(
                    size=optimum.size, regret=regret.value, low=regret.low, high=regret.high, gap=optimum.loss - best
                )
            )
    if not carried:
        return None
    return Useful(largest=curves[last].size, carried=tuple(carried), kind=_kind(carried, moved))


def _differ(one: Optimum, other: Optimum) -> bool:
    if one.point is None or other.point is None or one.plus_minus is None or other.plus_minus is None:
        return False
    return abs(one.point - other.point) > math.hypot(one.plus_minus, other.plus_minus)


def _kind(carried: Sequence[Carried], moved: Sequence[bool]) -> Literal["fast", "slow", "small", "unknown"]:
    first, last = carried[0], carried[-1]
    if first.low is None or first.high is None or last.low is None or last.high is None:
        return "unknown"
    if moved[0] and last.high / last.gap < first.low / first.gap:
        return "fast"
    if moved[-1] and last.low / last.gap > first.high / first.gap:
        return "slow"
    return "small" if first.high < _SMALL * first.gap else "unknown"


def useful_text(useful: Useful, along: str, carried: str) -> str:
    """The comparison as a sentence.

    Args:
        useful: the comparison.
        along: what the sizes are.
        carried: a word for what is carried over.
    """
    first = useful.carried[0]
    ends = "" if first.low is None or first.high is None else f" ({first.low:.3f} to {first.high:.3f})"
    ending = {
        "fast": f", a share that falls with {along}",
        "slow": f", a share that grows with {along}",
        "small": "",
        "unknown": f"; whether that share falls with {along} is not known",
    }
    return (
        f"from {first.size:g} to {useful.largest:g} the {carried} costs {first.regret:.3f}{ends}, "
        f"{first.share:.1%} of what the larger model gains{ending[useful.kind]}"
    )
