"""Runs that are computed together: the numbers of each are those that it has alone, up to rounding."""

import concurrent.futures
import dataclasses
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import LINES, small_run

import equimu as mu
from equimu import EquimuError, SweepConfig, octaves, sweep
from equimu._errors import Interrupted
from equimu.sweeps import RunPool
from equimu.sweeps import cells as cells_of_grid
from equimu.tasks import find_task
from equimu.training import Programs, _lanes, train

pytestmark = pytest.mark.usefixtures("light_compilation")
LANES = 4
RTOL = 2e-5  # float32, after twelve steps


def trained(cells, out, programs, until=None):
    """All of them, each in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(len(cells)) as pool:
        return list(pool.map(lambda cell: train(cell, out=out, programs=programs, until=until), cells))


def assert_alike(one, other):
    assert one.status == other.status and len(one.rows) == len(other.rows)
    assert one.identity == other.identity
    for a, b in zip(one.rows, other.rows, strict=True):
        assert set(a) == set(b) and set(a.get("leaves", ())) == set(b.get("leaves", ()))
        for key in set(a) - {"leaves", "metrics", "validation_metrics", "tokens_per_second", "examples_per_second"}:
            alike = a[key] == b[key] if None in (a[key], b[key]) else a[key] == pytest.approx(b[key], rel=RTOL)
            assert alike, key
        for path, leaf in a.get("leaves", {}).items():
            assert leaf == pytest.approx(b["leaves"][path], rel=1e-3, abs=1e-7), path


@pytest.fixture(scope="module")
def cells(corpus):
    """Two tables, three rates and two seeds in one shape; one of the rates diverges."""
    return [
        dataclasses.replace(small_run(corpus, learning_rate=rate, name=name, seed=seed), on_nonfinite="record")
        for rate in (2**-5, 2**-7, 1e30)
        for name in ("mup", "sp")
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def alone(cells, tmp_path_factory):
    programs, out = Programs(), tmp_path_factory.mktemp("alone")
    return [train(cell, out=out, programs=programs) for cell in cells]


@pytest.mark.long
def test_more_runs_than_lanes_are_what_they_are_alone(cells, alone, tmp_path):
    assert [run.status for run in alone] == ["finished"] * 8 + ["diverged"] * 4
    programs = Programs(lanes=LANES)
    for together, one in zip(trained(cells, tmp_path, programs), alone, strict=True):
        assert_alike(together, one)
    assert programs.made == 1


@pytest.mark.long
def test_steps_that_measure_and_steps_that_do_not_are_two_programs_on_a_gpu(cells, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(_lanes, "step_kinds", lambda mesh: (True, False))
    programs = Programs(lanes=2)
    for together, one in zip(trained(cells[:2], tmp_path, programs), alone, strict=False):
        assert_alike(together, one)
    (program,) = programs._kept.values()
    pair = program._compiled.__self__._step
    assert pair.plain.cost_analysis()["flops"] < pair.measured.cost_analysis()["flops"]


@pytest.mark.long
def test_a_run_goes_on_from_its_checkpoint_in_a_lane_beside_others(cells, alone, tmp_path):
    programs = Programs(lanes=LANES)
    left = trained(cells[:2], tmp_path, programs, until=7)
    assert [run.status for run in left] == ["paused"] * 2
    # One goes on alone, and one together with runs that begin.
    assert_alike(train(cells[0], out=tmp_path, programs=Programs()), alone[0])
    for together, one in zip(trained(cells[1:4], tmp_path, programs), alone[1:4], strict=True):
        assert_alike(together, one)


@pytest.mark.long
def test_a_run_that_fails_gives_its_lane_up(cells, tmp_path):
    class Cut(Exception):
        pass

    def cut(row):
        if row["step"] == 5:
            raise Cut

    programs = Programs(lanes=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        failing = pool.submit(train, cells[0], out=tmp_path, programs=programs, on_row=cut)
        other = pool.submit(train, cells[1], out=tmp_path, programs=programs)
        with pytest.raises(Cut):
            failing.result(120)
        assert other.result(120).status == "finished"
    assert [run.status for run in trained(cells[2:4], tmp_path, programs)] == ["finished"] * 2


@pytest.mark.long
def test_what_fails_on_the_device_fails_for_all_that_are_computed_together(cells, tmp_path, monkeypatch):
    from equimu.training._lanes import Lanes

    def broken(self, mine):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(Lanes, "_step_all", broken)
    programs = Programs(lanes=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(train, cell, out=tmp_path, programs=programs) for cell in cells[:2]]:
            with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
                future.result(120)


def small_grid(**given):
    run = mu.RunConfig(task=find_task(LINES)(), steps=8, log_every=2, validation_batches=2)
    fields = {"over": {"width": (4, 8)}, "fit": {"learning_rate": octaves(-5, -3)}, "panels": ("mup",), "seeds": 2}
    return SweepConfig(run=run, **{**fields, **given})


@pytest.mark.long
def test_a_sweep_is_vectorised_where_it_is_told_to(tmp_path, made):
    config = small_grid()
    together = sweep(config, out=tmp_path / "together", launcher=mu.Local(vectorize=True, workers=3))
    (programs,) = made
    assert programs.lanes == 3 and programs.made == 2
    for one, other in zip(together, sweep(config, out=tmp_path / "alone"), strict=True):
        assert_alike(one, other)
    assert made[1].lanes == 1  # on a CPU, unless told otherwise


def test_a_vectorised_sweep_that_is_interrupted_goes_on(tmp_path):
    config = small_grid(over={"width": (8,)})

    def stop(run, done, total):
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        sweep(config, out=tmp_path, launcher="local(vectorize=true, workers=2)", on_cell=stop)
    assert len(sweep(config, out=tmp_path, launcher="local(vectorize=true, workers=2)")) == 6


@pytest.mark.long
def test_each_device_computes_cells_of_its_own(tmp_path, monkeypatch):
    # Eight virtual devices of a CPU, taken for accelerators.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
    config = small_grid(over={"width": (8,)}, fit={"learning_rate": (0.125, 0.25)})
    pool = RunPool(config.run, out=tmp_path, workers=4)
    assert [programs.device for programs in pool._programs] == jax.devices()[:2]
    assert [programs.lanes for programs in pool._programs] == [2, 2]
    runs = pool.train(grid := list(cells_of_grid(config)))
    monkeypatch.undo()
    for cell in grid:
        assert_alike(runs[cell], train(cell, out=tmp_path / "alone"))


@dataclasses.dataclass(frozen=True)
class Counting(mu.Task):
    """A layer that calls back to the host, which cannot be vectorised."""

    def make(self, width: int = 4, *, key):
        return eqx.nn.Linear(4, width, key=key)

    def data(self):
        x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        return mu.data.arrays(x, x[:, :1], rows=8)

    def loss(self, model, batch):
        x, y = batch

        def square(z):
            shape = jax.ShapeDtypeStruct(z.shape, z.dtype)
            return jax.pure_callback(np.square, shape, z, vmap_method=None)

        scale = square(jax.lax.stop_gradient(1 + 0 * jnp.sum(model.weight)))
        return scale * jnp.mean((jax.vmap(model)(x) - y) ** 2, axis=-1)


def test_what_cannot_be_vectorised_is_trained_one_by_one_and_said(tmp_path, capsys):
    runs = sweep(
        Counting(),
        over={"width": (4,)},
        fit={"learning_rate": octaves(-5, -4)},
        panels=("mup",),
        seeds=1,
        steps=4,
        out=tmp_path,
        launcher=mu.Local(vectorize=True, workers=2),
    )
    assert [run.status for run in runs] == ["finished"] * 2
    assert capsys.readouterr().err.count("cells are trained one by one, as they cannot be vectorised") == 1


def test_a_mesh_of_several_devices_is_not_vectorised(tmp_path):
    with pytest.raises(EquimuError, match="vectorize=true cannot share a mesh of 2 devices; leave vectorize out"):
        sweep(small_grid(), out=tmp_path, launcher="local(vectorize=true)", runtime=mu.RuntimeConfig(data=2))
    assert not list(tmp_path.iterdir())
