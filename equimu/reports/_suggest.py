"""Which cells to add to a sweep for the joint law to say more of sizes that are too large to sweep."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from equimu._errors import EquimuError
from equimu._interval import half_width, welch_satterthwaite
from equimu._values import Real
from equimu.reports._joint_law import JointLaw
from equimu.reports._regression import regress
from equimu.reports._valley import Valleys

# More combinations of sizes than this are not suggested.
_MOST = 24
# Fewer values than this tell little of a minimum.
_LEAST_VALUES = 5


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Cells of one combination of sizes: all values at all seeds.

    Attributes:
        sizes: the combination.
        points: of the values of the fitted number.
        seeds: to run at each.
    """

    sizes: Mapping[str, Real]
    points: tuple[Real, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What to add, and what it is expected to do.

    Attributes:
        target: the sizes whose interval is to be halved.
        before: half of the interval now.
        after: half of the interval with the additions, if noise and form of the new curves are as those of the old ones.
        additions: one per combination of sizes, in the order in which they were chosen.
    """

    target: Mapping[str, Real]
    before: Real
    after: Real
    additions: tuple[Addition, ...]

    @property
    def halves(self) -> bool:
        """Whether the interval is expected to be half as wide, or narrower."""
        return self.after <= self.before / 2

    @property
    def cells(self) -> int:
        """How many runs that is."""
        return sum(len(each.points) * len(each.seeds) for each in self.additions)


def suggest(law: JointLaw, target: Mapping[str, Real]) -> Suggestion:
    """Chooses combinations of sizes, one after another, until the interval at the target is half as wide.

    Of the values of each size that were run, and twice the largest of them where that is still below the target, each time the
    combination is taken that narrows the interval most; of equal ones that with the smaller sizes. One that was run before, or
    is taken twice, gets new seeds.

    Args:
        law: of the cells that were run.
        target: a value of each size of the law.

    Raises:
        EquimuError: the target is not of the law, or nothing tells the interval there.
    """
    before = law.at(**target).plus_minus
    if before is None or law.fit.covariance is None or law.fit.valleys is None:
        raise EquimuError("nothing tells the noise of these runs, so no cells can be suggested; run three seeds first")
    half = _halves(law, law.terms(target), law.fit.covariance, law.fit.valleys)
    candidates = _candidates(law, target)
    chosen: list[Mapping[str, float]] = []
    after = before
    while after > before / 2 and len(chosen) < _MOST:
        found = [half([*chosen, sizes]) for sizes in candidates]
        best = min(range(len(found)), key=lambda i: (round(found[i], 3), math.prod(candidates[i].values())))
        if chosen and found[best] >= after:
            break
        chosen.append(candidates[best])
        after = found[best]
    return Suggestion(target=dict(target), before=before, after=after, additions=_additions(law, chosen))


def _candidates(law: JointLaw, target: Mapping[str, Real]) -> list[Mapping[str, Real]]:
    values: list[list[float]] = []
    for name in law.names:
        own = sorted({sizes[name] for sizes in law.sizes})
        further = 2 * own[-1]
        values.append([*own, further] if own[-1] < further < target[name] else own)
    return [dict(zip(law.names, each, strict=True)) for each in itertools.product(*values)]


def _halves(
    law: JointLaw, terms: np.ndarray, covariance: np.ndarray, valleys: Valleys
) -> Callable[[Sequence[Mapping[str, Real]]], Real]:
    """What half of the interval would be with curves at further combinations.

    New curves are taken to be as uncertain as the old ones: by noise, which is each curve's own, and by what is not known of
    the form, which is the same wherever the sizes are, and much the same elsewhere.
    """
    noise = np.zeros_like(covariance)
    inside = [
        (row, valleys.at(1, place))
        for row, index in enumerate(law.known)
        if (place := law.fit.place[index]) is not None and law.fit.optima[index].curvature is not None
    ]
    rows, at = [row for row, _ in inside], [index for _, index in inside]
    noise[np.ix_(rows, rows)] = valleys.by_noise[np.ix_(at, at)]
    apart = ~np.eye(len(noise), dtype=bool)
    own_noise, own_form = (float(np.median(np.diag(part))) for part in (noise, covariance - noise))
    shared = float(np.median(covariance[apart]))
    runs = [int(np.isfinite(curve.losses).sum()) for curve in law.curves]
    x = np.array([law.terms(law.sizes[index]) for index in law.known])
    extra = law.regression.extra

    def half(added: Sequence[Mapping[str, Real]]) -> Real:
        sizes = [*(law.sizes[index] for index in law.known), *added]
        old, count = len(x), len(sizes)
        same = np.array([[one == other for other in sizes] for one in sizes])
        spread = np.where(same, own_form, shared) + own_noise * np.eye(count)
        spread[:old, :old] = covariance
        own, axes = np.linalg.eigh(spread)
        spread = axes @ np.diag(np.maximum(own, 0.0)) @ axes.T + extra * same
        design = np.vstack([x, *(law.terms(each) for each in added)])
        df = law.fit.df * (1 + len(added) * float(np.median(runs)) / sum(runs))
        plane = regress(design, design @ law.regression.coefficients, spread, df, 1.0)
        known = plane.variance(terms) or (0.0, df)
        variance, df = welch_satterthwaite([known, (extra, float(max(plane.left, 1)))])
        return half_width(math.sqrt(variance), df) or 0.0

    return half


def _additions(law: JointLaw, chosen: Sequence[Mapping[str, Real]]) -> tuple[Addition, ...]:
    """Values about what the law expects, as far apart and as many as in the sweep, with its seeds or with new ones."""
    widest = max(law.curves, key=lambda curve: len(curve.grid))
    step = float(np.median(np.diff(widest.grid)))
    count = max(_LEAST_VALUES, len(widest.grid))
    seeds = max((curve.seeds for curve in law.curves), key=len)
    grids = {tuple(sizes.items()): curve.grid for sizes, curve in zip(law.sizes, law.curves, strict=True)}
    found: list[Addition] = []
    for key, times in Counter(tuple(sizes.items()) for sizes in chosen).items():
        middle = float(np.round((law.at(**dict(key)).point - widest.grid[0]) / step)) * step + widest.grid[0]
        points = grids[key] if key in grids else middle + step * (np.arange(count) - count // 2)
        new = times - 1 + (key in grids)  # times that there are new seeds
        further = tuple(range(max(seeds) + 1, max(seeds) + 1 + new * len(seeds)))
        own = further if key in grids else (*seeds, *further)
        found.append(Addition(sizes=dict(key), points=tuple(map(float, points)), seeds=own))
    return tuple(found)
