"""Exponents that the laws predict, against those of the literature."""

import functools
import math

import equinox as eqx
import jax
import pytest

import equimu as mu
from equimu.diagnostics._laws import ANY, Interval
from equimu.diagnostics._record import module_classes
from equimu.diagnostics._theory import theory

WIDTHS = (8, 16, 32)


def mlp(width, *, key):
    return eqx.nn.MLP(5, 3, width, 2, key=key)


def predicted(parameterization, make=mlp, name="width", values=WIDTHS, base=None, shapes=None):
    base = base or {name: values[0]}
    trees = [mu.parameterize(make, parameterization, base=base, target=base | {name: value}) for value in values]
    paths = [rule.path for rule in mu.parameterization.rules_of(trees[0])]
    if shapes is None:
        # As if each module put out what its last leaf has outputs of.
        shapes = [
            {site: (value if "[2]" not in site and site else 3,) for site in module_classes(trees[0]) if site}
            for value in values
        ]
    return theory(trees, values, paths, shapes)


def ends(interval):
    return interval.low, interval.high


# Everett et al. (arXiv 2407.05872): forward exponents of weight and update of the hidden and the output layer.
@pytest.mark.parametrize(
    ("table", "hidden", "output", "growth"),
    [
        (mu.sp(), (-0.5, 0), (-0.5, 0), 1),
        (mu.mup(), (-0.5, -1), (-1, -1), 0),
        (mu.tpv(8), (-0.5, -1), (-1, -1), 0),
        (mu.tpv(9, form="absolute"), (-0.5, -1), (-1, -1), 0),
        (mu.ntk(), (-0.5, -0.5), (-0.5, -0.5), 0.5),
        (mu.mean_field(), (-0.5, -1), (-1, -1), 0),
        (mu.everett("sp", "none"), (-0.5, -0.5), (-0.5, -0.5), 0.5),
        (mu.sp(optimizer="sign"), (-0.5, 0), (-0.5, 0), 1),
        (mu.tpv(8, optimizer="sgd"), (-0.5, -1), (-1, -1), 0),
        (mu.tpv(9, optimizer="sgd"), (-0.5, -1), (-1, -1), 0),
        (mu.tpv(3, optimizer="adafactor"), (-0.5, -1), (-1, -1), 0),
        (mu.spectral(), (-0.5, -1), (-1, -1), 0),
        (mu.umup(), (-0.5, -1), (-1, -1), 0),
    ],
    ids=lambda value: getattr(value, "name", None) and f"{value.name}-{value.optimizer}",
)  # fmt: skip
def test_exponents_of_leaves(table, hidden, output, growth):
    said = predicted(table)
    for path, (weight, update) in {"layers[1].weight": hidden, "layers[2].weight": output}.items():
        leaf = said.leaves[path]
        assert leaf.weight == pytest.approx(weight, abs=1e-6)
        assert leaf.update.low == pytest.approx(update, abs=1e-6)
        assert leaf.update.high == pytest.approx(update, abs=1e-6)
    assert said.growth == pytest.approx(growth, abs=1e-6)


def test_lazy_training_leaves_features_where_they_were():
    # NTK under SGD: features move as n^-1/2, the output as n⁰ (arXiv 1806.07572).
    said = predicted(mu.ntk(optimizer="sgd"))
    assert said.growth == pytest.approx(-0.5)
    assert ends(said.sites["layers[1]"].change) == pytest.approx((-0.5, -0.5))
    assert said.sites["layers[2]"].change.high == pytest.approx(0)


def test_exponents_of_sites():
    stable, grows = predicted(mu.mup()), predicted(mu.sp())
    assert stable.sites["layers[1]"].output.high == pytest.approx(0)
    assert ends(stable.sites["layers[1]"].change) == pytest.approx((0, 0))
    # The known exception: logits vanish as n^-1/2 at the start where the output layer is drawn small.
    assert stable.sites["layers[2]"].output.low == pytest.approx(-0.5)
    assert stable.sites["layers[2]"].change.high == pytest.approx(0)
    assert grows.sites["layers[2]"].output.low == pytest.approx(0)
    # The first layer's input is data, so it alone cannot grow.
    assert grows.sites["layers[0]"].change.high == pytest.approx(0)
    assert grows.sites["layers[1]"].change.high == math.inf


def test_muon_moves_matrices_by_orthogonal_ones():
    leaf = predicted(mu.mup(optimizer="muon")).leaves["layers[1].weight"]
    assert leaf.update.high == pytest.approx(-0.5)
    assert ends(leaf.contribution) == pytest.approx((0, 0))


@pytest.mark.parametrize(
    ("table", "start", "update", "branch"),
    [
        # Few outputs of many inputs, drawn as 1/√fan_in; a group of g heads sends back g gradients, √g together if independent.
        # The rate falls as 1/n, so that their output moves by n^-1/2 of its size at least and by n⁰ at most.
        (mu.mup(optimizer="sgd"), 0, (-1.5, -1), (0, 0)),
        (mu.mup(), 0, (-1, -1), (0, 0)),
        # The spectral norm √(out/in) of a matrix with few outputs leaves n^-1/2 of a generic input of size n⁰.
        (mu.spectral(), -0.5, (-1, -1), (-0.5, 0)),
    ],
    ids=["mup-sgd", "mup-adam", "spectral-adam"],
)
def test_keys_and_values_of_few_heads(table, start, update, branch):
    make = functools.partial(mu.nn.Transformer, vocab_size=7, head_dim=4, n_layer=2, n_kv_head=1)
    shapes = [
        {"blocks.attention.value": (4,), "blocks.attention.output": (value,), "norm": (value,)} for value in WIDTHS
    ]
    said = predicted(table, make, "d_model", shapes=shapes)
    value = said.leaves["blocks.attention.value.weight"]
    assert value.narrowing == pytest.approx(1) and value.weight + value.fan_in / 2 == pytest.approx(start)
    assert ends(value.update) == pytest.approx(update)
    assert ends(said.sites["blocks.attention.output"].output) == pytest.approx(branch)
    # Those updates are not much of what features do.
    assert said.growth == pytest.approx(0)


