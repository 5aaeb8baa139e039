"""Early stopping, on curves that are known and on runs that are trained."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from runs import LINES

from equimu import EquimuError, RunConfig, SweepConfig, octaves, sweep
from equimu.reports import cells_of, report
from equimu.runs import Run
from equimu.sweeps import cells, curves, early_stopping
from equimu.tasks import find_task

pytestmark = pytest.mark.usefixtures("light_compilation")

STEPS = 100
RATES = octaves(-10, -4, 0.5)


class Recorded:
    """Runs whose losses follow a formula; counts the steps that are asked for.

    The best rate of a run moves down by `early` octaves from its beginning to its end.
    """

    def __init__(self, at, *, slope=0.0, early=1.0, noise=0.002, wall=math.inf, height=0.1):
        self.at, self.slope, self.early, self.noise, self.wall, self.height = at, slope, early, noise, wall, height
        self.until = {}

    def __call__(self, until):
        for cell, step in until.items():
            assert step > self.until.get(cell, 0), "a cell was trained again"
            self.until[cell] = step
        return {cell: self.run(cell, step) for cell, step in until.items()}

    def run(self, cell, until):
        width, rate = cell.size["width"], math.log2(cell.optimizer.learning_rate)
        best = self.at + self.slope * math.log2(width / 32)
        rng = np.random.default_rng([cell.seed, width])
        shift, mine = rng.normal(), np.random.default_rng([cell.seed, width, round(2 * rate) + 99]).normal()

        def loss(step):
            u = rate - best - self.early * (1 - step / STEPS)
            return 3 - step / STEPS + self.height * u**2 + 0.05 * shift + self.noise * mine

        rows = [
            {"step": step, "loss": loss(step)} for step in range(1, until + 1) if step in (1, STEPS) or not step % 5
        ]
        status = "paused" if until < STEPS else "diverged" if rate - best > self.wall else "finished"
        loss = {"paused": math.nan, "diverged": math.inf, "finished": loss(STEPS)}[status]
        return Run(
            folder=Path(f"{hash(cell)}"),
            identity={"config": {**_CONFIG, "size": {"width": width}, "seed": cell.seed, **_optimizer(cell)}},
            task="t",
            parameterization="mup",
            size=cell.size,
            learning_rate=cell.optimizer.learning_rate,
            seed=cell.seed,
            steps=STEPS,
            status=status,
            validation_loss=loss,
            rows=tuple(rows),
        )


_CONFIG = {"task": {"name": "t"}, "parameterization": "mup", "base": {"width": 32}, "steps": STEPS}


def _optimizer(cell):
    return {"optimizer": {"name": "adamw", "learning_rate": cell.optimizer.learning_rate}}


def grid(rates=RATES, **fields):
    run = RunConfig(steps=STEPS, log_every=5)
    given = {"over": {"width": (32, 64, 128)}, "panels": ("mup",), "seeds": 3, **fields}
    return SweepConfig(run=run, fit={"learning_rate": rates}, **given)


def stopped(config, recorded):
    """What early stopping finds: its panel, that of the whole grid, and its share of the steps."""
    runs = early_stopping(list(curves(config)), config.axes, recorded)
    whole = [recorded.run(cell, STEPS) for cell in cells(config)]
    assert {run.folder for run in runs}.isdisjoint(run.folder for run in runs.stopped)
    assert len(runs) + len(runs.stopped) == len(recorded.until)
    (mine,), (full,) = report(cells_of(runs)).panels, report(cells_of(whole)).panels
    return mine, full, sum(recorded.until.values()) / (STEPS * len(whole))


@pytest.mark.parametrize("slope", [0.0, -0.5, 0.5])
@pytest.mark.parametrize("early", [-1.5, 0.0, 1.5])
def test_the_verdict_is_that_of_the_whole_grid_at_less_than_two_fifths_of_the_steps(slope, early):
    mine, full, share = stopped(grid(), Recorded(-7.2, slope=slope, early=early))
    assert mine.verdict.kind == full.verdict.kind == ("drifts" if slope else "transfers")
    assert share < 0.4
    for a, b in zip(mine.fit.optima, full.fit.optima, strict=True):
        assert abs(a.point - b.point) < 0.05


def test_the_best_that_training_hid_is_found():
    # The best rate falls by four octaves in training, more than what the first seed follows.
    mine, full, _ = stopped(grid(), Recorded(-8.2, early=4.0))
    assert mine.verdict.kind == full.verdict.kind == "transfers"
    assert all(abs(optimum.point + 8.2) < 0.1 for optimum in mine.fit.optima)


def test_of_a_coarse_grid_the_neighbours_of_the_best_are_trained():
    mine, full, share = stopped(grid(octaves(-9, -3)), Recorded(-6.2))
    assert mine.verdict.kind == full.verdict.kind == "transfers" and share < 0.55
    assert [list(curve.grid) for curve in mine.curves] == [[-7.0, -6.0, -5.0]] * 3


def test_what_is_undecided_is_trained_further_but_not_all_of_it():
    sure, unsure = Recorded(-7.2, noise=0.001), Recorded(-7.2, slope=0.25, noise=0.06, height=0.03)
    _, _, few = stopped(grid(), sure)
    mine, full, more = stopped(grid(), unsure)
    assert mine.verdict.kind == full.verdict.kind == "undecided" and few < 0.4 < more < 0.9


def test_the_optimum_at_the_edge_of_the_grid_is_said_to_be_there():
    mine, full, _ = stopped(grid(), Recorded(-12.0))
    assert mine.verdict.sentence == full.verdict.sentence and "edge of the grid" in mine.verdict.sentence


def test_the_rate_that_is_carried_is_trained_at_every_size():
    mine, full, _ = stopped(grid(), Recorded(-5.0, slope=-1.0))
    for a, b in zip(mine.regrets, full.regrets, strict=True):
        assert a.status == "measured" and a.value == pytest.approx(b.value, rel=0.1)


def test_rates_that_diverge_at_their_end_are_no_best():
    mine, full, _ = stopped(grid(), Recorded(-6.7, early=1.5, wall=0.4))
    assert [o.best_point for o in mine.fit.optima] == [o.best_point for o in full.fit.optima]
    assert mine.verdict.kind == full.verdict.kind


def test_one_size_is_trained_without_asking_for_a_verdict():
    _, _, share = stopped(grid(over={"width": (64,)}), Recorded(-7.2))
    assert share <= 0.5


def test_rows_too_rare_to_look_at_are_refused():
    config = grid()
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, log_every=60))
    with pytest.raises(EquimuError, match=r"log_every=60 writes too few of 100 steps; give log_every at most 25"):
        early_stopping(list(curves(config)), config.axes, Recorded(-7.2))


def test_runs_of_several_lengths_are_refused():
    config = SweepConfig(
        run=RunConfig(log_every=5), over={"width": (32, 64)}, fit={"steps": (50, 100)}, panels=("mup",)
    )
    with pytest.raises(EquimuError, match="runs of one length, and this sweep fits steps"):
        early_stopping(list(curves(config)), config.axes, Recorded(-7.2))


@pytest.mark.long
def test_a_sweep_that_stops_early_goes_on_and_can_be_completed(tmp_path, made):
    run = RunConfig(task=find_task(LINES)(), log_every=2, steps=20, validation_batches=2)
    config = SweepConfig(
        run=run, over={"width": (8, 16)}, fit={"learning_rate": octaves(-9, -3)}, panels=("mup",), seeds=1
    )
    told = []
    runs = sweep(
        config, out=tmp_path, early_stopping=True, on_cell=lambda run, done, of: told.append((run.status, done, of))
    )
    assert len(runs) + len(runs.stopped) == 14 and len(runs.stopped) > 0
    assert {run.rows[-1]["step"] for run in runs.stopped} <= {2, 6, 10}
    assert [each for each in told if each[0] == "finished"] == [("finished", n, 14) for n in range(1, len(runs) + 1)]
    assert told[0] == ("paused", 0, 14)
    assert f"{len(runs)} runs, 0 diverged, {len(runs.stopped)} stopped early" in repr(runs)
    assert [programs.made for programs in made] == [2]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.jsonl")}
    again = sweep(config, out=tmp_path, early_stopping=True)
    assert again == runs
    assert [(run.folder, run.rows) for run in again.stopped] == [(run.folder, run.rows) for run in runs.stopped]
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was trained
    whole = sweep(config, out=tmp_path)
    assert len(whole) == 14 and not whole.stopped
    anew = sweep(config, out=tmp_path.parent / f"{tmp_path.name}-anew")
    assert [run.validation_loss for run in anew] == [run.validation_loss for run in whole]
