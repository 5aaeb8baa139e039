"""Reports of synthetic sweeps whose optima are known by construction."""

import dataclasses
import math
import re

import numpy as np
import pytest
from synthetic_sweeps import OCTAVES, WIDTHS, cliff, lopsided, panel_of, parabola, sweep

from equimu._interval import half_width, welch_satterthwaite
from equimu.reports import Cell, markdown, report


def test_half_width_is_students_t():
    # Tables: the 95% quantile of t is 2.920 with 2 degrees of freedom, 1.812 with 10, 1.645 with infinitely many.
    for df, quantile in ((2.0, 2.920), (10.0, 1.812), (math.inf, 1.645)):
        assert half_width(2.0, df) == pytest.approx(2 * quantile, abs=2e-3)
    assert half_width(None, 3.0) is None


def test_degrees_of_freedom_of_a_sum_of_variances():
    # Equal variances pool their degrees of freedom; one that dominates keeps its own; a given one adds none.
    assert welch_satterthwaite([(3.0, 2.0)] * 4) == pytest.approx((12.0, 8.0))
    assert welch_satterthwaite([(1.0, 2.0), (1e-9, 50.0)])[1] == pytest.approx(2.0, rel=1e-6)
    assert welch_satterthwaite([(1.0, math.inf)]) == (1.0, math.inf)


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("at", [-5.0, -4.7, -5.45])
def test_fit_is_exact_on_a_parabola(step, at):
    cells = sweep(at=at, seeds=3, offset=0.1, rates=np.arange(-5 - 3 * step, -5 + 4 * step, step))
    for doublings, optimum in enumerate(panel_of(cells).fit.optima):
        assert optimum.status == "fitted"
        assert optimum.point == pytest.approx(at, abs=1e-9)
        assert optimum.curvature == pytest.approx(0.16, abs=1e-9)
        # That it is a parabola is not known: the interval allows for another form, the more so the coarser the grid.
        assert 0 < optimum.plus_minus < 0.32 * step
        losses = [c.loss - float(parabola(math.log2(c.value) - at)) for c in cells if c.size == 32 * 2**doublings]
        assert optimum.loss == pytest.approx(np.mean(losses))
        assert [shift for _, shift in optimum.per_seed] == pytest.approx([at] * 3)


def test_fit_is_exact_on_uneven_grids():
    optima = panel_of(sweep(at=-4.8, rates=(-9, -6.5, -5.5, -4, -3.5, -1))).fit.optima
    assert [optimum.point for optimum in optima] == pytest.approx([-4.8] * 4)


def test_fit_moves_with_the_rates_and_not_with_the_losses():
    cells = sweep(lopsided, slope=-0.4, seeds=2, noise=0.01)
    moved = [dataclasses.replace(cell, value=8 * cell.value, loss=cell.loss + 1) for cell in reversed(cells)]
    before, after = panel_of(cells), panel_of(moved)
    for old, new in zip(before.fit.optima, after.fit.optima, strict=True):
        assert new.point == pytest.approx(old.point + 3)
        assert new.loss == pytest.approx(old.loss + 1)
        assert new.plus_minus == pytest.approx(old.plus_minus)
    assert after.law.slope == pytest.approx(before.law.slope)
    assert after.verdict == before.verdict


@pytest.mark.parametrize("at", np.linspace(-5.5, -4.5, 6))
@pytest.mark.parametrize("shape", [lopsided, cliff])
def test_lopsided_curves_bias_the_optimum_less_than_its_interval(shape, at):
    for optimum in panel_of(sweep(shape, at=at)).fit.optima:
        assert abs(optimum.point - at) <= max(optimum.plus_minus, 1e-9) <= 1.5


def test_a_cliff_beside_the_best_rate_does_not_push_the_optimum_half_a_step():
    # The three points alone, -6, -5 and -4, would put the vertex at -5.5.
    heights = dict(zip(range(-9, -2), (0.8, 0.45, 0.2, 0.05, 0.0, 30.0, 40.0), strict=True))
    cells = sweep(lambda u: heights[int(round(u)) - 5], at=0.0, rates=range(-4, 3))
    for optimum in panel_of(cells).fit.optima:
        assert -0.36 < optimum.point < 0.1


