"""One sentence: does the best learning rate stay where it is as the model grows wider?"""

from dataclasses import dataclass
from typing import Literal

from equimu.report._cells import Curve
from equimu.report._fit import Fit, Optimum
from equimu.report._law import Law

# A slope this small, in octaves per doubling of size, counts as staying put: over the three doublings of a small
# sweep it moves the optimum by less than half an octave, half the step of a usual grid.
STAYS = 0.15
# What the standard parameterization drifts by at the least. A transfer is only claimed if the slope's 90% interval
# excludes it: two one-sided tests at 5%.
DRIFT = 0.5


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the best learning rate transfers over width, or whatever the sweep is over.

    Attributes:
        kind: `"transfers"`: the slope is at most 0.15 octaves per doubling of size and its 90% interval lies inside
            ±0.5, every size's optimum being known. `"drifts"`: the slope exceeds 0.15 and its 90% interval
            excludes 0. `"undecided"`: neither, for the reason that the sentence gives.
        sentence: the verdict with its numbers.
    """

    kind: Literal["transfers", "drifts", "undecided"]
    sentence: str


def verdict(curves: tuple[Curve, ...], fit: Fit, law: Law | None) -> Verdict:
    """Judges one parameterization.

    A size whose optimum lies at the edge of its grid forbids "transfers"; it leaves "drifts" standing if the law of
    the other sizes puts its optimum at or beyond that edge.

    Args:
        curves: one per size, ascending.
        fit: their optima.
        law: their dependence on size.

    Returns:
        The verdict.
    """
    along = curves[0].along
    missing = [(curve, optimum) for curve, optimum in zip(curves, fit.optima, strict=True) if optimum.log2_lr is None]
    if len(curves) == 1:
        one = f"only one {along} was run ({curves[0].size}), and a drift shows only between {along}s"
        return _undecided(_why(*missing[0]) if missing else one)
    if law is None:
        return _undecided(_why(*missing[0]))
    slope = f"{round(law.slope, 2) + 0.0:+.2f}"
    if law.plus_minus is None:
        if missing:
            return _undecided(_why(*missing[0]))
        return _undecided(
            f"a slope of {slope} octaves per doubling of {along} whose uncertainty is not known; "
            f"run more seeds, learning rates or {along}s"
        )
    slope = f"{slope} ± {law.plus_minus:.2f} octaves per doubling of {along}"
    if abs(law.slope) > STAYS and abs(law.slope) > law.plus_minus:
        against = [(c, o) for c, o in missing if not _agrees(c, o, law)]
        if against:
            return _undecided(_why(*against[0]))
        sizes = ", ".join(str(curve.size) for curve, _ in missing)
        left_out = f" (without {along} {sizes}: {_why(*missing[0], name=False)})" if missing else ""
        return Verdict(kind="drifts", sentence=f"drifts by {slope}{left_out}")
    if missing:
        return _undecided(_why(*missing[0]))
    if abs(law.slope) <= STAYS and abs(law.slope) + law.plus_minus <= DRIFT:
        return Verdict(kind="transfers", sentence=f"transfers: the optimum moves by {slope}")
    return _undecided(f"the optimum moves by {slope}, too uncertain to tell; run more seeds or a finer grid")


def _undecided(reason: str) -> Verdict:
    return Verdict(kind="undecided", sentence=f"undecided: {reason}")


def _why(curve: Curve, optimum: Optimum, name: bool = True) -> str:
    """Why the optimum of a size is not known."""
    place = f"{curve.along} {curve.size}, " if name else ""
    if optimum.best_log2_lr is None:
        return f"every learning rate diverged{f' ({curve.along} {curve.size})' if name else ''}"
    if len(curve.log2_lr) == 1:
        return f"a single learning rate was run ({place}log2 LR {optimum.best_log2_lr:g})"
    if optimum.status == "edge":
        return f"the optimum lies at the edge of the grid ({place}log2 LR {optimum.best_log2_lr:g})"
    return f"the loss curve has no minimum ({place}best of the grid at log2 LR {optimum.best_log2_lr:g})"


def _agrees(curve: Curve, optimum: Optimum, law: Law) -> bool:
    """Whether a size without a known optimum fits the law, as far as its runs can tell."""
    expected = law.at(curve.size)
    grid = curve.log2_lr
    if optimum.best_log2_lr is None:
        return expected <= grid[0]
    if optimum.status != "edge" or len(grid) == 1:
        return False
    if optimum.best_log2_lr == grid[0]:
        return bool(expected <= (grid[0] + grid[1]) / 2)
    return bool(expected >= (grid[-1] + grid[-2]) / 2)
