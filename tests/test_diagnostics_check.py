"""Healthy models pass, planted mistakes are caught and named; a check's tables and files; mistakes of the caller."""

import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from json_schemas import check_schema
from tiers import long_but

import equimu as mu
from benchmarks.coordinate._faults import Fault
from benchmarks.coordinate._faults_of_use import all_faults
from benchmarks.coordinate._healthy import OPTIMIZERS, healthy
from benchmarks.coordinate._subjects import label_loss, subjects
from equimu.diagnostics import CoordinateProbe, write_check
from equimu.diagnostics._fit import fit
from equimu.diagnostics._measure import Experiment
from equimu.diagnostics._table import markdown, to_json

ALL = {fault.what: fault for fault in all_faults()}
# One for each way of being found that small models show in a moment: a ratio at one size, a declaration, a leaf at rest.
QUICK = [
    "width ratio by integer division (68 // 32)",
    "(in, out) declared as (out, in)",
    "a branch that starts at zero twice, and never moves",
    "features read out by a sum, in a method",
]

# Some models draw their arrays otherwise than a library does, to be mistaken in that, and are told so.
pytestmark = pytest.mark.filterwarnings("ignore:initialize draws")


def check_fault(fault: Fault):
    good, bad = fault.healthy(), fault.planted()
    assert good.passed, good.verdict
    assert not bad.passed
    assert fault.is_named(bad), bad.verdict
    for row in bad.failures:
        assert row.name in bad.verdict or len(bad.failures) > 3
        assert row.why


@pytest.mark.parametrize("what", long_but(("a branch that starts at zero twice, and never moves",), QUICK))
def test_mistakes_are_caught_and_named(what):
    check_fault(ALL[what])


@pytest.mark.slow
@pytest.mark.parametrize("what", [what for what in ALL if what not in QUICK])
def test_all_mistakes_are_caught_and_named(what):
    check_fault(ALL[what])


@functools.cache
def mlp_probe(family="adam"):
    one = subjects()["MLP"]
    return CoordinateProbe(
        one.make, base=one.base, sizes=one.sizes, loss=one.loss, batches=one.batches, optimizer=OPTIMIZERS[family]
    )


@pytest.mark.long
def test_healthy_models_pass_from_many_seeds():
    # 20 checks with 3 seeds each: what is alarming in one of them would alarm a user in twenty.
    for first in range(0, 60, 3):
        check = mlp_probe()(mu.tpv(8), seeds=range(first, first + 3))
        assert check.passed, check.verdict
    assert len({row.name for row in check.rows if row.kind == "site"}) == 3


@pytest.mark.long
def test_an_unstable_parameterization_is_no_alarm_and_is_said_to_be_unstable():
    check = mlp_probe()(mu.sp())
    assert check.passed and "not stable" in check.verdict
    assert check.growth > 0.5 and check.predicted_growth == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("family", OPTIMIZERS)
@pytest.mark.parametrize("name", ["MLP", "GRU", "residual net of lists"])
def test_every_table_passes(name, family):
    for _, _, table, check in healthy((name,), (family,)):
        assert check.passed, f"{table}: {check.verdict}"


# --- what is measured


