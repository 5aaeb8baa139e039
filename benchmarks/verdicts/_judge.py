"""Whether what a report says of a synthetic sweep is true."""

import math
from dataclasses import dataclass, fields

import numpy as np

from benchmarks.verdicts._sweeps import KINDS, Sweep, draw
from equimu.reports import Panel, report

# True slopes in octaves per doubling: a transfer, a drift to either side.
SLOPES = (0.0, 0.0, -0.3, 0.3)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one sweep; each pair counts how often an interval held the truth, and how often there was one.

    Attributes:
        slope: the true one.
        kind: of the verdict.
        harmless: whether a drift was called so.
        false_transfer: "transfers", or a harmless drift, where the truth is a slope of ±0.3 and a regret that matters.
        false_drift: "drifts" where the true slope is 0.
        optimum: intervals of the optima.
        law: of the slope.
        regret: of the regrets.
    """

    slope: float
    kind: str
    harmless: bool
    false_transfer: bool
    false_drift: bool
    optimum: tuple[int, int]
    law: tuple[int, int]
    regret: tuple[int, int]


def judge(kind: str, number: int, seed: int) -> Outcome:
    """Draws a sweep, has it reported, and compares.

    Args:
        kind: of sweep.
        number: which one of its kind; decides on its true slope.
        seed: with the two above, of all that is random.
    """
    slope = SLOPES[number % len(SLOPES)]
    truth = draw(kind, slope, np.random.default_rng([seed, KINDS.index(kind), number]))
    (panel,) = report(truth.cells).panels
    return compare(panel, truth)


def compare(panel: Panel, truth: Sweep) -> Outcome:
    """What the report says of a sweep, beside the truth."""
    slope = truth.slope
    optima = [
        abs(optimum.point - truth.best[optimum.size]) <= optimum.plus_minus
        for optimum in panel.fit.optima
        if optimum.point is not None and optimum.plus_minus is not None
    ]
    law = panel.law
    slopes = [] if law is None or law.plus_minus is None else [abs(law.slope - slope) <= law.plus_minus]
    regrets: list[bool] = []
    costs: list[float] = []
    for regret in panel.regrets:
        assert panel.carried is not None or regret.value is None
        true = math.inf if panel.carried is None else truth.regret(regret.size, panel.carried)
        costs.append(true)
        if regret.status == "measured" and regret.low is not None and regret.high is not None:
            # A regret that is nothing is held by an interval that begins at nothing.
            regrets.append(regret.low <= true + 1e-12 and true <= regret.high)
    matters = max(costs) > truth.noise
    said = panel.verdict.kind
    return Outcome(
        slope=slope,
        kind=said,
        harmless=panel.verdict.harmless,
        false_transfer=slope != 0 and matters and (said == "transfers" or panel.verdict.harmless),
        false_drift=slope == 0 and said == "drifts",
        optimum=(sum(optima), len(optima)),
        law=(sum(slopes), len(slopes)),
        regret=(sum(regrets), len(regrets)),
    )


def summary(kind: str, outcomes: list[Outcome]) -> dict[str, str]:
    """A row of the table."""
    still = [outcome for outcome in outcomes if outcome.slope == 0]
    moving = [outcome for outcome in outcomes if outcome.slope != 0]
    right = sum(outcome.kind == "transfers" for outcome in still), sum(outcome.kind == "drifts" for outcome in moving)
    row = {
        "kind": kind,
        "sweeps": str(len(outcomes)),
        "false transfers": share(sum(outcome.false_transfer for outcome in moving), len(moving)),
        "false drifts": share(sum(outcome.false_drift for outcome in still), len(still)),
        "true transfers": share(right[0], len(still)),
        "true drifts": share(right[1], len(moving)),
        "harmless": share(sum(outcome.harmless for outcome in moving), len(moving)),
        "undecided": share(sum(outcome.kind == "undecided" for outcome in outcomes), len(outcomes)),
    }
    for field in fields(Outcome):
        if field.name in ("optimum", "law", "regret"):
            inside, count = np.sum([getattr(outcome, field.name) for outcome in outcomes], axis=0)
            row[f"{'slope' if field.name == 'law' else field.name} covered"] = share(int(inside), int(count))
    return row


def share(part: int, whole: int) -> str:
    """A percentage."""
    return f"{100 * part / whole:.1f} %" if whole else ""
