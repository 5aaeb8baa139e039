"""What reports say of synthetic sweeps whose truth is known: a short form of `python -m benchmarks.verdicts`."""

import dataclasses

import numpy as np
import pytest

from benchmarks.verdicts._judge import judge, share, summary
from benchmarks.verdicts._sweeps import KINDS, SHAPES, draw

COUNT = 40


@pytest.fixture(scope="module")
def outcomes():
    return {kind: [judge(kind, number, 4) for number in range(COUNT)] for kind in KINDS}


def total(outcomes, name):
    """How many intervals held the truth, over all kinds, and of how many."""
    return np.sum([getattr(outcome, name) for group in outcomes.values() for outcome in group], axis=0)


@pytest.mark.long
def test_verdicts_are_seldom_wrong(outcomes):
    every = [outcome for group in outcomes.values() for outcome in group]
    still = [outcome for outcome in every if outcome.slope == 0]
    moving = [outcome for outcome in every if outcome.slope != 0]
    # 2 % are allowed of each; of 240 that is 5.
    assert sum(outcome.false_drift for outcome in still) <= 5
    assert sum(outcome.false_transfer for outcome in moving) <= 5
    # And they do not hide behind "undecided".
    assert sum(outcome.kind == "transfers" for outcome in still) >= 0.85 * len(still)
    assert sum(outcome.kind == "drifts" for outcome in moving) >= 0.8 * len(moving)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "low", "high"), [("optimum", 0.87, 0.94), ("law", 0.87, 0.96), ("regret", 0.87, 0.95)]
)
def test_intervals_of_90_percent_hold_the_truth_as_often(outcomes, name, low, high):
    inside, count = total(outcomes, name)
    # 90 ± 3 %, and what chance adds upwards to some 2000 optima, 450 slopes and 1500 regrets. An interval that is a third
    # narrower holds the truth in 73 % of normal errors.
    assert low <= inside / count <= high


@pytest.mark.long
@pytest.mark.parametrize("name", ["optimum", "law", "regret"])
def test_no_kind_of_sweep_is_left_out(outcomes, name):
    for kind, group in outcomes.items():
        inside, count = np.sum([getattr(outcome, name) for outcome in group], axis=0)
        # Intervals of one sweep hang together: the standard error of 40 sweeps is 5 points, and four of them are
        # allowed in 36 comparisons.
        assert count >= 25, kind
        assert inside / count >= 0.7, kind


def test_undecided_says_what_to_run():
    rng = np.random.default_rng(0)
    from equimu.reports import report

    said = {"seed": 0, "log2 LR": 0, "width": 0}
    for kind in ("edge", "divergence", "one seed") * 12:
        (panel,) = report(draw(kind, float(rng.choice([0.0, 0.3])), rng).cells).panels
        if panel.verdict.kind == "undecided":
            _, _, advice = panel.verdict.sentence.partition("; ")
            assert advice.startswith("run "), panel.verdict.sentence
            for word in said:
                said[word] += word in advice
    assert min(said.values()) > 0


# The benchmark itself


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_are_what_they_say(kind):
    for number in range(6):
        sweep = draw(kind, -0.3, np.random.default_rng(number))
        sizes = sorted(sweep.best)
        assert 3 <= len(sizes) <= 6 and len(sizes) == 3 or kind != "three widths"
        assert 1 <= len({cell.seed for cell in sweep.cells}) <= 6
        for first, second in zip(sizes, sizes[1:], strict=False):
            assert sweep.best[second] - sweep.best[first] == pytest.approx(-0.3)
        for size in sizes:
            losses = [sweep.losses[size](sweep.best[size] + u) for u in np.linspace(-3, 3, 121)]
            assert np.argmin(losses) == 60 and np.diff(losses, 2).min() > -1e-9
    assert kind != "divergence" or any(not np.isfinite(cell.loss) for cell in sweep.cells)


def test_shapes_have_a_second_derivative_of_1_at_their_minimum():
    for make in SHAPES.values():
        shape = make(np.random.default_rng(1))
        below, at, above = (float(shape(np.asarray(u))) for u in (-1e-3, 0.0, 1e-3))
        assert at == 0
        assert (below + above) / 1e-6 == pytest.approx(1, rel=1e-2)


def test_summary_counts():
    good = judge("parabola", 0, 4)
    bad = dataclasses.replace(good, kind="drifts", false_drift=True, optimum=(1, 4))
    row = summary("parabola", [good, bad])
    assert row["false drifts"] == "50.0 %" and row["undecided"] == "0.0 %"
    assert row["optimum covered"] == share(good.optimum[0] + 1, good.optimum[1] + 4)