@pytest.mark.parametrize(
    ("seeds", "step", "shape"), [(3, 1.0, parabola), (3, 0.5, parabola), (1, 1.0, parabola), (3, 1.0, lopsided)]
)
def test_intervals_contain_the_truth_as_often_as_they_say(seeds, step, shape):
    rng = np.random.default_rng(7)
    inside: list[bool] = []
    slope_inside: list[bool] = []
    for _ in range(80):
        at = rng.uniform(-0.5, 0.5) * step
        cells = sweep(
            shape, at=at, slope=-0.3, seeds=seeds, noise=0.012, offset=0.05, rates=np.arange(-5, 4) * step, rng=rng
        )
        panel = panel_of(cells)
        slope_inside.append(abs(panel.law.slope + 0.3) <= panel.law.plus_minus)
        for doublings, optimum in enumerate(panel.fit.optima):
            inside.append(abs(optimum.point - at + 0.3 * doublings) <= optimum.plus_minus)
    # 90% is stated. 320 optima tell it to within 3 points, 80 slopes to within 7.
    assert 0.85 <= np.mean(inside)
    assert 0.82 <= np.mean(slope_inside)
    if shape is parabola:
        assert np.mean(inside) <= 0.99


def test_interval_shrinks_with_more_seeds():
    few, many = (
        np.median([o.plus_minus for o in panel_of(sweep(noise=0.06, seeds=seeds)).fit.optima]) for seeds in (2, 12)
    )
    # The root of six; what is not known of the form stays.
    assert many < 0.6 * few


def test_seeds_that_disagree_on_the_optimum_widen_its_interval():
    cells = [
        dataclasses.replace(cell, value=cell.value * 2 ** (0.5 * (cell.seed - 1)))
        for cell in sweep(seeds=3, rates=np.arange(-8, -1, 0.5))
    ]
    optimum = panel_of([cell for cell in cells if cell.size == 32]).fit.optima[0]
    # The seeds' grids lie half an octave apart, so that some lack a rate at the ends.
    assert [shift for _, shift in optimum.per_seed] == pytest.approx([-5.5, -5.0, -4.5], abs=0.05)
    # The standard deviation is half an octave: 2.92 of them over the root of three.
    assert optimum.plus_minus == pytest.approx(2.92 * 0.5 / math.sqrt(3), rel=0.05)


def test_offset_of_a_seed_moves_no_optimum():
    cells = sweep(lopsided, seeds=3, noise=0.02)
    moved = [dataclasses.replace(cell, loss=cell.loss + 3.0 * cell.seed) for cell in cells]
    for old, new in zip(panel_of(cells).fit.optima, panel_of(moved).fit.optima, strict=True):
        assert new.point == pytest.approx(old.point)
        assert new.plus_minus == pytest.approx(old.plus_minus)


def test_outer_points_are_used_where_noise_asks_for_them():
    rng = np.random.default_rng(3)
    errors: list[tuple[float, float]] = []
    for _ in range(60):
        cells = sweep(seeds=3, noise=0.01, rates=np.arange(-8, -2, 0.5), widths=(32,), rng=rng)
        y = np.mean(np.reshape([cell.loss for cell in cells], (3, -1)), axis=0)
        i = int(np.argmin(y))
        three = -8 + 0.5 * i + 0.25 * (y[i - 1] - y[i + 1]) / (y[i - 1] - 2 * y[i] + y[i + 1])
        errors.append((panel_of(cells).fit.optima[0].point + 5, three + 5))
    fitted, three = np.sqrt(np.mean(np.square(errors), axis=0))
    assert fitted < 0.8 * three


