"""What no module puts out is found in the traced program, and every site has a bound, whoever made it."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equimu as mu
from benchmarks.coordinate._faults_of_use import Attending, DeclaredValueHead, HandTied, Stack, Towers, ValueHead
from benchmarks.coordinate._subjects import VOCAB, label_loss, over, subjects, text_loss
from equimu.diagnostics import CoordinateProbe
from equimu.diagnostics._about import About
from equimu.diagnostics._fit import slope
from equimu.diagnostics._laws import ANY, Interval
from equimu.diagnostics._measure import Measured
from equimu.diagnostics._record import record_all
from equimu.diagnostics._statistics import layered, with_layers
from equimu.diagnostics._theory import SiteTheory, theory
from equimu.diagnostics._verdicts import _rows_of_site

pytestmark = pytest.mark.usefixtures("light_compilation")

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 8))
WIDTHS = (16, 32, 64)


def recorded(function, model, *args):
    """`record_all` as it runs in a check, compiled."""
    about = {}

    @eqx.filter_jit
    def run(model, args):
        values, found, _ = record_all(function, model, *args)
        about.update(found)
        return list(values.values())

    values = run(model, args)
    return dict(zip(about, values, strict=True)), about


# --- what is found


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
def test_scores_in_a_models_own_code_are_found_before_their_mask(wrap):
    model = Attending(16, heads=2, key=KEY)
    values, about = recorded(lambda model, x: wrap(lambda x: jax.vmap(model)(x))(x).sum(), model, X)
    one = about["attention.scores"]
    assert one.kind == "scores" and one.span == 8 and one.of >= {"attention.query.weight", "attention.key.weight"}
    # The scores of the first row, with their factor, by the definition in float64.
    x = np.stack([np.roll(X[0], shift) * (1 + shift) for shift in range(5)])
    linear = lambda layer, x: x @ np.array(layer.weight, float).T + np.array(layer.bias, float)  # noqa: E731
    x = linear(model.first, x)
    q, k = (linear(part, x).reshape(5, 2, 8) for part in (model.attention.query, model.attention.key))
    expected = np.einsum("qhd,khd->hqk", q, k) * 8**0.5 / 8
    np.testing.assert_allclose(values["attention.scores"][0], expected, rtol=1e-4, atol=1e-5)


def test_scores_that_are_declared_are_not_found_again():
    model = mu.nn.Transformer(vocab_size=7, d_model=8, head_dim=4, n_layer=2, attention_backend="reference", key=KEY)
    tokens = jnp.zeros((2, 5), int)
    _, about = recorded(lambda model, x: text_loss(model, x), model, tokens)
    assert [name for name in about if "scores" in name] == ["blocks.attention.scores"]
    assert about["blocks.attention.scores"].kind == "module" and about["blocks.attention.scores"].layers == (0,)
    # Nor are rows that a module looks up and puts out, or logits that one makes.
    assert "embedding" in about and not any("rows" in name or "outcome" in name for name in about)


def test_the_outcome_is_what_the_loss_reads_whichever_method_makes_it():
    for cls in (ValueHead, DeclaredValueHead):
        model = cls(16, key=KEY)
        values, about = recorded(lambda model, x: jnp.mean((jax.vmap(model.score)(x) - 0.5) ** 2), model, X)
        np.testing.assert_allclose(values["(outcome)"], jax.vmap(model.score)(X), rtol=1e-5)
        assert list(values)[-1] == "(outcome)"
    towers = Towers(16, mean=True, key=KEY)
    values, about = recorded(lambda m, x: jnp.mean(jax.vmap(m.first)(x) * jax.vmap(m.second)(x)), towers, X)
    assert "(outcome)" in about
    sums, about = recorded(lambda m, x: jnp.mean((jax.vmap(m)(x).sum(-1) - 1.0) ** 2), eqx.nn.Linear(8, 4, key=KEY), X)
    assert about["(outcome)"].is_sum and sums["(outcome)"].shape == (3,)


def test_layers_of_a_stack_are_sites_and_steps_in_time_are_not():
    _, about = recorded(label_loss, Stack(16, odd=False, key=KEY), (X, jnp.zeros(3, int)))
    assert about["layers.up"].layers == (0,) and about["first"].layers == ()
    gru = subjects()["GRU"]
    _, about = recorded(text_loss, gru.make(16, key=KEY), gru.batches[0])
    assert about["cell"].layers == ()
    known = {"a": About(layers=(1,)), "b": About()}
    array = np.arange(12.0).reshape(2, 3, 2)
    shapes, named = with_layers({"a": (2, 3, 2), "b": (4,)}, known)
    assert list(shapes) == ["a", "a (layer 0)", "a (layer 1)", "a (layer 2)", "b"] and shapes["a (layer 1)"] == (2, 2)
    values = layered([array, np.ones(4)], list(known.values()))
    np.testing.assert_array_equal(values[2], array[:, 1])
    assert named["a (layer 2)"].layer_of == "a"


# --- what is expected of them


def checked(make, loss, batches, table=None, *, widths=WIDTHS, seeds=range(4), steps=2):
    probe = CoordinateProbe(
        make,
        base={"width": widths[0]},
        sizes=over("width", *widths),
        loss=loss,
        batches=batches,
        optimizer=lambda tree: mu.adamw(tree, learning_rate=2**-9),
        steps=steps,
    )
    return probe(table or mu.mup(), seeds=seeds)


def measured_power_of_tied_logits(factor):
    """By the definition of the model, in float64, without the library: the power of the width that logits start with."""
    draws = np.random.default_rng(0)
    tokens = draws.integers(0, VOCAB, 64)
    sizes = (64, 256, 1024)

    def logits(n):
        table, hidden = draws.normal(size=(VOCAB, n)), draws.normal(size=(n, n)) / n**0.5
        x = table[tokens]
        x = x + np.maximum(x @ hidden.T, 0)
        x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
        return np.sqrt(np.mean((factor(n) * x @ table.T) ** 2))

    return slope(sizes, [np.mean([logits(n) for _ in range(4)]) for n in sizes])


@pytest.mark.long
def test_a_table_that_is_its_own_unembedding_grows_and_is_named():
    power = measured_power_of_tied_logits(lambda n: 1.0)
    assert 0.4 < power < 1
    assert -0.5 < measured_power_of_tied_logits(lambda n: 64 / n) < 0.05
    texts = subjects()["GRU"].batches
    bad = checked(functools.partial(HandTied, scaled=False), text_loss, texts)
    assert not bad.passed
    (row,) = bad.failures
    assert row.name == "(model)" and row.exponent.value == pytest.approx(power, abs=0.2)
    assert "embedding.weight is used twice" in row.why and "TiedEmbedding" in bad.verdict
    # An unstable table grows by itself; that is not its, and is seen under it too.
    assert "used twice" in str(
        checked(functools.partial(HandTied, scaled=False), text_loss, texts, mu.sp(), seeds=range(2))
    )


def test_bounds_of_outputs_without_an_output_layer():
    def said(table, name, shape, *about):
        make = lambda width, *, key: eqx.nn.MLP(5, width, width, 1, key=key)  # noqa: E731
        trees = [mu.parameterize(make, table, base={"width": 16}, target={"width": n}) for n in WIDTHS]
        paths = [rule.path for rule in mu.parameterization.rules_of(trees[0])]
        return theory(trees, WIDTHS, paths, [{name: shape}] * 3, about=[{name: one} for one in about]).sites[name]

    stable = said(mu.mup(), "(outcome)", (3,), *[About(kind="outcome", is_sum=True)] * 3)
    assert stable.output == Interval(-np.inf, 0.0) and stable.change == Interval(-0.5, 0.0) and stable.sums
    # Where the table itself predicts growth, a change may grow; the start may not.
    grows = said(mu.sp(), "(outcome)", (3,), *[About(kind="outcome")] * 3)
    assert grows.output.high == 0 and grows.change.high == np.inf
    # Two features that are multiplied over a span that grows are independent at the start.
    scores = said(mu.mup(), "scores", (4, 4), *(About(kind="scores", span=n) for n in WIDTHS))
    assert (scores.output.low, scores.output.high) == pytest.approx((-0.5, -0.5))


def test_a_router_under_sgd_moves_less_at_the_start():
    """Its logit's slope is a sum over n features of slopes of 1/n each: n^-1/2 while they are independent."""
    draws = np.random.default_rng(1)
    sizes = (64, 256, 1024)

    def gradient(n):
        x, unembedding, experts = draws.normal(size=n), draws.normal(size=(10, n)) / n, draws.normal(size=(4, n))
        shares = np.full(4, 0.25)
        slopes = unembedding.T @ (np.full(10, 0.1) - np.eye(10)[0])
        of_logits = shares * ((experts - shares @ experts) @ slopes)
        return np.sqrt(np.mean(np.outer(of_logits, x) ** 2))

    rate = -1.0  # of output weights under SGD, forward and relative to the base
    power = slope(sizes, [np.mean([gradient(n) for _ in range(50)]) for n in sizes]) + rate
    assert power == pytest.approx(-1.5, abs=0.1)
    one = subjects()["mixture of experts"]
    table = mu.mup(optimizer="sgd")
    trees = [mu.parameterize(one.make, table, base=one.base, target={"width": n}) for n in (32, 64, 128)]
    paths = [rule.path for rule in mu.parameterization.rules_of(trees[0])]
    leaves = theory(trees, (32, 64, 128), paths, [{}] * 3, last=frozenset({"last.weight", "last.bias"})).leaves
    router, last = leaves["router.weight"], leaves["last.weight"]
    assert (router.update.low, router.update.high) == pytest.approx((-1.5, -1.0))
    assert (last.update.low, last.update.high) == pytest.approx((-1.0, -1.0))


