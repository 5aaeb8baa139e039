"""One sentence: does the best value stay where it is as the model grows, and what does it cost to carry it over?"""

from dataclasses import dataclass
from typing import Literal

from equimu._values import Real
from equimu.reports import _advice
from equimu.reports._cells import Curve
from equimu.reports._fit import Fit, Optimum
from equimu.reports._fitted import Fitted
from equimu.reports._law import Law
from equimu.reports._regret import Regret

# The thresholds of all verdicts. Slopes are in octaves per doubling of size; on a linear axis, in steps of the grid.
# A slope this small counts as staying put: over the three doublings of a small sweep it moves the optimum by less than
# half an octave, half the step of a usual grid.
STAYS = 0.15
# A transfer is only claimed if the slope's interval lies inside this; a drift only if its interval excludes 0.
DRIFT = 0.3
# Of these intervals, so that either is said wrongly in one sweep of a hundred at the most: the first is two one-sided
# tests, of which one can fail; the second one two-sided test.
CERTAIN_TRANSFER = 0.98
CERTAIN_DRIFT = 0.99


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the best learning rate, or whatever is fitted, transfers over width, or whatever the sweep is over.

    Attributes:
        kind: `"transfers"`: the slope is at most 0.15 octaves per doubling of size and its 98% interval lies inside ±0.3,
            every size's optimum being known, or that interval is wider, but at every size the carried rate costs less than the
            noise of one run. `"drifts"`: the slope exceeds 0.15 and its 99% interval
            excludes 0. `"undecided"`: neither, for the reason that the sentence gives.
        sentence: the verdict with its numbers; where it is undecided, with what would decide it.
        harmless: whether it drifts, and at every size that was run the carried rate still costs less than the noise of
            one run: the upper end of the 90% interval of each regret is below `Fit.noise`.
    """

    kind: Literal["transfers", "drifts", "undecided"]
    sentence: str
    harmless: bool = False


def verdict(curves: tuple[Curve, ...], fit: Fit, law: Law | None, regrets: tuple[Regret, ...]) -> Verdict:
    """Judges one panel.

    A size whose optimum lies at the edge of its grid forbids "transfers"; it leaves "drifts" standing if the law of
    the other sizes puts its optimum at or beyond that edge.

    Args:
        curves: one per size, ascending.
        fit: their optima.
        law: their dependence on size.
        regrets: what carrying the smallest size's value over costs the others.

    Returns:
        The verdict.
    """
    along, axis = curves[0].along, curves[0].fitted
    missing = [(curve, optimum) for curve, optimum in zip(curves, fit.optima, strict=True) if optimum.point is None]
    if len(curves) == 1 and not missing:
        return _undecided(
            f"only one {along} was run ({curves[0].size:g}), and a drift shows only between {along}s; {_advice.sizes(curves)}"
        )
    if law is None and not missing:
        return _undecided(
            f"{along} {curves[0].size:g} has no logarithm, so there is no slope; run positive values of {along} alone"
        )
    if law is None or (missing and law.stderr is None):
        return _undecided(_why(*missing[0]))
    slope = f"{round(law.slope, 2) + 0.0:+.2f}"
    if law.plus_minus is None or law.stderr is None:
        return _undecided(
            f"a slope of {slope} {axis.unit} per doubling of {along} whose uncertainty is not known; {_advice.noise(curves)}"
        )
    slope = f"{slope} ± {law.plus_minus:.2f} {axis.unit} per doubling of {along}"
    cheap = not missing and _is_cheap(regrets, fit.noise)
    if abs(law.slope) > STAYS and abs(law.slope) > (law.half(CERTAIN_DRIFT) or 0.0):
        against = [(c, o) for c, o in missing if not _agrees(c, o, law)]
        if against:
            return _undecided(_why(*against[0]))
        sizes = ", ".join(f"{curve.size:g}" for curve, _ in missing)
        left_out = f" (without {along} {sizes}: {_why(*missing[0], short=True)})" if missing else ""
        if cheap:
            return Verdict(
                kind="drifts", sentence=f"drifts harmlessly by {slope}: {_cost(regrets, fit, axis)}", harmless=True
            )
        worst = "" if missing else _worst(curves, regrets)
        return Verdict(kind="drifts", sentence=f"drifts by {slope}{left_out}{worst}")
    if missing:
        return _undecided(_why(*missing[0]))
    within = abs(law.slope) <= STAYS and abs(law.slope) + (law.half(CERTAIN_TRANSFER) or 0.0) <= DRIFT
    dear = [r for r in regrets if fit.noise is not None and r.low is not None and r.low > max(fit.noise, _LEAST)]
    if within and dear:
        regret = max(dear, key=lambda r: r.low or 0.0)
        return _undecided(
            f"the optimum moves by {slope}, but at {along} {regret.size:g} the carried {axis.carried} raises the loss by "
            f"{_interval(regret)}; {_advice.size(curves, regret.size)}"
        )
    if within:
        return Verdict(kind="transfers", sentence=f"transfers: the optimum moves by {slope}")
    if cheap and abs(law.slope) <= STAYS:
        return Verdict(
            kind="transfers", sentence=f"transfers: {_cost(regrets, fit, axis)}; the optimum moves by {slope}"
        )
    return _undecided(
        f"the optimum moves by {slope}, too uncertain to tell; "
        f"{_advice.certainty(curves, fit, law, STAYS, DRIFT, CERTAIN_TRANSFER, CERTAIN_DRIFT)}"
    )


# Losses are printed to three digits: a regret that reads as nothing is no reason for anything.
_LEAST = 0.0005


def _undecided(reason: str) -> Verdict:
    return Verdict(kind="undecided", sentence=f"undecided: {reason}")


def _is_cheap(regrets: tuple[Regret, ...], noise: Real | None) -> bool:
    """Whether all regrets are surely smaller than what one run differs by from the next."""
    return noise is not None and all(r.status == "measured" and r.high is not None and r.high <= noise for r in regrets)


def _cost(regrets: tuple[Regret, ...], fit: Fit, axis: Fitted) -> str:
    most = max(regret.high or 0.0 for regret in regrets)
    return f"the carried {axis.carried} raises the loss by at most {most:.3f}, less than the noise of one run ({fit.noise:.3f})"


def _worst(curves: tuple[Curve, ...], regrets: tuple[Regret, ...]) -> str:
    diverged = [regret for regret in regrets if regret.status == "diverged"]
    if diverged:
        return f"; at {curves[0].along} {diverged[0].size:g} the carried {curves[0].fitted.carried} diverges"
    known = [regret for regret in regrets if regret.value is not None]
    if not known:
        return ""
    regret = max(known, key=lambda r: r.value or 0.0)
    carried = f"the carried {curves[0].fitted.carried}"
    return f"; at {curves[0].along} {regret.size:g} {carried} raises the loss by {_interval(regret)}"


def _interval(regret: Regret) -> str:
    ends = "" if regret.low is None or regret.high is None else f" ({regret.low:.3f} to {regret.high:.3f})"
    return f"{regret.value:.3f}{ends}"


def _why(curve: Curve, optimum: Optimum, short: bool = False) -> str:
    """Why the optimum of a size is not known; unless short, with the size and what to run."""
    place = "" if short else f"{curve.along} {curve.size:g}, "
    if optimum.best_point is None:
        reason = f"every {curve.fitted.single} diverged{'' if short else f' ({curve.along} {curve.size:g})'}"
    else:
        best = f"{curve.fitted.label} {curve.fitted.text(optimum.best_point)}"
        if len(curve.grid) == 1:
            reason = f"a single {curve.fitted.single} was run ({place}{best})"
        elif optimum.status == "edge":
            reason = f"the optimum lies at the edge of the grid ({place}{best})"
        else:
            reason = f"the loss curve has no minimum ({place}best of the grid at {best})"
    return reason if short else f"{reason}; {_advice.values(curve, optimum)}"


def _agrees(curve: Curve, optimum: Optimum, law: Law) -> bool:
    """Whether a size without a known optimum fits the law, as far as its runs can tell."""
    expected = law.at(curve.size)
    grid = curve.grid
    if optimum.best_point is None:
        return expected <= grid[0]
    if optimum.status != "edge" or len(grid) == 1:
        return False
    if optimum.best_point == grid[0]:
        return bool(expected <= (grid[0] + grid[1]) / 2)
    return bool(expected >= (grid[-1] + grid[-2]) / 2)