def test_noisier_width_has_the_wider_interval():
    cells = sweep(seeds=4, noise=0.003, widths=WIDTHS[:3]) + sweep(seeds=4, noise=0.06, widths=(256,))
    *quiet, noisy = (optimum.plus_minus for optimum in panel_of(cells).fit.optima)
    assert noisy > 1.5 * max(quiet)


def test_best_rate_at_the_end_of_the_grid_is_an_edge():
    for rates, best in ((range(-5, 0), -5), (range(-9, -4), -5)):
        optimum = panel_of(sweep(rates=rates)).fit.optima[0]
        assert (optimum.status, optimum.best_point, optimum.point) == ("edge", best, None)


def test_best_rate_beside_a_divergence_is_interior_and_fitted_up_to_there():
    optimum = panel_of(sweep(at=-4.9, wall=0.5, seeds=2, noise=0.003)).fit.optima[0]
    assert optimum.status == "walled"
    assert abs(optimum.point + 4.9) <= optimum.plus_minus < 1.0
    # With one rate beside it that finished there is no curve: then by half the way to the wall.
    optimum = panel_of(sweep(at=-4.9, wall=0.5, rates=range(-6, 0))).fit.optima[0]
    assert (optimum.status, optimum.point, optimum.stderr) == ("walled", -5.0, 0.5)
    # One rate alone between a divergence and the end of the grid is an edge all the same.
    assert panel_of(sweep(at=-4.9, wall=0.5, rates=range(-5, 0))).fit.optima[0].status == "edge"


def test_divergence_two_places_off_does_not_touch_the_fit():
    free, walled = (panel_of(sweep(at=-5.2, wall=wall)).fit.optima[0] for wall in (math.inf, 1.5))
    assert walled.status == "fitted"
    assert walled.point == pytest.approx(free.point)


def test_rate_at_which_one_seed_diverges_counts_as_diverged():
    cells = sweep(seeds=3)
    cells[OCTAVES.index(-5)] = dataclasses.replace(cells[OCTAVES.index(-5)], loss=math.inf)
    optimum = panel_of(cells).fit.optima[0]
    assert (optimum.status, optimum.best_point) == ("walled", -6.0)
    assert "div. 1/3" in markdown(report(cells))


@pytest.mark.parametrize("initial", [5.5, -5.5])
def test_run_that_ends_well_above_its_initial_loss_diverged(initial):
    cell = Cell(panel="sp", size=32, value=0.1, seed=0, loss=5.6, initial_loss=initial, final_loss=initial + 0.3)
    assert cell.diverged
    # the noise of single batches is not divergence
    assert not dataclasses.replace(cell, final_loss=initial + 0.25).diverged
    assert not dataclasses.replace(cell, final_loss=initial - 0.1).diverged
    assert not dataclasses.replace(cell, initial_loss=None).diverged


def test_flat_curve_has_no_optimum():
    panel = panel_of(sweep(lambda u: 0 * u, rates=(-6, -5, -4)))
    assert all(optimum.point is None for optimum in panel.fit.optima)
    assert panel.verdict.kind == "undecided"


def test_unfinished_sweep_is_fitted_from_what_is_there():
    rng = np.random.default_rng(1)
    cells = [cell for cell in sweep(seeds=3, noise=0.003, offset=0.02) if rng.uniform() < 0.7]
    for optimum in panel_of(cells).fit.optima:
        assert optimum.status == "fitted"
        assert optimum.point == pytest.approx(-5.0, abs=0.25)


@pytest.mark.parametrize("slope", [0.0, -0.83, 0.4])
def test_slope_of_exact_parabolas_is_exact(slope):
    panel = panel_of(sweep(slope=slope, at=-4.6))
    assert panel.law.slope == pytest.approx(slope, abs=1e-9)
    assert panel.law.at(1024) == pytest.approx(-4.6 + 5 * slope)
    assert panel.law.scatter == pytest.approx(0.0, abs=1e-9)