def test_an_output_that_is_made_of_rounding_errors_is_no_power():
    def rows(*outputs):
        output = np.array(outputs)[:, None, None, None]
        none = {field.name: np.zeros(0) for field in dataclasses.fields(Measured)}
        none |= {"sites": {}, "about": {}, "uses": {}, "last": frozenset(), "leaves": ()}
        measured = [
            Measured(**none | {"output": x, "output_abs": x, "change": 0 * x, "change_abs": 0 * x}) for x in output
        ]
        floors = [np.ones(1)] * len(outputs)
        return _rows_of_site("site", 0, measured, WIDTHS, SiteTheory(output=Interval(0.0, 0.0), change=ANY), floors)

    (noise,), (real,) = rows(7.9e-8, 2.8e-8, 0.39), rows(0.1, 0.4, 1.6)
    assert noise.exponent.value is None and not noise.off
    assert real.exponent.value == pytest.approx(2) and real.off


class Masked(eqx.Module):
    """A classifier with a token that no batch asks for, a vector that nothing uses, and a table after a stop."""

    first: eqx.nn.Linear
    token: jax.Array
    unused: jax.Array
    last: eqx.nn.Linear

    def __init__(self, width, *, key):
        self.first = eqx.nn.Linear(8, width, key=key)
        self.token = self.unused = jnp.zeros(width)
        self.last = eqx.nn.Linear(width, 10, key=key)

    def __call__(self, x):
        h = jnp.where(x[0] > 1e6, self.token, self.first(x))
        return self.last(jax.nn.relu(h))


