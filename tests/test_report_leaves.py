"""What the report says of leaves, and what runs tell of them."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import small_run

from equimu import adamw, initialize, mup, nn, parameterize, train
from equimu.optim import decay_of, epsilon_shares
from equimu.parameterization import rules_of
from equimu.reports import Cell, Fitted, report
from equimu.reports._leaf_findings import leaves
from equimu.reports._table import markdown

pytestmark = pytest.mark.usefixtures("light_compilation")


def cells(exponent=-0.5, **numbers):
    """Runs whose leaf `w` has a ratio of 0.01 · (size / 32)^exponent, at three rates."""
    return [
        Cell(
            panel="mup",
            size=size,
            value=2.0**rate,
            seed=seed,
            loss=2 + (rate + 5) ** 2 / 10 + seed / 100,
            leaves={
                "w": {"weight_rms": 0.5, "update_rms": 0.005 * (size / 32) ** exponent * (1 + (rate != -5)), **numbers}
            },
            steps=100,
        )
        for size in (32, 64, 128)
        for rate in (-6, -5, -4)
        for seed in (0, 1)
    ]


def test_ratio_is_of_the_runs_at_the_carried_rate_and_its_growth_is_per_doubling():
    found = report(cells()).panels[0].leaves
    assert (found.point, found.sizes) == (-5, (32, 64, 128))
    (row,) = found.rows
    assert row.path == "w"
    np.testing.assert_allclose(row.ratios, [0.01, 0.01 / math.sqrt(2), 0.005])
    assert row.growth == pytest.approx(-0.5)
    assert row.epsilon_share == row.decay == (None, None, None)


def test_tables_have_epsilon_and_decay_where_the_runs_tell_them():
    text = markdown(report(cells(epsilon_share=0.25, decay_steps=50.0)))
    line = next(line for line in text.splitlines() if line.startswith("| w "))
    assert line == "| w | 1.0e-02 | 7.1e-03 | 5.0e-03 | -0.50 | 25% | 0.5 |"
    assert "| epsilon decides" not in markdown(report(cells()))


def test_leaves_of_runs_that_tell_nothing_and_of_weights_that_are_zero():
    assert leaves([dataclasses.replace(cell, leaves=None) for cell in cells()], Fitted(), -5.0) is None
    zero = [dataclasses.replace(c, leaves={"w": {"weight_rms": 0.0, "update_rms": 1.0}}) for c in cells()]
    assert leaves(zero, Fitted(), -5.0).rows[0].ratios == (None, None, None)


def test_epsilon_shares_count_entries_below_it_that_had_a_gradient():
    tree = parameterize(lambda n, key: nn.Linear(4, n, key=key), mup(), base={"n": 2}, target={"n": 4})
    params = eqx.filter(initialize(tree, jax.random.key(0)), eqx.is_inexact_array)
    (rule,) = rules_of(tree)
    assert rule.eps == 0.5
    optimizer = adamw(tree, learning_rate=0.1, eps=1e-3, b2=0.9)
    gradient = eqx.tree_at(lambda p: p.weight, params, jnp.array([[0.0, 1.0, 4e-4, 6e-4]] * 4))
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update(gradient, state, params)
    # of three entries that move, one has √ν̂ = 4e-4 below the leaf's epsilon, 5e-4
    assert float(epsilon_shares(tree, state, eps=1e-3, b2=0.9)["weight"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("decay", "factor"), [("standard", 0.25 * 0.5), ("scaled", 0.5), ("independent", 1.0)])
def test_decay_of_a_leaf_is_what_the_optimizer_does(decay, factor):
    tree = parameterize(lambda n, key: nn.Linear(n, n, key=key), mup(decay=decay), base={"n": 2}, target={"n": 8})
    (rule,) = rules_of(tree)
    assert decay_of(rule, 0.5, 0.1) == pytest.approx(0.1 * factor)
    params = eqx.filter(initialize(tree, jax.random.key(0)), eqx.is_inexact_array)
    optimizer = adamw(tree, learning_rate=0.5, weight_decay=0.1)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates.weight, -0.1 * factor * params.weight, rtol=1e-6)


def test_run_tells_of_its_leaves_at_doublings_of_the_step_and_at_the_end(tmp_path, corpus):
    config = small_run(corpus, steps=12)
    config = dataclasses.replace(
        config, log_every=1, optimizer=dataclasses.replace(config.optimizer, weight_decay=0.25, clip_norm=None)
    )
    run = train(config, out=tmp_path)
    rules = json.loads((run.folder / "rules.json").read_text())["rules"]
    sizes = {path: math.prod(rule["shape"]) for path, rule in rules.items()}
    found = {row["step"]: row["leaves"] for row in run.rows if "leaves" in row}
    assert list(found) == [1, 2, 4, 8, 12]
    for row in run.rows:
        if "leaves" in row:
            norm = math.sqrt(sum((leaf["gradient_rms"] ** 2) * sizes[path] for path, leaf in row["leaves"].items()))
            assert norm == pytest.approx(row["grad_norm"], rel=1e-4)
            entries = sum(sizes.values())
            update = math.sqrt(sum((leaf["update_rms"] ** 2) * sizes[p] for p, leaf in row["leaves"].items()) / entries)
            assert update == pytest.approx(row["update_rms"], rel=1e-4)
    assert found[1]["embedding.weight"]["weight_rms"] == pytest.approx(1.0, rel=0.05)  # drawn with standard deviation 1
    assert found[12]["embedding.weight"]["decay_steps"] == 4.0