def test_scatter_is_the_residual_of_a_straight_line_and_widens_the_slope():
    wobble = (0.2, -0.3, 0.1, 0.15)
    cells = [c for w, by in zip(WIDTHS, wobble, strict=True) for c in sweep(widths=(w,), at=-5 + by)]
    law = panel_of(cells).law
    x, y = np.log2(WIDTHS), np.array(wobble)
    line, (square,), *_ = np.polyfit(x, y, 1, full=True)
    # Optima that scatter by far more than they are uncertain by all but have equal weights.
    assert law.slope == pytest.approx(line[0], abs=2e-3)
    assert law.scatter == pytest.approx(math.sqrt(square / 2), rel=0.01)
    # Ordinary least squares: 2.92 standard errors with two degrees of freedom.
    stderr = math.sqrt(square / 2 / np.sum((x - x.mean()) ** 2))
    assert law.plus_minus == pytest.approx(2.92 * stderr, rel=0.1)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shape", [parabola, lopsided])
def test_verdict_on_a_usual_sweep(seeds, shape):
    transfers, drifts = (
        panel_of(sweep(shape, slope=slope, seeds=seeds, noise=0.006, offset=0.02)).verdict for slope in (0.03, -0.8)
    )
    assert transfers.kind == "transfers"
    assert transfers.sentence.startswith("transfers: the optimum moves by +0.0")
    assert drifts.kind == "drifts"
    assert drifts.sentence.startswith("drifts by -0.")
    assert "octaves per doubling of width; at width 256 the carried rate raises the loss by " in drifts.sentence
    assert not drifts.harmless


def test_verdict_is_seldom_wrong_and_undecided_when_noise_drowns_the_curve():
    rng = np.random.default_rng(11)
    kinds = {
        (noise, slope): [panel_of(sweep(slope=slope, noise=noise, seeds=2, rng=rng)).verdict.kind for _ in range(40)]
        for noise in (0.01, 0.3)
        for slope in (0.0, -0.6)
    }
    assert kinds[0.01, 0.0].count("transfers") >= 38
    assert kinds[0.01, -0.6].count("drifts") >= 38
    assert kinds[0.3, -0.6].count("transfers") <= 4
    assert kinds[0.3, 0.0].count("drifts") <= 6
    assert kinds[0.3, 0.0].count("undecided") >= 20


def test_optima_that_scatter_widely_about_a_flat_law_are_no_transfer():
    wobble = (0.6, -0.6, -0.6, 0.6)
    panel = panel_of([c for w, by in zip(WIDTHS, wobble, strict=True) for c in sweep(widths=(w,), at=-5 + by)])
    assert panel.law.slope == pytest.approx(0.0, abs=1e-9)
    assert panel.verdict.kind == "undecided"
    assert "too uncertain to tell" in panel.verdict.sentence


def test_edge_makes_a_transfer_undecided_and_names_the_width():
    cells = [c for c in sweep() if c.size < 256 or c.value >= 2**-5]
    verdict = panel_of(cells).verdict
    assert verdict.sentence == (
        "undecided: the optimum lies at the edge of the grid (width 256, log2 LR -5); "
        "run lower rates at width 256: log2 LR -7 and -6"
    )


def test_edge_on_the_side_of_the_drift_leaves_it_standing():
    cells = sweep(slope=-1.0, rates=range(-8, 0))
    verdict = panel_of(cells).verdict  # at width 256 the optimum is -8, the first rate
    assert verdict.kind == "drifts"
    assert "without width 256" in verdict.sentence
    # Rates from -6 on only: there too it is the first, where the law says -8; up to -9 only: it is the last.
    beyond = [c for c in cells if c.size < 256 or c.value >= 2**-6]
    assert panel_of(beyond).verdict.kind == "drifts"
    against = [dataclasses.replace(c, loss=5 + math.log2(c.value) / 9) if c.size == 256 else c for c in cells]
    against = [dataclasses.replace(c, loss=-c.loss + 10) if c.size == 256 else c for c in against]
    assert panel_of(against).verdict.kind == "undecided"


