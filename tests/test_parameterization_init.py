"""Initial draws: std and mean as the rules say, constants kept, and what only the model itself can make."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equimu import EquimuError, initialize, mup, nn, parameterize, register_axes, scaled, sp, tpv
from equimu.parameterization import numbers_of, rules_of, with_numbers

pytestmark = pytest.mark.usefixtures("light_compilation")

make = functools.partial(
    nn.Transformer,
    vocab_size=101,
    n_layer=3,
    head_dim=16,
    n_kv_head=1,
    norm_gain="vector",
    use_bias=True,
    zero_query=True,
)
SIZES = {"base": {"d_model": 32}, "target": {"d_model": 64}}


def draw(tree, **options):
    return eqx.filter_jit(functools.partial(initialize, tree, **options))(jax.random.key(0))


@functools.cache
def drawer(scheme):
    """Tree and compiled initialisation of the transformer."""
    tree = parameterize(make, scheme, **SIZES)
    return tree, eqx.filter_jit(functools.partial(initialize, tree))


def pairs(tree, model):
    return [
        (rule, np.asarray(leaf, np.float64))
        for rule, leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(model), strict=True)
    ]


MUP, NINE = mup(), tpv(9).tune("blocks.mlp", init_std=3.0)


@pytest.fixture(scope="module")
def tree():
    return drawer(MUP)[0]


@pytest.fixture(scope="module")
def model():
    return drawer(MUP)[1](jax.random.key(0))


@pytest.mark.parametrize("scheme", [MUP, NINE], ids=["mup", "tpv9"])
def test_drawn_leaves_have_the_stated_deviation_and_mean(scheme):
    tree, initialise = drawer(scheme)
    drawn = [(rule, x) for rule, x in pairs(tree, initialise(jax.random.key(0))) if rule.init_std > 0]
    assert len(drawn) == 7
    for rule, x in drawn:
        layers = x if rule.path.startswith("blocks.") else x[None]
        for layer in layers:  # each layer has a draw of its own
            n = layer.size
            # of n normal entries, the mean is off by std/sqrt(n), the standard deviation by std/sqrt(2n); 4.5 sigma: 1 in 10^5
            assert abs(layer.mean()) < 4.5 * rule.init_std / np.sqrt(n), rule.path
            assert abs(layer.std() / rule.init_std - 1) < 4.5 / np.sqrt(2 * n), rule.path
            assert abs((layer**4).mean() / (3 * rule.init_std**4) - 1) < 4.5 * np.sqrt(96 / 9 / n), rule.path


def test_draws_of_leaves_and_layers_are_independent(tree, model):
    drawn = [(rule, x) for rule, x in pairs(tree, model) if rule.init_std > 0]
    matrices = [m for rule, x in drawn for m in (x if rule.path.startswith("blocks.") else x[None])]
    entries = np.stack([m.ravel()[:1024] for m in matrices])
    correlation = np.corrcoef(entries) - np.eye(len(entries))
    assert len(entries) == 2 + 3 * 5 and np.abs(correlation).max() < 4.5 / np.sqrt(1024)


def test_constants_are_kept_exactly(tree, model):
    for rule, x in pairs(tree, model):
        if rule.path.endswith(("bias", "query.weight")):
            assert np.all(x == 0)
        elif rule.path.endswith("gain"):
            assert np.all(x == 1)


def test_forward_pass_sees_the_models_constants_whatever_the_multiplier():
    tree, initialise = drawer(NINE)
    model = initialise(jax.random.key(0))
    assert tree.norm.gain.multiplier == pytest.approx(2**0.5)
    assert jnp.allclose(model.norm.gain, 2**-0.5) and jnp.allclose(scaled(tree, model).norm.gain, 1.0)


def test_draw_depends_on_key_and_path_alone(model):
    same, other = (drawer(MUP)[1](jax.random.key(key)) for key in (0, 1))
    more = draw(parameterize(functools.partial(make, embedding_norm=True, qk_norm=True), mup(), **SIZES))
    assert jnp.array_equal(model.unembedding.weight, same.unembedding.weight)
    assert jnp.array_equal(model.unembedding.weight, more.unembedding.weight)
    assert jnp.array_equal(model.blocks.mlp.up.weight, more.blocks.mlp.up.weight)
    assert not jnp.any(model.unembedding.weight == other.unembedding.weight)


def test_traced_numbers_draw_the_same_model(tree, model):
    traced = eqx.filter_jit(lambda numbers, key: initialize(with_numbers(tree, numbers), key))(
        jax.tree.map(jnp.float32, numbers_of(tree)), jax.random.key(0)
    )
    for (rule, a), (_, b) in zip(pairs(tree, model), pairs(tree, traced), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=rule.path)


class Foreign(eqx.Module):
    """A module with an initialiser of its own and arrays that are not weights."""

    linear: eqx.nn.Linear
    orthogonal: jax.Array
    sine: jax.Array
    steps: jax.Array
    mask: jax.Array
    name: str = eqx.field(static=True)

    def __init__(self, n, *, key):
        self.linear = eqx.nn.Linear(n, n, key=key)
        self.orthogonal = jax.random.orthogonal(key, n)
        self.sine = jnp.sin(jnp.arange(4)[:, None] * jnp.arange(n))
        self.steps = jnp.arange(n)
        self.mask = jnp.arange(4) > 2
        self.name = "foreign"


register_axes(Foreign, orthogonal=("in", "out"), sine=("table", "out"))


@pytest.mark.parametrize("rescale", [False, True])
def test_tables_integers_and_masks_are_the_models_own(rescale):
    tree = parameterize(Foreign, tpv(9), base={"n": 4}, target={"n": 16})
    found, own = draw(tree, rescale=rescale), eqx.filter_jit(Foreign)(16, key=jax.random.key(0))
    assert jnp.array_equal(found.steps, own.steps) and found.steps.dtype == own.steps.dtype
    assert jnp.array_equal(found.mask, own.mask)
    assert tree.sine.init_mean is None and tree.sine.multiplier == 2.0
    assert jnp.allclose(scaled(tree, found).sine, own.sine, atol=1e-7)


def test_rescale_keeps_the_models_draw_at_the_rules_deviation():
    tree = parameterize(Foreign, mup().tune("hidden", init_std=3.0), base={"n": 4}, target={"n": 16})
    found, own = draw(tree, rescale=True), eqx.filter_jit(Foreign)(16, key=jax.random.key(0))
    for name in ("orthogonal", "linear.weight"):
        x, y = (functools.reduce(getattr, name.split("."), module) for module in (found, own))
        ratio = np.asarray(x / y)
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
        assert jnp.sqrt(jnp.mean(x**2)) == pytest.approx(3 / 4, rel=1e-6)
    assert jnp.all(found.linear.bias == 0)  # a constant of the parameterization, though the layer draws it


def test_rescale_leaves_constants_alone_when_numbers_are_traced():
    def make(n, *, key):
        return {"gain": jnp.ones(n), "bias": jnp.zeros(n), "shift": jax.random.uniform(key, (n,))}

    tree = parameterize(make, sp(), base={"n": 4}, target={"n": 8})
    model = jax.jit(lambda numbers: initialize(with_numbers(tree, numbers), jax.random.key(0), rescale=True))(
        numbers_of(tree)
    )
    assert jnp.all(model["gain"] == 1) and jnp.all(model["bias"] == 0) and jnp.all(model["shift"] > 0)


@pytest.mark.parametrize(
    ("value", "mean"),
    [
        (lambda n, key: jnp.full(n, 0.5), 0.5),
        (lambda n, key: jnp.zeros((n,)) + 2 * jnp.ones(n), 2.0),
        (lambda n, key: -jnp.sqrt(jnp.full((1, n), 4.0)).reshape(n), -2.0),
        (lambda n, key: jax.vmap(lambda k: jnp.ones(()) / 4)(jax.random.split(key, n)), 0.25),
        (lambda n, key: jax.jit(lambda: jnp.ones(n) * 3)(), 3.0),
        (lambda n, key: jnp.asarray(np.float32(7.0)) * jnp.ones(n), 7.0),
        (lambda n, key: jnp.arange(n) / n, None),
        (lambda n, key: jnp.ones(n).at[0].set(0.0), None),
        (lambda n, key: jnp.asarray(np.linspace(0, 1, n, dtype=np.float32)), None),
    ],
)
def test_constant_of_the_constructor_is_told_from_a_table(value, mean):
    rule = parameterize(value, mup(), base={"n": 4}, target={"n": 8})
    assert (rule.init_mean, rule.init_std) == (mean, 0.0)
    assert jnp.array_equal(initialize(rule, jax.random.key(0)), value(8, jax.random.key(0)))


@pytest.mark.parametrize(
    "value",
    [
        lambda n, key: jax.random.normal(key, (n,)),
        lambda n, key: 0.02 * jax.random.truncated_normal(key, -2, 2, (n,)),
        lambda n, key: jax.random.permutation(key, jnp.arange(n) * 1.0),
        lambda n, key: jnp.zeros(n) + jax.random.uniform(jax.random.split(key)[0], (n,)),
    ],
)
def test_what_the_constructor_draws_is_drawn(value):
    rule = parameterize(value, mup(), base={"n": 4}, target={"n": 8})
    assert (rule.init_mean, rule.init_std) == (0.0, 1.0)


def test_leaf_has_the_rules_dtype():
    def make(n, *, key):
        return jax.random.normal(key, (n,), jnp.bfloat16)

    rule = parameterize(make, tpv(9), base={"n": 4}, target={"n": 8})
    assert initialize(rule, jax.random.key(0)).dtype == jnp.bfloat16
    edited = dataclasses.replace(rule, init_mean=2.0, init_std=0.0)
    assert initialize(edited, jax.random.key(0)).dtype == jnp.bfloat16


def test_tree_without_rules_is_an_error(model):
    with pytest.raises(EquimuError, match="takes the tree of rules from parameterize.*no rules"):
        initialize(model, jax.random.key(0))


def test_every_rule_is_used_once(tree, model):
    assert len(rules_of(tree)) == len(jax.tree.leaves(model))