@pytest.mark.long
def test_a_leaf_that_the_loss_does_not_depend_on_is_a_note():
    check = checked(Masked, label_loss, subjects()["MLP"].batches, seeds=range(2))
    assert check.passed, check.verdict
    assert [note.split()[0] for note in check.notes] == ["token", "unused"]
    assert all("never moves" in note for note in check.notes)


# --- what it prints


def test_a_check_prints_on_a_screen_and_says_that_it_passed():
    good = checked(functools.partial(Towers, mean=True), _towers, subjects()["MLP"].batches, seeds=range(2))
    assert good.verdict.startswith("passed: as mup-relative says over width 16, 32, 64")
    assert repr(good) == f"<CoordinateCheck of mup-relative over width 16, 32, 64: passed, {len(good.rows)} rows>"
    assert "first.layers[1].weight" in good.table() and "scores" in good.table()
    many = dataclasses.replace(good, notes=tuple(f"leaf {n} is used twice, and declared once" for n in range(99)))
    for check in (good, many):
        lines = str(check).splitlines()
        assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert "passed" in str(good) and "leaf 98" in many.notes[98]


def _towers(model, batch):
    scores = jax.vmap(model.first)(batch[0]) @ jax.vmap(model.second)(batch[0]).T / model.first.out_size
    return -jax.nn.log_softmax(scores).diagonal().mean()