def test_a_tied_readout_is_aligned_with_what_it_reads():
    # Embeddings e of size n⁰ for each entry: e·e goes as n, and NTK divides by √n, Table 8 by n.
    make = functools.partial(mu.nn.Transformer, vocab_size=7, head_dim=4, n_layer=2, tie_embeddings=True)
    shapes = [{"": (7,), "norm": (value,)} for value in WIDTHS]
    grows, stays = (predicted(table, make, "d_model", shapes=shapes) for table in (mu.ntk(), mu.tpv(8)))
    assert ends(grows.sites[""].output) == pytest.approx((0, 0.5))
    assert ends(stays.sites[""].output) == pytest.approx((-0.5, 0))


def test_a_layer_moves_by_its_weight_or_its_bias():
    # The input weight of u-μP moves as n^-1/2, its bias as n⁰: one or the other is seen, as their sizes and the data's have it.
    assert ends(predicted(mu.umup()).sites["layers[0]"].change) == pytest.approx((-0.5, 0))
    assert ends(predicted(mu.mup()).sites["layers[0]"].change) == pytest.approx((0, 0))


deep = functools.partial(mu.nn.Transformer, vocab_size=7, head_dim=4)


def over_depth(table):
    sites = {site: (2,) for site in ("embedding", "blocks.mlp.up", "blocks.mlp.down", "blocks", "norm", "unembedding")}
    base = {"d_model": 8, "n_layer": 2}
    return predicted(table, deep, "n_layer", (2, 4, 8), base, [sites] * 3)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_completep_is_stable_over_depth(alpha):
    said = over_depth(mu.completep(alpha))
    assert said.growth == pytest.approx(0)
    assert said.sites["blocks.mlp.down"].output.low == pytest.approx(-alpha)
    assert said.sites["blocks.mlp.down"].change.high == pytest.approx(-alpha)
    assert said.leaves["blocks.mlp.up.weight"].update.high == pytest.approx(alpha - 1)
    assert said.sites["blocks"].change.high == pytest.approx(0)


def test_gradients_come_into_a_branch_with_its_factor():
    assert over_depth(mu.completep(optimizer="sgd")).growth == pytest.approx(0)
    assert over_depth(mu.completep(0.5, optimizer="sgd")).growth == pytest.approx(0)


def test_plain_mup_is_not_stable_over_depth():
    said = over_depth(mu.mup())
    assert said.growth == pytest.approx(1)
    assert ends(said.sites["blocks"].output) == pytest.approx((0, 0.5))


@pytest.mark.parametrize(("heads", "start"), [((2, 4, 8), 0), ((2, 2, 2), -0.5)], ids=["more heads", "larger heads"])
def test_attention_scores_vanish_at_the_start_where_heads_grow_and_never_grow(heads, start):
    base = {"d_model": 8, "n_layer": 1}
    shapes = [{"blocks.attention.scores": (n, 5, 5)} for n in heads]
    sites = {
        table.name: predicted(table, deep, "d_model", (8, 16, 32), base, shapes).sites for table in (mu.mup(), mu.sp())
    }
    site = sites["mup-relative"]["blocks.attention.scores"]
    assert site.derived and ends(site.output) == pytest.approx((start, start))
    assert site.change.high == pytest.approx(0)
    # Under SP the factor 1/sqrt(head_dim) is the usual one.
    assert sites["sp"]["blocks.attention.scores"].output.high == math.inf


def test_tied_embeddings_are_an_output_layer_too():
    tied = functools.partial(deep, tie_embeddings=True)
    base = {"d_model": 8, "n_layer": 1}
    shapes = [{"embedding": (5, n), "(model)": (5, 7)} for n in (8, 16, 32)]
    said = predicted(mu.tpv(8), tied, "d_model", (8, 16, 32), base, shapes)
    assert said.sites["embedding"].output.low == pytest.approx(0)
    assert said.sites["(model)"].output.low == pytest.approx(-0.5)
    assert said.sites["(model)"].change.high == pytest.approx(0)


def test_a_leaf_declared_the_wrong_way_round_is_seen_from_what_its_module_puts_out():
    class Wrong(eqx.Module):
        weight: jax.Array

        def __init__(self, d_in, d_out, *, key):
            self.weight = jax.random.normal(key, (d_in, d_out))

        def __call__(self, x):
            return x @ self.weight

    mu.register_axes(Wrong, weight=("out", "in"))
    said = predicted(mu.mup(), lambda width, *, key: [Wrong(3, width, key=key)], shapes=[{"[0]": (n,)} for n in WIDTHS])
    assert said.sites["[0]"].misdeclared == "[0].weight"


def test_intervals():
    assert str(Interval(0.0, 0.0)) == "0" and str(Interval(-0.5, 0.0)) == "-0.50 … 0"
    assert str(Interval(0.0, math.inf)) == "≥ 0" and str(ANY) == "any"
    assert Interval(-0.5, 0.0).off_by(-0.75) == -0.25 and Interval(-0.5, 0.0).off_by(-0.25) == 0
    assert Interval(-0.5, 0.0).off_by(0.5) == 0.5