def test_decay_update_and_draw_are_those_of_the_optimizer():
    one = subjects()["MLP"]
    tree = mu.parameterize(one.make, mu.mup(), base={"width": 32}, target={"width": 64})
    experiment = Experiment(
        loss=one.loss,
        batches=one.batches,
        optimizer=lambda tree: mu.adamw(tree, learning_rate=2**-9, weight_decay=1e-3),
        steps=2,
        forward=mu.scaled,
    )
    found = experiment.measure(tree, [0])
    model = mu.initialize(tree, jax.random.key(0))
    hidden = found.leaves.index("layers[1].weight")
    np.testing.assert_allclose(found.weight[0, hidden], np.std(model.layers[1].weight), rtol=1e-2)
    # lr of a hidden matrix: half of the base's; the decay is independent of it
    np.testing.assert_allclose(found.update[0, 0, hidden], 2**-10, rtol=1e-3)
    np.testing.assert_allclose(found.decay[0, 0, hidden], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(found.flatness[0, 0, hidden], 1, rtol=1e-3)
    assert found.decay[0, 0, found.leaves.index("layers[1].bias")] == 0
    np.testing.assert_allclose(found.loss[0, 0], one.loss(model, one.batches[0]), rtol=1e-5)
    # Programs are shared by trees that differ in their numbers only.
    other = mu.parameterize(one.make, mu.tpv(9), base={"width": 32}, target={"width": 64})
    experiment.measure(other, [0])
    assert len(experiment._programs) == 1


def test_fits_know_their_uncertainty():
    sizes = [8, 16, 32]
    exact = fit(sizes, np.array([[2.0, 4.0, 8.0], [3.0, 6.0, 12.0]]))
    assert exact.value == pytest.approx(1) and exact.plus_minus == pytest.approx(0)
    assert fit(sizes, np.array([[1.0, 0.0, 1.0]])).value is None
    draws = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        noisy = fit(sizes, np.exp2(np.array([[0, 0.5, 1.0]]) + 0.1 * draws.normal(size=(4, 3))))
        inside += abs(noisy.value - 0.5) < noisy.plus_minus
    assert 0.86 < inside / 400 < 0.94
    assert fit(sizes, np.array([[1.0, 2.1, 3.9]])).plus_minus > 0
    assert fit([8, 16], np.array([[1.0, 2.0]])).plus_minus is None


# --- what is written


def test_tables_json_and_figure(tmp_path):
    check = ALL["width ratio by integer division (68 // 32)"].planted()
    page, figure, data = write_check(check, tmp_path / "new")
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000
    assert (
        check.verdict in page.read_text()
        and page.read_text()
        == f"# Coordinate check\n\n![Activations over the size](coord-check.png)\n\n{markdown(check)}"
    )
    assert sum(line.endswith("| off |") for line in markdown(check).splitlines()) == 1
    plain = check_schema("coord-check", data.read_text())
    assert plain == json.loads(to_json(check))
    assert plain["passed"] is False and plain["failures"] == ["layers[1].weight"] and plain["first_site"] is None
    assert len(plain["rows"]) == len(check.rows)


# --- mistakes of the caller


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sizes": [{"width": 32}]}, "at least two values"),
        ({"sizes": [{"width": 64}, {"width": 32}]}, "must grow"),
        ({"sizes": [{"width": 32}, {"wide": 64}]}, "sizes name 'wide'"),
        ({"batches": ()}, r"write \[batch\]"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"seeds": []}, "seeds is a number of seeds or a list of them, at least one"),
        ({"loss": lambda model, batch: jax.vmap(model)(batch[0])}, "must be a scalar"),
        ({"loss": lambda model, batch: jnp.sum(model.layers[0].weight)}, "calls no module"),
        ({"optimizer": lambda tree: mu.adamw(tree, learning_rate=1e30)}, "no longer finite"),
    ],
)
def test_mistakes_of_the_caller_are_told(changes, told):
    one = subjects()["MLP"]
    given = {
        "base": one.base,
        "sizes": [{"width": 32}, {"width": 64}],
        "loss": label_loss,
        "batches": one.batches[:1],
        "optimizer": lambda tree: mu.adamw(tree, learning_rate=2**-9),
        "seeds": [0],
        "steps": 2,
    }
    with pytest.raises(mu.EquimuError, match=told):
        mu.coord_check(one.make, mu.mup(), **given | changes)


def test_sizes_that_vary_together_must_do_so_in_one_ratio():
    class Two(eqx.Module):
        layer: eqx.nn.Linear

        def __init__(self, a, b, *, key):
            self.layer = eqx.nn.Linear(a, b, key=key)

        def __call__(self, x):
            return self.layer(x)

    with pytest.raises(mu.EquimuError, match="not in one ratio"):
        CoordinateProbe(
            Two,
            base={"a": 2, "b": 2},
            sizes=[{"a": 2, "b": 2}, {"a": 4, "b": 6}],
            loss=label_loss,
            batches=[0],
            optimizer=lambda tree: None,
        )