def test_undecided_says_what_is_missing():
    rates = dict(rates=(-5,))
    assert "a single learning rate was run (width 32, log2 LR -5)" in panel_of(sweep(**rates)).verdict.sentence
    assert "only one width was run (64)" in panel_of(sweep(widths=(64,))).verdict.sentence
    assert "every learning rate diverged (width 32)" in panel_of(sweep(wall=-20)).verdict.sentence
    two = panel_of(sweep(widths=(32, 64), rates=(-6, -5, -4)))
    assert two.law.plus_minus is None
    assert "uncertainty is not known" in two.verdict.sentence


def test_regret_is_the_height_of_the_curve_at_the_carried_rate():
    panel = panel_of(sweep(slope=-0.8, at=-4.9, rates=range(-12, 0)))
    assert panel.carried == pytest.approx(-4.9)
    for doublings, regret in enumerate(panel.regrets, start=1):
        # Far from the optimum the height is read between two measured points, which stand where the curve does:
        # linear interpolation of the curve less the fit, which is 0 for a parabola.
        assert regret.value == pytest.approx(0.08 * (0.8 * doublings) ** 2, abs=1e-9)
        assert regret.doublings == doublings


def test_regret_far_from_the_fit_goes_through_the_measured_losses():
    panel = panel_of(sweep(lopsided, slope=-1.0, rates=range(-12, 0)))
    carried = panel.carried
    for doublings, regret in enumerate(panel.regrets, start=1):
        own = panel.fit.optima[doublings].loss - (2.6 - 0.1 * doublings)
        low, high = (float(lopsided(rate + 5 + doublings)) - own for rate in (math.floor(carried), math.ceil(carried)))
        assert low <= regret.value <= high


def test_regret_on_a_cliff_is_the_measured_one():
    heights = dict(zip(range(-9, -2), (0.8, 0.45, 0.2, 0.05, 0.0, 30.0, 40.0), strict=True))
    cells = sweep(widths=(32,), at=-4.0) + sweep(
        lambda u: heights[round(u - 5)], widths=(64,), at=0.0, rates=range(-4, 3)
    )
    cells = [dataclasses.replace(c, value=c.value * 2.0**-5) if c.size == 64 else c for c in cells]
    panel = panel_of(cells)
    assert panel.carried == pytest.approx(-4.0, abs=0.05)
    measured = 2.6 + np.interp(panel.carried, (-5, -4, -3), (0.0, 30.0, 40.0))
    assert panel.regrets[0].value == pytest.approx(measured - panel.fit.optima[1].loss, rel=1e-3)


def test_regret_is_zero_under_transfer_and_its_growth_follows():
    still = panel_of(sweep(lopsided))
    assert [regret.value for regret in still.regrets] == pytest.approx([0.0] * 3, abs=1e-9)
    panel = panel_of(sweep(slope=-0.5, rates=range(-12, 0)))
    values = np.array([0.08 * (0.5 * d) ** 2 for d in (1, 2, 3)])
    slope, *_ = np.linalg.lstsq(np.array([[1.0], [2.0], [3.0]]), values)
    assert panel.regret_growth == pytest.approx(slope[0])


def test_regret_where_the_rate_diverges_or_was_not_run():
    drifting = panel_of(sweep(slope=-1.0, wall=1.6, rates=range(-12, 0)))
    assert [regret.status for regret in drifting.regrets] == ["measured", "diverged", "diverged"]
    cells = [c for c in sweep() if c.size == 32 or c.value >= 2**-4]
    assert [regret.status for regret in panel_of(cells).regrets] == ["unknown"] * 3
    edge = panel_of(sweep(slope=-1.0, rates=range(-6, 0)))
    assert [regret.status for regret in edge.regrets] == ["at least"] * 3 or edge.regrets[-1].status == "at least"


def test_regret_interval_comes_from_the_seeds():
    panel = panel_of(sweep(slope=-0.5, seeds=4, noise=0.01, offset=0.5, rates=range(-12, 0)))
    for doublings, regret in enumerate(panel.regrets, start=1):
        # The seeds' common offset is half a nat, and cancels.
        assert 0 < regret.plus_minus < 0.05
        assert regret.value == pytest.approx(0.08 * (0.5 * doublings) ** 2, abs=0.05)


