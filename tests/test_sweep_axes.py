"""Sweeps over other numbers than a size, of other numbers than the learning rate, and of optimizers."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equimu as mu
from equimu import EquimuError
from equimu.reports import Cell, cells_of, markdown, read_cells, report, write_report

pytestmark = pytest.mark.usefixtures("light_compilation")


class Net(eqx.Module):
    layers: list[eqx.nn.Linear]

    def __init__(self, width, depth, *, key):
        first, *inner, last = jax.random.split(key, depth + 2)
        middle = [eqx.nn.Linear(width, width, key=one) for one in inner]
        self.layers = [eqx.nn.Linear(3, width, key=first), *middle, eqx.nn.Linear(width, 1, key=last)]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = jax.nn.tanh(layer(x))
        return self.layers[-1](x)[0]


@dataclasses.dataclass(frozen=True)
class Curve(mu.Task):
    """A smooth function of three numbers."""

    rows: int = 8

    def make(self, width: int = 8, depth: int = 1, *, key):
        return Net(width, depth, key=key)

    def data(self):
        x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
        return mu.data.arrays(x, np.sin(x.sum(axis=1)), rows=self.rows)

    def loss(self, model, batch):
        x, y = batch
        return jnp.square(jax.vmap(model)(x) - y)


def test_octaves():
    assert mu.octaves(-3, -1) == (0.125, 0.25, 0.5)
    assert mu.octaves(-1, 0, 0.5) == (0.5, 2**-0.5, 1.0)
    assert mu.octaves(2, 2) == (4.0,)
    for bad in ((0, -1), (0, 1, 0), (0, 1, 1e-9), (0, 5000)):
        with pytest.raises(EquimuError):
            mu.octaves(*bad)


def test_weight_decay_fitted_over_steps_compiles_once(tmp_path, made):
    decays = mu.octaves(-8, -4)
    runs = mu.sweep(
        Curve(), over={"steps": (4, 8)}, fit={"optimizer.weight_decay": decays}, panels=("mup",), seeds=2, out=tmp_path
    )
    assert len(runs) == 20 and [programs.made for programs in made] == [1]
    own = [run.identity["config"] for run in runs]
    assert {(c["steps"], c["optimizer"]["weight_decay"]) for c in own} == {(s, d) for s in (4, 8) for d in decays}
    assert {run.learning_rate for run in runs} == {2**-5}
    assert "weight_decay 0.003906, seed 0" in repr(runs)
    # each cell is the run that train would do
    one = next(run for run in runs if run.steps == 8 and run.identity["config"]["optimizer"]["weight_decay"] == 2**-6)
    same = {"steps": one.steps, "optimizer": mu.AdamW(weight_decay=2**-6), "seed": one.seed, "on_nonfinite": "record"}
    alone = mu.train(Curve(), out=tmp_path / "alone", **same)
    assert alone.folder.name == one.folder.name and alone.validation_loss == one.validation_loss
    cells = cells_of(runs)
    assert {(cell.along, cell.fitted, cell.scale, cell.panel) for cell in cells} == {
        ("steps", "weight_decay", "log2", "mup")
    }
    # the folder says the same as the sweep
    order = lambda cell: (cell.size, cell.value, cell.seed)  # noqa: E731
    alone.folder.rename(tmp_path.parent / alone.folder.name)
    (tmp_path / "alone").rmdir()
    assert sorted(read_cells(tmp_path), key=order) == sorted(cells, key=order)
    text = markdown(report(runs))
    assert "Does the best weight_decay transfer over steps?" in text and "| steps | -8 | -7 |" in text


@pytest.mark.long
def test_two_names_in_over_are_a_grid_and_a_panel_for_each_value_of_the_later_ones(tmp_path, made):
    runs = mu.sweep(
        Curve(),
        over={"width": (4, 8), "depth": (1, 2)},
        fit={"learning_rate": mu.octaves(-6, -4)},
        panels=("mup", "sp"),
        seeds=(3,),
        steps=3,
        out=tmp_path,
    )
    assert len(runs) == 2 * 2 * 2 * 3 and made[0].made == 4
    assert [run.identity["config"]["base"] for run in runs] == [{"width": 4, "depth": 1}] * 24
    found = report(runs)
    assert [panel.name for panel in found.panels] == ["mup, depth 1", "sp, depth 1", "mup, depth 2", "sp, depth 2"]
    assert all([curve.size for curve in panel.curves] == [4, 8] for panel in found.panels)
    lowest = [[optimum.lowest for optimum in panel.fit.optima] for panel in found.panels[2:]]
    for panel, own in zip(found.panels[2:], lowest, strict=True):
        assert panel.above_best == pytest.approx(
            [a - min(b) for a, b in zip(own, zip(*lowest, strict=True), strict=True)]
        )
    names = {panel.name for panel in report(read_cells(tmp_path)).panels}
    assert names == {panel.name for panel in found.panels}


@pytest.mark.long
def test_a_decay_rate_fitted_on_a_linear_axis_in_panels_of_optimizers(tmp_path, made):
    values = (0.85, 0.9, 0.95)
    runs = mu.sweep(
        Curve(),
        over={"steps": (2, 3)},
        fit={"b2": values},
        panels=("adamw", "lion"),
        seeds=1,
        optimizer=mu.AdamW(warmup=0.5),
        out=tmp_path,
    )
    assert len(runs) == 12
    found = report(runs)
    assert (found.fitted.scale, found.fitted.step, found.along) == ("linear", pytest.approx(0.05), "steps")
    assert [panel.name for panel in found.panels] == ["adamw", "lion"]
    # what all optimizers have is as in the run's, where the panel does not say
    assert {run.identity["config"]["optimizer"]["warmup"] for run in runs} == {0.5}
    text = markdown(found)
    assert "| steps | 0.85 | 0.9 | 0.95 |" in text and "steps of 0.05" in text
    for path in write_report(found, tmp_path / "report"):
        assert path.stat().st_size > 0


def valley(value_of, shift=0.0, **fields):
    """Runs whose best point is at 5 steps, moved by `shift` steps per doubling of the size."""
    rng = np.random.default_rng(3)
    return [
        Cell(
            panel="mup",
            size=size,
            value=value_of(point),
            seed=seed,
            loss=2 + 0.08 * (point - 5 - shift * doubling) ** 2 + 0.004 * rng.normal(),
            **fields,
        )
        for doubling, size in enumerate((32, 64, 128, 256))
        for seed in range(3)
        for point in range(1, 10)
    ]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_linear_axis_is_judged_in_steps_of_its_grid_as_a_log2_axis_in_octaves(shift):
    on_log2 = report(valley(lambda point: 2.0**point, shift)).panels[0]
    on_linear = report(valley(lambda point: 0.01 * point, shift, fitted="momentum", scale="linear")).panels[0]
    assert on_linear.law.slope == pytest.approx(on_log2.law.slope, abs=1e-6)
    assert on_linear.verdict.kind == on_log2.verdict.kind == ("drifts" if shift else "transfers")
    assert "octaves per doubling of width" in on_log2.verdict.sentence
    assert "steps of 0.01 per doubling of width" in on_linear.verdict.sentence
    axis = on_linear.curves[0].fitted
    assert axis.value(on_linear.carried) == pytest.approx(0.05, abs=2e-3)


def test_over_zero_there_is_no_law():
    cells = valley(lambda point: 2.0**point, along="weight_decay")
    moved = [dataclasses.replace(cell, size=(cell.size - 32) / 1000) for cell in cells]
    panel = report(moved).panels[0]
    assert panel.law is None and panel.verdict.kind == "undecided"
    assert "weight_decay 0 has no logarithm" in panel.verdict.sentence
    assert [regret.doublings for regret in panel.regrets] == [None] * 3 and panel.regret_growth is None


def test_advice_about_other_numbers_names_them():
    cells = [
        dataclasses.replace(cell, fitted="weight_decay", along="b2", size=1 - cell.size / 1000)
        for cell in valley(lambda point: 2.0 ** (point - 12))
    ]
    (panel,) = report([cell for cell in cells if cell.value < 2**-7]).panels
    assert "run higher values of weight_decay at b2" in panel.verdict.sentence
    assert "log2 weight_decay" in panel.verdict.sentence
    (panel,) = report([cell for cell in cells if cell.size == 1 - 0.032]).panels
    assert panel.verdict.sentence.endswith("run two more values of b2 too")


def test_initial_and_final_loss_are_of_training(tmp_path):
    run = mu.train(Curve(), steps=30, out=tmp_path, log_every=1)
    (cell,) = cells_of([run])
    losses = [row["loss"] for row in run.rows if "loss" in row]
    assert (cell.initial_loss, cell.loss) == (losses[0], run.validation_loss)
    # single batches are noisy: a tenth of what was recorded
    assert len(losses) == 30 and cell.final_loss == pytest.approx(sum(losses[-3:]) / 3)
    # A validation in another measure says nothing about the training loss at the start.
    assert not dataclasses.replace(cell, loss=1e9).diverged
    assert dataclasses.replace(cell, final_loss=1.06 * losses[0]).diverged