def test_loss_is_compared_with_the_best_parameterization_at_each_width():
    cells = sweep(name="mup", bottom=2.6) + sweep(name="sp", bottom=2.5, slope=-0.1)
    mup, sp = report(cells).panels
    assert mup.above_best == pytest.approx([0.1] * 4)
    assert sp.above_best == pytest.approx([0.0] * 4)


def test_drift_that_costs_less_than_the_noise_is_called_harmless_with_the_figure():
    # Two doublings at -0.25: half an octave, where the curve is 0.02 * 0.25 = 0.005 nats up, and a run's noise is 0.03.
    cells = sweep(
        lambda u: 0.02 * u**2, slope=-0.25, widths=WIDTHS[:3], seeds=40, noise=0.03, rng=np.random.default_rng(2)
    )
    panel = panel_of(cells)
    assert (panel.verdict.kind, panel.verdict.harmless) == ("drifts", True)
    assert panel.fit.noise == pytest.approx(0.03, rel=0.05)
    assert panel.regrets[-1].low < 0.005 < panel.regrets[-1].high < 0.03
    most = max(regret.high for regret in panel.regrets)
    assert f"the carried rate raises the loss by at most {most:.3f}," in panel.verdict.sentence
    assert panel.verdict.sentence.startswith("drifts harmlessly by -0.")
    # The same drift on a curve five times as deep is none of that.
    panel = panel_of(sweep(lambda u: 0.4 * u**2, slope=-0.25, widths=WIDTHS[:3], seeds=40, noise=0.03))
    assert (panel.verdict.kind, panel.verdict.harmless) == ("drifts", False)


def test_undecided_says_how_many_seeds_would_decide():
    # Slopes too small to be a drift, known too poorly to be none; three sizes, with a noise that the curve hardly outdoes.
    shape = lambda u: 0.05 * u**2  # noqa: E731
    rng = np.random.default_rng(8)
    again = {"noise": 0.06, "widths": WIDTHS[:3], "rng": rng, "rates": range(-7, -2)}
    said = [panel_of(sweep(shape, seeds=2, **again)).verdict for _ in range(12)]
    open_ = [
        verdict.sentence for verdict in said if verdict.kind == "undecided" and "too uncertain" in verdict.sentence
    ]
    assert len(open_) >= 4
    advised = [re.search(r"run (\d+) more seeds? \((\d+) in all\), above all at width \d+", line) for line in open_]
    needed = [int(found.group(2)) for found in advised if found]
    assert len(needed) >= len(open_) / 2
    assert all(int(found.group(1)) + 2 == int(found.group(2)) for found in advised if found)
    # The advice is from one draw of the slope and the noise; as many seeds as the median says decide more often than not.
    after = [panel_of(sweep(shape, seeds=int(np.median(needed)), **again)).verdict.kind for _ in range(12)]
    assert after.count("undecided") < 6


def test_a_loss_beyond_float32_is_that_of_a_run_that_diverged():
    cells = [dataclasses.replace(cell, loss=cell.loss * (1e300 if cell.value > 2**-4 else 1)) for cell in sweep()]
    assert [cell.diverged for cell in cells] == [cell.value > 2**-4 for cell in cells]
    assert panel_of(cells).verdict.kind == panel_of(sweep()).verdict.kind


def test_the_least_value_that_there_can_be_is_not_asked_to_be_lowered():
    cells = [
        Cell(panel="mup", size=size, value=value, seed=0, loss=3 + value, fitted="weight_decay", scale="linear")
        for size in (32, 64)
        for value in (0.0, 0.1, 0.2, 0.3)
    ]
    sentence = panel_of(cells).verdict.sentence
    assert "weight_decay 0); 0 may be the best; if not, run values of weight_decay between 0 and 0.1 at" in sentence
